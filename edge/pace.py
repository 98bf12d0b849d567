"""How often a live stream is scored: as often as the machine can bear."""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serkit.edge.errors import SettingsError

_INTERVAL_S = 10.0  # of audio, between two looks at load and heat
_CALM = 3  # intervals in a row before windows come more often again
_COOLER = 5.0  # by so much, C
_LIGHTER = 0.4  # share of the largest load: twice as many windows still stay below it
_MAX_SLOWER = 4  # times the user's own hop
_MOST_HOPS = 1000  # in a window of any model there are far fewer


@dataclass(frozen=True, kw_only=True)
class PaceSettings:
    """What listening may cost.

    Attributes:
        hops: One window is scored every so many hops of the model; files and pipes too.
        threads: Of one inference.
        max_load: Share of the time that may go into processing, 0 to 1. Above it, windows of a live source come half as
            often, and after 10 s half as often again.
        max_celsius: The same, for the hottest sensor of the processor, where the system has one.
    """

    hops: int = 1
    threads: int = 1
    max_load: float = 0.5
    max_celsius: float = 80.0

    def __post_init__(self) -> None:
        if not 1 <= self.hops <= _MOST_HOPS:
            raise SettingsError(f"hops is {self.hops}; it needs 1 to {_MOST_HOPS}")
        if not 1 <= self.threads <= 64:
            raise SettingsError(f"threads is {self.threads}; it needs 1 to 64")
        if not 0 < self.max_load <= 1:
            raise SettingsError(f"max_load is {self.max_load}; it needs more than 0 and at most 1")
        if not math.isfinite(self.max_celsius):
            raise SettingsError(f"max_celsius is {self.max_celsius}; it needs degrees Celsius, such as 80")


def hops_of(seconds: float, hop_s: float) -> int:
    """So many hops of ``hop_s`` are as long as ``seconds``, or a little longer.

    Raises:
        SettingsError: No such time.

    >>> hops_of(0.6, 0.5), hops_of(0.1, 0.5)
    (2, 1)
    """
    if not 0 < seconds < math.inf:
        raise SettingsError(f"a hop of {seconds:g} s; more than 0 s is needed")
    return max(1, math.ceil(round(seconds / hop_s, 6)))


class Pace:
    """Says which windows of one stream are due.

    Under load or heat only every second or fourth one is, as long as every sound is still in some window. Time is that
    of the stream, so nothing here depends on a clock.

    Args:
        settings: Limits.
        window_s: Length of the model's windows, s.
        hop_s: From one to the next, s.
        live: See below.
        thermal: Where Linux keeps its temperatures.

    Attributes:
        live: Whether the stream is a live one; others never depend on the machine.
        hops: Windows whose number is a multiple of it are due.
        load: Share of the time that processing took, in the last 10 s of a live stream.

    Raises:
        SettingsError: ``hops`` would leave audio out.
    """

    def __init__(
        self,
        settings: PaceSettings,
        window_s: float,
        hop_s: float,
        live: bool = False,
        *,
        thermal: Path = Path("/sys/class/thermal"),
    ) -> None:
        longest = max(1, math.floor(round(window_s / hop_s, 6)))
        if settings.hops > longest:
            raise SettingsError(
                f"a window every {settings.hops * hop_s:g} s leaves audio out: the model's are {window_s:g} s long; "
                f"choose a hop of at most {longest * hop_s:g} s (hops = {longest})"
            )
        self.live, self.hops, self.load = live, settings.hops, 0.0
        self._settings, self._hop_s, self._thermal = settings, hop_s, thermal
        self._most = min(longest, _MAX_SLOWER * settings.hops)
        self._busy_s = self._audio_s = 0.0  # of this interval
        self._n_calm = 0
        self._notices: deque[str] = deque(maxlen=10)

    @property
    def hop_s(self) -> float:
        """From one window to the next, as it is now, s."""
        return self.hops * self._hop_s

    def due(self, number: int) -> bool:
        """Whether the stream's window of this number, from 0 on, is to be scored."""
        return number % self.hops == 0

    def worked(self, busy_s: float, audio_s: float) -> None:
        """So long it took to process so much audio."""
        self._busy_s += busy_s
        self._audio_s += audio_s
        if self.live and self._audio_s >= _INTERVAL_S:
            self.load = self._busy_s / self._audio_s
            self._judge(self.load, hottest(self._thermal))
            self._busy_s = self._audio_s = 0.0

    def _judge(self, load: float, celsius: float | None) -> None:
        s = self._settings
        heat = -math.inf if celsius is None else celsius
        calm = load < _LIGHTER * s.max_load and heat < s.max_celsius - _COOLER
        self._n_calm = self._n_calm + 1 if calm and self.hops > s.hops else 0
        why = [f"{heat:.0f} C"] if heat > s.max_celsius else []
        why += [f"processing takes {load:.0%} of the time"] if load > s.max_load else []
        if why and 2 * self.hops <= self._most:
            self.hops *= 2
            self._notices.append(f"{', '.join(why)}: windows every {self.hop_s:g} s now")
        elif self._n_calm == _CALM:
            self.hops //= 2
            self._n_calm = 0
            known = "" if celsius is None else f"{celsius:.0f} C, "
            self._notices.append(
                f"{known}processing takes {load:.0%} of the time: windows every {self.hop_s:g} s again"
            )

    def notice(self) -> str | None:
        """What changed: one message per call, the oldest first; None when all is told."""
        return self._notices.popleft() if self._notices else None


def hottest(thermal: Path) -> float | None:
    """Temperature of the hottest sensor, C; None where there is none."""
    temperatures = []
    for zone in thermal.glob("thermal_zone*"):
        with suppress(OSError, ValueError):  # a sensor that is asleep has no answer
            if (
                "pmic" not in (zone / "type").read_text().lower()
            ):  # no thermometer: Jetson's says 100 C when all is well
                temperatures.append(int((zone / "temp").read_text()) / 1000)
    return max(temperatures, default=None)
