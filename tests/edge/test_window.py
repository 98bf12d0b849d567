from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings, features
from serkit.edge.settings import build
from serkit.edge.vad import frame_levels, speech_ratio
from serkit.edge.window import WindowSettings, cut_windows, n_windows, normalise


@given(n=st.integers(0, 500), length=st.integers(1, 80), hop=st.integers(1, 120), context=st.integers(0, 50))
def test_windows_cover_every_frame_or_hop_over_it(n: int, length: int, hop: int, context: int) -> None:
    settings = WindowSettings(n_frames=length, hop_frames=hop, context_frames=context)
    frames = np.arange(1, n + 1, dtype=np.float32)[:, None]
    windows = cut_windows(frames, settings, 0.0)
    assert len(windows) == n_windows(n, settings)
    for k, (window, earlier) in enumerate(zip(windows[:, context:, 0], windows[:, :context, 0], strict=True)):
        before = frames[max(0, k * hop - context) : k * hop, 0]
        assert np.array_equal(earlier[context - len(before) :], before)
        assert not earlier[: context - len(before)].any()
        expected = frames[k * hop : k * hop + length, 0]
        assert np.array_equal(window[: len(expected)], expected)
        assert not window[len(expected) :].any()
    assert n == 0 or hop > length or windows[-1].max() == n


def test_normalised_windows_are_deaf_to_gain(speech: np.ndarray) -> None:
    settings = WindowSettings(n_frames=128)
    loud, quiet = (normalise(features(g * speech, FrontendSettings())[:128], settings) for g in (1.0, 0.3))
    assert loud.mean() == pytest.approx(0, abs=1e-5)
    assert loud.std() == pytest.approx(1, abs=1e-4)
    assert np.max(np.abs(loud - quiet)) < 1e-3


def test_a_batch_normalises_like_its_windows(rng: np.random.Generator) -> None:
    batch = rng.standard_normal((3, 20, 8)).astype(np.float32)
    one_by_one = np.stack([normalise(w, WindowSettings()) for w in batch])
    assert np.array_equal(normalise(batch, WindowSettings()), one_by_one)


def test_a_constant_window_stays_finite() -> None:
    assert not normalise(np.full((20, 8), -18.0, np.float32), WindowSettings()).any()


def test_levels_are_decibels_of_full_scale() -> None:
    t = np.arange(16000) / 16000
    for amplitude, level in ((1.0, -3.0), (0.1, -23.0)):
        frames = features(amplitude * np.sin(2 * np.pi * 1000 * t), FrontendSettings())
        assert np.median(frame_levels(frames, FrontendSettings())) == pytest.approx(level, abs=0.5)


def test_speech_is_told_from_silence(speech: np.ndarray, rng: np.random.Generator) -> None:
    s = FrontendSettings()

    def ratio(x: np.ndarray) -> float:
        return speech_ratio(frame_levels(features(x, s), s))

    hiss = 1e-4 * rng.standard_normal(32000)
    assert ratio(speech) > 0.7
    assert ratio(hiss) == 0
    assert ratio(np.zeros(32000)) == 0
    half = np.concatenate([speech[:16000], hiss[:16000]])
    assert 0.3 < ratio(half) < 0.6


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(SettingsError, match="both need to be at least 1"):
        WindowSettings(n_frames=0)
    with pytest.raises(SettingsError, match="unknown setting 'frames'"):
        build(WindowSettings, {"frames": 3}, "test")
