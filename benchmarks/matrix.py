"""Every model in every format, LSTM form and engine: what it weighs, what it costs, how far it strays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkit.benchmarks.hops import CLIP
from serkit.convert.export import FORMATS, TRIED, export_into
from serkit.convert.lstm import LSTM_FORMS, is_recurrent
from serkit.convert.parity import LIMITS, parity, strays
from serkit.edge.audio import read_audio
from serkit.edge.engine import ENGINES
from serkit.edge.errors import ModelError, SettingsError
from serkit.edge.frontend import features
from serkit.train.build import build_system
from serkit.train.environment import environment
from serkit.train.fit import load_sides, split_for
from serkit.train.recipe import Recipe, read_recipe
from serkit.train.runs import Reference, load_run, load_trained, write_json
from serkit.train.scoring import keras_logits, window_utterances

#: Windows that show int8 the range of every activation, and validation utterances that are compared with Keras.
N_CALIBRATION, N_UTTERANCES = 100, 40
#: Seconds after which an engine counts as hung.
PATIENCE_S = 600
_SEED = 0
_PASSING = ("load", "temperature_c")  # of a machine: they are others a moment later

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class MatrixSettings:
    """What is measured.

    Attributes:
        formats: Keys of `serkit.convert.export.FORMATS` and `TRIED`.
        lstm: Keys of `serkit.convert.lstm.LSTM_FORMS`, for models that have an LSTM.
        rounds: Windows timed in each cell.
        data: Folder of the corpora: compares on all of the runs' test sides, not on some of their validation sides.
    """

    formats: tuple[str, ...] = (*FORMATS, *TRIED)
    lstm: tuple[str, ...] = tuple(LSTM_FORMS)
    rounds: int = 100
    data: Path | None = None

    def __post_init__(self) -> None:
        for what, given, known in (
            ("format", self.formats, (*FORMATS, *TRIED)),
            ("LSTM form", self.lstm, tuple(LSTM_FORMS)),
        ):
            if unknown := sorted(set(given) - set(known)):
                raise SettingsError(f"no {what} {unknown[0]!r}; choose one of {', '.join(known)}")


def measure(
    models: Sequence[str], settings: MatrixSettings, kept: Sequence[Row], shown: Callable[[Row, list[Row]], None]
) -> list[Row]:
    """One row per model, format, LSTM form and engine.

    Args:
        models: Finished run folders, and names of recipes, which are measured untrained.
        settings: What is measured.
        kept: Rows that need no repeating, see `kept_rows`.
        shown: Called with each new row, and with all rows so far.

    Returns:
        Rows with ``model, recipe, system, trained, n_parameters, format, lstm`` (None without an LSTM), ``engine,
        threads, rounds, size_bytes, n_operators, operators`` (kind to count), the figures of
        `serkit.benchmarks.cell.measure`, ``ratio_to``, ``keeps_state``, ``side, n_utterances, n_windows, max_abs_dp,
        mean_abs_dp, window_label_agreement`` and, of a trained model, ``utterance_label_agreement, uar_keras, uar,
        uar_change, refused`` (`serkit convert` would not write it). ``error`` where converter or engine fail.

    Raises:
        SerkitError: A run is not finished, or there is no such recipe.
    """
    done = {_key(row): row for row in kept}
    rows: list[Row] = []
    for model in models:
        with tempfile.TemporaryDirectory() as temporary:
            for row in _Model(model, settings, Path(temporary)).rows(done):
                rows.append(row)
                if _key(row) not in done:
                    shown(row, [*rows, *(r for r in kept if r not in rows)])
    return rows


def kept_rows(out: Path) -> list[Row]:
    """Rows of a results file made by this very code, machine and environment; none where anything differs."""
    if not out.is_file():
        return []
    found, here = json.loads(out.read_text(encoding="utf-8")), environment()
    same = found.get("benchmark") == "matrix" and _lasting(found) == _lasting(here)
    return found["rows"] if same and not str(here["commit"]).endswith("-dirty") else []


def _lasting(environment: dict[str, Any]) -> list[Any]:
    machine = {k: v for k, v in environment["machine"].items() if k not in _PASSING}
    return [environment["commit"], machine, environment["versions"]]


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("model", "format", "lstm", "engine", "rounds", "side"))


class _Model:
    """One model, converted in ``folder`` and compared with Keras."""

    def __init__(self, model: str, settings: MatrixSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.trained = Path(model).is_dir()
        self.run = Path(model) if self.trained else untrained_run(read_recipe(model), folder / "run")
        self.recipe, self.metrics, _ = load_run(self.run)
        self.keras = load_trained(self.run)
        self.side = "validation" if settings.data is None or not self.trained else "test"
        self.about = {
            "model": self.run.resolve().name if self.trained else self.recipe.name,
            "recipe": self.recipe.name,
            "system": self.recipe.system,
            "trained": self.trained,
            "n_parameters": self.metrics["n_parameters"],
        }

    def rows(self, done: dict[tuple[Any, ...], Row]) -> Any:
        """Every row, those of ``done`` unmeasured."""
        todo = {
            form: {f: [self._row(f, form, e) for e in ENGINES] for f in self.settings.formats}
            for form in (self.settings.lstm if is_recurrent(self.keras) else (None,))
        }
        wanted = {
            form: [f for f, cells in formats.items() if any(_key(c) not in done for c in cells)]
            for form, formats in todo.items()
        }
        if any(wanted.values()):
            self._compare_on()
            plain = "unrolled" if "unrolled" in todo or None not in todo else None
            self.graphs = {plain: self._convert(plain, ["float32", *wanted.pop(plain, [])])}
            self.reference = self.graphs[plain]["float32"]
        for form, formats in todo.items():
            if wanted.get(form):
                self.graphs[form] = self._convert(form, wanted[form])
            for format, cells in formats.items():
                for cell in cells:
                    yield done[_key(cell)] if _key(cell) in done else self._measured(cell, self.graphs[form][format])

    def _row(self, format: str, lstm: str | None, engine: str) -> Row:
        where = {"format": format, "lstm": lstm, "engine": engine, "threads": 1}
        return {**self.about, **where, "rounds": self.settings.rounds, "side": self.side}

    def _compare_on(self) -> None:
        recipe, reference = self.recipe, Reference(self.run)
        if self.side == "test":
            assert self.settings.data is not None
            side = load_sides(split_for(recipe, self.settings.data), recipe, self.settings.data, self.run, None)["test"]
            frames, self.emotions = list(side.frames), [u.emotion for u in side.utterances]
        else:
            every = -(-len(reference.emotions("validation")) // N_UTTERANCES)
            frames, self.emotions = (reference.frames("validation")[::every], reference.emotions("validation")[::every])
        self.windows = window_utterances(frames, recipe.frontend, recipe.window)
        calibration = window_utterances(reference.frames("calibration"), recipe.frontend, recipe.window).inputs
        self.calibration = calibration[:: -(-len(calibration) // N_CALIBRATION)]
        self.keras_logits = keras_logits(self.keras)(self.windows.inputs)
        np.save(self.folder / "windows.npy", self.windows.inputs)

    def _convert(self, lstm: str | None, formats: Sequence[str]) -> dict[str, Path | str]:
        """The file of each format, or why there is none; a crash costs one format, not those after it."""
        folder = self.folder / str(lstm)
        folder.mkdir()
        found: dict[str, Path | str] = {}
        left = list(dict.fromkeys(formats))
        while left:
            error = ""
            try:
                export_into(folder, self.run, left, self.calibration, lstm or "unrolled")
            except ModelError as refused:
                error = str(refused).replace(f"{self.run}: ", "")
            found |= {f: folder / f"{f}.tflite" for f in left if (folder / f"{f}.tflite").exists()}
            left = [f for f in left if f not in found]
            if left:
                found[left.pop(0)] = error
        return found

    def _measured(self, row: Row, graph: Path | str) -> Row:
        if isinstance(graph, str):
            return {**row, "error": graph}
        operators = count_operators(graph.read_bytes())
        row = {
            **row,
            "size_bytes": graph.stat().st_size,
            "n_operators": sum(operators.values()),
            "operators": dict(operators.most_common()),
        }
        compared = self.reference if isinstance(self.reference, Path) and self.reference != graph else ""
        command = [sys.executable, "-m", "serkit.benchmarks.cell", self.folder, graph, compared]
        try:
            child = subprocess.run(
                [*map(str, command), str(self.recipe.window.hop_frames), row["engine"], str(self.settings.rounds)],
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
        except subprocess.TimeoutExpired:
            return {**row, "error": f"the engine did not finish in {PATIENCE_S} s"}
        if child.returncode < 0:
            return {**row, "error": f"the engine crashed ({signal.Signals(-child.returncode).name})"}
        if child.returncode:
            return {**row, "error": (child.stderr.strip().splitlines() or ["no message"])[-1]}
        figures = json.loads((self.folder / "figures.json").read_text(encoding="utf-8"))
        if graph == self.reference:
            figures["ratio"] = 1.0
        row |= {**figures, "ratio_to": "float32" + (", unrolled" if row["lstm"] else "")}
        row["keeps_state"] = row["state_dlogit"] > 0
        t, labels = self.metrics["temperature"], self.recipe.labels
        logits = np.load(self.folder / "logits.npy")
        report = parity(self.keras_logits, logits, self.windows, self.emotions, labels, t)
        if self.trained:
            return row | report | {"refused": row["format"] in LIMITS and strays(report, row["format"])}
        told = ("n_utterances", "n_windows", "max_abs_dp", "mean_abs_dp", "window_label_agreement")
        return row | {k: report[k] for k in told}


def untrained_run(recipe: Recipe, folder: Path) -> Path:
    """A run folder as far as conversion needs one: first weights, seed 0, and the demo clip for recordings."""
    import keras

    folder.mkdir()
    keras.utils.set_random_seed(_SEED)
    model = build_system(recipe)
    model.save(folder / "model.keras")
    write_json(folder / "config.json", recipe.to_dict())
    write_json(folder / "metrics.json", {"temperature": 1.0, "n_parameters": model.count_params(), "seed": _SEED})
    write_json(folder / "split.json", {})
    frames = features(read_audio(CLIP, recipe.frontend.sample_rate), recipe.frontend)
    reference: dict[str, Any] = {}
    for side in ("calibration", "validation"):
        reference[f"{side}_names"], reference[f"{side}_emotions"] = np.array(["clip"]), np.array([recipe.labels[0]])
        reference[f"{side}_lengths"], reference[f"{side}_frames"] = np.array([len(frames)]), frames
    np.savez(folder / "reference.npz", **reference)
    return folder


def count_operators(graph: bytes) -> Counter[str]:
    """How often each kind of operator is in a flatbuffer, the bodies of loops included.

    Args:
        graph: A TFLite flatbuffer; what follows it does not matter.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    model = schema.Model.GetRootAs(graph, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    kinds = [names[max(c.BuiltinCode(), c.DeprecatedBuiltinCode())] for c in codes]
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return Counter(kinds[g.Operators(i).OpcodeIndex()] for g in graphs for i in range(g.OperatorsLength()))


def plot(rows: Sequence[Row], path: Path) -> None:
    """Size against latency, a marker per format, a colour per LSTM form, an engine on each side."""
    from matplotlib.figure import Figure

    markers = dict(zip((*FORMATS, *TRIED), "os^Dx", strict=True))
    colours = {None: "tab:gray", "unrolled": "tab:blue", "fused": "tab:orange", "while": "tab:green"}
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axis, engine in zip(figure.subplots(1, 2, sharex=True, sharey=True), ENGINES, strict=True):
        for row in (r for r in rows if r["engine"] == engine and "error" not in r):
            marker, colour = markers[row["format"]], colours[row["lstm"]]
            axis.plot(row["size_bytes"] / 1e3, row["median_ms"], marker, color=colour, alpha=0.7)
        axis.set(xscale="log", yscale="log", title=engine, xlabel="size, kB", ylabel="ms per window, one thread")
    for name, marker in markers.items():
        axis.plot([], [], marker, color="k", label=name)
    for form, colour in colours.items():
        axis.plot([], [], "s", color=colour, label="no LSTM" if form is None else f"LSTM {form}")
    axis.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=110)
