from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from serkit.benchmarks import composition, sessions
from serkit.benchmarks.composition import Material, Session, Speech
from serkit.benchmarks.hops import CLIP
from serkit.benchmarks.sessions import Heard
from serkit.edge.audio import read_audio
from serkit.edge.bundle import Bundle, read_bundle
from serkit.edge.cli import main
from serkit.edge.decision import ClassSettings, read_preset
from serkit.edge.stream import Recognizer, ScoredWindow, predict
from serkit.train.conditions import noises
from serkit.train.corpora import Utterance, read_corpus
from serkit.train.splits import make_split

RATE = 16000
LABELS = ("neutral", "happy", "sad", "angry", "fearful")
BUNDLE = SimpleNamespace(labels=LABELS, name="oracle")
PRESET = read_preset("driver")
DRIVER = replace(
    PRESET, adapt_s=0.0, stay_s=0.0, evidence=1.0, memory_s=2.0, enter=0.5, leave=0.5,
    patience_s=0.0, min_duration_s=0.0, refractory_s=0.0,
    classes={name: ClassSettings(labels=c.labels, leave=c.leave) for name, c in PRESET.classes.items()},
)  # fmt: skip


def heard(speech: list[Speech], said: dict[float, str], end_s: float, kind: str = "emotion") -> Heard:
    """A session through a model that says what it is told from a time on, twice a second."""
    windows = []
    for t in np.arange(0.5, end_s, 0.5):
        label = next((said[s] for s in sorted(said, reverse=True) if s <= t), None)
        p = (
            None
            if label in (None, "")
            else np.full(5, 0.2)
            if label == "?"
            else np.where(np.array(LABELS) == label, 0.9, 0.025)
        )
        windows.append(ScoredWindow(float(t), 1.0, -20.0, p))
    clips = [np.where(np.array(LABELS) == s.emotion, 0.9, 0.025) for s in speech if s.emotion is not None]
    session = Session(kind, "v", "quiet", np.empty(0, np.float32), tuple(speech))
    return Heard(session, end_s, tuple(windows), np.reshape(clips, (len(clips), len(LABELS))))


SPEECH = [Speech(10, 20, "neutral"), Speech(25, 35, "angry"), Speech(40, 50, "sad")]


def test_an_oracle_is_right_at_once_and_never_flips() -> None:
    h = heard(SPEECH, {10: "neutral", 20: "", 25: "angry", 35: "", 40: "sad", 50: ""}, 60)
    row = sessions.score_emotion([h], BUNDLE, DRIVER, "calm")
    assert (row["frame_uar"], row["clip_uar"], row["event_f1"]) == (1.0, 1.0, 1.0)
    assert (row["delay_median_s"], row["flips_per_minute"], row["asked_per_minute"]) == (0.0, 0.0, 2.0)


def test_coming_late_costs_delay_and_frames() -> None:
    h = heard(SPEECH, {10: "neutral", 28: "angry", 35: "", 40: "neutral", 42: "sad", 50: ""}, 60)
    row = sessions.score_emotion([h], BUNDLE, DRIVER, "calm")
    assert row["delay_median_s"] == 2.5
    assert row["right_after"] == {"1": 0.0, "1.5": 0.0, "2": 0.5, "3": 1.0, "5": 1.0, "8": 1.0}
    assert row["frame_uar"] == pytest.approx((1 + 0.7 + 0.8) / 3, abs=0.01)
    assert row["flips_per_minute"] == 1.0  # back to calm in between: nobody asked for that
    assert row["event_f1"] == 1.0


def test_needless_changes_are_flips_and_false_starts() -> None:
    said = {10: "neutral", 13: "angry", 15: "neutral", 25: "angry", 35: "", 40: "sad", 50: ""}
    row = sessions.score_emotion([heard(SPEECH, said, 60)], BUNDLE, DRIVER, "calm")
    assert row["flips_per_minute"] == 2.0
    assert (row["event_precision"], row["event_recall"]) == (pytest.approx(2 / 3, abs=1e-3), 1.0)


def test_what_is_never_said_is_not_found() -> None:
    row = sessions.score_emotion([heard(SPEECH, {10: "neutral"}, 60)], BUNDLE, DRIVER, "calm")
    assert (row["event_f1"], row["delay_median_s"]) == (0.0, None)
    assert row["frame_uar"] == pytest.approx(1 / 3, abs=0.01)


def test_an_alarm_is_counted_once_however_long_it_lasts() -> None:
    calm = [Speech(0, 3600, None)]
    h = heard(
        calm, {1: "neutral", 600: "angry", 660: "neutral", 900: "sad", 905: "angry", 910: "neutral"}, 3600, "neutral"
    )
    row = sessions.score_alarms([replace(h, clips=np.empty((0, 5)))], BUNDLE, DRIVER, "calm")
    assert row["false_alarms_per_hour"] == 3.0
    assert row["scored_share"] == pytest.approx(1, abs=1e-3)


def test_alarms_parted_by_silence_are_counted_each() -> None:
    said = {t: "angry" if t % 300 == 0 else "" for k in range(12) for t in (300 * k, 300 * k + 3)}
    row = sessions.score_alarms([heard([], said, 3600, "noise")], BUNDLE, DRIVER, "calm")
    assert row["false_alarms_per_hour"] == 12.0
    assert 12 < row["at_most_per_hour"] < 25


def test_every_way_is_scored_by_the_same_resting_class() -> None:
    speech = [Speech(10, 20, "neutral"), Speech(25, 35, "happy"), Speech(40, 50, "sad")]
    said = {10: "neutral", 20: "", 25: "happy", 35: "", 40: "sad", 50: ""}
    ways = (DRIVER, sessions.raw(DRIVER))
    rows = [sessions.score_emotion([heard(speech, said, 60)], BUNDLE, way, "calm") for way in ways]
    assert [(r["event_f1"], r["event_precision"], r["flips_per_minute"]) for r in rows] == [(1.0, 1.0, 0.0)] * 2


def test_a_blip_before_an_episode_does_not_find_it() -> None:
    h = heard(SPEECH, {10: "neutral", 23.5: "angry", 24: "neutral", 35: "", 40: "sad", 50: ""}, 60)
    row = sessions.score_emotion([h], BUNDLE, DRIVER, "calm")
    assert row["event_recall"] == 0.5
    assert row["delay_median_s"] == 0.0


def test_the_delay_of_all_counts_what_was_missed() -> None:
    speech = [Speech(10 + 20 * i, 20 + 20 * i, "angry") for i in range(3)]
    said = {10: "neutral", 20: "", 33: "angry", 40: "", 50: "neutral", 60: ""}
    row = sessions.score_emotion([heard(speech, said, 70)], BUNDLE, DRIVER, "calm")
    assert (row["delay_median_s"], row["delay_median_all_s"]) == (3.0, None)


def test_unsure_is_an_answer_that_flips() -> None:
    h = heard(SPEECH[:1], {10: "neutral", 13: "?", 14: "neutral", 15: "?", 16: "neutral"}, 20)
    calm = replace(DRIVER.classes["calm"], enter=0.6, leave=0.6)
    careful = replace(DRIVER, classes={**DRIVER.classes, "calm": calm})
    row = sessions.score_emotion([h], BUNDLE, careful, "calm")
    assert row["flips_per_minute"] == 12.0  # four in a third of a minute


def test_an_answer_counts_from_when_it_is_given() -> None:
    h = heard([Speech(10, 20, "sad")], {10: "sad", 20: ""}, 30)
    (answer,) = [e for e in sessions.replay(h, BUNDLE, read_preset("assistant")) if e.kind != "silence"]
    assert answer.emotion == "sad"
    assert answer.time_s >= 20


def test_raw_is_every_windows_argmax_over_the_same_classes() -> None:
    raw = sessions.raw(read_preset("driver"))
    assert set(raw.classes) == set(read_preset("driver").classes)
    h = heard(SPEECH, {10: "happy", 12: "angry", 12.5: "fearful", 13: "sad", 14: ""}, 20)
    assert [e.answer for e in sessions.replay(h, BUNDLE, raw)][19:28] == [
        "calm", "calm", "calm", "calm", "angry", "fearful", "distressed", "distressed", "silence"
    ]  # fmt: skip


@pytest.fixture
def utterances(corpus: Path) -> list[Utterance]:
    return [u for u in read_corpus("ravdess", corpus) if u.speaker in ("1", "2")]


def test_a_session_is_what_its_timeline_says_and_the_seed_makes_it(utterances: list[Utterance]) -> None:
    def made(seed: int) -> list[Session]:
        return list(composition.emotion_sessions(utterances, 1.0, [None], RATE, seed))

    first = made(3)
    assert [s.voice for s in first] == ["ravdess/1", "ravdess/2"]
    for session in first:
        assert len(session.samples) >= 30 * RATE
        spoken = np.zeros(len(session.samples), bool)
        for s in session.speech:
            piece = session.samples[int(s.start_s * RATE) : int(s.end_s * RATE)]
            assert np.sqrt(np.mean(np.square(piece))) > 0.02
            spoken[int(s.start_s * RATE) : int(s.end_s * RATE) + 1] = True
        assert np.sqrt(np.mean(np.square(session.samples[~spoken]))) < 0.001
        assert all(a.end_s < b.start_s for a, b in zip(session.speech, session.speech[1:], strict=False))
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(first, made(3), strict=True))
    assert not np.array_equal(first[0].samples, made(4)[0].samples)


def test_who_enrolls_says_nothing_twice(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = [replace(u, speaker="3") for u in utterances if u.emotion != "neutral"]
    neutral = tuple(u for u in utterances if u.emotion == "neutral")
    strangers = Material((*utterances, *mute), neutral, (tmp_path / "everyday.wav",), (), (None,))
    known = composition.acquainted(strangers)
    assert {voice: [u.key[-5:-3] for u in takes] for voice, takes in known.enrolling.items()} == {
        "ravdess/1": ["01"], "ravdess/2": ["01"]
    }  # fmt: skip
    said = {u.key for u in (*known.utterances, *known.neutral)}
    assert not said & {u.key for takes in known.enrolling.values() for u in takes}
    read: list[Utterance] = []
    reads = composition.read_utterance
    monkeypatch.setattr(composition, "read_utterance", lambda u, rate: (read.append(u), reads(u, rate))[1])
    made = []
    for session in composition.compose(known, 1.0, RATE, 0):
        made.append((session.kind, session.voice))
        assert {u.voice for u in read} == ({session.voice} if session.voice else set())
        read.clear()
    spoken = [(kind, voice) for kind in ("emotion", "neutral") for voice in ("ravdess/1", "ravdess/2")]
    assert made == [*spoken, ("noise", None)]
    assert composition.n_sessions(known) == len(made)


def test_an_enrolled_voice_is_heard_in_windows_and_clips() -> None:
    bundle = read_bundle("default")
    samples = read_audio(CLIP, RATE)
    session = Session("emotion", "v", "quiet", samples, (Speech(1.0, 6.5, "neutral"),))
    offset = np.zeros(len(bundle.labels))
    offset[bundle.labels.index("sad")] = 50.0
    known = sessions.hear(Recognizer(bundle, offset=offset), session)
    stranger = sessions.hear(Recognizer(bundle), session)
    sad = bundle.labels.index("sad")
    for h, most in ((stranger, 1.0), (known, 1e-6)):
        assert all(
            0 < p[sad] <= most for p in (*(w.probabilities for w in h.windows if w.probabilities is not None), *h.clips)
        )
    assert max(w.probabilities[sad] for w in stranger.windows if w.probabilities is not None) > 1e-3


def test_a_bed_of_noise_has_its_ratio_to_the_speech(utterances: list[Utterance], tmp_path: Path) -> None:
    kind = tmp_path / "hum"
    kind.mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(kind / "hum.wav", 0.1 * rng.standard_normal(5 * RATE), RATE)
    one = [u for u in utterances if u.speaker == "1"]
    (quiet,) = composition.emotion_sessions(one, 0.5, [None], RATE, 0)
    (noisy,) = composition.emotion_sessions(one, 0.5, [composition.Bed("hum", noises(kind, RATE), 20.0)], RATE, 0)
    where = np.concatenate([np.arange(int(s.start_s * RATE), int(s.end_s * RATE)) for s in quiet.speech])
    speech, noise = quiet.samples[where], (noisy.samples - quiet.samples)[: len(quiet.samples)][where]
    assert 10 * np.log10(np.mean(np.square(speech)) / np.mean(np.square(noise))) == pytest.approx(20, abs=0.5)
    assert noisy.bed == "hum 20 dB"


def test_tuning_finds_settings_that_lose_less() -> None:
    h = [
        heard(SPEECH, {10: "neutral", 13: "angry", 13.5: "neutral", 25: "angry", 35: "", 40: "sad", 50: ""}, 60),
        replace(
            heard([Speech(0, 600, None)], {1: "neutral", 60: "angry", 60.5: "neutral"}, 600, "neutral"),
            clips=np.empty((0, 5)),
        ),
        replace(heard([], {}, 600, "noise"), clips=np.empty((0, 5))),
    ]
    found, least = sessions.tune(h, BUNDLE, DRIVER, 30, 0, range(30))
    assert least == sessions.loss(h, BUNDLE, found) < sessions.loss(h, BUNDLE, DRIVER)
    _, again = sessions.tune(h, BUNDLE, found, 3, 1, range(3))
    assert again <= least  # it begins where it stands
    assert found.classes.keys() == DRIVER.classes.keys()
    given = [c.prior is not None for c in found.classes.values()]
    assert given == [True] * (len(given) - 1) + [False]  # so that one can be changed alone


def test_strangers_have_what_enrolling_would_take_off() -> None:
    bundle = SimpleNamespace(labels=LABELS, name="m", temperature=2.0)
    offsets = {"v": [9.0] * 5, "gloomy": [0.0, 0.0, 3.0, 0.0, -3.0], "merry": [0.0, 3.0, 0.0, 0.0, -3.0]}
    spoken = heard(SPEECH, {10: "neutral"}, 20)
    noise = replace(spoken, session=replace(spoken.session, kind="noise", voice=None))
    made = sessions.strangers([spoken, noise], bundle, offsets, 0)
    assert made[:2] == [spoken, noise]
    assert len(made) == 4  # in the two other voices; noise is nobody's
    p = spoken.windows[-1].probabilities
    moved = [bundle.temperature * np.log(h.windows[-1].probabilities / p) for h in made[2:]]
    put_on = sorted((logits - logits[0]).round(6).tolist() for logits in moved)  # but for a constant
    assert put_on == [offsets["gloomy"], offsets["merry"]]
    assert [w.probabilities is None for w in made[2].windows] == [w.probabilities is None for w in spoken.windows]


def test_a_voice_becomes_familiar_where_the_settings_say_so() -> None:
    bundle = SimpleNamespace(
        labels=LABELS, name="m", temperature=1.0, enrolment=1.0, neutral_logits=(3.0, 0.0, -1.0, -1.0, -1.0)
    )
    gloomy = np.array([0.35, 0.05, 0.5, 0.05, 0.05])
    h = replace(
        heard([], {}, 120, "neutral"), windows=tuple(ScoredWindow(t, 1.0, -20.0, gloomy) for t in range(1, 120))
    )
    last = [sessions.replay(h, bundle, replace(DRIVER, adapt_s=s))[-1].answer for s in (0.0, 600.0)]
    assert last == ["distressed", "calm"]


def trained_on(bundle: Bundle, data: Path) -> list[str]:
    """What moved the model's weights: the train side of its own split over all its corpora at once."""
    known = [u for c in bundle.info["corpora"] for u in read_corpus(c, data) if u.emotion in bundle.labels]
    s = bundle.info["split"]
    split = make_split(known, s["protocol"], fold=s["fold"], seed=s["seed"], validation_share=s["validation_share"])
    return [u.key for u in split.train]


def test_a_clip_is_answered_as_predict_answers_its_file(tmp_path: Path) -> None:
    recognizer = Recognizer(read_bundle("default"))
    samples = read_audio(CLIP, RATE)
    spans = [(0.0, 3.5), (1.0, 6.5)]
    session = Session("emotion", "v", "quiet", samples, tuple(Speech(a, b, "neutral") for a, b in spans))
    clips = sessions.hear(recognizer, session).clips
    for clip, (start_s, end_s) in zip(clips, spans, strict=True):
        path = tmp_path / f"{start_s}.wav"
        soundfile.write(path, samples[int(start_s * RATE) : int(end_s * RATE)], RATE, "FLOAT")
        alone = predict(recognizer, path).probabilities
        assert clip == pytest.approx([alone[label] for label in recognizer.bundle.labels], abs=1e-9)


def test_tuning_writes_no_results(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "s.json")]
    ran = CliRunner().invoke(main, ["bench", "sessions", "--data", ".", "--tune", "3", *out])
    assert (ran.exit_code, "--tune prints a preset" in ran.stderr) == (2, True)


def test_tuning_enrolls_nobody() -> None:
    ran = CliRunner().invoke(main, ["bench", "sessions", "--data", ".", "--tune", "3", "--enroll"])
    assert (ran.exit_code, "--tune and --enroll are two different things" in ran.stderr) == (2, True)


def test_sessions_need_noise_and_say_so(corpus: Path) -> None:
    ran = CliRunner().invoke(main, ["bench", "sessions", "--data", str(corpus)])
    assert ran.exit_code == 1
    assert ran.stderr.startswith(f"serkit: no folder {corpus / 'noise'}; give the folder that holds the corpora and")


@pytest.mark.data
def test_nobody_is_tuned_on_and_tested_on(data: Path) -> None:
    bundle = read_bundle("default")
    test, tuned = (composition.material(bundle, data, side) for side in ("test", "tune"))
    voices = [{u.voice for u in (*m.utterances, *m.neutral)} for m in (test, tuned)]
    assert not voices[0] & voices[1]
    assert voices[0] >= {"nemo/MK0", "nemo/MP0", "nemo/SM0"}
    # of those whom its encoder knows, the one who chose the encoder's epoch but trained nothing
    assert {v for v in voices[1] if v.startswith("nemo/")} == {"nemo/IC0"}
    assert not voices[0] & set(bundle.info["learned_from"]["voices"])
    assert not {u.key for u in tuned.utterances} & set(trained_on(bundle, data))
    assert not {"car", "babble", "street", "transport"} & {d.name for d in tuned.noises}
    assert {"car", "babble", "street", "transport"} <= {d.name for d in test.noises}
    assert not any(u.corpus == "ravdess-song" for m in (test, tuned) for u in (*m.utterances, *m.neutral))
    assert [bed.kind for bed in tuned.beds if bed is not None] == ["household", "stationary", "voices"]


@pytest.mark.data
def test_sessions_before_and_after_enrolling(data: Path) -> None:
    ran = CliRunner().invoke(main, ["bench", "sessions", "--enroll", "--minutes", "1", "--data", str(data), "--json"])
    assert ran.exit_code == 0, ran.output
    of_all = {(r["decision"], r["sessions"]): r for r in map(json.loads, ran.stdout.splitlines()) if r["bed"] is None}
    ways = ["driver", "driver, not adapting", "driver, enrolled", "raw argmax"]
    assert [w for w, kind in of_all if kind == "emotion"] == ways
    assert [w for w, kind in of_all if kind == "noise"] == [w for w in ways if "enrolled" not in w]
    before, after = (of_all[w, "emotion"] for w in ("driver, not adapting", "driver, enrolled"))
    assert before["minutes"] == after["minutes"]
    assert before["clip_uar"] != after["clip_uar"]


def test_many_talkers_are_loud_all_the_time(utterances: list[Utterance]) -> None:
    many = composition.many_talkers(utterances, RATE)
    levels = np.sqrt(np.mean(np.square(many.reshape(-1, RATE)), axis=1))
    assert len(many) == composition.CROWD_S * RATE
    assert levels.min() > 0.5 * levels.max() > 0
    assert np.array_equal(many, composition.many_talkers(utterances, RATE))
