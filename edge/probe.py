"""Try a model in a process of its own, which may crash, hang or eat all memory without taking us along.

A bundle carries the logits that its converted graph gave for a few golden windows. Their sound is made by a formula,
so that front end, engine and graph are all tried by what this machine computes itself.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.bundle import Bundle, parse_bundle, read_bundle
from serkit.edge.engine import available_engines
from serkit.edge.errors import ModelError, SerkitError
from serkit.edge.frontend import Frontend, features
from serkit.edge.stream import Recognizer
from serkit.edge.window import normalise, softmax

TIME_LIMIT_S = 120.0
MEMORY_LIMIT = 1 << 30  # bytes of address space, most of it libraries
#: Largest share of a hop that a window may take here, for sinks and other programs need time as well.
LOAD_LIMIT = 0.5
_NOBODY = 65534
_PITCHES_HZ = (100.0, 150.0, 220.0, 320.0)
_TIMED_S = 0.2
#: How far a probability may be from the golden one, by format: engines and processors round each in their own way.
#: Between LiteRT and tflite-runtime the shipped models differ by 0.0000002 (dynamic) and 0.035 (int8, one step of it).
TOLERANCE = {"float32": 0.002, "float16": 0.01, "dynamic": 0.05, "int8": 0.1}


@dataclass(frozen=True)
class Health:
    """What a model showed in its child process.

    Attributes:
        engine: That ran it.
        load: Share of a hop that a window takes, processor time.
        deviation: Largest distance of a probability from its golden value.
    """

    engine: str
    load: float
    deviation: float


def golden_logits(recognizer: Recognizer) -> npt.NDArray[np.float32]:
    """A model's logits of the golden windows, ``(n, n_labels)``."""
    settings, window = recognizer.bundle.frontend, recognizer.bundle.window
    t = np.arange(settings.n_samples(window.input_frames)) / settings.sample_rate
    rows = []
    for pitch in _PITCHES_HZ:  # a voice that glides up an eighth in a second, in syllables
        phase = 2 * np.pi * pitch * (t + t * t / 16)
        buzz = sum(np.sin(k * phase) / k for k in range(1, 9))
        samples = 0.1 * buzz * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * t))
        frames = features(samples.astype(np.float32), settings)[: window.input_frames]
        rows.append(recognizer.engine.logits(normalise(frames, window)))
    return np.stack(rows)


def probe(bundle: Bundle, time_limit_s: float = TIME_LIMIT_S, engine: str = "auto") -> Health:
    """Load a verified model in a child process, and compare what it answers with its golden windows.

    Raises:
        ModelError: It crashes, hangs, needs too much memory, answers otherwise than where it was made, or is too slow.
    """
    command = [sys.executable, "-m", "serkit.edge.probe", bundle.path.name, engine]
    quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)  # the child starts in another folder
    try:
        child = subprocess.run(
            command,
            input=bundle.data,
            capture_output=True,
            timeout=time_limit_s,
            cwd="/",
            env=os.environ | quiet | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{bundle.path.name}: did not answer within {time_limit_s:g} s in a test") from None
    except OSError as error:
        raise ModelError(f"{bundle.path.name}: cannot be tested ({error.strerror}); free some memory") from None
    if child.returncode < 0:
        number = -child.returncode
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        raise ModelError(f"{bundle.path.name}: crashed the engine ({name}) in a test; convert it again")
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        why = (child.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{bundle.path.name}: ended its test without an answer ({why}); convert it again") from None
    if "refused" in answer:
        raise ModelError(f"{bundle.path.name}: {answer['refused'].removeprefix(f'{bundle.path.name}: ')}")
    return Health(**answer)


def _limit(memory: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(TIME_LIMIT_S)),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(OSError, ValueError):  # one that is lower already, or that this system has not
            resource.setrlimit(kind, (limit, limit))


def _give_up_root() -> None:
    """Root's child becomes nobody, once what it may not read any more is loaded: Python, numpy and the engine.

    Raises:
        ModelError: It cannot.
    """
    if os.geteuid() != 0:
        return
    available_engines()
    read_bundle("default")  # for what Python loads late
    try:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    except OSError as error:
        raise ModelError(f"root cannot become nobody for a test ({error.strerror}); run this as another user") from None


def _try(data: bytes, name: str, engine: str) -> Health:
    """In the child."""
    recognizer = Recognizer(bundle := parse_bundle(data, Path(name), ""), engine)
    golden = np.asarray(bundle.info["golden"], np.float64)
    logits = golden_logits(recognizer)
    if golden.shape != logits.shape:
        raise ModelError(f"{name}: golden logits of shape {golden.shape}, {logits.shape} are needed; convert it again")
    deviation = float(np.max(np.abs(softmax(logits, bundle.temperature) - softmax(golden, bundle.temperature))))
    limit = TOLERANCE.get(bundle.format, min(TOLERANCE.values()))
    if not deviation <= limit:
        raise ModelError(
            f"{name}: answers otherwise than where it was converted (a probability is off by {deviation:.2g}, at most "
            f"{limit:g} is allowed for {bundle.format}); convert it again"
        )
    load = _load(recognizer)
    if load > LOAD_LIMIT:
        raise ModelError(
            f"{name}: takes {load:.0%} of its hop here, at most {LOAD_LIMIT:.0%} is allowed; it is too slow"
        )
    return Health(recognizer.engine.name, round(load, 5), round(deviation, 5))


def _load(recognizer: Recognizer) -> float:
    """Processor time of front end and engine, as a share of a hop; other programs do not count."""
    f, w = recognizer.bundle.frontend, recognizer.bundle.window
    frontend = Frontend(f)
    samples = np.zeros(w.hop_frames * f.hop_length, np.float32)
    window = np.zeros((w.input_frames, f.n_features), np.float32)
    hop, spent_s, began_s = 0, 0.0, time.process_time()
    while spent_s < _TIMED_S:  # many hops: some clocks advance by hundredths of a second
        frontend.push(samples)
        recognizer.score(window, hop)
        hop, spent_s = hop + 1, time.process_time() - began_s
    return spent_s / hop * f.sample_rate / len(samples)


def main() -> None:
    """The child: a bundle's bytes on stdin, its name and the engine as arguments, one line of JSON out."""
    _limit(MEMORY_LIMIT)
    try:
        _give_up_root()
        answer: dict[str, Any] = vars(_try(sys.stdin.buffer.read(), *sys.argv[1:]))
    except (SerkitError, MemoryError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        message = str(error) if isinstance(error, SerkitError) else f"{sys.argv[1]}: {error or type(error).__name__}"
        answer = {"refused": message}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
