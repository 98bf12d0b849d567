from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serkit.edge.errors import SerkitError, SettingsError
from serkit.train.fit import train
from serkit.train.recipe import Recipe, override, read_recipe
from serkit.train.runs import load_run, run_name
from serkit.train.summary import cells, command, compare, read_runs
from serkit.train.sweep import plan

pytestmark = pytest.mark.slow

SVM = """
system = "svm"
labels = ["neutral", "happy", "angry", "fearful"]
[frontend]
n_mels = 40
[window]
n_frames = 64
hop_frames = 32
[model]
n_mfcc = 13
[split]
protocol = "speaker-independent"
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "small-svm.toml"
    path.write_text(SVM)
    return read_recipe(path)


@pytest.fixture(scope="module")
def runs(recipe: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All six folds, once with true labels and once with labels dealt out at random."""
    folder = tmp_path_factory.mktemp("runs")
    for job in plan(recipe, corpus, [0]):
        train(job, corpus, folder / run_name(job))
        control = override(job, training={"shuffle_labels": True})
        train(control, corpus, folder / f"shuffled-{run_name(job)}")
    return folder


def test_folds_pool_to_every_speaker_once(runs: Path) -> None:
    true, shuffled = sorted(cells(read_runs([runs])), key=lambda c: -c.row["uar"])
    assert (true.row["control"], shuffled.row["control"]) == (None, "shuffled labels")
    assert true.row["complete"]
    assert true.row["folds"] == list(range(6))
    assert true.row["n_utterances"] == 24 * 8
    assert set(true.row["per_speaker_uar"]) == {f"ravdess/{a}" for a in range(1, 25)}
    assert true.row["uar"] > 0.9  # told apart by pitch
    low, high = true.row["uar_ci95"]
    assert low <= true.row["uar"] <= high
    assert np.sum(true.confusion["rows"]) == 24 * 8
    same = "serkit sweep small-svm.toml --corpus ravdess --protocol speaker-independent --seeds 0"
    assert true.row["command"] == same
    # The control: four classes, dealt out at random.
    assert shuffled.row["uar"] == pytest.approx(0.25, abs=0.1)


def test_an_unfinished_sweep_says_so(runs: Path) -> None:
    (cell,) = cells(read_runs([p for p in runs.iterdir() if p.name.startswith("small") and "-0-0" not in p.name]))
    assert not cell.row["complete"]
    assert cell.row["folds"] == [1, 2, 3, 4, 5]
    assert "--folds 1,2,3,4,5 " in cell.row["command"]
    (cell,) = cells(read_runs([p for p in runs.iterdir() if p.name.startswith("small") and "-5-0" not in p.name]))
    assert "--folds 0,1,2,3,4 " in cell.row["command"]  # all from the first on, and yet not all


def test_voices_that_lend_their_scatter_are_no_folds(runs: Path) -> None:
    (cell,) = cells(read_runs([p for p in runs.iterdir() if p.name.startswith("small")]))
    lent = []
    for run in cell.runs:
        train = run.split["train"] | {"voices": [*run.split["train"]["voices"], *(f"emodb/{s}" for s in range(8))]}
        recipe = replace(run.recipe, scatter=("emodb",))
        lent.append(replace(run, recipe=recipe, split=run.split | {"train": train}))
    assert command(lent, [0]) == cell.row["command"]


def test_folds_of_one_sex_each_have_no_gap(runs: Path) -> None:
    cell = cells(read_runs([runs]))[0]
    assert cell.row["sex_gap"] is not None
    run = cell.runs[0]
    men = [replace(u, sex="male") for u in run.test]
    women = [replace(u, sex="female") for u in run.test]
    seed = replace(run.recipe, training=replace(run.recipe.training, seed=1))
    (both,) = cells([replace(run, test=tuple(men)), replace(run, recipe=seed, test=tuple(women))])
    assert both.row["sex_gap"] is None


def test_systems_that_tell_other_emotions_apart_are_compared_on_what_both_have(runs: Path) -> None:
    true = max(cells(read_runs([runs])), key=lambda c: c.row["uar"])
    fewer = []
    for run in true.runs:  # the same answers, of a system that was not tested on fear, and one mistake that counts not
        kept = [i for i, u in enumerate(run.test) if u.emotion != "fearful"]
        fewer.append(
            replace(
                run,
                recipe=replace(run.recipe, name="fewer"),
                test=tuple(run.test[i] for i in kept),
                probabilities=run.probabilities[kept],
                uncalibrated=run.uncalibrated[kept],
            )
        )
    (other,) = cells(fewer)
    result = compare(true, other)
    assert result["n_utterances"] == len({u.key for run in fewer for u in run.test}) < true.row["n_utterances"]
    assert (result["uar_difference"], result["paired_t_p"], result["mcnemar_p"]) == (0, None, None)


def test_two_systems_are_compared_on_the_same_utterances(runs: Path) -> None:
    true, shuffled = sorted(cells(read_runs([runs])), key=lambda c: -c.row["uar"])
    result = compare(true, shuffled)
    assert result["n_pairs"] == 6
    assert result["n_utterances"] == 192
    assert result["paired_t_p"] < 0.01
    assert result["mcnemar_p"] < 1e-6
    assert result["only_a"] > result["only_b"]
    itself = compare(true, true)
    assert (itself["paired_t_p"], itself["mcnemar_p"], itself["uar_difference"]) == (None, None, 0)


def test_a_folder_without_runs_says_what_makes_them(tmp_path: Path, tiny_run: Path) -> None:
    with pytest.raises(SerkitError, match=r"no finished run with test figures .*`serkit sweep RECIPE` makes them"):
        read_runs([tmp_path])
    with pytest.raises(SerkitError, match="no finished run with test figures"):
        read_runs([tiny_run])  # of ship-test, whose test side is kept back


def test_folds_and_seeds_are_planned(recipe: Recipe, corpus: Path) -> None:
    jobs = plan(recipe, corpus, [3, 4])
    assert [(j.training.seed, j.split.fold) for j in jobs] == [(s, f) for s in (3, 4) for f in range(6)]
    assert len({run_name(j) for j in jobs}) == 12
    random = override(recipe, split={"protocol": "random"})
    assert [j.split.fold for j in plan(random, corpus, [0])] == [0]
    with pytest.raises(SettingsError, match="fold 6: speaker-independent has folds 0 to 5 here"):
        plan(recipe, corpus, [0], [6])


def test_predictions_hold_what_metrics_say(runs: Path) -> None:
    run = next(p for p in sorted(runs.iterdir()) if p.name.startswith("small"))
    rows = json.loads((run / "predictions.json").read_text())["test"]
    labels = json.loads((run / "predictions.json").read_text())["labels"]
    right = np.mean([labels[int(np.argmax(r["probabilities"]))] == r["emotion"] for r in rows])
    assert right == pytest.approx(load_run(run)[1]["test"]["ravdess"]["accuracy"], abs=1e-4)
