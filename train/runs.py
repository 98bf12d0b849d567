"""A run folder: what a training leaves, and what an interrupted one needs to go on.

=================== ==================================================================================
file                what
=================== ==================================================================================
config.json         the whole recipe
split.json          which recordings trained, validated and tested
history.jsonl       one line per epoch
model.keras         the chosen weights
metrics.json        figures of validation and, but for ``ship-test``, test; calibration temperature
predictions.json    probabilities of every utterance of those sides
reference.npz       features of pinned training utterances (to calibrate int8) and of the validation side (parity)
confusion.json/.png confusion on the test side (of ``ship-test``: validation)
history.png         loss and validation score over the epochs
scale.npz           mean and deviation of its teacher's values, where it has a teacher
environment.json    machine, versions, seed, duration
=================== ==================================================================================
"""

from __future__ import annotations

import importlib
import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from serkit.edge.errors import SerkitError, SettingsError
from serkit.edge.settings import build
from serkit.train.features import FeatureSet
from serkit.train.recipe import Recipe
from serkit.train.teacher import Scale


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


class RunState:
    """The run folder and what an interrupted training needs to go on: one state file that names its checkpoint."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.state_path = out / "state.json"
        self.state: dict[str, Any] = {"epoch": 0, "best_score": -math.inf, "best_epoch": -1, "seconds": 0.0}
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


def run_name(recipe: Recipe) -> str:
    """The folder name a run gets where none is given: what was trained on what, under which protocol."""
    corpora = "+".join(recipe.corpora)
    return f"{recipe.name}-{corpora}-{recipe.split.protocol}-{recipe.split.fold}-{recipe.training.seed}"


def open_run(recipe: Recipe, out: Path) -> RunState:
    """Make the folder, or find the run of the same recipe in it.

    Raises:
        SettingsError: It holds a run of another recipe, or cannot be written.
    """
    config = json.loads(json.dumps(recipe.to_dict()))
    config_path = out / "config.json"
    if config_path.exists() and not same_recipe(recipe, out):
        raise SettingsError(
            f"{out} holds a run of another recipe or schedule; choose another folder (--out or --runs), or delete it"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(config_path, config)
    except OSError as error:
        raise SettingsError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    return RunState(out)


def same_recipe(recipe: Recipe, out: Path) -> bool:
    """Whether a folder holds a run of this very recipe; settings that it is older than have their defaults."""
    path = out / "config.json"
    try:
        theirs = build(Recipe, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, SettingsError, ValueError):
        return False
    return bool(json.loads(json.dumps(theirs.to_dict())) == json.loads(json.dumps(recipe.to_dict())))


#: Training utterances kept for int8 calibration.
N_CALIBRATION = 160


def save_reference(recipe: Recipe, sides: dict[str, FeatureSet], out: Path) -> None:
    """Keep what conversion needs, so that it needs no corpus: which utterances is decided by their names alone."""
    train = sides["train"]
    by_label: dict[str, list[int]] = {label: [] for label in recipe.labels}
    for row in sorted(range(len(train.utterances)), key=lambda i: zlib.crc32(train.utterances[i].key.encode())):
        if train.utterances[row].corpus in recipe.corpora:
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


def read_run(out: Path) -> tuple[Recipe, dict[str, Any], dict[str, dict[str, list[str]]]]:
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


def load_run(out: Path) -> tuple[Recipe, dict[str, Any], dict[str, dict[str, list[str]]]]:
    """`read_run` of a network that names emotions.

    Raises:
        SerkitError: Not a finished run, or its network only imitates a teacher.
    """
    recipe, metrics, split = read_run(out)
    if recipe.teacher.alone:
        raise SerkitError(f"{out}: it imitates a teacher and names no emotion; train a recipe that starts from it")
    return recipe, metrics, split


def _part(out: Path, name: str) -> Path:
    if not (out / name).is_file():
        raise SerkitError(f"{out}: the run has no {name}; copy the whole folder, or train it again")
    return out / name


class Reference:
    """The features a run keeps: ``calibration`` and ``validation``.

    Raises:
        SerkitError: It keeps none.
    """

    def __init__(self, run: Path) -> None:
        with np.load(_part(run, "reference.npz")) as stored:
            self._stored = dict(stored)

    def names(self, side: str) -> list[str]:
        return [str(n) for n in self._stored[f"{side}_names"]]

    def emotions(self, side: str) -> list[str]:
        return [str(e) for e in self._stored[f"{side}_emotions"]]

    def frames(self, side: str) -> list[Any]:
        ends = np.cumsum(self._stored[f"{side}_lengths"])
        return np.split(self._stored[f"{side}_frames"], ends[:-1])


def save_scale(out: Path, scale: Scale) -> None:
    """Keep the scale in which a run says its teacher's values: who starts from it goes on in it."""
    np.savez(out / "scale.npz", **scale._asdict())


def load_scale(out: Path) -> Scale | None:
    """That of a run that learned from a teacher."""
    if not (out / "scale.npz").exists():
        return None
    with np.load(out / "scale.npz") as stored:
        return Scale(**stored)


def load_trained(out: Path) -> Any:
    """The Keras model of a finished run.

    Raises:
        SerkitError: It has none.
    """
    import keras

    path = _part(out, "model.keras")
    importlib.import_module("serkit.train.zoo")  # registers its layers
    return keras.saving.load_model(path, compile=False)


def strangers(split: dict[str, dict[str, list[str]]]) -> bool:
    """Whether nobody who validates a run trained it, or what it started from."""
    trained = {*split["train"]["voices"], *split.get("start", {}).get("trained_voices", [])}
    return trained.isdisjoint(split["validation"]["voices"])


def learned_from(recipe: Recipe, split: dict[str, dict[str, list[str]]]) -> dict[str, list[str] | None]:
    """Voices, and after a random split utterances, that trained a run, what it started from, or chose its epoch.

    Elsewhere a known voice is reason enough not to be scored on, so ``utterances`` is None: all of those voices'.
    """
    random = recipe.split.protocol.startswith("random")
    sides = [split[side] for side in ("train", "validation", "start") if side in split]
    both = {what: sorted({x for side in sides for x in side[what]}) for what in ("utterances", "voices")}
    return {"voices": both["voices"], "utterances": both["utterances"] if random else None}
