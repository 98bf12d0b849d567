from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.edge.decision import Decision, DecisionSettings
from serkit.edge.errors import SettingsError
from serkit.edge.events import to_json

LABELS = ("calm", "angry")


def windows() -> st.SearchStrategy[list[float | None]]:
    return st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=20)


@given(heard=windows(), n=st.integers(1, 5), threshold=st.floats(0, 1))
def test_every_window_gets_one_event_that_means_what_it_says(
    heard: list[float | None], n: int, threshold: float
) -> None:
    decision = Decision(LABELS, "m", DecisionSettings(average_windows=n, unsure_below=threshold))
    for i, p in enumerate(heard):
        event = decision.window(float(i), None if p is None else np.array([p, 1 - p]))
        assert (event.kind == "silence") == (p is None)
        if event.kind == "silence":
            assert event.emotion is event.confidence is event.probabilities is None
            continue
        assert event.probabilities is not None
        assert event.confidence == max(event.probabilities.values())
        assert sum(event.probabilities.values()) == pytest.approx(1)
        assert (event.kind == "emotion") == (event.confidence >= threshold) == (event.emotion is not None)


def test_the_average_smooths_and_silence_ends_it() -> None:
    decision = Decision(LABELS, "m", DecisionSettings(average_windows=3, unsure_below=0))
    calm, angry = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    assert [decision.window(t, p).emotion for t, p in enumerate([calm, calm, angry])] == ["calm"] * 3
    decision.window(3, None)
    assert decision.window(4, angry).emotion == "angry"


def test_json_has_the_fields_of_the_contract() -> None:
    decision = Decision(LABELS, "m", DecisionSettings())
    event = json.loads(to_json(decision.window(2.5, np.array([1 / 3, 2 / 3]))))
    assert event == {
        "schema": 1, "time_s": 2.5, "kind": "emotion", "emotion": "angry", "confidence": 0.6667,
        "probabilities": {"calm": 0.3333, "angry": 0.6667}, "model": "m",
    }  # fmt: skip
    assert set(json.loads(to_json(decision.window(3.0, None)))) == set(event)


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(SettingsError, match="average_windows is 0"):
        DecisionSettings(average_windows=0)
    with pytest.raises(SettingsError, match="unsure_below is 2"):
        DecisionSettings(unsure_below=2)
