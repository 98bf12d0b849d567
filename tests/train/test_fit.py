from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from serkit.convert.bundle import convert_formats
from serkit.edge.errors import CorpusError, SerkitError, SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.train.augment import AugmentSettings
from serkit.train.corpora import read_corpus
from serkit.train.epochs import Epochs, learning_rate
from serkit.train.evaluate import Scorer, evaluate
from serkit.train.features import load_features
from serkit.train.fit import split_for, train
from serkit.train.recipe import LEAK, Recipe, TrainingSettings, override, read_recipe
from serkit.train.runs import Reference, learned_from, load_run, load_trained
from serkit.train.summary import cells, read_runs
from serkit.train.zoo import SYSTEMS

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return read_recipe(tiny_recipe)


def test_a_run_leaves_everything_and_learns(tiny_run: Path) -> None:
    names = {p.name for p in tiny_run.iterdir()}
    assert names == {
        f"best-{load_run(tiny_run)[1]['best_epoch']}.weights.h5", "config.json", "confusion.json", "confusion.png",
        "environment.json", "history.jsonl", "history.png", "metrics.json", "model.keras", "predictions.json",
        "reference.npz", "split.json", "state.json",
    }  # fmt: skip
    recipe, metrics, split = load_run(tiny_run)
    assert metrics["validation"]["ravdess"]["uar"] > 0.6  # four emotions told apart by pitch; chance is 0.25
    assert "test" not in metrics  # the ship-test speakers are for `evaluate` alone
    assert len((tiny_run / "history.jsonl").read_text().splitlines()) == recipe.training.epochs
    assert set(split["test"]["voices"]) == {f"ravdess/{a}" for a in (1, 11, 20, 21)}
    assert json.loads((tiny_run / "environment.json").read_text())["backend"] == "tensorflow"


def test_an_interrupted_run_goes_on_where_it_stopped(
    recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    batches = Epochs.batches

    def interrupted(self: Epochs, epoch: int) -> object:
        seen.append(epoch)
        if epoch == 2 and len(seen) == 3:
            raise KeyboardInterrupt
        return batches(self, epoch)

    monkeypatch.setattr(Epochs, "batches", interrupted)
    import keras

    short = override(recipe, training={"epochs": 4, "weight_decay": 0.1})
    with pytest.raises(KeyboardInterrupt):
        train(short, corpus, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "state.json").read_text())["epoch"] == 2
    metrics = train(short, corpus, tmp_path / "run")
    assert seen == [0, 1, 2, 2, 3]
    assert metrics["epochs"] == 4
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [h["epoch"] for h in history] == [0, 1, 2, 3]
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    train(short, corpus, tmp_path / "uninterrupted")
    kept, whole = (keras.saving.load_model(tmp_path / r / "model.keras") for r in ("run", "uninterrupted"))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(kept.get_weights(), whole.get_weights(), strict=True))
    seen.clear()
    assert train(short, corpus, tmp_path / "run") == metrics  # finished: nothing is trained again
    assert not seen
    with pytest.raises(SettingsError, match="holds a run of another recipe"):
        train(recipe, corpus, tmp_path / "run")


def test_patience_stops_early(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    stubborn = override(recipe, training={"epochs": 9, "patience": 1, "learning_rate": 1e-9, "ema": 0.0})
    metrics = train(stubborn, corpus, tmp_path / "run")
    assert metrics["epochs"] < 9
    assert metrics["best_epoch"] == metrics["epochs"] - 2


def test_a_training_that_diverges_says_so(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    wild = override(recipe, training={"epochs": 3, "learning_rate": 1e30})
    with pytest.raises(SettingsError, match=r"the loss of epoch \d is no number; lower learning_rate"):
        train(wild, corpus, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_epochs_draw_every_utterance_equally_often(recipe: Recipe, corpus: Path) -> None:
    third = replace(recipe, corpora={"ravdess": 1 / 3})
    data = load_features(split_for(third, corpus).train, third.frontend)
    epochs = Epochs(third, data, [])
    n = len(data.utterances)
    drawn = np.concatenate([epochs.order(e) for e in range(6)])
    assert len(epochs.order(0)) == round(n / 3)
    counts = np.bincount(drawn, minlength=n)
    assert counts.min() >= 1
    assert counts.max() <= 3
    assert np.array_equal(epochs.order(3), Epochs(third, data, []).order(3))
    few = Epochs(replace(recipe, corpora={"ravdess": 1e-6}), data, [])
    assert [len(few.order(e)) for e in range(3)] == [1, 1, 1]
    x, y = next(epochs.batches(0))
    assert x.shape == (32, 109, 40)
    assert y.sum(axis=1) == pytest.approx(1)


def test_features_are_cached_and_follow_the_settings(corpus: Path, tmp_path: Path) -> None:
    utterances = read_corpus("ravdess", corpus)[:5]
    first = load_features(utterances, FrontendSettings(), tmp_path)
    (file,) = (tmp_path / "features").iterdir()
    written = file.stat().st_mtime_ns
    again = load_features(utterances, FrontendSettings(), tmp_path)
    assert file.stat().st_mtime_ns == written
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, again.frames, strict=True))
    load_features(utterances, FrontendSettings(n_mels=40), tmp_path)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_broken_recordings_are_named_and_left_out(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utterances = read_corpus("ravdess", corpus)[:3]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    utterances[1] = replace(utterances[1], path=broken)
    features = load_features(utterances, FrontendSettings(), tmp_path)
    assert [u.name for u in features.utterances] == [utterances[0].name, utterances[2].name]
    assert len(features.refused) == 1
    assert "broken.wav: not an audio file" in features.refused[0]
    assert "left out:" in capsys.readouterr().err


def test_cosine_falls_from_the_rate_to_a_hundredth() -> None:
    t = TrainingSettings(epochs=11, learning_rate=1.0, schedule="cosine")
    rates = [learning_rate(t, e) for e in range(11)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)


def test_evaluate_scores_the_test_side_and_refuses_what_was_learned(tiny_run: Path, corpus: Path) -> None:
    options = {"run": tiny_run, "model": None, "corpus": "ravdess", "data": corpus}
    result = evaluate(**options, protocol="ship-test")
    assert set(result["per_speaker_uar"]) == {f"ravdess/{a}" for a in (1, 11, 20, 21)}
    assert result["n_utterances"] == 4 * 8
    assert result["uar"] > 0.6
    assert evaluate(**options, protocol="speaker-independent")["uar"] == result["uar"]  # its first fold is the same
    with pytest.raises(CorpusError, match="the model learned from ravdess/"):
        evaluate(**options, protocol="random")
    with pytest.raises(SettingsError, match="Keras scores a run, not tflite-runtime"):
        evaluate(**options, protocol="ship-test", engine="tflite-runtime")


def test_the_validation_side_is_scored_for_those_who_choose(tiny_run: Path, corpus: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"run": tiny_run, "model": None, "corpus": "ravdess", "data": corpus}
    scorer = Scorer(**options, protocol="ship-test", side="validation")
    _, metrics, split = load_run(tiny_run)
    row = scorer.row()
    assert row["side"] == "validation"
    assert set(row["per_speaker_uar"]) == set(split["validation"]["voices"])
    assert row["uar"] == pytest.approx(
        metrics["validation"]["ravdess"]["uar"], abs=0.02
    )  # features are kept as float16
    with pytest.raises(SettingsError, match="chose its epoch under ship-test; give that as --protocol"):
        Scorer(**options, protocol="speaker-independent", side="validation")
    with pytest.raises(SettingsError, match="give the run folder instead of --model"):
        Scorer(**options | {"run": None, "model": "default"}, protocol="ship-test", side="validation")
    voice = split["validation"]["voices"][0]
    start = {"utterances": [], "voices": [voice], "trained_voices": [voice]}
    for i, leak in enumerate(({"train": split["train"] | {"voices": [voice]}}, {"start": start})):
        leaky = shutil.copytree(tiny_run, tmp_path / str(i))
        (leaky / "split.json").write_text(json.dumps(split | leak))
        with pytest.raises(CorpusError, match="the model learned from"):
            Scorer(**options | {"run": leaky}, protocol="ship-test", side="validation")


def test_a_run_that_was_not_copied_whole(tiny_run: Path, tmp_path: Path) -> None:
    part = shutil.copytree(tiny_run, tmp_path / "part", ignore=shutil.ignore_patterns("*.npz", "*.keras"))
    with pytest.raises(SerkitError, match=r"the run has no model\.keras; copy the whole folder"):
        load_trained(part)
    with pytest.raises(SerkitError, match=r"the run has no reference\.npz; copy the whole folder"):
        Reference(part)


def test_a_random_run_reports_its_test_side(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    metrics = train(override(recipe, split={"protocol": "random"}, training={"epochs": 1}), corpus, tmp_path / "run")
    assert metrics["test"]["ravdess"]["n_utterances"] == pytest.approx(192 / 10, abs=2)


def test_a_leak_is_a_control_and_nothing_else(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    random = override(recipe, split={"protocol": "random"}, training={"epochs": 1})
    random = replace(random, augment=AugmentSettings(pitch_shift=1))
    leak, honest = override(random, split={"leak": True}), split_for(random, corpus)
    run = tmp_path / "run"
    metrics = train(leak, corpus, run)
    assert metrics["test"]["ravdess"]["n_utterances"] == len(honest.test)
    listed = {side: set(heard["utterances"]) for side, heard in load_run(run)[2].items()}
    assert listed["test"] == {u.key for u in honest.test}
    assert listed["train"] == {u.key for side in (honest.train, honest.validation, honest.test) for u in side}
    (cell,) = cells(read_runs([run]))
    assert cell.row["control"] == LEAK
    with pytest.raises(SettingsError, match=r"is a control \(copies .*nothing is left to score it on"):
        evaluate(run=run, model=None, corpus="ravdess", data=corpus, protocol="random")
    with pytest.raises(SettingsError, match=r"is a control \(copies of its test side trained\)"):
        convert_formats(run, {"dynamic": tmp_path / "x.tflite"})


def test_a_changed_corpus_does_not_slip_into_a_resumed_run(
    recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Epochs, epoch: int) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Epochs, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, corpus, tmp_path / "run")
    smaller = tmp_path / "smaller"
    shutil.copytree(corpus, smaller)
    next(smaller.rglob("*-05.wav")).unlink()
    with pytest.raises(SettingsError, match="its split was drawn from other recordings"):
        train(recipe, smaller, tmp_path / "run")


def test_evaluate_with_noise(tiny_run: Path, corpus: Path, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "hiss.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    options = {"run": tiny_run, "model": None, "corpus": "ravdess", "data": corpus, "protocol": "ship-test"}
    clean = evaluate(**options)
    drowned = evaluate(**options, noise=tmp_path, snr_db=-20.0)
    assert drowned["uar"] < clean["uar"]
    assert drowned["noise"] == {"folder": tmp_path.name, "snr_db": -20.0}
    with pytest.raises(SettingsError, match="no noise recordings"):
        evaluate(**options, noise=tmp_path / "gone", snr_db=0.0)


def test_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(SerkitError, match="not a finished run"):
        load_run(tmp_path)


def test_epochs_of_what_is_fitted_at_once_are_refused(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from serkit.edge.cli import main

    result = CliRunner().invoke(
        main, ["train", "svm", "--epochs", "3", "--data", str(tmp_path), "--out", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "svm is fitted at once, without epochs; leave --epochs out" in " ".join(result.output.split())
    assert not any(tmp_path.iterdir())


def what_is_shown(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The batches that `svm` will be shown, instead of being fitted to them."""
    shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def fit(model: Any, batches: Any, validation_score: Any, seed: int) -> dict[str, Any]:
        shown.extend(batches)
        return {"score": validation_score()}

    monkeypatch.setitem(SYSTEMS, "svm", replace(SYSTEMS["svm"], fit=fit, **changed))
    return shown


def test_what_is_fitted_at_once_hears_its_share_of_a_corpus(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    svm, shown = replace(read_recipe("svm"), labels=("neutral", "happy", "angry", "fearful")), []
    for share in (1.0, 0.5):
        shown.append(what_is_shown(monkeypatch))
        train(replace(svm, corpora={"ravdess": share}), corpus, tmp_path / str(share))
    whole, half = (sum(len(truth) for _, truth, _ in batches) for batches in shown)
    assert 0.3 < half / whole < 0.7


def test_other_corpora_lend_their_scatter_and_count_as_heard(
    corpus: Path, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "tess").mkdir(parents=True)
    (tmp_path / "data" / "ravdess_speech").symlink_to(corpus)
    for speaker in ("OAF", "YAF"):
        for emotion in ("happy", "ps"):
            for word in ("back", "bar"):
                samples = 0.3 * rng.standard_normal(20000)
                soundfile.write(tmp_path / "data" / "tess" / f"{speaker}_{word}_{emotion}.wav", samples, 16000)
    emotions = ("neutral", "happy", "angry", "fearful")
    lent = replace(read_recipe("svm"), labels=emotions, scatter=("tess",))
    with pytest.raises(SettingsError, match="svm is no discriminant analysis and learns from no scatter; leave it out"):
        train(lent, tmp_path / "data", tmp_path / "run")
    shown = what_is_shown(monkeypatch, scatter=True)
    train(replace(lent, training=TrainingSettings(shuffle_labels=True)), tmp_path / "data", tmp_path / "run")
    heard = {(who, lent.classes[i]) for _, truth, voices in shown for i, who in zip(truth, voices, strict=True)}
    assert {pair for pair in heard if "/" in pair[1]} == {("tess/OAF", "tess/happy"), ("tess/OAF", "tess/surprised")}
    assert {name for who, name in heard if who.startswith("ravdess")} == set(emotions)  # shuffled among themselves
    assert sum(lent.classes[i] == "tess/happy" for _, truth, _ in shown for i in truth) >= 2
    run, metrics, split = load_run(tmp_path / "run")
    assert "tess/OAF" in (learned_from(run, split)["voices"] or ())
    assert set(metrics["validation"]) == {"ravdess"}
    assert all(name.startswith("ravdess/") for name in Reference(tmp_path / "run").names("calibration"))
    with pytest.raises(SettingsError, match="scatter comes from voices of other corpora than ravdess, who are scored"):
        replace(lent, scatter=("ravdess-song",))
    with pytest.raises(SettingsError, match="no corpus 'nonesuch'"):
        replace(lent, scatter=("nonesuch",))
