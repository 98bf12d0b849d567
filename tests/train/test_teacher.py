from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from serkit.convert.bundle import convert_run
from serkit.edge.bundle import read_bundle
from serkit.edge.cli import main
from serkit.edge.errors import SerkitError, SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.window import WindowSettings
from serkit.train import recipe as recipes
from serkit.train import teacher
from serkit.train.augment import AugmentSettings, Cut
from serkit.train.build import build_system
from serkit.train.corpora import read_corpus
from serkit.train.ensembles import make_ensemble
from serkit.train.epochs import Epochs
from serkit.train.evaluate import evaluate
from serkit.train.features import FeatureSet
from serkit.train.fit import check_start, train
from serkit.train.recipe import Recipe, SplitSettings, lineage, override, read_recipe
from serkit.train.runs import learned_from, load_run, load_scale, load_trained, strangers
from serkit.train.splits import Split
from serkit.train.student import begin, imitation_error, n_steps, taught
from serkit.train.teacher import (
    FUNCTIONAL_LAYERS,
    HOP_LENGTH,
    N_VALUES,
    SAMPLE_RATE,
    Lessons,
    TeacherSettings,
    functionals_of,
    hear,
    hidden_layers,
    scale_of,
)


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return replace(read_recipe(tiny_recipe), teacher=TeacherSettings(weight=1.0, functionals=1.0))


@pytest.fixture
def imitation(tiny_recipe: Path, tmp_path: Path) -> Path:
    """The recipe of an encoder that imitates alone and hears nobody of ship-test."""
    path = tmp_path / "imitation.toml"
    lines = ['monitor = "imitated"', "[teacher]", "weight = 1.0", "functionals = 1.0", "alone = true", ""]
    path.write_text(tiny_recipe.read_text() + "\n".join(lines))
    return path


def test_targets_are_what_was_heard_at_each_step() -> None:
    ramp = [np.tile((np.arange(100.0) + s)[:, None], N_VALUES).astype(np.float16) for s in (0, 10, 30)]
    heard = FeatureSet((), tuple(ramp), ())
    scale = scale_of(heard, TeacherSettings(weight=1.0))
    every = np.concatenate([np.arange(100.0) + shift for shift in (0, 10, 30)])
    assert scale.mean == pytest.approx(every.mean(), abs=1e-3)
    assert scale.deviation == pytest.approx(every.std(), abs=0.01)
    window = WindowSettings(n_frames=48, hop_frames=12, context_frames=20)
    for padding, ahead in (("none", 200), ("center", 0)):  # samples from a frame's beginning to its middle
        lessons = Lessons(heard, TeacherSettings(weight=1.0), scale, FrontendSettings(padding=padding), window, 12)
        (said,) = lessons.targets(1, Cut(start=100.0, rate=1.5)).values()
        said = said * scale.deviation + scale.mean
        assert said.shape == (12, *lessons.n_targets.values()) == (12, N_VALUES)
        middles = 100 + 1.5 * (1.5 + 4 * np.arange(12))  # frames of the recording, 10 ms each
        expected = 10 + (middles * 160 + ahead - 447) / HOP_LENGTH
        assert np.allclose(said[:, 0], expected, atol=1e-3)
    before = lessons.targets(0, Cut(start=-24.0, rate=1.0))["teacher"]
    known = np.isfinite(before).all(axis=1)
    assert not np.isfinite(before[:6]).any()
    assert known[8:].all()
    assert not np.isfinite(lessons.targets(0, Cut(start=1e6, rate=1.0))["teacher"]).any()


def test_functionals_are_of_what_was_heard_in_the_window(rng: np.random.Generator) -> None:
    settings = TeacherSettings(weight=1.0, layer=2, functionals=0.5)
    assert settings.layers == (2, 1, 3)
    heard = FeatureSet((), tuple(rng.normal(size=(n, 3 * N_VALUES)).astype(np.float16) for n in (100, 60, 80)), ())
    scale = scale_of(heard, settings)
    window = WindowSettings(n_frames=96, hop_frames=24)
    lessons = Lessons(heard, settings, scale, FrontendSettings(padding="center"), window, n_steps=24)
    cut = Cut(start=20.0, rate=1.25)  # seconds 0.2 to 1.4 of the recording
    said = lessons.targets(0, cut)
    assert {what: value.shape[-1] for what, value in said.items()} == lessons.n_targets
    low, high = (round((s * SAMPLE_RATE - 447) / HOP_LENGTH) for s in (0.2, 1.4))
    inside = heard.frames[0][low:high].astype(float)
    blocks = dict(zip(settings.layers, np.split(inside, 3, axis=1), strict=True))
    of = np.concatenate([blocks[layer] for layer in FUNCTIONAL_LAYERS], axis=1)
    mean, deviation = scale.functionals
    found = said["functionals"] * deviation + mean
    assert np.allclose(found, np.concatenate([of.mean(axis=0), np.log(of.std(axis=0) + 0.01)]), atol=1e-3)
    every = [functionals_of(f.astype(np.float32), settings) for f in heard.frames]
    assert mean == pytest.approx(np.mean(every, axis=0), abs=1e-4)
    assert np.isnan(lessons.targets(1, Cut(start=150.0, rate=1.0))["functionals"]).all()
    alone = lessons.targets(0, cut)["teacher"]
    frames_only = TeacherSettings(weight=1.0, layer=2)
    lessons = Lessons(heard, frames_only, scale, FrontendSettings(padding="center"), window, n_steps=24)
    assert np.array_equal(lessons.targets(0, cut)["teacher"], alone, equal_nan=True)


def test_a_scale_without_functionals_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "scale.npz", mean=np.zeros(3), deviation=np.ones(3))  # before they were known
    scale = load_scale(tmp_path)
    assert scale is not None
    assert scale.functionals.shape == (2, 0)


def test_what_is_not_known_is_no_error() -> None:
    said = np.zeros((3, 4, 2), np.float32)
    said[0, 2:] = said[1] = np.nan
    predicted = np.ones((3, 4, 2), np.float32)
    predicted[0, 0] = 3.0
    assert np.asarray(imitation_error(said, predicted)).tolist() == [5.0, 0.0, 1.0]
    assert np.asarray(imitation_error(said[:, 0], predicted[:, 0])).tolist() == [9.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["serkit-cnn", "serkit-ravdess"])
@pytest.mark.parametrize("alone", [True, False])
def test_the_student_learns_as_it_is_taught(name: str, alone: bool) -> None:
    model = build_system(read_recipe(name))
    learner = taught(model, {"teacher": 10, "functionals": 6}, alone=alone)
    x = np.random.default_rng(0).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    said = learner.predict(x, verbose=0)
    assert set(said) == {"teacher", "functionals"} | (set() if alone else {"logits"})
    assert said["teacher"].shape == (4, n_steps(model), 10)
    assert said["functionals"].shape == (4, 6)
    if not alone:
        assert np.allclose(said["logits"], model.predict(x, verbose=0), atol=1e-5)
    losses = {"teacher": imitation_error, "functionals": imitation_error} | ({} if alone else {"logits": "mse"})
    learner.compile("sgd", loss=losses)
    targets = {key: np.ones_like(value) for key, value in said.items()}
    targets["teacher"][:, ::2] = targets["functionals"][1] = np.nan
    convolution = model.get_layer("encode").get_layer("conv1")
    before = convolution.get_weights()[0]
    assert np.isfinite(learner.train_on_batch(x, targets)).all()
    assert all(np.isfinite(w).all() for w in learner.get_weights())
    assert not np.array_equal(before, convolution.get_weights()[0])


def test_a_network_without_an_encoder_cannot_be_taught() -> None:
    with pytest.raises(SettingsError, match="cnn_bilstm cannot learn from a teacher: it is not heard hop by hop"):
        n_steps(build_system(read_recipe("r1")))


def test_an_encoder_and_what_it_says_are_taken_over() -> None:
    recipe = read_recipe("serkit-ravdess")
    sizes = {"teacher": 10, "functionals": 6}
    first = taught(build_system(recipe), sizes, alone=True)
    model = build_system(recipe)
    learner = taught(model, sizes)
    begin(learner, first)
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    mine, theirs = (m.predict(x, verbose=0) for m in (learner, first))
    assert all(np.allclose(mine[what], theirs[what], atol=1e-5) for what in sizes)
    begin(build_system(recipe), first)  # and of one that learns from nobody, the encoder alone
    swapped = replace(recipe, model={"dilations": [4, 2, 2, 1, 1]})  # as many weights of the same shapes
    for other in (read_recipe("serkit-cnn"), read_recipe("r1"), swapped):
        with pytest.raises(SettingsError, match="its encoder is another one; give both the same"):
            begin(build_system(other), first)


def test_what_a_run_starts_from_counts_as_heard() -> None:
    sides = {side: {"utterances": [f"{side}/1"], "voices": [side]} for side in ("train", "validation", "test")}
    start = {"utterances": ["nemo/1"], "voices": ["nemo/a", "nemo/b"], "trained_voices": ["nemo/a"]}
    recipe = read_recipe("serkit-ravdess")
    assert learned_from(recipe, sides)["voices"] == ["train", "validation"]
    assert learned_from(recipe, sides | {"start": start})["voices"] == ["nemo/a", "nemo/b", "train", "validation"]
    assert strangers(sides)
    assert strangers(sides | {"start": start})
    assert not strangers(sides | {"start": start | {"trained_voices": ["validation"]}})


def test_the_teacher_hears_frames_and_no_end_of_a_recording_is_too_short(speech: np.ndarray) -> None:
    listen = hidden_layers((2,))
    frames = listen(speech)
    assert frames.dtype == np.float16
    assert frames.shape == ((len(speech) - 895) // HOP_LENGTH + 1, 288)
    assert np.array_equal(listen(speech), frames)
    both = hidden_layers((1, 2))(speech)
    assert np.allclose(both[:, N_VALUES:], frames, atol=1e-2)
    assert not np.allclose(both[:, :N_VALUES], frames, atol=0.1)
    assert len(hidden_layers((2,))(speech[:100])) == (SAMPLE_RATE // 2 - 895) // HOP_LENGTH + 1


def test_without_the_teacher_the_cache_is_enough(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = read_corpus("ravdess", corpus)[:3]
    first = hear(utterances, TeacherSettings(), tmp_path)
    hidden_layers.cache_clear()
    monkeypatch.setattr(teacher, "find_spec", lambda name: None)
    again = hear(utterances, TeacherSettings(), tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, again.frames, strict=True))
    with pytest.raises(SettingsError, match=r"not installed; pip install 'serkit\[teacher\]'"):
        hear(utterances, TeacherSettings(layer=2), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": -1}, "weight is -1"),
        ({"functionals": float("nan")}, "functionals is nan"),
        ({"functionals": 1.0}, "functionals go with frames: give weight more than 0"),
        ({"layer": 5}, "are 0 to 4"),
        ({"alone": True}, "that learns nothing"),
        ({"answers": 1.5}, "answers is 1.5; it needs 0"),
    ],
)
def test_settings_out_of_range_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TeacherSettings(**values)  # type: ignore[arg-type]


def test_recipes_that_start_from_others(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [r.name for r in lineage(read_recipe("serkit-ravdess"))] == ["serkit-ravdess", "imitate"]
    assert override(read_recipe("serkit-ravdess"), start="imitate-ravdess").start == "imitate-ravdess"
    with pytest.raises(SettingsError, match="no recipe nowhere"):
        lineage(replace(read_recipe(tiny_recipe), start="nowhere"))
    chain = {"a": "b", "b": "a"}
    monkeypatch.setattr(recipes, "read_recipe", lambda name: replace(read_recipe(tiny_recipe), start=chain[name]))
    with pytest.raises(SettingsError, match="which starts from itself; break the circle"):
        lineage(replace(read_recipe(tiny_recipe), start="a"))
    with pytest.raises(SettingsError, match="monitor = 'imitated' and a teacher alone go together"):
        replace(read_recipe(tiny_recipe), teacher=TeacherSettings(weight=1.0, alone=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"system": "causal-cnn-bilstm"}, "cannot start from imitate: their system differs"),
        ({"system": "nonesuch"}, "no system 'nonesuch'"),
        ({"frontend": FrontendSettings(n_mels=40)}, "cannot start from imitate: their frontend differs"),
        ({"model": {"filters": [96, 128]}}, "cannot start from imitate: its encoder is another one; give both"),
        (
            {"teacher": TeacherSettings(weight=0.2, layer=2)},
            "layer 2 .* from imitate, which learned layer 1; choose one",
        ),
        (
            {"teacher": TeacherSettings(weight=0.2, functionals=0.2)},
            "learns functionals of its teacher and would start from imitate, which did not; give them to both",
        ),
    ],
)
def test_what_cannot_start_from_another_says_so_at_once(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    split = Split(protocol="random", fold=0, train=(), validation=(), test=())
    with pytest.raises(SettingsError, match=message):
        check_start(replace(read_recipe("serkit-ravdess"), **changed), split, tmp_path)


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


@pytest.mark.slow
def test_a_run_starts_from_an_encoder_that_imitates(
    tiny_recipe: Path, imitation: Path, corpus: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    recipe = override(read_recipe(tiny_recipe), start=str(imitation), training={"epochs": 1, "learning_rate": 1e-9})
    train(recipe, corpus, runs / "run")
    first = runs / "imitation-ravdess-ship-test-0-0"  # trained beside it, because it was not there
    metrics = json.loads((first / "metrics.json").read_text())
    lines = [json.loads(line) for line in (first / "history.jsonl").read_text().splitlines()]
    assert lines[-1]["validation_imitated"] > lines[0]["validation_imitated"]
    assert metrics["validation"]["imitated"] == max(line["validation_imitated"] for line in lines)
    assert (first / "history.png").exists()
    mine, theirs = (load_trained(run).get_layer("encode").get_weights() for run in (runs / "run", first))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(mine[:1], theirs[:1], strict=True))
    assert load_run(runs / "run")[1]["taught"]
    with pytest.raises(SerkitError, match="it imitates a teacher and names no emotion; train a recipe that starts"):
        load_run(first)

    scale = load_scale(first)
    assert scale is not None
    assert load_scale(runs / "run") is None  # which has no teacher itself
    train(replace(recipe, teacher=TeacherSettings(weight=0.2, functionals=0.2)), corpus, runs / "on")
    goes_on = load_scale(runs / "on")
    assert goes_on is not None
    assert all(np.array_equal(a, b) for a, b in zip(goes_on, scale, strict=True))
    with pytest.raises(SettingsError, match=r"learns layer 2 .* which learned layer 1; choose one"):
        train(replace(recipe, teacher=TeacherSettings(weight=0.2, layer=2)), corpus, runs / "another layer")
    shutil.copytree(runs / "run", runs / "other")
    assert make_ensemble([runs / "run", runs / "other"], corpus, runs / "both")["taught"]
    assert load_run(runs / "both")[2]["start"] == load_run(runs / "run")[2]["start"]

    heard = json.loads((runs / "run" / "split.json").read_text())["start"]
    split = json.loads((first / "split.json").read_text())
    assert heard["voices"] == sorted({*split["train"]["voices"], *split["validation"]["voices"]})
    convert_run(runs / "run", "float32", tmp_path / "started.tflite")
    info = read_bundle(str(tmp_path / "started.tflite")).info
    assert set(heard["voices"]) <= set(info["learned_from"]["voices"])
    assert info["teacher"]["licence"] == "MIT"
    assert info["started_with"] == {}  # no other corpus than the recipe's own
    evaluate(run=runs / "run", model=None, data=corpus, corpus="ravdess", protocol="ship-test")

    told = CliRunner().invoke(main, ["train", str(imitation), "--data", str(corpus), "--out", str(first)])
    assert told.exit_code == 0, told.output
    assert f"{100 * metrics['validation']['imitated']:.1f} % of the teacher's variance" in told.output
    assert "an encoder for the recipes beside it that start from imitation" in told.output
    refused = CliRunner().invoke(main, ["sweep", str(imitation), "--data", str(corpus)])
    assert refused.exit_code == 2
    assert "names no emotion, so there is nothing to compare" in refused.output

    imitation.write_text(imitation.read_text().replace("epochs = 6", "epochs = 5"))
    with pytest.raises(SettingsError, match="holds a run of another recipe or schedule"):  # not quietly another start
        train(recipe, corpus, runs / "again")
    shutil.rmtree(first)
    fold = override(recipe, split={"protocol": "speaker-independent", "fold": 1})
    with pytest.raises(SettingsError, match=r"heard a speaker that tests it .*start from a recipe that leaves"):
        train(fold, corpus, runs / "leak")
    assert not first.exists()  # refused before the work, not after it
    assert not (runs / "leak").exists()  # and in nobody's way


def test_what_is_fitted_at_once_has_no_teacher(corpus: Path, tmp_path: Path) -> None:
    svm = replace(read_recipe("svm"), teacher=TeacherSettings(weight=1.0))
    with pytest.raises(SettingsError, match=r"fitted at once: it knows no \[teacher\] but its answers, and no leak"):
        train(svm, corpus, tmp_path / "run")
    copies = AugmentSettings(time_stretch=0.1)
    leaky = replace(read_recipe("svm"), augment=copies, split=SplitSettings(protocol="random", leak=True))
    with pytest.raises(SettingsError, match="and no leak"):
        train(leaky, corpus, tmp_path / "run")
    with pytest.raises(SettingsError, match="svm has no encoder that could start from imitate; leave start out"):
        train(replace(read_recipe("svm"), start="imitate"), corpus, tmp_path / "run")
    with pytest.raises(SettingsError, match=r"keeps an encoder as it is; name the recipe that trains it \(--start\)"):
        train(replace(read_recipe("tdnn"), start=None), corpus, tmp_path / "run")
