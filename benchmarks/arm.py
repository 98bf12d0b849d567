"""Without a board: do the models answer the same on aarch64, and what would listening cost a Raspberry Pi?

`deploy/arm/emulate` runs the same program there as here and the answers are compared. QEMU counts instructions but no
cycles, so the load of a board is an estimate: instructions per second of audio, divided by the clock and by an assumed
number of instructions per cycle.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import CorpusError, SettingsError
from serkit.train.corpora import CORPORA, read_corpus

ROOT = Path(__file__).resolve().parent.parent
EMULATE = ROOT / "deploy" / "arm" / "emulate"
CLIP = ROOT / "edge" / "demo" / "clip.flac"

#: Engine to the environment of `deploy/arm/emulate` that has it.
ENVIRONMENTS = {"litert": "edge", "tflite-runtime": "both"}
RECORDINGS = 2  # of each corpus
STRETCH_S = 4.0  # of speech, a whole number of hops


@dataclass(frozen=True)
class Core:
    """A processor core, as QEMU names it.

    Attributes:
        name: For QEMU.
        decode_width: Instructions it decodes per cycle at most; rough
    """

    name: str
    decode_width: int

    @property
    def instructions_per_cycle(self) -> tuple[float, float]:
        """Assumed: a fifth to a half of what the core decodes. Measured on a Cortex-A53, a CRC-32 loop in its caches
        reaches 1.05 of 2 (systemonchips.com, "Optimizing ARM Cortex-A53 IPC for CRC32"), code that waits for memory
        far less."""
        return 0.2 * self.decode_width, 0.5 * self.decode_width


A53, A72, A76 = Core("cortex-a53", 2), Core("cortex-a72", 3), Core("cortex-a76", 4)
CORES = {core.name: core for core in (A53, A72, A76)}
#: Board to its core and clock, GHz.
BOARDS = {
    "Raspberry Pi Zero 2 W": (A53, 1.0),
    "Raspberry Pi 3B+": (A53, 1.4),
    "Raspberry Pi 4": (A72, 1.5),
    "Raspberry Pi 4 (newer)": (A72, 1.8),
    "Raspberry Pi 5": (A76, 2.4),
}

Row = dict[str, Any]


def measure(data: Path | None, cores: list[str], progress: Callable[[Row], None]) -> list[Row]:
    """Compare answers, count instructions, estimate loads; takes half an hour.

    Args:
        data: Folder of corpora, of which some recordings are compared beside the demo's clip.
        cores: Keys of `CORES`.
        progress: Called with each row.

    Returns:
        Rows told apart by ``measure``: ``answers``, ``instructions``, ``load``, and ``failure`` where an engine crashes
        on an emulated core.

    Raises:
        SettingsError: The emulation cannot be had here; the message is its own.
    """
    _emulate("build", *ENVIRONMENTS.values())
    rows = []
    for row in itertools.chain(_answers(data), _instructions(cores)):
        rows.append(row)
        progress(row)
    for row in _loads(rows):
        rows.append(row)
        progress(row)
    return rows


class _Crash(SettingsError):
    """The emulated program was ended by a signal."""


def _emulate(*arguments: str, core: str = A72.name) -> subprocess.CompletedProcess[str]:
    if not EMULATE.exists():
        raise SettingsError("the emulation is not part of the installed serkit; run this in a checkout of its source")
    environment = os.environ | {"QEMU_CPU": core}
    done = subprocess.run([str(EMULATE), *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        died = -done.returncode if done.returncode < 0 else done.returncode - 128  # the latter is a shell's word for it
        if died in {s.value for s in signal.Signals}:
            raise _Crash(f"deploy/arm/emulate {arguments[0]}: the program was ended by {signal.Signals(died).name}")
        raise SettingsError(f"deploy/arm/emulate {arguments[0]}: {lines[-1]}")
    return done


def _recordings(data: Path | None) -> Iterator[tuple[Path, str]]:
    """Each recording's path here and in the emulated root: the clip, and some of each corpus there is."""
    yield CLIP, f"/src/{CLIP.relative_to(ROOT)}"
    if data is None:
        return
    for corpus in CORPORA:
        try:
            found = read_corpus(corpus, data)
        except CorpusError:
            continue
        for utterance in found[:: max(1, len(found) // RECORDINGS)][:RECORDINGS]:
            yield utterance.path, f"/data/{utterance.path.relative_to(data)}"


def _answers(data: Path | None) -> Iterator[Row]:
    recordings = list(_recordings(data))
    for engine, environment in ENVIRONMENTS.items():
        program = ["-m", "serkit.benchmarks.answers", engine]
        here = subprocess.run(
            [sys.executable, *program, *(str(path) for path, _ in recordings)], capture_output=True, text=True
        )
        if here.returncode:
            raise SettingsError(f"{engine} does not run here: {here.stderr.strip().splitlines()[-1]}")
        there = _emulate("python", environment, *program, *(path for _, path in recordings))
        yield from compare(json.loads(here.stdout), json.loads(there.stdout), engine)


def compare(here: dict[str, Any], there: dict[str, Any], engine: str) -> list[Row]:
    """How close two machines' answers are, per model.

    Args:
        here: What `serkit.benchmarks.answers.answers` gave on one machine.
        there: On the other, for the same models and recordings.
        engine: Which was used.

    Returns:
        Rows with the share of samples and of front-end values that are equal to the bit, the largest distance of two
        values in units in the last place (ulp, float32) and in nepers, the share of windows with the same label and
        with the same logits, and the largest distance of two logits and of two probabilities.
    """
    rows = []
    for model in dict.fromkeys(w["model"] for w in here["windows"]):
        chosen = [i for i, w in enumerate(here["windows"]) if w["model"] == model]
        samples, frames = (
            [np.concatenate([_decoded(side["heard"][i][part]) for i in chosen]) for side in (here, there)]
            for part in (0, 1)
        )
        probabilities = [
            np.concatenate([side["windows"][i]["probabilities"] for i in chosen]) for side in (here, there)
        ]
        if probabilities[0].shape != probabilities[1].shape:
            raise SettingsError(f"{model}: the machines do not score the same windows")
        first = here["windows"][chosen[0]]
        logits = [first["temperature"] * _centred(p) for p in probabilities]
        far = np.abs(logits[0] - logits[1]).max(axis=1)
        rows.append(
            {
                "measure": "answers",
                "model": model,
                "format": first["format"],
                "engine": engine,
                "architectures": [here["architecture"], there["architecture"]],
                "versions": [here["versions"], there["versions"]],
                "recordings": len(chosen),
                "same_samples": float(np.mean(samples[0] == samples[1])),
                "same_frame_values": float(np.mean(frames[0] == frames[1])),
                "frames_largest_ulp": int(ulps(frames[0], frames[1]).max()),
                "frames_largest_difference": float(np.abs(frames[0] - frames[1]).max()),
                "windows": len(far),
                "same_labels": float(np.mean(probabilities[0].argmax(axis=1) == probabilities[1].argmax(axis=1))),
                "same_logits": float(np.mean(far < 1e-9)),
                "logits_largest_difference": float(far.max()),
                "probabilities_largest_difference": float(np.abs(probabilities[0] - probabilities[1]).max()),
            }
        )
    return rows


def _decoded(text: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4")


def _centred(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logits up to what the softmax forgets, their mean; the model's own steps survive, as after int8."""
    logits = np.log(probabilities)
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def ulps(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """How many float32 numbers two arrays are apart.

    >>> ulps(np.float32([1, 0.0]), np.nextafter(np.float32([1, -0.0]), np.float32([2, -1]))).tolist()
    [1, 1]
    """

    def place(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        bits = x.view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return np.abs(place(a) - place(b))


def _instructions(cores: list[str]) -> Iterator[Row]:
    clip = f"/src/{CLIP.relative_to(ROOT)}"
    for core, (engine, environment) in itertools.product(cores, ENVIRONMENTS.items()):
        program = ["-m", "serkit.benchmarks.instructions", engine, clip, str(STRETCH_S)]
        try:
            done = _emulate("count", environment, *program, core=core)
        except _Crash as error:  # tflite-runtime 2.14 crashes on an emulated Cortex-A76
            yield {"measure": "failure", "core": core, "engine": engine, "error": str(error)}
            continue
        for row in stages(done.stdout, done.stderr):
            yield {"measure": "instructions", "core": core, **row}


def stages(output: str, marks: str) -> list[Row]:
    """Instructions per second of audio of each stage of `serkit.benchmarks.instructions`, and of each model alone.

    Args:
        output: Its standard output.
        marks: Its standard error, where the counter writes at each mark.
    """
    counts = np.array(re.findall(r"^instructions (\d+) vector (\d+)$", marks, re.MULTILINE), np.int64)
    rows: list[Row] = []
    for i, line in enumerate(output.splitlines()):
        started, once, twice = counts[3 * i : 3 * i + 3]
        instructions, vector = (int(n) for n in (twice - once) - (once - started))
        row = json.loads(line)
        per_second = round(instructions / row["seconds"])
        rows.append({**row, "instructions_per_s": per_second, "vector_share": round(vector / instructions, 3)})
    by = {(row["model"], row["stage"]): row for row in rows}
    for (model, stage), windows in by.items():
        if stage == "windows":
            cost = windows["instructions_per_s"] - by[model, "front end"]["instructions_per_s"]
            per_window = round(cost * windows["seconds"] / windows["scored"])
            alone = {k: v for k, v in windows.items() if k != "vector_share"}
            rows.append(alone | {"stage": "model", "instructions_per_s": cost, "instructions_per_window": per_window})
    return rows


def _loads(rows: list[Row]) -> Iterator[Row]:
    """Of every board, each way to listen: an estimate of the share of one core."""
    for board, (core, ghz) in BOARDS.items():
        for row in rows:
            if row["measure"] == "instructions" and row["core"] == core.name and row["stage"].startswith("listen"):
                low, high = core.instructions_per_cycle
                cycles = row["instructions_per_s"] / (ghz * 1e9)
                yield {
                    "measure": "load",
                    "estimate": True,
                    "board": board,
                    "core": core.name,
                    "clock_ghz": ghz,
                    "assumed_instructions_per_cycle": [round(low, 2), round(high, 2)],
                    "model": row["model"],
                    "engine": row["engine"],
                    "stage": row["stage"],
                    "share_of_one_core": [round(cycles / high, 4), round(cycles / low, 4)],
                }


def described(row: Row) -> str:
    """A row as a line for people."""
    if row["measure"] == "answers":
        return (
            f"{row['model']:<18} {row['engine']:<15} {row['windows']:>4} windows  same label {row['same_labels']:.1%}  "
            f"same logits {row['same_logits']:.1%}, at most {row['logits_largest_difference']:.2g} apart  "
            f"same front-end values {row['same_frame_values']:.2%}, at most {row['frames_largest_ulp']} ulp apart"
        )
    if row["measure"] == "failure":
        return f"{row['core']:<24} {row['engine']}: not counted, {row['error']}"
    what = f"{row['model']:<18} {row['engine']:<15} {row['stage']:<15}"
    if row["measure"] == "instructions":
        return f"{row['core']:<24} {what} {row['instructions_per_s'] / 1e6:8.1f} million instructions per s of audio"
    low, high = row["share_of_one_core"]
    return f"{row['board']:<24} {what} {low:6.1%} to {high:.1%} of one core (an estimate)"
