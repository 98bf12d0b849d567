from __future__ import annotations

import numpy as np
import pytest

from serkit.edge.clock import DeviceClock

RATE = 16000
BLOCK_S = np.arange(1, 4000) * 0.02  # 80 s in blocks of 20 ms


def clocked(times: np.ndarray, n: int, rate: float = RATE, overflow_at: int = -1) -> tuple[DeviceClock, list[int]]:
    clock = DeviceClock(rate, 0.0)
    return clock, [clock.heard(n, t, i == overflow_at) for i, t in enumerate(times)]


def test_late_blocks_are_not_missing(rng: np.random.Generator) -> None:
    late = BLOCK_S + 0.06 + rng.exponential(0.03, len(BLOCK_S))
    bunched = np.ceil(BLOCK_S / 2) * 2 - 0.3  # an audio server that wakes up every 2 s
    stalled = np.where((BLOCK_S > 20) & (BLOCK_S < 22.5), 22.5, BLOCK_S)
    for times in (late, bunched, stalled):
        clock, missing = clocked(times, 320)
        assert not any(missing)
        assert abs(clock.drift) < 0.002


def test_a_gap_is_what_a_jump_of_the_lag_says() -> None:
    clock, missing = clocked(BLOCK_S + 0.7 * (BLOCK_S > 20), 320)
    assert sum(missing) == pytest.approx(0.7 * RATE, abs=1)
    assert 20 < BLOCK_S[np.flatnonzero(missing)[0]] < 22.5
    assert abs(clock.drift_s) < 1e-6
    small = BLOCK_S + 0.1 * (BLOCK_S > 20)
    assert sum(clocked(small, 320)[1]) == 0
    assert sum(clocked(small, 320, overflow_at=1000)[1]) == pytest.approx(0.1 * RATE, abs=1)  # an xrun


@pytest.mark.parametrize("drift", [0.02, -0.015, 0.0001])
def test_a_clock_that_drifts_is_measured(drift: float) -> None:
    clock, missing = clocked(BLOCK_S * (1 + drift), 320)
    assert not any(missing)
    assert clock.drift == pytest.approx(drift, rel=0.05, abs=1e-4)
