from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serkit.convert.bundle import convert_run
from serkit.edge.bundle import read_bundle
from serkit.edge.errors import SettingsError
from serkit.train import teacher
from serkit.train.corpora import read_corpus
from serkit.train.epochs import Epochs
from serkit.train.features import FeatureSet
from serkit.train.fit import build_system, train
from serkit.train.recipe import Recipe, override, read_recipe
from serkit.train.runs import load_run, load_trained
from serkit.train.teacher import HOP_LENGTH, SAMPLE_RATE, Lessons, TeacherSettings, hear, hidden_layer, taught


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return replace(read_recipe(tiny_recipe), teacher=TeacherSettings(weight=1.0))


def test_targets_are_what_was_heard_between_two_times() -> None:
    seconds = HOP_LENGTH / SAMPLE_RATE
    heard = [np.repeat(np.arange(50.0) + shift, 3).reshape(50, 3) for shift in (0, 10, 30)]
    lessons = Lessons(FeatureSet((), tuple(f.astype(np.float16) for f in heard), ()))
    assert lessons.n_targets == 6
    mean, deviation = np.mean([24.5, 34.5, 54.5]), np.std([24.5, 34.5, 54.5]) + 1e-3
    t = lessons.targets(1, 20 * seconds, 30 * seconds)
    assert t.dtype == np.float32
    # frames 19 to 28: the first one's centre is 1.16 hops behind the recording's beginning
    assert t[:3] == pytest.approx((10 + np.mean(np.arange(19, 29)) - mean) / deviation, abs=1e-3)
    for start, end in ((-3, -2), (8, 9), (0.5, 0.5)):  # before it, behind it, no time at all
        assert np.isfinite(lessons.targets(0, start, end)).all()
    assert np.allclose(lessons.targets(2, -9, 99), (lessons.targets(0, -9, 99) + 30 / deviation * np.eye(6)[:3].sum(0)))


@pytest.mark.parametrize("name", ["serkit", "r1", "light-sernet"])
def test_the_student_learns_as_it_is_taught(name: str) -> None:
    model = build_system(read_recipe(name))
    learner = taught(model, 10)
    x = np.random.default_rng(0).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    said = learner.predict(x, verbose=0)
    assert np.allclose(said["logits"], model.predict(x, verbose=0), atol=1e-5)
    assert said["teacher"].shape == (4, 10)
    extra = {v.path for v in learner.trainable_variables} - {v.path for v in model.trainable_variables}
    assert {path.split("/")[0] for path in extra} == {"teacher"}
    learner.compile("sgd", loss={"logits": "mse", "teacher": "mse"}, loss_weights={"logits": 0.0, "teacher": 1.0})
    before = model.get_weights()
    learner.train_on_batch(x, {"logits": said["logits"], "teacher": np.ones((4, 10))})
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_network_without_one_last_layer_cannot_be_taught() -> None:
    with pytest.raises(SettingsError, match="r3_multiscale_lstm cannot learn from a teacher"):
        taught(build_system(read_recipe("r3-multiscale")), 10)


def test_the_teacher_hears_frames_and_no_end_of_a_recording_is_too_short(speech: np.ndarray) -> None:
    listen = hidden_layer(2)
    frames = listen(speech)
    assert frames.dtype == np.float16
    assert frames.shape == ((len(speech) - 895) // HOP_LENGTH + 1, 288)
    assert np.array_equal(listen(speech), frames)
    assert not np.allclose(hidden_layer(1)(speech), frames, atol=0.1)
    assert len(hidden_layer(2)(speech[:100])) == (SAMPLE_RATE // 2 - 895) // HOP_LENGTH + 1


def test_without_the_teacher_the_cache_is_enough(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = read_corpus("ravdess", corpus)[:3]
    first = hear(utterances, TeacherSettings(), tmp_path)
    hidden_layer.cache_clear()
    monkeypatch.setattr(teacher, "find_spec", lambda name: None)
    again = hear(utterances, TeacherSettings(), tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, again.frames, strict=True))
    with pytest.raises(SettingsError, match=r"not installed; pip install 'serkit\[teacher\]'"):
        hear(utterances, TeacherSettings(layer=1), tmp_path)


@pytest.mark.parametrize(("values", "message"), [({"weight": -1}, "weight is -1"), ({"layer": 5}, "are 0 to 4")])
def test_settings_out_of_range_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TeacherSettings(**values)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_taught_run_leaves_the_student_alone_and_goes_on_where_it_stopped(
    recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = override(recipe, training={"epochs": 3})
    train(short, corpus, tmp_path / "whole")
    batches = Epochs.batches

    def interrupted(self: Epochs, epoch: int) -> object:
        if epoch == 2:
            raise KeyboardInterrupt
        return batches(self, epoch)

    with monkeypatch.context() as patched:
        patched.setattr(Epochs, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(short, corpus, tmp_path / "run")
    train(short, corpus, tmp_path / "run")
    models = [load_trained(tmp_path / name) for name in ("whole", "run")]
    kept, again = (m.get_weights() for m in models)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(kept, again, strict=True))
    assert models[0].count_params() == build_system(recipe).count_params()
    assert load_run(tmp_path / "run")[0].teacher.weight == 1.0
    convert_run(tmp_path / "run", "float32", tmp_path / "taught.tflite")
    card = read_bundle(str(tmp_path / "taught.tflite")).card
    assert "- the encoder of Moonshine tiny (Useful Sensors): MIT" in card
    untaught = replace(short, teacher=TeacherSettings())
    train(untaught, corpus, tmp_path / "untaught")
    assert not np.allclose(load_trained(tmp_path / "untaught").get_weights()[0], kept[0], atol=1e-3)


def test_what_is_fitted_at_once_has_no_teacher(corpus: Path, tmp_path: Path) -> None:
    svm = replace(read_recipe("svm"), teacher=TeacherSettings(weight=1.0))
    with pytest.raises(SettingsError, match=r"knows no \[augment\], no \[teacher\]"):
        train(svm, corpus, tmp_path / "run")
