from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.edge import stream
from serkit.edge.audio import read_audio
from serkit.edge.bundle import read_bundle
from serkit.edge.frame_buffer import FrameBuffer
from serkit.edge.frontend import Frontend, FrontendSettings, features
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VoiceGate, frame_levels

RATE = 16000
CLIP = Path(stream.__file__).parent / "demo" / "clip.flac"
KINDS = [
    FrontendSettings(n_mels=64),
    FrontendSettings(n_mels=20, padding="center", pre_emphasis=0.97),
    FrontendSettings(n_mels=20, padding="end", win_length=200, hop_length=320),  # samples between the windows
    FrontendSettings(n_mels=20, deltas=1),
]


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    n_samples=st.integers(0, 40000),
    cuts=st.lists(st.integers(0, 40000), max_size=8),
    hops=st.lists(st.integers(0, 80), max_size=8),
)
def test_what_is_asked_for_has_the_bits_of_the_whole_stream(
    kind: FrontendSettings, n_samples: int, cuts: list[int], hops: list[int]
) -> None:
    x = (0.1 * np.random.default_rng(0).standard_normal(n_samples)).astype(np.float32)
    expected = np.concatenate([np.full((7, kind.n_features), -9, np.float32), features(x, kind)])
    buffer = FrameBuffer(Frontend(kind), 30, 4, 7, -9.0)
    start, pieces = -7, np.split(x, sorted(c for c in cuts if c < n_samples))
    for piece in pieces:
        buffer.push(piece)
        if hops:
            start += hops.pop()
        buffer.forget(start)
        while start + 30 <= buffer.n_frames and hops:
            assert buffer.frames(start, start + 30).tobytes() == expected[start + 7 : start + 37].tobytes()
            if start % 2:  # now and then
                levels = frame_levels(expected[start + 7 : start + 37], kind)
                assert buffer.levels(start, start + 30) == pytest.approx(levels, abs=1e-4)
            start += hops.pop()
    start = max(start, len(expected) - 7 - 30)
    n_frames = buffer.finish(start)
    assert n_frames == len(expected) - 7
    if start < n_frames:
        assert buffer.frames(start, n_frames).tobytes() == expected[start + 7 :].tobytes()


def test_a_pause_computes_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    compute = Frontend._compute

    def counted(self: Frontend, n: int, out: np.ndarray) -> None:
        computed.append(n)
        compute(self, n, out)

    recognizer = Recognizer(read_bundle("default"))
    monkeypatch.setattr(Frontend, "_compute", counted)
    quiet = (1e-5 * np.random.default_rng(0).standard_normal(30 * RATE)).astype(np.float32)
    assert all(w.probabilities is None for w in recognizer.windows([quiet[: 20 * RATE]], VoiceGate(RATE)))
    w = recognizer.bundle.window
    assert sum(computed) <= w.input_frames  # of the last window, which might have been scored
    computed.clear()
    speech = read_audio(CLIP, RATE)
    windows = list(recognizer.windows([quiet, speech, quiet], VoiceGate(RATE)))
    scored = sum(w.probabilities is not None for w in windows)
    assert scored > 3
    assert sum(computed) <= 2 * w.input_frames + scored * w.hop_frames
