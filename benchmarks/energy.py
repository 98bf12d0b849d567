"""Energy counters of the machine, where it has readable ones. They count idling and what others use, too."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Meter(Protocol):
    """A counter that only grows, but for overflows."""

    def read(self) -> Sequence[int]:
        """Its state now."""

    def spent_mj(self, before: Sequence[int]) -> float:
        """Energy since ``before`` was read, mJ."""


class PackageMeter:
    """The CPU packages: RAPL, of Intel's and AMD's processors, as Linux's powercap shows it.

    Raises:
        OSError: The machine has none, or only root may read it.
    """

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        self._zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]  # no sub-zones
        if not self._zones:
            raise FileNotFoundError(f"{root}: no energy counter")
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
        self.read()

    def read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]

    def spent_mj(self, before: Sequence[int]) -> float:
        now = zip(before, self.read(), self._ranges, strict=True)
        return sum((after - b) % limit for b, after, limit in now) / 1e3


class GpuMeter:
    """The board of the machine's one NVIDIA GPU: NVML's counter, from Volta on. No package is needed, only the driver.

    With several GPUs nothing says which of them works for us, so they are not read.

    Raises:
        OSError: No driver, no such counter, or not exactly one GPU.
    """

    def __init__(self, library: Any = None) -> None:
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1") if library is None else library
        self._check(self._nvml.nvmlInit_v2())
        count, self._device = ctypes.c_uint(), ctypes.c_void_p()
        self._check(self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        if count.value != 1:
            raise OSError(f"{count.value} GPUs")
        self._check(self._nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(0), ctypes.byref(self._device)))
        self.read()

    @staticmethod
    def _check(code: int) -> None:
        if code:
            raise OSError(f"NVML error {code}")

    def read(self) -> list[int]:
        energy_mj = ctypes.c_ulonglong()
        self._check(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(energy_mj)))
        return [energy_mj.value]

    def spent_mj(self, before: Sequence[int]) -> float:
        return float(self.read()[0] - before[0])


def meter(processor: str) -> Meter | None:
    """The counter of the ``gpu`` or the ``cpu``, None where there is none to read."""
    try:
        return GpuMeter() if processor == "gpu" else PackageMeter()
    except OSError:
        return None
