"""What a board tells about itself while it works: frequencies, temperature, throttling and power.

Everything is read where Linux, the Raspberry Pi's firmware and a Jetson's power monitors put it; what is not there is
None. ``root`` is the folder that holds ``/proc`` and ``/sys``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serkit.train.machine import ROOT, load, read, read_number, temperature_c

#: Bits of the firmware's throttling word; the same 16 bits higher: it happened since the board started.
_THROTTLING = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
#: Rails that carry the whole board, where one does; else all rails are added up.
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "5V_IN")
_MONITORS = ("ina3221", "ina219", "ina220", "ina226", "ina228", "ina238")
_SAMPLE_S = 0.25


def state(root: Path = ROOT) -> dict[str, Any]:
    """``temperature_c, frequency_mhz`` (of each core), ``frequency_max_mhz, throttling`` and ``load`` (of a minute)."""
    cores = sorted((root / "sys" / "devices" / "system" / "cpu").glob("cpu[0-9]*"), key=lambda p: int(p.name[3:]))
    now = [read_number(c / "cpufreq" / "scaling_cur_freq") for c in cores]
    most = [read_number(c / "cpufreq" / "cpuinfo_max_freq") for c in cores]
    fastest = max((f for f in most if f is not None), default=0.0)
    return {
        "temperature_c": temperature_c(root),
        "frequency_mhz": [round(f / 1000) for f in now if f is not None] or None,
        "frequency_max_mhz": round(fastest / 1000) or None,
        "throttling": throttling(root),
        "load": load(root),
    }


def throttling(root: Path = ROOT) -> dict[str, Any] | None:
    """``source, raw, now`` and ``since_start``: what slows the board down, in words.

    A Raspberry Pi's firmware tells it in one word; elsewhere the kernel's cooling devices tell what acts now, and
    Intel's counters what acted before.
    """
    raw = read(root / "sys" / "devices" / "platform" / "soc" / "soc:firmware" / "get_throttled")
    raw = raw or _vcgencmd("get_throttled", root).rpartition("=")[2]
    if raw:
        try:
            word = int(raw, 16)
        except ValueError:
            return None
        now = [name for bit, name in _THROTTLING.items() if word >> bit & 1]
        before = [name for bit, name in _THROTTLING.items() if word >> (bit + 16) & 1]
        return {"source": "firmware", "raw": hex(word), "now": now, "since_start": before}
    found, seen = [], False
    for device in sorted((root / "sys" / "class" / "thermal").glob("cooling_device*")):
        kind = read(device / "type") or ""
        if "cpu" in kind.lower() or "throttle" in kind.lower():
            seen = True
            if read_number(device / "cur_state"):
                found.append(kind)
    counters = (root / "sys" / "devices" / "system" / "cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [n for n in map(read_number, counters) if n is not None]
    if not seen and not counts:
        return None
    times = max(counts, default=0.0)
    before = [f"{times:g} times"] if times else []
    return {"source": "kernel", "raw": None, "now": found, "since_start": before}


def _vcgencmd(argument: str, root: Path) -> str:
    """What a Raspberry Pi's firmware answers; nothing elsewhere."""
    program = shutil.which("vcgencmd") if root == ROOT else None
    if program is None:
        return ""
    try:
        return subprocess.run([program, argument], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def power(root: Path = ROOT) -> tuple[str, float] | None:
    """Where power can be read, and how much it is now, W."""
    for monitor in sorted((root / "sys" / "class" / "hwmon").glob("hwmon*")):
        name = read(monitor / "name")
        if name in _MONITORS and (rails := _rails(monitor)):
            whole = next((rails[r] for r in _WHOLE_BOARD if r in rails), None)
            return str(name), sum(rails.values()) if whole is None else whole
    watts = pmic_watts(_vcgencmd("pmic_read_adc", root))
    return None if watts is None else ("pmic", watts)


def _rails(monitor: Path) -> dict[str, float]:
    """Power of each rail of a monitor, W. On an ina3221 channels beyond 3 are shunts and sums, no rails."""
    rails: dict[str, float] = {}
    for n in range(1, 4):
        label = read(monitor / f"in{n}_label") or f"rail {n}"
        microwatts = read_number(monitor / f"power{n}_input")
        volts, amperes = (read_number(monitor / f"{kind}{n}_input") for kind in ("in", "curr"))
        if microwatts is not None:
            rails[label] = microwatts / 1e6
        elif volts is not None and amperes is not None:
            rails[label] = volts * amperes / 1e6  # mV times mA
    return rails


def pmic_watts(text: str) -> float | None:
    """A Pi 5's rails added up: what the board's chips take, without the converters' losses and what hangs on USB.

    >>> pmic_watts("VDD_CORE_A current(7)=2.0A\\n VDD_CORE_V volt(15)=0.75V\\n EXT5V_V volt(24)=5.1V")
    1.5
    """
    found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in re.findall(r"(\w+)_([AV])(?:\s+\w+\(\d+\))?=([\d.]+)[AV]", text):
        found[unit][rail] = float(value)
    both = found["A"].keys() & found["V"].keys()
    return sum(found["A"][rail] * found["V"][rail] for rail in both) if both else None


@contextmanager
def sampled_power(root: Path = ROOT) -> Iterator[list[float]]:
    """Power while the block runs, W, four times a second; an empty list where it cannot be read."""
    watts: list[float] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_S):
            if (now := power(root)) is not None:
                watts.append(now[1])

    if power(root) is None:
        yield watts
        return
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watts
    finally:
        done.set()
        thread.join()
