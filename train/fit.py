"""Train one recipe: windows drawn afresh every epoch, the epoch picked on validation speakers, resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serkit.edge.errors import CorpusError, SettingsError
from serkit.train import plots
from serkit.train.augment import AugmentSettings, noise_library
from serkit.train.corpora import read_corpus
from serkit.train.environment import environment
from serkit.train.epochs import Epochs, learning_rate
from serkit.train.features import FeatureSet, load_features
from serkit.train.metrics import fit_temperature, score
from serkit.train.recipe import Recipe, lineage
from serkit.train.runs import (
    RunState,
    load_scale,
    load_trained,
    open_run,
    read_run,
    run_name,
    save_reference,
    save_scale,
    strangers,
    write_json,
)
from serkit.train.scoring import Windows, keras_logits, utterance_probabilities, window_utterances
from serkit.train.splits import Split, check_unseen, make_split, voices
from serkit.train.student import Scores, begin, imitation_error, imitation_scores, lessons_of, taught
from serkit.train.zoo import SYSTEMS, is_encoded


def split_for(recipe: Recipe, data: Path) -> Split:
    """Read the recipe's corpora and split them; recordings with other labels than the model's are left out."""
    utterances = [u for c in recipe.corpora for u in read_corpus(c, data) if u.emotion in recipe.labels]
    s = recipe.split
    return make_split(utterances, s.protocol, fold=s.fold, seed=s.seed, validation_share=s.validation_share)


def load_sides(
    split: Split, recipe: Recipe, data: Path, out: Path, cache: Path | None, start: Path | None = None
) -> dict[str, FeatureSet]:
    """Features of the three sides; what is on them is written to ``split.json``, or compared with it.

    What the run that this one starts from heard is listed as ``start``.

    Raises:
        SettingsError: Nobody validates, the run in ``out`` began with other recordings, or ``start`` heard who tests.
    """
    everything = load_features([*split.train, *split.validation, *split.test], recipe.frontend, cache)
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
        SettingsError: ``out`` holds a run of another recipe, the recipe's system does not exist, or its training
            diverges.
        CorpusError: A corpus is missing.
    """
    console = Console(stderr=True)
    run = open_run(recipe, out)
    if run.state.get("finished"):
        console.print(f"{out} is finished; delete it to train again", highlight=False)
        return dict(json.loads((out / "metrics.json").read_text(encoding="utf-8")))
    import keras

    keras.utils.set_random_seed(recipe.training.seed)
    model = build_system(recipe)
    fitted_at_once = SYSTEMS[recipe.system].fit is not None
    if fitted_at_once:
        _refuse_what_is_learned_by_descent(recipe)
    split = split_for(recipe, data)
    start = _start_of(recipe, split, data, out, cache)
    run.state["start"] = start.name if start else None
    run.state["taught"] = bool(recipe.teacher.weight or (start and read_run(start)[1]["taught"]))
    keras.utils.set_random_seed(recipe.training.seed)  # again: training what it starts from has drawn from it
    sides = load_sides(split, recipe, data, out, cache, start)
    if recipe.training.shuffle_labels:
        sides["train"] = _shuffled(sides["train"], recipe.training.seed)
    if "environment" not in run.state:
        run.state["environment"] = environment()
    run.tidy()
    validation = window_utterances(sides["validation"].frames, recipe.frontend, recipe.window)
    if not fitted_at_once:
        lessons, learner = {}, model
        if recipe.teacher.weight:
            lessons = lessons_of(recipe, model, split, sides, cache, load_scale(start) if start else None)
            save_scale(out, lessons["train"].scale)
            learner = taught(model, lessons["train"].n_targets, alone=recipe.teacher.alone)
        if start:
            begin(learner, load_trained(start))
        noises = noise_library(recipe.augment, recipe.frontend, data, recipe.window.input_frames, sides["train"].frames)
        epochs = Epochs(recipe, sides["train"], noises, lessons.get("train"))
        _compile(recipe, learner, run)
        if recipe.teacher.alone:
            scores = imitation_scores(recipe, learner, sides["validation"], lessons["validation"])
        else:
            scores = _answers(recipe, model, sides["validation"], validation)
        _descend(recipe, learner, epochs, scores, run, console)
        if recipe.teacher.alone:
            return _report_imitation(recipe, learner, sides, run)
    else:
        _fit_at_once(recipe, model, sides, validation, run)
    return report(recipe, model, sides, run)


def _start_of(recipe: Recipe, split: Split, data: Path, out: Path, cache: Path | None) -> Path | None:
    """The finished run that this one starts from; trained now where it is not."""
    for first in lineage(recipe)[1:2]:
        path = out.parent / run_name(first)
        if RunState(path).state.get("finished"):
            open_run(first, path)  # refuses another recipe's
        else:
            check_start(recipe, split, data)
            train(first, data, path, cache)
        return path
    return None


def check_start(recipe: Recipe, split: Split, data: Path) -> None:
    """Before hours of work, not after them: does what a recipe starts from fit, and will it hear nobody who tests?

    Raises:
        SettingsError: It does not, or it will.
    """
    for first in lineage(recipe)[1:]:
        for what in ("system", "frontend"):
            if getattr(first, what) != getattr(recipe, what):
                raise SettingsError(f"recipe {recipe.name} cannot start from {first.name}: their {what} differs")
        if recipe.teacher.weight and first.teacher.weight and first.teacher.layer != recipe.teacher.layer:
            raise SettingsError(
                f"recipe {recipe.name} learns layer {recipe.teacher.layer} of its teacher and would start from "
                f"{first.name}, which learned layer {first.teacher.layer}; choose one"
            )
        planned = split_for(first, data)
        _refuse_heard(split, first.name, voices([*planned.train, *planned.validation]))


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


def _shuffled(side: FeatureSet, seed: int) -> FeatureSet:
    """The same recordings with each other's labels."""
    order = np.random.default_rng(seed).permutation(len(side.utterances))
    dealt = [replace(u, emotion=side.utterances[i].emotion) for u, i in zip(side.utterances, order, strict=True)]
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
    taught_or_started = recipe.teacher.weight or recipe.start
    if recipe.augment != AugmentSettings() or set(recipe.corpora.values()) != {1.0} or taught_or_started:
        raise SettingsError(
            f"{recipe.system} is fitted at once: it knows no start, no [augment], no [teacher] and no shares of "
            "[corpora]"
        )


def _fit_at_once(recipe: Recipe, model: Any, sides: dict[str, FeatureSet], validation: Windows, run: RunState) -> None:
    """Systems that are not trained by descent: one fit on the training side's windows, cut as on the device."""
    fit = SYSTEMS[recipe.system].fit
    assert fit is not None
    started = time.monotonic()
    train_side, t = sides["train"], recipe.training
    windows = window_utterances(train_side.frames, recipe.frontend, recipe.window)
    truth = np.array([recipe.labels.index(train_side.utterances[i].emotion) for i in windows.owner])

    def validation_score() -> float:
        return float(_validation_figures(recipe, model, sides["validation"], validation)[t.monitor])

    run.state["fit"] = fit(model, windows.inputs, truth, validation_score, t.seed)
    run.state.update(epoch=1, best_epoch=0, best_score=run.state["fit"]["score"], seconds=time.monotonic() - started)


@contextmanager
def _progress(console: Console, total: int, completed: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training", total=total, completed=completed)

        def show(epoch: int, words: str) -> None:
            progress.update(task, completed=epoch, description=words)
            if not console.is_terminal:
                console.print(f"epoch {epoch}/{total}  {words}", highlight=False)

        yield show


def _descend(recipe: Recipe, learner: Any, epochs: Epochs, scores: Scores, run: RunState, console: Console) -> None:
    """Gradient descent, an epoch at a time, each one scored on the validation side and kept as a checkpoint.

    ``learner`` is what is trained: the model itself, or the model with what it also predicts of its teacher.
    """
    t, out = recipe.training, run.out
    hits = ("accuracy", "logits_accuracy")  # the second where the teacher speaks too
    with _progress(console, t.epochs, run.state["epoch"]) as show:
        for epoch in range(run.state["epoch"], t.epochs):
            if t.patience and epoch - run.state["best_epoch"] > t.patience:
                break
            started = time.monotonic()
            learner.optimizer.learning_rate = learning_rate(t, epoch)
            _seed_dropout(learner, t.seed, epoch)
            batches = []
            for x, y in epochs.batches(epoch):
                figures = learner.train_on_batch(x, y, return_dict=True)  # of this batch alone
                batches.append((len(x), [float(figures[n]) for n in ("loss", *hits) if n in figures]))
            sizes, values = [n for n, _ in batches], np.array([v for _, v in batches])
            means = np.average(values, axis=0, weights=sizes).round(4).tolist()
            if not np.isfinite(values).all():
                raise SettingsError(
                    f"recipe {recipe.name}: the loss of epoch {epoch} is no number; lower learning_rate, and start "
                    "anew with another --out"
                )
            raw = [np.array(v) for v in learner.trainable_variables]
            if t.ema:
                learner.optimizer.finalize_variable_values(learner.trainable_variables)
                for variable in learner.trainable_variables:  # JAX would free a buffer shared with the optimizer
                    variable.assign(np.array(variable))
            figures = scores()
            if figures[t.monitor] > run.state["best_score"]:
                run.state.update(best_score=figures[t.monitor], best_epoch=epoch)
                run.save_best(learner)
            for variable, value in zip(learner.trainable_variables, raw, strict=True):
                variable.assign(value)
            line = {
                "epoch": epoch,
                **dict(zip(("loss", "train_accuracy"), means, strict=False)),
                **{f"validation_{name}": value for name, value in figures.items()},
                "seconds": round(time.monotonic() - started, 2),
            }
            with (out / "history.jsonl").open("a", encoding="utf-8") as history:
                history.write(json.dumps(line) + "\n")
            run.state.update(epoch=epoch + 1, seconds=run.state["seconds"] + line["seconds"])
            run.save(learner)
            show(
                epoch + 1,
                f"loss {line['loss']:.3f}  validation {t.monitor} {figures[t.monitor]:.3f} "
                f"(best {run.state['best_score']:.3f})",
            )
    run.tidy()
    learner.load_weights(out / run.state["best_weights"])


def _compile(recipe: Recipe, model: Any, run: RunState) -> None:
    """Make the network ready for descent, as the last checkpoint left it where there is one."""
    import keras

    t = recipe.training
    ema = {"use_ema": True, "ema_momentum": t.ema} if t.ema else {}
    optimizer = (
        keras.optimizers.AdamW(t.learning_rate, weight_decay=t.weight_decay, **ema)
        if t.weight_decay
        else keras.optimizers.Adam(t.learning_rate, **ema)
    )
    if t.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    loss: Any = keras.losses.CategoricalCrossentropy(from_logits=True)
    metrics: Any = ["accuracy"]
    weights = None
    if recipe.teacher.weight:
        labelled = not recipe.teacher.alone
        loss = {"teacher": imitation_error} | ({"logits": loss} if labelled else {})
        weights = {"teacher": recipe.teacher.weight} | ({"logits": 1.0} if labelled else {})
        metrics = {"logits": metrics} if labelled else None
    model.compile(
        optimizer=optimizer,
        loss=loss,
        loss_weights=weights,
        metrics=metrics,
        jit_compile=keras.backend.backend() == "jax",
    )
    if "checkpoint" in run.state:  # a loaded optimizer would have forgotten what is excluded from the decay
        kept = keras.saving.load_model(run.out / run.state["checkpoint"])
        pairs = [(model.variables, kept.variables), (model.optimizer.variables, kept.optimizer.variables)]
        for mine, theirs in pairs:
            for variable, value in zip(mine, theirs, strict=True):
                variable.assign(value)


def _seed_dropout(model: Any, seed: int, epoch: int) -> None:
    """Make an epoch's dropout depend on seed and epoch alone: checkpoints do not keep the generators' state."""
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    for i, state in enumerate(states):
        state.assign(np.array([seed, epoch * len(states) + i], np.uint32))


def build_system(recipe: Recipe, *, twin: bool = False) -> Any:
    """The recipe's untrained Keras model.

    Raises:
        SettingsError: No such system, or an option its builder does not take.
    """
    if recipe.system not in SYSTEMS:
        raise SettingsError(f"no system {recipe.system!r}; choose one of {', '.join(SYSTEMS)}")
    shape = (recipe.window.input_frames, recipe.frontend.n_features)
    build = SYSTEMS[recipe.system].build
    known = [n for n, p in signature(build).parameters.items() if p.kind is p.KEYWORD_ONLY and n != "twin"]
    if unknown := sorted(set(recipe.model) - set(known)):
        raise SettingsError(f"recipe {recipe.name}, [model]: unknown setting {unknown[0]!r}; known: {', '.join(known)}")
    try:
        model = build(*shape, len(recipe.labels), twin=twin, **recipe.model)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"recipe {recipe.name}, [model]: {error}") from None
    w = recipe.window
    if is_encoded(model) and (w.normalisation != "none" or w.range_db or w.n_frames % w.hop_frames):
        raise SettingsError(
            f"recipe {recipe.name}, [window]: {recipe.system} encodes every hop once, whatever window it is in; that "
            "needs normalisation = 'none', range_db = 0 and n_frames a multiple of hop_frames"
        )
    return model


def _about(recipe: Recipe, model: Any, run: RunState) -> dict[str, Any]:
    """What any run's ``metrics.json`` begins with."""
    return {
        "system": recipe.system,
        "protocol": recipe.split.protocol,
        "fold": recipe.split.fold,
        "seed": recipe.training.seed,
        "n_parameters": int(model.count_params()),
        "best_epoch": run.state["best_epoch"],
        "epochs": run.state["epoch"],
        "start": run.state["start"],
        "taught": run.state["taught"],
    }


def _finish(recipe: Recipe, model: Any, metrics: dict[str, Any], run: RunState) -> dict[str, Any]:
    """Keep the network and what every run leaves behind."""
    import keras

    model.save(run.out / "model.keras")
    write_json(run.out / "metrics.json", metrics)
    about = {"backend": keras.backend.backend(), "seed": recipe.training.seed, "seconds": run.state["seconds"]}
    write_json(run.out / "environment.json", run.state["environment"] | about | {"seconds": round(about["seconds"], 1)})
    if (run.out / "history.jsonl").exists():
        plots.history(run.out / "history.jsonl", run.out / "history.png")
    run.finish()
    return metrics


def _report_imitation(recipe: Recipe, learner: Any, sides: dict[str, FeatureSet], run: RunState) -> dict[str, Any]:
    """Of an encoder that names nothing: how well it imitates."""
    bare = taught(build_system(recipe), learner.output["teacher"].shape[-1], alone=True)
    bare.set_weights(learner.get_weights())
    metrics = _about(recipe, bare, run) | {
        "validation": {"imitated": run.state["best_score"]}, "refused": list(sides["validation"].refused)
    }  # fmt: skip
    return _finish(recipe, bare, metrics, run)


def report(recipe: Recipe, model: Any, sides: dict[str, FeatureSet], run: RunState) -> dict[str, Any]:
    """Score the chosen weights and write everything a run leaves behind.

    Returns:
        The content of ``metrics.json``.
    """
    out = run.out
    metrics = _about(recipe, model, run)
    if "fit" in run.state:
        metrics["fit"] = run.state["fit"]
    validation = sides["validation"]
    windows = window_utterances(validation.frames, recipe.frontend, recipe.window)
    logits = keras_logits(model)(windows.inputs)
    truth = np.array([recipe.labels.index(validation.utterances[i].emotion) for i in windows.owner])
    # A single training voice validates itself: a temperature fitted on it would make others' answers too sure.
    listed = json.loads((out / "split.json").read_text(encoding="utf-8"))
    metrics["calibrated"] = recipe.split.protocol.startswith("random") or strangers(listed)
    metrics["temperature"] = fit_temperature(logits, truth) if metrics["calibrated"] else 1.0
    # The ship-test speakers are for `serkit evaluate` alone: shown after every run, they would be tuned on.
    scored = ("validation",) if recipe.split.protocol == "ship-test" else ("validation", "test")
    predictions: dict[str, Any] = {"labels": list(recipe.labels)}
    for side in scored:
        utterances = sides[side].utterances
        windows = window_utterances(sides[side].frames, recipe.frontend, recipe.window)
        pair = [
            utterance_probabilities(keras_logits(model), windows, len(utterances), temperature)
            for temperature in (1.0, metrics["temperature"])
        ]
        metrics[side] = {
            corpus: score([utterances[i] for i in rows], pair[1][rows], recipe.labels)
            for corpus in recipe.corpora
            if (rows := [i for i, u in enumerate(utterances) if u.corpus == corpus])
        }
        predictions[side] = [
            {
                "utterance": u.key, "voice": u.voice, "sex": u.sex, "emotion": u.emotion,
                "uncalibrated": np.round(before, 5).tolist(), "probabilities": np.round(after, 5).tolist(),
            }
            for u, before, after in zip(utterances, *pair, strict=True)
        ]  # fmt: skip
    metrics["refused"] = list(validation.refused)
    bare = build_system(recipe)  # without the optimizer, which is twice the size of the weights
    bare.set_weights(model.get_weights())
    save_reference(recipe, sides, out)
    confusions = {corpus: figures["confusion"] for corpus, figures in metrics[scored[-1]].items()}
    write_json(out / "confusion.json", confusions)
    write_json(out / "predictions.json", predictions)
    plots.confusion(confusions, out / "confusion.png")
    return _finish(recipe, bare, metrics, run)
