"""Train one recipe: windows drawn afresh every epoch, the epoch picked on validation speakers, resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from serkit.edge.errors import CorpusError, SettingsError
from serkit.train.build import build_system, draws_epochs, encoder_of, system_of
from serkit.train.consistency import Pairs, TeacherAnswers, agreement, learner_of
from serkit.train.corpora import Utterance, read_corpus
from serkit.train.descent import descend, prepare
from serkit.train.environment import environment
from serkit.train.epochs import Array, Epochs
from serkit.train.features import FeatureSet, load_features
from serkit.train.metrics import score
from serkit.train.noises import noise_library
from serkit.train.outcome import report, report_imitation
from serkit.train.parallel import n_devices
from serkit.train.pretrained import pretrained
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
from serkit.train.student import Scores, begin, imitation_scores, lessons_of, n_steps, taught
from serkit.train.teacher import Lessons, hear, scale_of
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
    everything = load_features(split.everyone, recipe.frontend, cache)
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
    if (recipe.training.monitor == "agreement") != (fitted_at_once and draws_epochs(recipe)):
        raise SettingsError(
            "monitor = 'agreement' goes with what is fitted at once and then hears [augment]; nothing else has it"
        )
    if recipe.teacher.answers and recipe.training.monitor != "agreement":
        raise SettingsError("[teacher] answers go with monitor = 'agreement': nothing else learns from them")
    if RunState(out).state.get("finished"):
        open_run(recipe, out)  # refuses another recipe's
        console.print(f"{out} is finished; delete it to train again", highlight=False)
        return dict(json.loads((out / "metrics.json").read_text(encoding="utf-8")))
    import keras

    keras.utils.set_random_seed(recipe.training.seed)
    model = build_system(recipe)
    split = split_for(recipe, data)
    if recipe.teacher.answers and len(voices(split.train)) < 2:
        raise SettingsError(
            "[teacher] answers are given to voices left out, and a single one trains; leave answers out, or add a "
            "corpus"
        )
    _check_start_beside(recipe, split, data, out)
    run = open_run(recipe, out)  # not before: what is refused leaves no folder that stands in the way
    start = _start_of(recipe, data, out, cache)
    run.state["start"] = start.name if start else None
    learns = recipe.teacher.weight or recipe.teacher.answers
    run.state["taught"] = bool(learns or (start and read_run(start)[1]["taught"]))
    keras.utils.set_random_seed(recipe.training.seed)  # again: training what it starts from has drawn from it
    sides = load_sides(split, recipe, data, out, cache, start)
    if recipe.training.shuffle_labels:
        sides["train"] = _shuffled(sides["train"], recipe)
    if "environment" not in run.state:
        run.state["environment"] = environment()
    run.tidy()
    validation = window_utterances(sides["validation"].frames, recipe.frontend, recipe.window)
    if fitted_at_once:
        if start:
            begin(model, load_trained(start))
        started = time.monotonic()
        run.state["fit"] = _fit_at_once(recipe, model, sides, validation)
        if not run.state["epoch"]:
            run.state["seconds"] = time.monotonic() - started
    noises: Sequence[Array] = ()
    if recipe.augment.noise_probability:
        kinds, longest = recipe.augment.noise_kinds, recipe.window.input_frames
        noises = noise_library(kinds, recipe.frontend, data, longest, sides["train"].frames)
    if fitted_at_once and not draws_epochs(recipe):
        run.state.update(epoch=1, best_epoch=0, best_score=run.state["fit"]["score"])
    elif fitted_at_once:
        _learn_to_agree(recipe, model, split, sides, noises, run, console, data, cache)
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
    """The finished run that this one starts from; trained now where it is not and does not come with serkit."""
    for first in lineage(recipe)[1:2]:
        if (found := _finished(first, out)) is not None:
            if found.parent == out.parent:
                open_run(first, found)  # refuses another recipe's
            return found
        train(first, data, path := out.parent / run_name(first), cache)
        return path
    return None


def _finished(first: Recipe, out: Path) -> Path | None:
    """The run of a recipe beside ``out`` or, where there is none, its encoder that comes with serkit."""
    path = out.parent / run_name(first)
    return path if RunState(path).state.get("finished") else pretrained(first)


def _check_start_beside(recipe: Recipe, split: Split, data: Path, out: Path) -> None:
    """As `check_start`; of a start that is finished, who it did hear counts, and its corpora are not needed."""
    for first in lineage(recipe)[1:2]:
        if (found := _finished(first, out)) is not None:
            _refuse_unlike(recipe, first)
            _refuse_heard(split, first.name, _heard_by(found)["voices"])
        else:
            check_start(recipe, split, data)


def check_start(recipe: Recipe, split: Split, data: Path) -> None:
    """Before hours of work, not after them: does what a recipe starts from fit, and will it hear nobody who tests?

    Raises:
        SettingsError: It does not, or it will.
    """
    for first in lineage(recipe)[1:]:
        _refuse_unlike(recipe, first)
        if (found := pretrained(first)) is not None:
            heard = _heard_by(found)["voices"]
        else:
            planned = split_for(first, data)
            heard = voices([*planned.train, *planned.validation])
        _refuse_heard(split, first.name, heard)


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
    if recipe.teacher.weight or recipe.split.leak:
        raise SettingsError(f"{recipe.system} is fitted at once: it knows no [teacher] but its answers, and no leak")
    if (n := n_devices()) > 1:
        raise SettingsError(
            f"{recipe.system} is fitted at once, on one device, and {n} share the work; leave --data-parallel out"
        )
    encoder = SYSTEMS[recipe.system].encoder
    if encoder and not recipe.start:
        raise SettingsError(f"{recipe.system} keeps an encoder as it is; name the recipe that trains it (--start)")
    if recipe.start and not encoder:
        raise SettingsError(f"{recipe.system} has no encoder that could start from {recipe.start}; leave start out")
    if draws_epochs(recipe) and not encoder:
        raise SettingsError(f"{recipe.system} hears windows as they are recorded and no others; leave [augment] out")


def _fit_at_once(recipe: Recipe, model: Any, sides: dict[str, FeatureSet], validation: Windows) -> dict[str, Any]:
    """Systems that are not trained by descent: one fit on the training side's windows, cut as on the device."""
    fit = SYSTEMS[recipe.system].fit
    assert fit is not None
    t, rows = recipe.training, np.sort(Epochs(recipe, sides["train"], ()).order(0))  # of each corpus its share
    train_side = sides["train"].select([sides["train"].utterances[i] for i in rows])
    windows = window_utterances(train_side.frames, recipe.frontend, recipe.window)
    heard = [train_side.utterances[i] for i in windows.owner]
    classes = np.array([recipe.class_of(u.corpus, u.emotion) for u in heard])
    speakers = np.array([u.voice for u in heard])
    starts = range(0, len(heard), t.batch_size)
    batches = [slice(i, i + t.batch_size) for i in starts]
    shown = ((windows.inputs[b], classes[b], speakers[b]) for b in batches)
    tracked = track(shown, "windows", total=len(batches), console=Console(stderr=True), transient=True)
    monitor = "uar" if t.monitor == "agreement" else t.monitor

    def validation_score() -> float:
        return float(_validation_figures(recipe, model, sides["validation"], validation)[monitor])

    return fit(model, tracked, validation_score, t.seed)


def agreeing_speech(recipe: Recipe, split: Split, data: Path) -> list[Utterance]:
    """Every recording of the corpora that consistency training hears, on whatever side."""
    (first,) = lineage(recipe)[1:2]
    return list(dict.fromkeys([*split.everyone, *split_for(first, data).everyone]))


def _learn_to_agree(
    recipe: Recipe,
    model: Any,
    split: Split,
    sides: dict[str, FeatureSet],
    noises: Sequence[Array],
    run: RunState,
    console: Console,
    data: Path,
    cache: Path | None,
) -> None:
    """Consistency training of what was fitted at once."""
    kept = build_system(recipe)
    kept.set_weights(model.get_weights())
    speech, by_teacher = _speech_of(recipe, split, sides, data, cache), None
    if recipe.teacher.answers:
        heard = hear(agreeing_speech(recipe, split, data), recipe.teacher, cache).select(speech.utterances)
        scale = scale_of(heard, recipe.teacher)
        lessons = Lessons(heard, recipe.teacher, scale, recipe.frontend, recipe.window, n_steps(model))
        by_teacher = TeacherAnswers(recipe, speech, lessons)
    learner = learner_of(model)
    prepare(recipe, learner, run)
    scores = agreement(recipe, model, sides["validation"], noises, kept)
    descend(recipe, learner, Pairs(recipe, speech, noises, kept, by_teacher), scores, run, console)


def _speech_of(
    recipe: Recipe, split: Split, sides: dict[str, FeatureSet], data: Path, cache: Path | None
) -> FeatureSet:
    """What trains a run, and what trained the encoder that it starts from; nobody who validates or tests it."""
    mine, others = sides["train"], {*voices(split.validation), *voices(split.test)}
    known = {u.key for u in mine.utterances}
    (first,) = lineage(recipe)[1:2]
    theirs = split_for(first, data)
    more = [u for u in theirs.train if u.key not in known and u.voice not in others]
    heard = load_features(theirs.everyone, first.frontend, cache).select(more)
    return FeatureSet((*mine.utterances, *heard.utterances), (*mine.frames, *heard.frames), mine.refused)
