from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serkit.edge.audio import FakeSource
from serkit.edge.bundle import Bundle, read_bundle
from serkit.edge.errors import AudioError, ModelError
from serkit.edge.events import to_json
from serkit.edge.frontend import features
from serkit.edge.lines import prediction_text
from serkit.edge.stream import Recognizer, predict
from serkit.edge.vad import MIN_SPEECH, frame_levels, speech_ratio
from serkit.edge.window import WindowSettings, cut_windows, silence

RATE = 16000
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tiny_bundles: dict[str, Path]) -> Bundle:
    return read_bundle(str(tiny_bundles["dynamic"]))


@pytest.fixture(scope="module")
def recognizer(bundle: Bundle) -> Recognizer:
    return Recognizer(bundle)


def blocks(x: np.ndarray, size: int) -> FakeSource:
    return FakeSource(x, RATE, size)


@given(
    cuts=st.lists(st.integers(0, 48000), max_size=10),
    n=st.integers(400, 48000),
    hop=st.sampled_from([1, 25, 64, 90]),
    context=st.sampled_from([0, 7, 100]),
)
@example(cuts=[], n=10640, hop=90, context=100)  # ends between two windows, where the next one's context has begun
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_streamed_windows_are_those_of_the_whole_recording(
    recognizer: Recognizer, cuts: list[int], n: int, hop: int, context: int
) -> None:
    x = (0.1 * np.random.default_rng(1).standard_normal(n)).astype(np.float32)
    window = WindowSettings(n_frames=64, hop_frames=hop, context_frames=context)
    seen: list[np.ndarray] = []
    heard = Recognizer.__new__(Recognizer)
    heard.__dict__ = recognizer.__dict__ | {"bundle": replace(recognizer.bundle, window=window)}
    heard.score = lambda w, hop: seen.append(w.copy()) or np.ones(4)  # type: ignore
    scored = list(heard.windows(np.split(x, np.clip(np.sort(cuts), 0, n))))
    frontend = recognizer.bundle.frontend
    whole = cut_windows(features(x, frontend), window, silence(frontend))
    expected = [w for w in whole if speech_ratio(frame_levels(w[context:], frontend)) >= MIN_SPEECH]
    assert len(scored) == len(whole)
    assert np.array_equal(np.array(seen).reshape(-1), np.array(expected).reshape(-1))
    times = [w.time_s for w in scored]
    assert times == sorted(times)
    assert times[-1] <= n / RATE + 1e-9


@given(cuts=st.lists(st.integers(0, 64000), max_size=12), gain=st.sampled_from([0.05, 1.0]))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_it_is_cut_a_stream_scores_as_its_windows_do_alone(
    recognizer: Recognizer, speech: np.ndarray, cuts: list[int], gain: float
) -> None:
    x, bundle = gain * speech[:64000], recognizer.bundle
    x[20000:40000] = 0.0  # a pause: some hops are encoded late
    alone = cut_windows(features(x, bundle.frontend), bundle.window, silence(bundle.frontend))
    streamed = [w.probabilities for w in recognizer.windows(np.split(x, np.sort(cuts)))]
    assert len(streamed) == len(alone)
    assert sum(p is not None for p in streamed) > 3
    for window, p in zip(alone, streamed, strict=True):
        assert p is None or np.array_equal(p, recognizer.score(window))


def test_no_window_is_held_back(recognizer: Recognizer) -> None:
    given = 0

    def heard() -> Iterator[np.ndarray]:
        nonlocal given
        for block in np.split(np.zeros(3 * RATE, np.float32), range(512, 3 * RATE, 512)):
            given += len(block)
            yield block

    delays = [given - round(window.time_s * RATE) for window in recognizer.windows(heard())]
    assert all(0 <= delay < 512 for delay in delays)


def test_a_file_and_its_stream_agree(recognizer: Recognizer, speech: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech, RATE, subtype="FLOAT")
    result = predict(recognizer, path)
    windows = [w for w in recognizer.windows([speech]) if w.probabilities is not None]
    weights = np.array([w.speech_ratio for w in windows])
    mean = weights @ np.stack([w.probabilities for w in windows]) / weights.sum()
    assert np.allclose(list(result.probabilities.values()), mean, atol=1e-12)
    assert result.emotion == recognizer.bundle.labels[int(mean.argmax())]
    assert result.confidence == max(result.probabilities.values())
    assert result.duration_s == pytest.approx(5.0)
    fields = json.loads(to_json(result))
    assert list(fields) == [
        "schema", "path", "duration_s", "emotion", "confidence", "sure", "probabilities", "speech_ratio", "model"
    ]  # fmt: skip


@pytest.mark.parametrize(("sure_from", "sure", "said"), [(0.0, True, "{}"), (2.0, False, "unsure, perhaps {}")])
def test_an_answer_says_whether_it_is_sure(
    bundle: Bundle, speech: np.ndarray, tmp_path: Path, sure_from: float, sure: bool, said: str
) -> None:
    soundfile.write(tmp_path / "speech.wav", speech, RATE)
    result = predict(Recognizer(replace(bundle, sure_from=sure_from)), tmp_path / "speech.wav")
    assert result.sure is sure
    assert f"speech.wav: {said.format(result.emotion)} (" in prediction_text(result)
    assert predict(Recognizer(replace(bundle, sure_from=None)), tmp_path / "speech.wav").sure is None


def test_the_tiny_model_learned_its_corpus(recognizer: Recognizer, corpus: Path) -> None:
    files = sorted((corpus / "Audio_Speech_Actors_01-24" / "Actor_01").glob("*-01-*.wav"))
    truth = {"01": "neutral", "03": "happy", "05": "angry", "06": "fearful"}
    right = [predict(recognizer, f).emotion == truth[f.stem.split("-")[2]] for f in files]
    assert np.mean(right) >= 0.75


def test_what_cannot_be_predicted_says_why(recognizer: Recognizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.full(100, 0.1), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(3 * RATE), RATE)
    with pytest.raises(AudioError, match=r"0\.006 s of audio; at least 0\.025 s is needed"):
        predict(recognizer, tmp_path / "short.wav")
    with pytest.raises(AudioError, match=r"no speech in 3\.0 s of audio"):
        predict(recognizer, tmp_path / "silent.wav")


def test_silence_costs_no_inference(recognizer: Recognizer) -> None:
    assert all(w.probabilities is None for w in recognizer.windows(blocks(np.zeros(RATE, np.float32), 512)))


def test_a_graph_that_does_not_fit_its_description_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ModelError, match=r"its graph takes \(109, 40\).*its description says \(136, 40\)"):
        Recognizer(replace(bundle, window=replace(bundle.window, n_frames=99)))
