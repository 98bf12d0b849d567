"""The machine a figure was measured on, as Linux tells it; what it does not tell is None.

``root`` is the folder that holds ``/proc`` and ``/sys``; tests give one of their own.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

ROOT = Path("/")
#: Cores that /proc/cpuinfo names by number only, by implementer and part.
_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x4e", "0x004"): "Carmel",
}


def read(path: Path) -> str | None:
    """The stripped text of a small file of the kernel's; None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """The number such a file holds."""
    try:
        return float(read(path) or "")
    except ValueError:
        return None


def _field(text: str | None, name: str) -> str | None:
    """The first ``name : value`` of a table."""
    for line in (text or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip() or None
    return None


def board(root: Path = ROOT) -> str | None:
    """What the device tree calls the board, such as ``Raspberry Pi 4 Model B Rev 1.5``; None on a PC."""
    return read(root / "proc" / "device-tree" / "model")


def cpu(root: Path = ROOT) -> str | None:
    """The processor's name."""
    text = read(root / "proc" / "cpuinfo")
    arm = _CORES.get((_field(text, "CPU implementer") or "", _field(text, "CPU part") or ""))
    return arm or _field(text, "model name") or platform.processor() or None


def governor(root: Path = ROOT) -> str | None:
    """What decides the first core's frequency, such as ``ondemand``."""
    return read(root / "sys" / "devices" / "system" / "cpu" / "cpu0" / "cpufreq" / "scaling_governor")


def temperature_c(root: Path = ROOT) -> float | None:
    """Of the processor: its hottest thermal zone, else the hottest sensor of the chip's own."""
    zones = sorted((root / "sys" / "class" / "thermal").glob("thermal_zone*"))
    named = [z for z in zones if any(word in (read(z / "type") or "").lower() for word in ("cpu", "x86_pkg", "soc"))]
    found = [read_number(z / "temp") for z in named or zones]
    for chip in sorted((root / "sys" / "class" / "hwmon").glob("hwmon*")) if not zones else ():
        if read(chip / "name") in ("coretemp", "k10temp", "cpu_thermal"):
            found += [read_number(p) for p in chip.glob("temp*_input")]
    celsius = [t / 1000 for t in found if t is not None]
    return round(max(celsius), 1) if celsius else None


def load(root: Path = ROOT) -> float | None:
    """How many processes wanted a core, over the last minute."""
    text = read(root / "proc" / "loadavg")
    return None if text is None else float(text.split()[0])


def machine(root: Path = ROOT) -> dict[str, Any]:
    """``board, cpu, architecture, cores, memory_mb, governor, temperature_c, load`` (of a minute) and ``system``."""
    memory = _field(read(root / "proc" / "meminfo"), "MemTotal")
    return {
        "board": board(root),
        "cpu": cpu(root),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_mb": None if memory is None else round(int(memory.split()[0]) / 1024),
        "governor": governor(root),
        "temperature_c": temperature_c(root),
        "load": load(root),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }
