"""The machine and versions behind a figure."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from serkit import __version__

_PACKAGES = ("numpy", "ai-edge-litert", "tflite-runtime", "tensorflow", "keras", "jax", "torch", "soxr", "librosa",
             "python_speech_features")  # fmt: skip


def _first_line(path: str, prefix: str = "") -> str | None:
    try:
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(prefix):
                return line.split(":", 1)[-1].strip().strip("\0")
    except OSError:
        pass
    return None


def versions() -> dict[str, str]:
    """Versions of what can change a figure, as far as it is installed."""
    found = {"serkit": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of the source tree, ``-dirty`` where it has changes, None outside a checkout."""
    here = Path(__file__).resolve()
    try:
        subprocess.run(  # installed inside somebody else's repository, there is no commit of ours
            ["git", "ls-files", "--error-unmatch", here.name],
            cwd=here.parent,
            capture_output=True,
            timeout=10,
            check=True,
        )
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"],
            cwd=here.parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def environment() -> dict[str, Any]:
    """``created``, ``commit``, ``machine`` and ``versions``, as every results file carries them."""
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "board": _first_line("/sys/firmware/devicetree/base/model"),
            "cpu": _first_line("/proc/cpuinfo", "model name") or platform.processor() or None,
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "system": f"{platform.system()} {platform.release().split('-')[0]}",
        },
        "versions": versions(),
    }
