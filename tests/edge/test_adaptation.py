"""A voice becomes familiar while it is heard: what is learned, from what, and what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.edge.adaptation import FAMILIAR_S, RunningVoice
from serkit.edge.bundle import Bundle, read_bundle
from serkit.edge.decision import Decision, DecisionSettings
from serkit.edge.window import softmax

LABELS = ("neutral", "calm", "sad", "angry")
CALM = np.array([1.0, 1.0, 0.0, 0.0])
EVERYBODY = np.array([2.0, 1.0, -1.0, -2.0])
GLOOM = np.array([-0.9, -0.6, 1.5, 0.0])  # what one voice has beyond everybody, in all it says
STEP_S = 0.5


def running(strength: float = 0.5, memory_s: float = 1e9) -> RunningVoice:
    return RunningVoice(EVERYBODY, CALM, strength, memory_s)


def test_who_sounds_like_everybody_is_heard_as_before() -> None:
    voice = running()
    for _ in range(100):
        assert voice.window(STEP_S, softmax(EVERYBODY)) == pytest.approx(softmax(EVERYBODY))


def test_what_is_a_voices_own_is_taken_off_as_it_becomes_known() -> None:
    voice = running()
    p = softmax(EVERYBODY + GLOOM)
    assert voice.window(STEP_S, p) == pytest.approx(p)  # a stranger
    heard_s = STEP_S * float(CALM @ p)
    for _ in range(200):
        known = heard_s / (heard_s + FAMILIAR_S)
        expected = softmax(EVERYBODY + (1 - 0.5 * known) * GLOOM)
        assert voice.window(STEP_S, p) == pytest.approx(expected)
        heard_s += STEP_S * float(CALM @ expected)
    assert known > 0.7


def test_neutral_speech_of_a_gloomy_voice_stops_being_an_alarm() -> None:
    p = softmax(EVERYBODY + 1.3 * GLOOM)
    assert LABELS[int(p.argmax())] == "sad"
    settings = DecisionSettings(stay_s=0.0, evidence=1.0, enter=0.0, leave=0.0)
    decision = Decision(LABELS, "m", settings, voice=running())
    answers = [decision.window(i * STEP_S, p)[0].answer for i in range(240)]
    assert (answers[0], answers[-1]) == ("sad", "neutral")


def test_what_is_not_said_calmly_is_not_learned() -> None:
    voice = running()
    for _ in range(600):  # five minutes of anger
        voice.window(STEP_S, softmax(np.array([-4.0, -4.0, -2.0, 5.0])))
    assert voice.window(STEP_S, softmax(EVERYBODY)) == pytest.approx(softmax(EVERYBODY), abs=0.02)


def test_a_voice_is_forgotten_where_another_one_speaks() -> None:
    short, long = running(memory_s=30.0), running()
    for voice in (short, long):
        for gloom in (GLOOM, -GLOOM):
            for _ in range(400):
                last = voice.window(STEP_S, softmax(EVERYBODY + gloom))
    share = [float(v.window(STEP_S, softmax(EVERYBODY))[2]) for v in (short, long)]
    assert share[0] > share[1]  # the short memory knows the second voice alone, who sounds less sad than everybody
    assert last.sum() == pytest.approx(1)


@given(st.lists(st.tuples(st.floats(0, 60), st.lists(st.floats(0, 1), min_size=4, max_size=4)), max_size=30))
def test_probabilities_stay_probabilities(stream: list[tuple[float, list[float]]]) -> None:
    voice = running(1.0, 5.0)
    for step_s, weights in stream:
        p = np.array(weights) / sum(weights) if sum(weights) > 1e-9 else np.eye(4)[0]
        adapted = voice.window(step_s, p)
        assert np.isfinite(adapted).all()
        assert adapted.min() >= 0
        assert adapted.sum() == pytest.approx(1)


def test_a_bundle_says_what_everybody_sounds_like() -> None:
    bundle = read_bundle("default")
    assert isinstance(RunningVoice.of(bundle, 600.0), RunningVoice)
    assert RunningVoice.of(bundle, 0.0) is None
    everybody = softmax(np.array(bundle.neutral_logits), bundle.temperature)
    voice = RunningVoice.of(bundle, 600.0)
    assert voice is not None
    for _ in range(20):
        assert voice.window(STEP_S, everybody) == pytest.approx(everybody)


@pytest.mark.parametrize("changed", [{"enrolment": 0.0}, {"neutral_logits": None}])
def test_a_model_that_gains_nothing_hears_everybody_alike(changed: dict[str, object]) -> None:
    bundle: Bundle = replace(read_bundle("default"), **changed)  # type: ignore[arg-type]
    assert RunningVoice.of(bundle, 600.0) is None
