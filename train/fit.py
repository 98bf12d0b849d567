"""Train one recipe: windows drawn afresh every epoch, the epoch picked on validation speakers, resumed if interrupted.

A run is a folder:

=================== ==================================================================================
file                what
=================== ==================================================================================
config.json         the whole recipe
split.json          which recordings trained, validated and tested
history.jsonl       one line per epoch
model.keras         the chosen weights
metrics.json        figures of validation and, but for ``ship-test``, test; calibration temperature
reference.npz       features of pinned training utterances (to calibrate int8) and of the validation side (parity)
confusion.json/.png confusion on the test side (of ``ship-test``: validation)
history.png         loss and validation score over the epochs
environment.json    machine, versions, seed, duration
=================== ==================================================================================
"""

from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serkit.edge.errors import SerkitError, SettingsError
from serkit.edge.settings import build
from serkit.train import plots
from serkit.train.corpora import read_corpus
from serkit.train.environment import environment
from serkit.train.epochs import Epochs, learning_rate
from serkit.train.features import FeatureSet, load_features
from serkit.train.metrics import fit_temperature, score
from serkit.train.recipe import Recipe
from serkit.train.scoring import keras_logits, utterance_probabilities, window_utterances
from serkit.train.splits import Split, make_split, voices
from serkit.train.zoo import SYSTEMS

Array = npt.NDArray[np.float32]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def split_for(recipe: Recipe, data: Path) -> Split:
    """Read the recipe's corpora and split them; recordings with other labels than the model's are left out."""
    utterances = [u for c in recipe.corpora for u in read_corpus(c, data) if u.emotion in recipe.labels]
    s = recipe.split
    return make_split(utterances, s.protocol, fold=s.fold, seed=s.seed, validation_share=s.validation_share)


class _Run:
    """The run folder and what an interrupted training needs to go on: one state file that names its checkpoint."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.state_path = out / "state.json"
        self.state: dict[str, Any] = {"epoch": 0, "best_score": -1.0, "best_epoch": -1, "seconds": 0.0}
        if self.state_path.exists():
            self.state = json.loads(self.state_path.read_text(encoding="utf-8"))

    def save(self, model: Any) -> None:
        """Keep a checkpoint of an epoch that is done; what an interruption leaves of the next one is ignored."""
        name = f"checkpoint-{self.state['epoch']}.keras"
        model.save(self.out / name)
        previous = self.state.get("checkpoint")
        self.state["checkpoint"] = name
        write_json(self.state_path, self.state)
        if previous and previous != name:
            (self.out / previous).unlink(missing_ok=True)

    def save_best(self, model: Any) -> None:
        """Keep the chosen weights of this epoch; the state that `save` writes names them."""
        self.state["best_weights"] = f"best-{self.state['best_epoch']}.weights.h5"
        model.save_weights(self.out / self.state["best_weights"])

    def tidy(self) -> None:
        """Remove what no state names: older best weights, and lines of epochs that were not completed."""
        for path in self.out.glob("best-*.weights.h5"):
            if path.name != self.state.get("best_weights"):
                path.unlink()
        history = self.out / "history.jsonl"
        if history.exists():
            lines = history.read_text(encoding="utf-8").splitlines(keepends=True)[: self.state["epoch"]]
            history.write_text("".join(lines), encoding="utf-8")

    def finish(self) -> None:
        (self.out / self.state.pop("checkpoint", "none")).unlink(missing_ok=True)
        self.state["finished"] = True
        write_json(self.state_path, self.state)


def train(recipe: Recipe, data: Path, out: Path, cache: Path | None = None) -> dict[str, Any]:
    """Train a recipe and leave a run folder; goes on where an earlier call with the same recipe stopped.

    Args:
        recipe: What to train.
        data: Folder that holds the corpora.
        out: The run folder; made if missing.
        cache: Where features are kept; `serkit.train.features.default_cache` by default.

    Returns:
        The content of ``metrics.json``.

    Raises:
        SettingsError: ``out`` holds a run of another recipe, or the recipe's system does not exist.
        CorpusError: A corpus is missing.
    """
    import keras

    console = Console(stderr=True)
    config = json.loads(json.dumps(recipe.to_dict()))
    config_path = out / "config.json"
    if config_path.exists() and json.loads(config_path.read_text(encoding="utf-8")) != config:
        raise SettingsError(f"{out} holds a run of another recipe; choose another --out, or delete it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(config_path, config)
    except OSError as error:
        raise SettingsError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    run = _Run(out)
    if run.state.get("finished"):
        console.print(f"{out} is finished; delete it to train again", highlight=False)
        return dict(json.loads((out / "metrics.json").read_text(encoding="utf-8")))

    split = split_for(recipe, data)
    everything = load_features([*split.train, *split.validation, *split.test], recipe.frontend, cache)
    sides = {s: everything.select(getattr(split, s)) for s in ("train", "validation", "test")}
    if not sides["validation"].utterances:
        raise SettingsError("no validation speakers: raise validation_share, or add a corpus with more speakers")
    listed = {
        s: {"utterances": [u.key for u in f.utterances], "voices": voices(f.utterances)} for s, f in sides.items()
    }
    split_path = out / "split.json"
    if split_path.exists() and json.loads(split_path.read_text(encoding="utf-8")) != listed:
        raise SettingsError(
            f"{out}: its split was drawn from other recordings than {data} holds now; restore them, or start anew with "
            "another --out"
        )
    write_json(split_path, listed)
    if "environment" not in run.state:
        run.state["environment"] = environment()
    run.tidy()

    model = _model(recipe, run)
    epochs = Epochs(recipe, sides["train"])
    validation = window_utterances(sides["validation"].frames, recipe.frontend, recipe.window)
    t = recipe.training
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("training", total=t.epochs, completed=run.state["epoch"])
        for epoch in range(run.state["epoch"], t.epochs):
            if t.patience and epoch - run.state["best_epoch"] > t.patience:
                break
            started = time.monotonic()
            model.optimizer.learning_rate = learning_rate(t, epoch)
            _seed_dropout(model, t.seed, epoch)
            batches = []
            for x, y in epochs.batches(epoch):
                figures = model.train_on_batch(x, y, return_dict=True)  # of this batch alone
                batches.append((len(x), float(figures["loss"]), float(figures["accuracy"])))
            sizes, losses, accuracies = np.array(batches).T
            raw = [np.array(v) for v in model.trainable_variables]
            if t.ema:
                model.optimizer.finalize_variable_values(model.trainable_variables)
                for (
                    variable
                ) in model.trainable_variables:  # JAX would share one buffer with the optimizer, then free it
                    variable.assign(np.array(variable))
            probabilities = utterance_probabilities(
                keras_logits(model), validation, len(sides["validation"].utterances)
            )
            figures = score(sides["validation"].utterances, probabilities, recipe.labels)
            if figures[t.monitor] > run.state["best_score"]:
                run.state.update(best_score=figures[t.monitor], best_epoch=epoch)
                run.save_best(model)
            for variable, value in zip(model.trainable_variables, raw, strict=True):
                variable.assign(value)
            line = {
                "epoch": epoch,
                "loss": round(float(np.average(losses, weights=sizes)), 4),
                "train_accuracy": round(float(np.average(accuracies, weights=sizes)), 4),
                "validation_uar": figures["uar"],
                "validation_accuracy": figures["accuracy"],
                "seconds": round(time.monotonic() - started, 2),
            }
            with (out / "history.jsonl").open("a", encoding="utf-8") as history:
                history.write(json.dumps(line) + "\n")
            run.state.update(epoch=epoch + 1, seconds=run.state["seconds"] + line["seconds"])
            run.save(model)
            words = (
                f"loss {line['loss']:.3f}  validation UAR {line['validation_uar']:.3f} "
                f"(best {t.monitor} {run.state['best_score']:.3f})"
            )
            progress.update(task, completed=epoch + 1, description=words)
            if not console.is_terminal:
                console.print(f"epoch {epoch + 1}/{t.epochs}  {words}", highlight=False)
    run.tidy()
    model.load_weights(out / run.state["best_weights"])
    return _report(recipe, model, sides, out, run, keras.backend.backend())


def _model(recipe: Recipe, run: _Run) -> Any:
    """The compiled model, as the last checkpoint left it where there is one."""
    import keras

    t = recipe.training
    keras.utils.set_random_seed(t.seed)
    model = build_system(recipe)
    ema = {"use_ema": True, "ema_momentum": t.ema} if t.ema else {}
    optimizer = (
        keras.optimizers.AdamW(t.learning_rate, weight_decay=t.weight_decay, **ema)
        if t.weight_decay
        else keras.optimizers.Adam(t.learning_rate, **ema)
    )
    if t.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=keras.backend.backend() == "jax",
    )
    if "checkpoint" in run.state:  # a loaded optimizer would have forgotten what is excluded from the decay
        kept = keras.saving.load_model(run.out / run.state["checkpoint"])
        pairs = [(model.variables, kept.variables), (model.optimizer.variables, kept.optimizer.variables)]
        for mine, theirs in pairs:
            for variable, value in zip(mine, theirs, strict=True):
                variable.assign(value)
    return model


def _seed_dropout(model: Any, seed: int, epoch: int) -> None:
    """Make an epoch's dropout depend on seed and epoch alone: checkpoints do not keep the generators' state."""
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    for i, state in enumerate(states):
        state.assign(np.array([seed, epoch * len(states) + i], np.uint32))


def build_system(recipe: Recipe, *, unroll: bool = False) -> Any:
    """The recipe's untrained Keras model.

    Raises:
        SettingsError: No such system, or an option its builder does not take.
    """
    if recipe.system not in SYSTEMS:
        raise SettingsError(f"no system {recipe.system!r}; choose one of {', '.join(SYSTEMS)}")
    shape = (recipe.window.n_frames, recipe.frontend.n_features)
    try:
        return SYSTEMS[recipe.system](*shape, len(recipe.labels), unroll=unroll, **recipe.model)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"recipe {recipe.name}, [model]: {error}") from None


def _report(
    recipe: Recipe, model: Any, sides: dict[str, FeatureSet], out: Path, run: _Run, backend: str
) -> dict[str, Any]:
    """Score the chosen weights and write everything a run leaves behind."""
    t = recipe.training
    metrics: dict[str, Any] = {
        "system": recipe.system,
        "protocol": recipe.split.protocol,
        "fold": recipe.split.fold,
        "seed": t.seed,
        "n_parameters": int(model.count_params()),
        "best_epoch": run.state["best_epoch"],
        "epochs": run.state["epoch"],
    }
    validation = sides["validation"]
    windows = window_utterances(validation.frames, recipe.frontend, recipe.window)
    logits = keras_logits(model)(windows.inputs)
    truth = np.array([recipe.labels.index(validation.utterances[i].emotion) for i in windows.owner])
    metrics["temperature"] = fit_temperature(logits, truth)
    # The ship-test speakers are for `serkit evaluate` alone: shown after every run, they would be tuned on.
    scored = ("validation",) if recipe.split.protocol == "ship-test" else ("validation", "test")
    for side in scored:
        windows = window_utterances(sides[side].frames, recipe.frontend, recipe.window)
        probabilities = utterance_probabilities(
            keras_logits(model), windows, len(sides[side].utterances), metrics["temperature"]
        )
        metrics[side] = {
            corpus: score([sides[side].utterances[i] for i in rows], probabilities[rows], recipe.labels)
            for corpus in recipe.corpora
            if (rows := [i for i, u in enumerate(sides[side].utterances) if u.corpus == corpus])
        }
    metrics["refused"] = list(validation.refused)
    bare = build_system(recipe)  # without the optimizer, which is twice the size of the weights
    bare.set_weights(model.get_weights())
    bare.save(out / "model.keras")
    _save_reference(recipe, sides, out)
    confusions = {corpus: figures["confusion"] for corpus, figures in metrics[scored[-1]].items()}
    write_json(out / "confusion.json", confusions)
    write_json(out / "metrics.json", metrics)
    write_json(
        out / "environment.json",
        run.state["environment"] | {"backend": backend, "seed": t.seed, "seconds": round(run.state["seconds"], 1)},
    )
    plots.confusion(confusions, out / "confusion.png")
    plots.history(out / "history.jsonl", out / "history.png")
    run.finish()
    return metrics


N_CALIBRATION = 160


def _save_reference(recipe: Recipe, sides: dict[str, FeatureSet], out: Path) -> None:
    """Keep what conversion needs, so that it needs no corpus: which utterances is decided by their names alone."""
    train = sides["train"]
    by_label: dict[str, list[int]] = {label: [] for label in recipe.labels}
    for row in sorted(range(len(train.utterances)), key=lambda i: zlib.crc32(train.utterances[i].key.encode())):
        by_label[train.utterances[row].emotion].append(row)
    pinned = [row for rows in by_label.values() for row in rows[: N_CALIBRATION // len(recipe.labels)]]
    arrays: dict[str, Any] = {}
    for side, rows in (("calibration", pinned), ("validation", range(len(sides["validation"].utterances)))):
        data = train if side == "calibration" else sides[side]
        arrays[f"{side}_names"] = np.array([data.utterances[i].key for i in rows], dtype=str)
        arrays[f"{side}_emotions"] = np.array([data.utterances[i].emotion for i in rows], dtype=str)
        arrays[f"{side}_lengths"] = np.array([len(data.frames[i]) for i in rows], np.int64)
        arrays[f"{side}_frames"] = np.concatenate([data.frames[i] for i in rows])
    np.savez(out / "reference.npz", **arrays)


def load_run(out: Path) -> tuple[Recipe, dict[str, Any], dict[str, dict[str, list[str]]]]:
    """The recipe, metrics and split of a finished run.

    Raises:
        SerkitError: Not a run folder, or not finished.
    """
    try:
        config, metrics, split = (
            json.loads((out / name).read_text(encoding="utf-8"))
            for name in ("config.json", "metrics.json", "split.json")
        )
    except (OSError, json.JSONDecodeError) as error:
        raise SerkitError(f"{out}: not a finished run ({error}); `serkit train RECIPE --out {out}` makes one") from None
    return build(Recipe, config, str(out)), metrics, split


def learned_from(split: dict[str, dict[str, list[str]]]) -> dict[str, list[str]]:
    """Utterances and voices that trained a run or chose its epoch and temperature."""
    return {what: sorted({*split["train"][what], *split["validation"][what]}) for what in ("utterances", "voices")}
