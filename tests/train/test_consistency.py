"""A network learns to answer augmented windows as it answers the same ones unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.window import WindowSettings, softmax
from serkit.train import consistency, fit
from serkit.train.augment import AugmentSettings, Cut
from serkit.train.consistency import TEMPERATURE, Pairs, TeacherAnswers, agreement, learner_of
from serkit.train.corpora import Utterance, read_corpus
from serkit.train.features import FeatureSet
from serkit.train.fit import train
from serkit.train.recipe import Recipe, TrainingSettings, override, read_recipe
from serkit.train.runs import load_run, load_trained
from serkit.train.splits import Split
from serkit.train.teacher import N_VALUES, Lessons, TeacherSettings, scale_of
from serkit.train.zoo import causal_tdnn

ENCODER = """
[frontend]
n_mels = 24
n_fft = 1024
[window]
n_frames = 72
hop_frames = 24
context_frames = 61
normalisation = "none"
range_db = 0.0
[model]
level_frames = 32
filters = [6, 8]
bottleneck = 4
dilations = [1, 2]
"""
NOISY = AugmentSettings(crop="speech", noise_probability=1.0, noise_snr_db=(0, 0), noise_kinds=("white",))


@pytest.fixture
def side(rng: np.random.Generator) -> FeatureSet:
    frames = tuple(rng.normal(-3, 2, (90 + 10 * i, 24)).astype(np.float16) for i in range(5))
    return FeatureSet(tuple(range(5)), frames, ())  # type: ignore[arg-type]  # who speaks does not matter


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        name="small",
        system="causal-tdnn",
        frontend=FrontendSettings(n_mels=24, n_fft=1024),
        window=WindowSettings(n_frames=72, hop_frames=24, normalisation="none", range_db=0.0),
        augment=NOISY,
        training=TrainingSettings(batch_size=2),
    )


@pytest.fixture
def model() -> Any:
    inputs = keras.Input((72, 24))
    normed = layers.BatchNormalization()(layers.Conv1D(4, 3)(inputs))
    return keras.Model(inputs, layers.Dense(8)(layers.GlobalAveragePooling1D()(normed)))


def test_targets_are_what_was_answered_to_the_same_windows_unchanged(
    recipe: Recipe, side: FeatureSet, model: Any, rng: np.random.Generator
) -> None:
    white = [rng.normal(-4, 1, (400, 24)).astype(np.float32)]
    pairs = Pairs(recipe, side, white, model)
    drawn = list(pairs.batches(3))
    assert [len(x) for x, _ in drawn] == [2, 2, 1]
    unchanged = list(Pairs(replace(recipe, augment=AugmentSettings(crop="speech")), side, (), model).batches(3))
    for (heard, target), (quiet, same) in zip(drawn, unchanged, strict=True):
        assert heard.shape == quiet.shape == (len(heard), 72, 24)
        assert np.abs(heard - quiet).max() > 0.1
        assert np.allclose(target, softmax(model.predict_on_batch(quiet), TEMPERATURE), atol=1e-5)
        assert np.allclose(target, same, atol=1e-5)
    again = list(pairs.batches(3))
    assert all(
        np.array_equal(a, b) for one, two in zip(drawn, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert not np.array_equal(pairs.order(3), pairs.order(4))
    assert sorted(pairs.order(4)) == list(range(5))


def test_a_share_of_each_target_is_the_teachers_answer_where_it_has_one(
    recipe: Recipe, side: FeatureSet, model: Any, rng: np.random.Generator
) -> None:
    said = rng.dirichlet(np.ones(8), 5).astype(np.float32)
    said[3] = np.nan
    taught: Any = lambda row, cut: said[row]  # noqa: E731
    own = Pairs(recipe, side, [np.zeros((400, 24), np.float32)], model)
    both = Pairs(
        replace(recipe, teacher=TeacherSettings(answers=0.25)), side, [np.zeros((400, 24), np.float32)], model, taught
    )
    targets, expected = (np.concatenate([y for _, y in pairs.batches(3)]) for pairs in (both, own))
    mixed, order = 0.75 * expected + 0.25 * said[both.order(3)], both.order(3)
    assert np.allclose(targets[order != 3], mixed[order != 3], atol=1e-6)
    assert np.array_equal(targets[order == 3], expected[order == 3])


def spoken(rng: np.random.Generator, n_voices: int) -> tuple[FeatureSet, FeatureSet]:
    """Ten recordings of each voice in two emotions, and what the teacher hears; the last is of another corpus."""
    utterances, heard = [], []
    for voice in range(n_voices):
        corpus = "ravdess" if voice < n_voices - 1 else "nemo"
        for take in range(10):
            emotion = ("neutral", "angry")[take % 2] if take else "boredom"  # which the recipe does not know
            about: dict[str, Any] = {"speaker": str(voice), "emotion": emotion, "sex": "female", "path": Path()}
            utterances.append(Utterance(corpus=corpus, name=f"{voice}-{take}", **about))
            told = (take % 2) * (np.arange(3 * N_VALUES) % 2)
            heard.append(rng.normal(told, 1, (40, 3 * N_VALUES)).astype(np.float16))
    frames = tuple(rng.normal(-3, 2, (96, 24)).astype(np.float16) for _ in utterances)
    return FeatureSet(tuple(utterances), frames, ()), FeatureSet(tuple(utterances), tuple(heard), ())


def test_the_teacher_answers_of_voices_that_it_was_not_fitted_to(
    recipe: Recipe, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []
    analyse = consistency.analysis
    monkeypatch.setattr(consistency, "analysis", lambda s, x, y: (fitted.append(len(x)), analyse(s, x, y))[1])
    recipe = replace(recipe, teacher=TeacherSettings(answers=0.5))

    speech, heard = spoken(rng, 4)
    scale = scale_of(heard, recipe.teacher)
    answers = TeacherAnswers(recipe, speech, Lessons(heard, recipe.teacher, scale, recipe.frontend, recipe.window, 18))
    assert fitted == [90, 90, 90]  # five windows of nine recordings of two of the three voices of the recipe's corpus
    said = np.stack([answers(row, Cut(10.0, 1.0)) for row in range(40)])
    assert np.allclose(said.sum(axis=1), 1, atol=1e-5)
    named = [recipe.labels[i] for i in said.argmax(axis=1)]
    assert np.mean([a == u.emotion for a, u in zip(named, speech.utterances, strict=True)]) > 0.85
    assert said[:, recipe.labels.index("sad")].max() < 1e-3  # nobody was sad
    assert np.isnan(answers(0, Cut(1e4, 1.0))).all()


def test_the_learner_is_the_network_whose_statistics_follow(
    model: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rng.normal(2, 3, (16, 72, 24)).astype(np.float32)
    before = model.predict(x, verbose=0)
    statistics = [v.numpy().copy() for v in model.non_trainable_variables]
    learner = learner_of(model)
    assert np.allclose(learner.predict(x, verbose=0) * TEMPERATURE, before, atol=1e-4)
    learner.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    learner.train_on_batch(x, np.full((16, 8), 1 / 8, np.float32))
    assert not np.allclose(model.predict(x, verbose=0), before, atol=1e-4)
    assert not any(np.array_equal(a, b) for a, b in zip(statistics, model.non_trainable_variables, strict=True))
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    assert np.allclose(again.predict(x, verbose=0), learner.predict(x, verbose=0), atol=1e-5)


def test_a_bilstm_adds_nothing_until_it_learns(rng: np.random.Generator) -> None:
    options: dict[str, Any] = {"level_frames": 32, "filters": [6, 8], "bottleneck": 4, "dilations": [1, 2]}
    with_it = causal_tdnn.build(133, 24, 8, **options, lstm_units=4, project=6)
    without = causal_tdnn.build(133, 24, 8, **options)
    without.get_layer("encode").set_weights(with_it.get_layer("encode").get_weights())
    mine, theirs = (m.get_layer("classify") for m in (without, with_it))
    for name in ("standardise", "logits"):
        mine.get_layer(name).set_weights(theirs.get_layer(name).get_weights())
    x = rng.normal(-3, 2, (3, 133, 24)).astype(np.float32)
    assert np.array_equal(without(x), with_it(x))
    theirs.get_layer("more").set_weights([rng.normal(size=(16, 8))])
    assert not np.allclose(without(x), with_it(x), atol=1e-2)


def test_agreement_is_with_the_answers_in_quiet(
    recipe: Recipe, side: FeatureSet, model: Any, rng: np.random.Generator
) -> None:
    white = [rng.normal(3, 1, (400, 24)).astype(np.float32)]
    quiet = replace(recipe, augment=AugmentSettings(crop="speech"))
    assert agreement(quiet, learner_of(model), side, (), model)() == {"agreement": 1.0}
    other = keras.models.clone_model(model)
    other.layers[-1].set_weights([np.zeros((4, 8)), np.eye(8)[0]])
    model.layers[-1].set_weights([np.zeros((4, 8)), np.eye(8)[1]])
    assert agreement(recipe, learner_of(other), side, white, model)() == {"agreement": 0.0}


@pytest.fixture
def chain(tmp_path: Path) -> Recipe:
    """A recipe that starts from another, which trains its encoder, and then learns from its teacher's answers, too."""
    labels = 'labels = ["neutral", "happy", "angry", "fearful"]\n'
    schedule = "[training]\nepochs = 1\nlearning_rate = 3e-3\n"
    ship = '[split]\nprotocol = "ship-test"\n'
    (tmp_path / "first.toml").write_text('system = "causal-tdnn-bilstm"\n' + labels + ENCODER + ship + schedule)
    (tmp_path / "second.toml").write_text(
        f'system = "causal-tdnn"\nstart = "{tmp_path}/first.toml"\n' + labels + ENCODER + ship + "[augment]\n"
        'crop = "speech"\nnoise_probability = 1.0\nnoise_kinds = ["white"]\n'
        "[training]\nepochs = 3\nema = 0.5\nwarmup = 2\npatience = 0\nmonitor = 'agreement'\n"
        "[teacher]\nanswers = 0.5\n"
    )
    return read_recipe(tmp_path / "second.toml")


@pytest.mark.slow
def test_a_run_is_fitted_learns_and_goes_on_where_it_stopped(
    chain: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = replace(chain, split=replace(chain.split, seed=1))  # others validate it than its start
    heard: list[FeatureSet] = []
    batches, made = Pairs.batches, Pairs.__init__

    def remembered(self: Pairs, recipe: Recipe, data: FeatureSet, *rest: Any) -> None:
        heard.append(data)
        made(self, recipe, data, *rest)

    def interrupted(self: Pairs, epoch: int) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return batches(self, epoch)

    monkeypatch.setattr(Pairs, "__init__", remembered)
    whole = train(chain, corpus, tmp_path / "whole")
    _, _, split = load_run(tmp_path / "whole")
    (speech,) = (data for data in heard if len(data.utterances) > len(split["validation"]["utterances"]))
    said = {u.voice for u in speech.utterances}
    assert said >= set(split["train"]["voices"])
    assert not said & {*split["validation"]["voices"], *split["test"]["voices"]}
    assert len({u.key for u in speech.utterances}) == len(speech.utterances)
    assert set(whole["fit"]) == {"shrinkage", "score"}
    assert whole["epochs"] == 3
    with monkeypatch.context() as patched:
        patched.setattr(Pairs, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(chain, corpus, tmp_path / "run")
    assert train(chain, corpus, tmp_path / "run")["best_epoch"] == whole["best_epoch"]
    kept, again = (load_trained(tmp_path / name).get_weights() for name in ("whole", "run"))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(kept, again, strict=True))
    theirs = load_trained(tmp_path / whole["start"]).get_layer("encode").get_weights()
    assert not all(np.array_equal(a, b) for a, b in zip(theirs, kept, strict=False))  # the encoder learned, too


def test_what_cannot_learn_so_says_so(
    chain: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tuple(u for u in read_corpus("ravdess", corpus) if u.speaker == "2")
    alone = Split(protocol="ship-test", fold=0, train=one[1:], validation=one[:1], test=())
    with pytest.raises(SettingsError, match="monitor = 'agreement' goes with what is fitted at once and then hears"):
        train(override(chain, training={"monitor": "uar"}), corpus, tmp_path / "run")
    with pytest.raises(SettingsError, match="monitor = 'agreement' goes with what is fitted at once and then hears"):
        train(replace(chain, augment=AugmentSettings()), corpus, tmp_path / "run")
    with pytest.raises(SettingsError, match=r"svm hears windows as they are recorded and no others; leave \[augment\]"):
        train(replace(read_recipe("svm"), augment=NOISY), corpus, tmp_path / "run")
    with pytest.raises(SettingsError, match="answers go with monitor = 'agreement'"):
        train(replace(read_recipe("r1"), teacher=TeacherSettings(answers=0.5)), corpus, tmp_path / "run")
    monkeypatch.setattr(fit, "split_for", lambda *_: alone)
    with pytest.raises(SettingsError, match="a single one trains; leave answers out"):
        train(chain, corpus, tmp_path / "run")
    monkeypatch.setattr(fit, "n_devices", lambda: 2)
    with pytest.raises(
        SettingsError, match="fitted at once, on one device, and 2 share the work; leave --data-parallel"
    ):
        train(chain, corpus, tmp_path / "run")
    assert not (tmp_path / "run").exists()
