from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serkit.benchmarks import vad
from serkit.benchmarks.vad_streams import Stream
from serkit.edge.bundle import read_bundle
from serkit.edge.stream import Recognizer

RATE = 16000


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(read_bundle("default"))


def test_the_gate_for_files_decides_on_the_window_that_ends_with_a_hop(
    recognizer: Recognizer, rng: np.random.Generator
) -> None:
    samples = np.zeros(240 * RATE, np.float32)
    samples[200 * RATE : 201 * RATE] = 0.1 * rng.standard_normal(RATE)
    _, scored, _ = vad._window_level(Stream("clean", "", None, samples, np.zeros(24000, bool)), recognizer)
    w, f = recognizer.bundle.window, recognizer.bundle.frontend
    end_s = 201 + w.n_frames * f.hop_length / f.sample_rate
    assert np.flatnonzero(scored).tolist() == list(range(400, int(2 * end_s)))


def test_a_model_costs_what_a_stream_pays_for_it(
    recognizer: Recognizer, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = recognizer.engine
    scored: list[int | None] = []
    logits = engine.logits

    def counted(window: Any, hop: int | None = None) -> Any:
        scored.append(hop)
        return logits(window, hop)

    monkeypatch.setattr(engine, "logits", counted)
    costs = vad._costs(recognizer, (0.1 * rng.standard_normal(RATE)).astype(np.float32), 3)
    assert min(costs.values()) > 0
    assert scored == list(range(len(scored)))  # hop after hop: what was encoded before is not encoded again
