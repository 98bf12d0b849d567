"""Train one recipe: windows drawn afresh every epoch, the epoch picked on validation speakers, resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from serkit.edge.errors import CorpusError, SettingsError
from serkit.train.build import build_system, draws_epochs, encoder_of, system_of
from serkit.train.corpora import read_corpus
from serkit.train.descent import descend, prepare
from serkit.train.environment import environment
from serkit.train.epochs import Array, Epochs
from serkit.train.features import FeatureSet, load_features
from serkit.train.metrics import score
from serkit.train.noises import noise_library
from serkit.train.outcome import report, report_imitation
from serkit.train.recipe import Recipe, lineage
from serkit.train.runs import (
    RunState,
    load_scale,
    load_trained,
    open_run,
    read_run,
    run_name,
    save_scale,
    write_json,
)
from serkit.train.scoring import Windows, keras_logits, utterance_probabilities, window_utterances
from serkit.train.splits import Split, check_unseen, make_split, ships_test, voices
from serkit.train.student import Scores, begin, imitation_scores, lessons_of, taught
from serkit.train.zoo import SYSTEMS


def split_for(recipe: Recipe, data: Path) -> Split:
    """Read the recipe's corpora and split them; recordings with other labels than the model's are left out.

    Corpora that only lend their scatter train.
    """
    utterances = [u for c in recipe.corpora for u in read_corpus(c, data) if u.emotion in recipe.labels]
    s = recipe.split
    split = make_split(utterances, s.protocol, fold=s.fold, seed=s.seed, validation_share=s.validation_share)
    lent = [u for c in recipe.scatter for u in read_corpus(c, data) if not ships_test(u)]
    trains = (*split.train, *split.validation, *split.test) if s.leak else split.train
    return replace(split, train=(*trains, *lent))


def load_sides(
    split: Split, recipe: Recipe, data: Path, out: Path, cache: Path | None, start: Path | None = None
) -> dict[str, FeatureSet]:
    """Features of the three sides; what is on them is written to ``split.json``, or compared with it.

    What the run that this one starts from heard is listed as ``start``.

    Raises:
        SettingsError: Nobody validates, the run in ``out`` began with other recordings, or ``start`` heard who tests.
    """
    utterances = list(dict.fromkeys([*split.train, *split.validation, *split.test]))
    everything = load_features(utterances, recipe.frontend, cache)
    sides = {s: everything.select(getattr(split, s)) for s in ("train", "validation", "test")}
    if not sides["validation"].utterances:
        raise SettingsError("no validation speakers: raise validation_share, or add a corpus with more speakers")
    path = out / "split.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    listed = {
        s: {"utterances": [u.key for u in f.utterances], "voices": voices(f.utterances)} for s, f in sides.items()
    }
    if start or "start" in stored:
        listed["start"] = _heard_by(start) if start else stored["start"]
        _refuse_heard(split, start.name if start else str(recipe.start), listed["start"]["voices"])
    if stored and stored != listed:
        raise SettingsError(
            f"{out}: its split was drawn from other recordings than {data} holds now, or what it starts from was; "
            "restore them, or start anew with another --out"
        )
    write_json(path, listed)
    return sides


def train(recipe: Recipe, data: Path, out: Path, cache: Path | None = None) -> dict[str, Any]:
    """Train a recipe and leave a run folder; goes on where an earlier call with the same recipe stopped.

    Args:
        recipe: What to train.
        data: Folder that holds the corpora.
        out: The run folder, see `serkit.train.runs`; made if missing.
        cache: Where features are kept; `serkit.train.features.default_cache` by default.

    Returns:
        The content of ``metrics.json``.

    Raises:
        SettingsError: ``out`` holds a run of another recipe, the recipe's system does not exist or does not know what
            it asks for, what it starts from does not fit or heard who tests, or its training diverges.
        CorpusError: A corpus is missing.
    """
    console = Console(stderr=True)
    fitted_at_once = system_of(recipe).fit is not None
    if recipe.scatter and not system_of(recipe).scatter:
        raise SettingsError(f"{recipe.system} is no discriminant analysis and learns from no scatter; leave it out")
    if fitted_at_once:
        _refuse_what_is_learned_by_descent(recipe)
    if RunState(out).state.get("finished"):
        open_run(recipe, out)  # refuses another recipe's
        console.print(f"{out} is finished; delete it to train again", highlight=False)
        return dict(json.loads((out / "metrics.json").read_text(encoding="utf-8")))
    import keras

    keras.utils.set_random_seed(recipe.training.seed)
    model = build_system(recipe)
    split = split_for(recipe, data)
    _check_start_beside(recipe, split, data, out)
    run = open_run(recipe, out)  # not before: what is refused leaves no folder that stands in the way
    start = _start_of(recipe, data, out, cache)
    run.state["start"] = start.name if start else None
    run.state["taught"] = bool(recipe.teacher.weight or (start and read_run(start)[1]["taught"]))
    keras.utils.set_random_seed(recipe.training.seed)  # again: training what it starts from has drawn from it
    sides = load_sides(split, recipe, data, out, cache, start)
    if recipe.training.shuffle_labels:
        sides["train"] = _shuffled(sides["train"], recipe)
    if "environment" not in run.state:
        run.state["environment"] = environment()
    run.tidy()
    validation = window_utterances(sides["validation"].frames, recipe.frontend, recipe.window)
    if fitted_at_once and start:
        begin(model, load_trained(start))
    noises: Sequence[Array] = ()
    if recipe.augment.noise_probability:
        kinds, longest = recipe.augment.noise_kinds, recipe.window.input_frames
        noises = noise_library(kinds, recipe.frontend, data, longest, sides["train"].frames)
    if fitted_at_once:
        _fit_at_once(recipe, model, sides, validation, noises, run)
    else:
        lessons, learner = {}, model
        if recipe.teacher.weight:
            lessons = lessons_of(recipe, model, split, sides, cache, load_scale(start) if start else None)
            save_scale(out, lessons["train"].scale)
            learner = taught(model, lessons["train"].n_targets, alone=recipe.teacher.alone)
        if start:
            begin(learner, load_trained(start))
        epochs = Epochs(recipe, sides["train"], noises, lessons.get("train"))
        prepare(recipe, learner, run)
        if recipe.teacher.alone:
            scores = imitation_scores(recipe, learner, sides["validation"], lessons["validation"])
        else:
            scores = _answers(recipe, model, sides["validation"], validation)
        descend(recipe, learner, epochs, scores, run, console)
        if recipe.teacher.alone:
            return report_imitation(recipe, learner, sides, run)
    return report(recipe, model, sides, run)


def _start_of(recipe: Recipe, data: Path, out: Path, cache: Path | None) -> Path | None:
    """The finished run that this one starts from; trained now where it is not."""
    for first in lineage(recipe)[1:2]:
        path = out.parent / run_name(first)
        if RunState(path).state.get("finished"):
            open_run(first, path)  # refuses another recipe's
        else:
            train(first, data, path, cache)
        return path
    return None


def _check_start_beside(recipe: Recipe, split: Split, data: Path, out: Path) -> None:
    """As `check_start`; of a start that is finished, who it did hear counts, and its corpora are not needed."""
    for first in lineage(recipe)[1:2]:
        path = out.parent / run_name(first)
        if RunState(path).state.get("finished"):
            _refuse_unlike(recipe, first)
            _refuse_heard(split, first.name, _heard_by(path)["voices"])
        else:
            check_start(recipe, split, data)


def check_start(recipe: Recipe, split: Split, data: Path) -> None:
    """Before hours of work, not after them: does what a recipe starts from fit, and will it hear nobody who tests?

    Raises:
        SettingsError: It does not, or it will.
    """
    for first in lineage(recipe)[1:]:
        _refuse_unlike(recipe, first)
        planned = split_for(first, data)
        _refuse_heard(split, first.name, voices([*planned.train, *planned.validation]))


def _refuse_unlike(recipe: Recipe, first: Recipe) -> None:
    mine, theirs = system_of(recipe), system_of(first)
    related = mine == theirs or (mine.encoder is not None and mine.encoder is theirs.encoder)
    for what, same in (("system", related), ("frontend", first.frontend == recipe.frontend)):
        if not same:
            raise SettingsError(f"recipe {recipe.name} cannot start from {first.name}: their {what} differs")
    if encoder_of(recipe) != encoder_of(first):
        raise SettingsError(
            f"recipe {recipe.name} cannot start from {first.name}: its encoder is another one; give both the same "
            "[model] and [window]"
        )
    _refuse_another_teacher(recipe, first)


def _refuse_another_teacher(recipe: Recipe, first: Recipe) -> None:
    """Who goes on learning from the teacher does so in the scale in which ``first`` did."""
    mine, theirs = recipe.teacher, first.teacher
    if not mine.weight or not theirs.weight:
        return
    if mine.layer != theirs.layer:
        raise SettingsError(
            f"recipe {recipe.name} learns layer {mine.layer} of its teacher and would start from {first.name}, which "
            f"learned layer {theirs.layer}; choose one"
        )
    if mine.functionals and not theirs.functionals:
        raise SettingsError(
            f"recipe {recipe.name} learns functionals of its teacher and would start from {first.name}, which did not; "
            "give them to both"
        )


def _refuse_heard(split: Split, name: str, heard: Iterable[str]) -> None:
    try:
        check_unseen(split, None, heard)
    except CorpusError as error:
        raise SettingsError(
            f"{name}, which this run would start from, heard a speaker that tests it ({str(error).partition(',')[0]}); "
            "start from a recipe that leaves this corpus out (--start)"
        ) from None


def _heard_by(run: Path) -> dict[str, list[str]]:
    """What a run, or the one that it started from, trained on or chose its epoch by; and who trained them."""
    _, _, split = read_run(run)
    sides = [split[s] for s in ("train", "validation", "start") if s in split]
    heard = {what: sorted({x for side in sides for x in side[what]}) for what in ("utterances", "voices")}
    earlier = split.get("start", {}).get("trained_voices", [])
    return heard | {"trained_voices": sorted({*split["train"]["voices"], *earlier})}


def _shuffled(side: FeatureSet, recipe: Recipe) -> FeatureSet:
    """The same recordings with each other's labels; those that lend their scatter keep theirs."""
    dealt = list(side.utterances)
    labelled = [i for i, u in enumerate(dealt) if u.corpus in recipe.corpora]
    for i, other in zip(labelled, np.random.default_rng(recipe.training.seed).permutation(labelled), strict=True):
        dealt[i] = replace(dealt[i], emotion=side.utterances[other].emotion)
    return replace(side, utterances=tuple(dealt))


def _validation_figures(recipe: Recipe, model: Any, side: FeatureSet, windows: Windows) -> dict[str, Any]:
    probabilities = utterance_probabilities(keras_logits(model), windows, len(side.utterances))
    return score(side.utterances, probabilities, recipe.labels)


def _answers(recipe: Recipe, model: Any, side: FeatureSet, windows: Windows) -> Scores:
    """How well a side's emotions are named."""

    def scores() -> dict[str, float]:
        figures = _validation_figures(recipe, model, side, windows)
        return {"uar": figures["uar"], "accuracy": figures["accuracy"]}

    return scores


def _refuse_what_is_learned_by_descent(recipe: Recipe) -> None:
    if set(recipe.corpora.values()) != {1.0} or recipe.teacher.weight or recipe.split.leak:
        raise SettingsError(
            f"{recipe.system} is fitted at once: it knows no [teacher], no leak and no shares of [corpora]"
        )
    encoder = SYSTEMS[recipe.system].encoder
    if encoder and not recipe.start:
        raise SettingsError(f"{recipe.system} keeps an encoder as it is; name the recipe that trains it (--start)")
    if recipe.start and not encoder:
        raise SettingsError(f"{recipe.system} has no encoder that could start from {recipe.start}; leave start out")


def _fit_at_once(
    recipe: Recipe,
    model: Any,
    sides: dict[str, FeatureSet],
    validation: Windows,
    noises: Sequence[Array],
    run: RunState,
) -> None:
    """Systems that are not trained by descent: one fit on the training side's windows.

    These are cut as on the device; where the recipe has [augment], ``epochs`` times as many are drawn beside them.
    """
    fit = SYSTEMS[recipe.system].fit
    assert fit is not None
    started = time.monotonic()
    train_side, t = sides["train"], recipe.training
    windows = window_utterances(train_side.frames, recipe.frontend, recipe.window)
    classes = np.array([recipe.class_of(u.corpus, u.emotion) for u in train_side.utterances])
    speakers = np.array([u.voice for u in train_side.utterances])
    starts = range(0, len(windows.owner), t.batch_size)
    epochs = Epochs(recipe, train_side, noises)
    n_drawn = t.epochs if draws_epochs(recipe) else 0

    def batches() -> Iterator[tuple[Any, Any, Any]]:
        for i in starts:
            rows = windows.owner[i : i + t.batch_size]
            yield windows.inputs[i : i + t.batch_size], classes[rows], speakers[rows]
        for epoch in range(n_drawn):
            order = epochs.order(epoch)
            for i, (inputs, _) in enumerate(epochs.batches(epoch)):
                rows = order[i * t.batch_size : (i + 1) * t.batch_size]
                yield inputs, classes[rows], speakers[rows]

    n = len(starts) + n_drawn * -(-len(epochs.order(0)) // t.batch_size)
    shown = track(batches(), "windows", total=n, console=Console(stderr=True), transient=True)

    def validation_score() -> float:
        return float(_validation_figures(recipe, model, sides["validation"], validation)[t.monitor])

    run.state["fit"] = fit(model, shown, validation_score, t.seed)
    run.state.update(epoch=1, best_epoch=0, best_score=run.state["fit"]["score"], seconds=time.monotonic() - started)
