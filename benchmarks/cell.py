"""One graph on one engine, in a process of its own that has loaded nothing else and may crash.

Times are processor time: what one thread needs, whoever else uses the machine.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.engine import ENGINES, Engine
from serkit.edge.errors import SerkitError
from serkit.edge.stderr import muted

_LOADS, _WARM_UP = 5, 10


def measure(
    graph: Path, reference: Path | None, windows: npt.NDArray[np.float32], hop_frames: int, engine: str, rounds: int
) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """Load, score every window, and time graph and reference in turn, one thread, one window each per round.

    A graph with an encoder is timed as in a stream, where a window brings one new hop.

    Args:
        graph: The TFLite file.
        reference: What it is compared with; None where there is nothing.
        windows: Normalised, ``(n, input_frames, n_features)``.
        hop_frames: Step from one window of a stream to the next.
        engine: Key of `serkit.edge.engine.ENGINES`.
        rounds: Counted, after a warm-up.

    Returns:
        ``load_ms`` (median of several), ``memory_mb`` (resident, of loading and invoking), ``peak_mb`` (the most it was
        on the way), ``median_ms``, ``p95_ms``, ``ratio`` (median over rounds of the graph's time by the reference's),
        ``state_dlogit`` (largest change of a window's logits by the window before it, where variables are not reset);
        and the logits ``(n, n_labels)``.
    """
    with muted():
        importlib.import_module(ENGINES[engine])
    resident = _memory_mb("VmRSS", reset_peak=True)
    data = graph.read_bytes()
    tested = Engine(data, hop_frames, engine)
    logits = tested.batch_logits(windows)
    memory, peak = _memory_mb("VmRSS"), _memory_mb("VmHWM")
    figures: dict[str, Any] = {
        "load_ms": round(statistics.median(_load_ms(data, hop_frames, engine) for _ in range(_LOADS)), 3),
        "memory_mb": None if memory is None or resident is None else round(memory - resident, 2),
        "peak_mb": None if peak is None or resident is None else round(peak - resident, 2),
        "state_dlogit": float(f"{_state(tested, windows):.3g}"),
    }
    compared = [tested] if reference is None else [tested, Engine(reference.read_bytes(), hop_frames, engine)]
    times = np.empty((_WARM_UP + rounds, len(compared)))
    for i in range(len(times)):
        for j, one in enumerate(compared):
            window = windows[i % len(windows)]
            started = time.process_time()
            one.logits(window, hop=i)
            times[i, j] = (time.process_time() - started) * 1e3
    times = times[_WARM_UP:]
    figures |= {
        "median_ms": round(float(np.median(times[:, 0])), 4),
        "p95_ms": round(float(np.percentile(times[:, 0], 95)), 4),
        "ratio": round(float(np.median(times[:, 0] / times[:, -1])), 3) if len(compared) > 1 else None,
    }
    return figures, logits


def _load_ms(data: bytes, hop_frames: int, engine: str) -> float:
    started = time.process_time()
    Engine(data, hop_frames, engine)
    return (time.process_time() - started) * 1e3


def _state(engine: Engine, windows: npt.NDArray[np.float32]) -> float:
    """How far a window's logits go when another window came before and nothing was reset between them."""
    first, other = windows[0], windows[-1]
    alone = engine.logits(first)
    reset, engine._interpreter.reset_all_variables = engine._interpreter.reset_all_variables, lambda: None
    engine.logits(other)
    after = engine.logits(first)
    engine._interpreter.reset_all_variables = reset
    return float(np.max(np.abs(after - alone)))


def _memory_mb(what: str, reset_peak: bool = False) -> float | None:
    """A line of /proc/self/status in MiB; None where there is no such file."""
    try:
        if reset_peak:
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def _child(folder: Path, graph: str, reference: str, hop_frames: int, engine: str, rounds: int) -> None:
    windows = np.load(folder / "windows.npy")
    try:
        figures, logits = measure(
            Path(graph), Path(reference) if reference else None, windows, hop_frames, engine, rounds
        )
    except SerkitError as error:
        sys.exit(str(error))
    np.save(folder / "logits.npy", logits)
    (folder / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    _child(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
