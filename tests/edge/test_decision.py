from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.edge.affect import AFFECT, expected_affect
from serkit.edge.decision import ClassSettings, Decision, DecisionSettings, presets, read_preset, to_toml
from serkit.edge.errors import SettingsError
from serkit.edge.events import Event, to_json
from serkit.edge.settings import build, tomllib

LABELS = ("neutral", "happy", "sad", "angry")
HOP = 0.5

Heard = list[np.ndarray | None]


def decide(decision: DecisionSettings, heard: Heard, start_s: float = 2.5) -> list[Event]:
    d = Decision(LABELS, "m", decision)
    return [e for i, p in enumerate(heard) for e in d.window(start_s + i * HOP, p)] + d.end()


@st.composite
def streams(draw: st.DrawFn) -> Heard:
    """Windows of somebody who speaks in runs, pauses, and is more or less clear."""
    heard: Heard = []
    for _ in range(draw(st.integers(1, 6))):
        peak = draw(st.sampled_from([None, 0, 1, 2, 3]))
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        clear = draw(st.floats(0, 6))
        for _ in range(draw(st.integers(1, 12))):
            alpha = np.ones(4) + (clear * np.eye(4)[peak] if peak is not None else 0)
            heard.append(None if peak is None else rng.dirichlet(alpha))
    return heard


def decisions() -> st.SearchStrategy[DecisionSettings]:
    seconds = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])

    def make(enter: float, share: float, resting: str | None, *s: float) -> DecisionSettings:
        return DecisionSettings(
            enter=enter,
            leave=enter * share,
            resting=resting,
            stay_s=s[0],
            evidence=0.5,
            memory_s=s[1],
            patience_s=s[2],
            min_duration_s=s[3],
            refractory_s=s[4],
        )

    return st.builds(
        make,
        st.floats(0, 0.9),
        st.floats(0, 1),
        st.sampled_from([None, "neutral"]),
        seconds,
        seconds,
        seconds,
        seconds,
        seconds,
    )


@given(heard=streams(), s=decisions())
def test_every_window_gets_one_event_that_means_what_it_says(heard: Heard, s: DecisionSettings) -> None:
    events = decide(s, heard)
    assert len(events) == len(heard)
    spoke, answer = -1e9, "silence"
    for i, (event, p) in enumerate(zip(events, heard, strict=True)):
        assert event.time_s == 2.5 + i * HOP
        spoke = spoke if p is None else event.time_s
        assert (event.kind == "silence") == (p is None and event.time_s - spoke >= s.memory_s)
        assert p is not None or event.answer in (answer, "silence")  # nothing new is learned in a pause
        answer = event.answer
        if event.kind == "silence":
            assert event.emotion is event.confidence is event.probabilities is event.arousal is None
            continue
        assert event.probabilities is not None
        assert sum(event.probabilities.values()) == pytest.approx(1)
        assert (event.emotion is not None) == (event.kind == "emotion")
        wanted = event.emotion or max(event.probabilities, key=lambda k: event.probabilities[k])
        assert event.confidence == event.probabilities[wanted]
        assert -1 <= event.arousal <= 1
        assert -1 <= event.valence <= 1


@given(heard=streams(), s=decisions())
@settings(max_examples=300)
def test_answers_start_hold_and_end_by_the_rules(heard: Heard, s: DecisionSettings) -> None:
    on: str | None = None  # what is on, and since when; a resting answer never is
    since = spoke = -1e9
    leader: str | None = None
    leads_since = -1e9
    gave_way: dict[str, float] = {}
    for event, p in zip(decide(s, heard), heard, strict=True):
        if p is None:
            if event.time_s - spoke >= s.memory_s:
                if on is not None:
                    gave_way[on] = event.time_s
                on = leader = None
            continue
        spoke = event.time_s
        answer = None if event.emotion == s.resting else event.emotion
        others = {k: p for k, p in event.probabilities.items() if k != s.resting}
        best = max(others, key=lambda k: others[k])
        now_leads = best if others[best] >= s.enter else None
        if now_leads != leader:
            leader, leads_since = now_leads, event.time_s
        if answer != on:
            if on is not None:  # held as long as it had to be, and then weak or outdone
                assert event.time_s - since >= s.min_duration_s
                assert answer is not None or others[on] < s.leave
                gave_way[on] = event.time_s
            if answer is not None:  # strong, patient, rested
                assert answer == leader
                assert event.time_s - leads_since >= s.patience_s
                assert event.time_s - gave_way.get(answer, -1e9) >= s.refractory_s
            on, since = answer, event.time_s
        elif on is not None:
            assert others[on] >= s.leave or event.time_s - since < s.min_duration_s


@given(heard=streams(), s=decisions(), shift=st.sampled_from([0.5, 8.0, 1024.0]))
def test_only_differences_of_time_matter(heard: Heard, s: DecisionSettings, shift: float) -> None:
    later = decide(s, heard, 2.5 + shift)
    assert [replace(e, time_s=e.time_s - shift) for e in later] == decide(s, heard)


@given(heard=streams(), s=decisions())
def test_what_was_said_before_a_long_pause_does_not_colour_what_comes_after(heard: Heard, s: DecisionSettings) -> None:
    s = replace(s, refractory_s=0.0)  # the one thing that outlasts a pause
    pause: Heard = [None] * 12
    start_s = 2.5 + HOP * 12
    assert decide(s, pause + heard)[12:] == decide(s, heard, start_s)
    loud: Heard = [np.array([0.0, 0.0, 0.0, 1.0])]
    assert decide(s, loud + pause[1:] + heard)[12:] == decide(s, heard, start_s)


@given(heard=streams())
def test_research_is_the_models_raw_answer(heard: Heard) -> None:
    for event, p in zip(decide(read_preset("research"), heard), heard, strict=True):
        assert event.emotion == (None if p is None else LABELS[int(np.argmax(p))])


@given(heard=streams())
def test_an_assistant_gets_one_answer_per_utterance_about_all_of_it(heard: Heard) -> None:
    assistant = replace(read_preset("assistant"), max_utterance_s=1e9)
    answers = [e for e in decide(assistant, heard) if e.kind != "silence"]
    utterances: list[list[np.ndarray]] = [[]]
    for p in heard:
        utterances[-1].append(p) if p is not None else utterances.append([])
    expected = [np.mean(u, axis=0) for u in utterances if u]
    assert len(answers) == len(expected)
    for event, mean in zip(answers, expected, strict=True):
        assert list(event.probabilities.values()) == pytest.approx(mean.tolist())
        assert event.emotion in (None, LABELS[int(np.argmax(mean))])


def test_an_endless_utterance_is_answered_now_and_then() -> None:
    s = replace(read_preset("assistant"), max_utterance_s=5.0)
    events = decide(s, [np.array([0.1, 0.7, 0.1, 0.1])] * 60)
    assert [e.time_s for e in events] == pytest.approx([7.5, 13.0, 18.5, 24.0, 29.5, 32.0])
    assert {e.emotion for e in events} == {"happy"}


@given(heard=streams(), s=decisions(), at=st.integers(0, 40))
def test_what_is_forgotten_is_gone(heard: Heard, s: DecisionSettings, at: int) -> None:
    s = replace(s, refractory_s=0.0)
    at = min(at, len(heard))
    muted = Decision(LABELS, "m", s)
    for i, p in enumerate(heard[:at]):
        muted.window(2.5 + i * HOP, p)
    muted.forget()
    after = [e for i, p in enumerate(heard[at:]) for e in muted.window(2.5 + (at + i) * HOP, p)]
    assert after == decide(s, heard[at:], 2.5 + at * HOP)


def test_classes_add_up_the_labels_they_name() -> None:
    s = DecisionSettings(stay_s=0, evidence=1, enter=0.5, classes={
        "upset": ClassSettings(labels=("angry", "sad", "disgust")), "fine": ClassSettings(labels=("neutral", "happy")),
    })  # fmt: skip
    (event,) = Decision(LABELS, "m", s).window(1.0, np.array([0.25, 0.15, 0.2, 0.4]))
    assert event.probabilities == pytest.approx({"upset": 0.6, "fine": 0.4})
    assert (event.emotion, event.confidence) == ("upset", pytest.approx(0.6))
    assert (event.arousal, event.valence) == pytest.approx((0.15 - 0.2 + 0.4, 0.15 - 0.2 - 0.4))


def test_windows_are_put_together_by_the_forward_algorithm() -> None:
    s = DecisionSettings(stay_s=HOP / np.log(2), evidence=0.5, enter=0, leave=0)  # half of the belief stays for a hop
    first, second = np.array([0.64, 0.04, 0.16, 0.16]), np.array([0.04, 0.04, 0.28, 0.64])
    events = decide(s, [first, None, second])
    belief = np.sqrt(first) / np.sqrt(first).sum()
    assert list(events[0].probabilities.values()) == pytest.approx(belief.tolist())
    assert events[1].probabilities == events[0].probabilities
    belief = (belief / 2 + 1 / 8) * np.sqrt(second)
    assert list(events[2].probabilities.values()) == pytest.approx((belief / belief.sum()).tolist())


def test_a_prior_is_what_evidence_is_measured_against() -> None:
    rare = {"angry": ClassSettings(prior=0.1), "rest": ClassSettings(labels=("neutral", "happy", "sad"))}
    s = DecisionSettings(stay_s=1e9, evidence=1, classes=rare)
    p = np.array([0.3, 0.3, 0.2, 0.2])  # twice the prior of anger
    events = decide(s, [p] * 10)
    assert events[0].probabilities["angry"] == pytest.approx(0.2)
    assert events[9].emotion == "angry"


def test_the_presets_fit_every_emotion_there_is() -> None:
    assert presets() == ("assistant", "driver", "research")
    for name in presets():
        decision = Decision(tuple(AFFECT), "m", read_preset(name))
        events = decision.window(1.0, np.full(len(AFFECT), 1 / len(AFFECT))) + decision.end()
        assert sum(events[0].probabilities.values()) == pytest.approx(1)
        again = build(DecisionSettings, tomllib.loads(to_toml(read_preset(name))), name)
        assert again == read_preset(name)
    driver = read_preset("driver")
    assert driver.resting == "calm"
    assert set(driver.classes) == {"calm", "angry", "fearful", "distressed"}


def test_affect_is_unknown_where_a_label_is() -> None:
    assert expected_affect({"angry": 0.5, "bored to tears": 0.5}) is None


def test_json_has_the_fields_of_the_contract() -> None:
    (heard,) = Decision(LABELS, "m", read_preset("research")).window(2.5, np.array([1 / 6, 1 / 6, 0, 2 / 3]))
    event = json.loads(to_json(heard))
    assert event == {
        "schema": 1, "time_s": 2.5, "kind": "emotion", "emotion": "angry", "confidence": 0.6667,
        "probabilities": {"neutral": 0.1667, "happy": 0.1667, "sad": 0.0, "angry": 0.6667}, "model": "m",
        "arousal": 0.8333, "valence": -0.5, "speech_ratio": None, "level_dbfs": None,
    }  # fmt: skip
    assert set(json.loads(to_json(Event(time_s=3.0, kind="silence", model="m")))) == set(event)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stay_s": -1}, "stay_s is -1; it needs 0 s or more"),
        ({"patience_s": float("nan")}, "patience_s, min_duration_s and refractory_s need 0 s or more"),
        ({"classes": {"a": ClassSettings(prior=float("nan"))}}, "each needs more than 0"),
        ({"evidence": 0}, "evidence is 0; more than 0 and at most 1 is needed"),
        ({"classes": {"a": ClassSettings(prior=1.0), "b": ClassSettings()}}, "add up to 1; each needs more than 0"),
        ({"classes": {"a": ClassSettings(prior=0.5)}}, r"add up to 0\.5; each needs more than 0, all of them 1"),
        ({"enter": 0.2, "leave": 0.3}, "enter 0.2, leave 0.3: 0 <= leave <= enter <= 1 is needed"),
        ({"patience_s": -1.0}, "patience_s, min_duration_s and refractory_s need 0 s or more"),
        ({"classes": {"a": ClassSettings(enter=0.1)}}, r"classes\.a: enter 0.1, leave 0.25"),
        ({"classes": {"a": ClassSettings()}, "resting": "b"}, "resting is 'b'; choose one of a"),
        ({"classes": {"a": ClassSettings(labels=("b",)), "b": ClassSettings()}}, "label 'b' is in classes 'a' and 'b'"),
    ],
)
def test_settings_say_what_is_wrong(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DecisionSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": {"joy": ClassSettings()}}, "class 'joy' needs one of the labels joy; m knows neutral, happy"),
        ({"classes": {"angry": ClassSettings(), "sad": ClassSettings()}}, "label 'neutral' of m is in no class"),
        ({"resting": "calm"}, "resting is 'calm'; choose one of neutral"),
    ],
)
def test_settings_that_do_not_fit_the_model_say_so(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Decision(LABELS, "m", DecisionSettings(**values))


@given(heard=streams())
def test_windows_that_come_on_time_weigh_as_ever(heard: Heard) -> None:
    paced, plain = Decision(LABELS, "m", DecisionSettings(), HOP), Decision(LABELS, "m", DecisionSettings())
    for i, p in enumerate(heard):
        assert paced.window(2.575 + i * HOP, p) == plain.window(2.575 + i * HOP, p)


@pytest.mark.parametrize("n_hops", [1, 2, 4])
def test_a_window_weighs_as_much_as_those_in_whose_place_it_is(n_hops: int) -> None:
    d = Decision(LABELS, "m", DecisionSettings(evidence=0.1, stay_s=1e9), HOP)
    events = [e for i in range(0, 9, n_hops) for e in d.window(3 + i * HOP, np.array([0.4, 0.3, 0.2, 0.1]))]
    expected = np.array([0.4, 0.3, 0.2, 0.1]) ** 0.9
    assert list((events[-1].probabilities or {}).values()) == pytest.approx(expected / expected.sum(), rel=1e-6)
