from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import serkit
from serkit.edge.adaptation import RunningVoice
from serkit.edge.audio import FakeSource
from serkit.edge.bundle import read_bundle
from serkit.edge.config import Config, read_config
from serkit.edge.decision import Decision, DecisionSettings, read_preset
from serkit.edge.errors import AudioError, SettingsError
from serkit.edge.events import Event, to_json
from serkit.edge.listener import Listener
from serkit.edge.pipe import PipeSource
from serkit.edge.sinks import Sink
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VadSettings

RATE = 16000
pytestmark = pytest.mark.slow


class Notebook(Sink):
    """Keeps what it gets, and has something to say once."""

    name = "notebook"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.notices = ["a page is full"]
        self.state = "new"

    def start(self, listener: Listener) -> None:
        self.state = f"started, {len(listener.answers)} answers"

    def send(self, event: Event) -> None:
        self.events.append(event)

    def notice(self) -> str | None:
        return self.notices.pop() if self.notices else None

    def close(self) -> None:
        self.state = "closed"


@pytest.fixture(scope="module")
def model(tiny_bundles: dict[str, Path]) -> Path:
    return tiny_bundles["dynamic"]


#: Of the synthetic voice, which no network takes for speech.
BY_LEVEL = Config(vad=VadSettings(detector="level"))


def fake(x: np.ndarray, block_size: int = 512) -> object:
    return lambda rate: FakeSource(x, rate, block_size)


def test_events_do_not_depend_on_the_block_size(model: Path, speech: np.ndarray) -> None:
    heard = []
    for n in (80, 512, 16000, 1, 77777):
        with serkit.listen(fake(speech, n), model=model, config=BY_LEVEL) as events:
            heard.append([to_json(e) for e in events])
    assert len(heard[0]) > 10
    assert all(h == heard[0] for h in heard[1:])


def test_a_file_is_heard_with_level_speech_and_affect(model: Path, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "speech.wav", speech, RATE)
    with serkit.listen(
        tmp_path / "speech.wav", model=model, config=replace(BY_LEVEL, decision=read_preset("research"))
    ) as listener:
        events = list(listener)
    assert {e.kind for e in events} == {"emotion"}
    assert all(-40 < e.level_dbfs < -10 and e.speech_ratio > 0.5 and -1 <= e.arousal <= 1 for e in events)
    health = listener.health
    assert health.windows == health.scored == len(events)
    assert health.audio_s == pytest.approx(5.0)
    assert health.latency_ms > 0


def test_silence_is_an_event(model: Path) -> None:
    with serkit.listen(fake(np.zeros(5 * RATE)), model=model) as listener:
        assert {e.kind for e in listener} == {"silence"}
    assert listener.health.scored == 0


def test_mute_is_heard_at_once_and_shows(model: Path, speech: np.ndarray) -> None:
    with serkit.listen(fake(np.tile(speech, 3)), model=model, config=BY_LEVEL) as listener:
        events: Iterator[Event] = iter(listener)
        before = [next(events) for _ in range(5)]
        scored = listener.health.scored
        threading.Thread(target=listener.mute).start()
        while not listener.muted:
            pass
        during = [next(events) for _ in range(5)]
        assert listener.health.scored - scored <= 2  # what was heard before is not even scored
        listener.mute(False)
        after = list(events)
    assert {e.kind for e in before} <= {"emotion", "unsure"}
    assert (during[0].kind, during[0].message) == ("status", "muted")
    assert {(e.kind, e.message) for e in during[1:]} == {("silence", "muted")}
    assert during[-1].level_dbfs < -90
    assert (after[0].kind, after[0].message) == ("status", "no longer muted")
    assert after[-1].kind in ("emotion", "unsure")


def test_sinks_get_every_event_and_say_what_happened_to_them(model: Path, speech: np.ndarray) -> None:
    notebook = Notebook()
    with serkit.listen(fake(speech), model=model, sinks=[notebook]) as listener:
        assert notebook.state == "started, 4 answers"
        events = list(listener)
    assert notebook.events == events
    assert (events[0].kind, events[0].message) == ("status", "notebook: a page is full")
    assert notebook.state == "closed"
    listener.close()  # twice is fine


def test_a_sink_that_cannot_start_ends_those_that_did(model: Path, speech: np.ndarray) -> None:
    class Broken(Notebook):
        def start(self, listener: Listener) -> None:
            raise SettingsError("the port is taken")

    first = Notebook()
    with pytest.raises(SettingsError, match="taken"), serkit.listen(fake(speech), model=model, sinks=[first, Broken()]):
        pass
    assert first.state == "closed"


def test_lost_audio_is_a_status_event(model: Path, speech: np.ndarray) -> None:
    class Lossy(FakeSource):
        said = iter(["1 xrun", "microphone lost"])

        def notice(self) -> str | None:
            return next(self.said, None)

    with serkit.listen(lambda rate: Lossy(speech, rate, 512), model=model) as listener:
        statuses = [e for e in listener if e.kind == "status"]
    assert [e.message for e in statuses] == ["1 xrun", "microphone lost"]
    assert listener.health.notices == 2


def test_a_model_that_cannot_adapt_says_so_once(model: Path, speech: np.ndarray) -> None:
    def heard(adapt_s: float) -> list[Event]:
        config = replace(BY_LEVEL, decision=DecisionSettings(adapt_s=adapt_s))
        with serkit.listen(fake(speech), model=model, config=config) as listener:
            return list(listener)

    adapting = heard(600.0)
    (status,) = (e for e in adapting if e.kind == "status")
    assert "cannot adapt to a voice (see `serkit enroll`); everybody is heard alike" in str(status.message)
    assert [e.probabilities for e in adapting if e.kind != "status"] == [e.probabilities for e in heard(0.0)]


def test_listening_gets_to_know_a_voice(speech: np.ndarray) -> None:
    def heard(adapt_s: float) -> list[Event]:
        decision = DecisionSettings(adapt_s=adapt_s, stay_s=0.0, evidence=1.0)
        config = replace(BY_LEVEL, model="default", decision=decision)
        with serkit.listen(fake(np.tile(speech, 4)), config=config) as listener:
            return [e for e in listener if e.probabilities]

    alike, known = heard(0.0), heard(600.0)
    assert alike[0].probabilities == pytest.approx(known[0].probabilities)
    assert alike[-1].probabilities != pytest.approx(known[-1].probabilities, abs=1e-6)


def test_who_is_enrolled_is_not_learned_again(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serkit.edge.listener.voice_offset", lambda name, bundle: np.zeros(len(bundle.labels)))

    def heard(adapt_s: float) -> list[Event]:
        config = replace(BY_LEVEL, model="default", decision=DecisionSettings(adapt_s=adapt_s))
        with serkit.listen(fake(np.tile(speech, 3)), config=config, voice="anna") as listener:
            return [replace(e, speech_ratio=None) for e in listener]

    assert heard(600.0) == heard(0.0)


def test_what_is_muted_does_not_make_the_next_window_weigh_more(speech: np.ndarray) -> None:
    steps: list[float] = []

    class Watched(RunningVoice):
        def window(self, step_s: float, probabilities: np.ndarray) -> np.ndarray:
            steps.append(step_s)
            return super().window(step_s, probabilities)

    bundle = read_bundle("default")
    zeros = np.zeros(len(bundle.labels))
    decision = Decision(bundle.labels, bundle.name, DecisionSettings(), voice=Watched(zeros, zeros, 0.0, 1.0))
    with Listener(Recognizer(bundle), FakeSource(np.tile(speech, 8), RATE, 512), decision) as listener:
        for n, _ in enumerate(listener):
            listener.mute(10 < n < 60)
    assert len(steps) < 40  # of 80 windows
    assert max(steps) < 1.0


def test_a_stream_too_short_to_hear_says_so(model: Path) -> None:
    with (
        serkit.listen(fake(np.zeros(10)), model=model) as listener,
        pytest.raises(AudioError, match=r"ended before 0\.025 s of audio"),
    ):
        list(listener)


def test_a_configuration_is_laid_over_its_preset(tmp_path: Path) -> None:
    file = tmp_path / "serkit.toml"
    file.write_text('preset = "driver"\n[decision]\nstay_s = 9\n[decision.classes.angry]\nenter = 0.8\n')
    decision = read_config(file).decision
    assert (decision.stay_s, decision.resting) == (9.0, "calm")
    assert decision.classes["angry"].enter == 0.8
    assert decision.classes["angry"].labels == ("angry", "disgust")
    assert read_config(file, "research").decision.classes["angry"].labels == ()
    assert read_config().decision == DecisionSettings()


def test_a_preset_the_model_cannot_follow_is_refused(tiny_bundles: dict[str, Path], speech: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="class 'distressed' needs one of the labels sad"):
        serkit.listen(fake(speech), model=tiny_bundles["dynamic"], preset="driver")
    assert Decision(("happy",), "m", DecisionSettings()).answers == ("happy",)


def test_without_with_the_end_of_the_stream_closes_all(model: Path, speech: np.ndarray, tmp_path: Path) -> None:
    notebook = Notebook()
    listener = serkit.listen(fake(speech), model=model, sinks=[notebook], record=tmp_path / "x.flac", config=BY_LEVEL)
    events = list(listener)
    assert notebook.events == events
    assert notebook.state == "closed"
    assert soundfile.info(tmp_path / "x.flac").frames == len(speech)


def test_who_breaks_off_goes_on_where_they_were(model: Path, speech: np.ndarray) -> None:
    with serkit.listen(fake(np.tile(speech, 2)), model=model, config=BY_LEVEL) as whole:
        expected = list(whole)
    with serkit.listen(fake(np.tile(speech, 2)), model=model, config=BY_LEVEL) as listener:
        heard = []
        for event in listener:
            heard.append(event)
            if len(heard) == 4:
                break
        heard += list(listener)
    assert heard == expected
    with serkit.listen(fake(speech), model=model) as closed:
        pass
    with pytest.raises(AudioError, match="this listener is closed"):
        list(closed)


@pytest.mark.parametrize("method", ["send", "notice", "close"])
def test_a_sink_that_raises_is_left_out(model: Path, speech: np.ndarray, method: str) -> None:
    def fail(*_: object) -> None:
        raise OSError("the wire is cut")

    bad, good = Notebook(), Notebook()
    setattr(bad, method, fail)
    raises = pytest.raises(OSError, match="cut") if method == "close" else nullcontext()
    with raises, serkit.listen(fake(speech), model=model, sinks=[bad, good], config=BY_LEVEL) as listener:
        events = list(listener)
    assert good.events == events
    assert good.state == "closed"
    told = [e.message for e in events if e.kind == "status" and "failed" in str(e.message)]
    assert told == (
        [] if method == "close" else ["notebook failed and gets no more events: OSError('the wire is cut')"]
    )


def test_mute_in_a_pause_and_at_once_again(model: Path, speech: np.ndarray) -> None:
    heard = np.concatenate([speech, np.zeros(5 * RATE, np.float32)])
    config = replace(BY_LEVEL, decision=DecisionSettings(memory_s=5.0))
    with serkit.listen(fake(heard), model=model, config=config) as listener:
        events = iter(listener)
        while next(events).time_s < 6.5:
            pass
        listener.mute()
        next(events)
        listener.mute(False)
        assert {e.kind for e in events} <= {"status", "silence"}


def test_a_configuration_and_a_preset_do_not_go_together(model: Path, speech: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="preset and a Config are both given"):
        serkit.listen(fake(speech), model=model, config=BY_LEVEL, preset="research")


def test_model_and_engine_are_the_configurations_where_none_is_named(speech: np.ndarray) -> None:
    config = replace(BY_LEVEL, model="serkit-int8", engine="litert")
    with serkit.listen(fake(speech), config=config) as listener:
        assert (listener.recognizer.bundle.name, listener.recognizer.engine.name) == ("serkit-int8", "litert")
    with serkit.listen(fake(speech), config=config, model="serkit-dynamic") as listener:
        assert listener.recognizer.bundle.name == "serkit-dynamic"


def test_the_heart_beats_with_every_window_and_the_stream_ends_when_told(speech: np.ndarray) -> None:
    with serkit.listen(fake(np.tile(speech, 3)), config=BY_LEVEL) as listener:
        windows: list[int] = []

        def beat() -> None:
            windows.append(listener.health.windows)
            if len(windows) == 4:
                listener.stop()

        listener.heartbeat = beat
        events = list(listener)
    assert windows[:4] == [1, 2, 3, 4]
    assert events[-1].time_s < 5  # of 15


def test_a_stream_of_a_pipe_that_says_nothing_ends_when_told() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        with (
            os.fdopen(writer, "wb"),  # nobody writes to it
            serkit.listen(lambda rate: PipeSource(rate, 512, stream=stream), config=BY_LEVEL) as listener,
        ):
            ending = threading.Timer(0.2, listener.stop)
            ending.start()
            assert list(listener) == []
        ending.join()
