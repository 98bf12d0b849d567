"""The clock of a sound device, held against the machine's."""

from __future__ import annotations

MISSING_S = 0.25  # a lag that grows by more from one window to the next is lost audio, not a late block
_MISSING_IN_XRUN_S = 0.01  # where the device itself says that some was lost
_WINDOW_S = 1.0  # over which the lag is judged
_DRIFT_S = 60.0


class DeviceClock:
    """Tells whether an open device delivers all it should, by the times its blocks came at.

    Blocks come late, or late in a bunch, so only the least lag of each window counts. One that jumps is audio that was
    lost on the way; one that creeps is a device whose clock is not this machine's.

    Args:
        rate: Hz, what the device promised.
        started_s: When its first sample was heard.

    Attributes:
        drift_s: How much later than promised its audio came so far, what was missing left out.
        drift: The same as a share of the last minute; positive: the device is slow.
    """

    def __init__(self, rate: float, started_s: float) -> None:
        self.rate = rate
        self._n_samples = 0  # of the device, what is missing included
        self.drift_s = 0.0
        self.drift = 0.0
        self._started_s = started_s
        self._lag_s: float | None = None  # as usual
        self._least_s = float("inf")  # of this window
        self._window_end_s = started_s + _WINDOW_S
        self._overflow_s = float("-inf")  # when the last one was
        self._marked = (started_s, 0.0)  # time and drift, at the start of the last minute

    def heard(self, n: int, time_s: float, overflow: bool = False) -> int:
        """Take note of ``n`` samples that came at ``time_s``; returns how many were lost before them."""
        missing = 0
        if overflow:
            self._overflow_s = time_s
        if time_s >= self._window_end_s:
            if self._least_s < float("inf"):
                missing = self._judge(time_s)
            self._window_end_s, self._least_s = time_s + _WINDOW_S, float("inf")
        self._n_samples += n + missing
        self._least_s = min(self._least_s, time_s - self._started_s - self._n_samples / self.rate)
        return missing

    def _judge(self, time_s: float) -> int:
        if self._lag_s is None:
            self._lag_s, self._marked = self._least_s, (time_s, 0.0)
        change = self._least_s - self._lag_s
        if change > (MISSING_S if time_s - self._overflow_s > 3 * _WINDOW_S else _MISSING_IN_XRUN_S):
            return round(change * self.rate)
        if change > -MISSING_S:  # less is audio that had been held up
            self.drift_s += change
        self._lag_s = self._least_s
        since_s, drift_s = self._marked
        if time_s - since_s >= _DRIFT_S:
            self.drift = (self.drift_s - drift_s) / (time_s - since_s)
            self._marked = (time_s, self.drift_s)
        return 0
