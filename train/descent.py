"""Gradient descent: an epoch at a time, scored on validation speakers, kept so that it goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serkit.edge.errors import SettingsError
from serkit.train.epochs import Epochs, learning_rate
from serkit.train.recipe import Recipe
from serkit.train.runs import RunState
from serkit.train.student import Scores, imitation_error


def prepare(recipe: Recipe, model: Any, run: RunState) -> None:
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
        said = {"teacher": recipe.teacher.weight, "functionals": recipe.teacher.functionals}
        weights = {what: weight for what, weight in said.items() if weight}
        loss = dict.fromkeys(weights, imitation_error) | ({"logits": loss} if labelled else {})
        weights |= {"logits": 1.0} if labelled else {}
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


def descend(recipe: Recipe, learner: Any, epochs: Epochs, scores: Scores, run: RunState, console: Console) -> None:
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
            learner.optimizer.learning_rate = rate = learning_rate(t, epoch)
            _seed_dropout(learner, t.seed, epoch)
            batches = []
            for step, (x, y) in enumerate(epochs.batches(epoch), start=1):
                if epoch == 0 and step <= t.warmup:
                    learner.optimizer.learning_rate = rate * step / t.warmup
                learner.reset_metrics()  # of this batch alone, also before Keras 3.15
                figures = learner.train_on_batch(x, y, return_dict=True)
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


def _seed_dropout(model: Any, seed: int, epoch: int) -> None:
    """Make an epoch's dropout depend on seed and epoch alone: checkpoints do not keep the generators' state."""
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    for i, state in enumerate(states):
        state.assign(np.array([seed, epoch * len(states) + i], np.uint32))
