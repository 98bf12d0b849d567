"""`serkit listen` from nothing to its first window, stage by stage: the time and the memory each one takes.

`python -m serkit.benchmarks.stages MODEL ENGINE` is the child that goes through them; every line it writes is one
stage's JSON. Python itself comes first; what a later stage imports too is counted where it was imported first.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serkit.edge.errors import SettingsError

_KB = {"Rss": "rss_kb", "Pss": "pss_kb", "Anonymous": "anonymous_kb"}


def memory(pid: int | str = "self") -> dict[str, int]:
    """What a process holds: ``rss_kb`` (all its pages in memory), ``pss_kb`` (shared ones by halves, thirds, ...) and
    ``anonymous_kb`` (its own data, which no file backs).

    Raises:
        SettingsError: The kernel does not tell.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        raise SettingsError(f"no /proc/{pid}/smaps_rollup; memory can be measured on Linux from 4.14 only") from None
    found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return {ours: found[name] for name, ours in _KB.items()}


def run_stages(model: str, engine: str = "auto") -> list[dict[str, Any]]:
    """Go through the stages in a fresh process.

    Returns:
        One row per stage, in order: ``stage, seconds, cpu_s`` and, at its end, ``threads`` and the figures of `memory`.
    """
    import subprocess  # not in the child, whose memory is looked at

    from serkit.benchmarks.listening import as_installed

    started = time.monotonic()  # one clock for all processes
    child = subprocess.run(
        [sys.executable, "-m", "serkit.benchmarks.stages", model, engine],
        capture_output=True,
        text=True,
        env=as_installed(),
    )
    if child.returncode:
        raise SettingsError((child.stderr.strip().splitlines() or ["the stages ended early"])[-1])
    rows = [json.loads(line) for line in child.stdout.splitlines()]
    for row in rows:
        ended = row.pop("at_s")
        row["seconds"], started = round(ended - started, 4), ended
    return rows


def _stages(model: str, engine: str) -> list[tuple[str, Callable[[dict[str, Any]], None]]]:
    """What is done, by name; each works on what the ones before it left."""

    def load(*modules: str) -> Callable[[dict[str, Any]], None]:
        def imports(kept: dict[str, Any]) -> None:
            for module in modules:
                importlib.import_module(module)

        return imports

    def engine_library(kept: dict[str, Any]) -> None:
        from serkit.edge.engine import ENGINES

        for name, module in ENGINES.items():
            if engine in ("auto", name):
                try:
                    importlib.import_module(module)
                    return
                except ImportError:
                    continue

    def model_file(kept: dict[str, Any]) -> None:
        from serkit.edge.bundle import read_bundle

        kept["bundle"] = read_bundle(model)

    def graph(kept: dict[str, Any]) -> None:
        from serkit.edge.stream import Recognizer

        kept["recognizer"] = Recognizer(kept["bundle"], engine)

    def voice_gate(kept: dict[str, Any]) -> None:
        from serkit.edge.decision import Decision, DecisionSettings
        from serkit.edge.vad import VoiceGate

        bundle = kept["bundle"]
        kept["gate"] = VoiceGate(bundle.frontend.sample_rate)
        kept["decision"] = Decision(bundle.labels, bundle.name, DecisionSettings())

    def first_window(kept: dict[str, Any]) -> None:
        import numpy as np

        f, w = kept["bundle"].frontend, kept["bundle"].window
        audio = np.random.default_rng(0).standard_normal(w.n_frames * f.hop_length + f.win_length).astype(np.float32)
        for window in kept["recognizer"].windows([0.1 * audio[i : i + 512] for i in range(0, len(audio), 512)]):
            kept["decision"].window(window.time_s, window.probabilities)
            return

    return [
        ("command line", load("serkit.edge.cli")),
        ("numpy", load("numpy")),
        ("audio files", load("soundfile", "soxr")),
        ("signatures", load("serkit.edge.signature")),
        ("serkit", load("serkit.edge.config", "serkit.edge.events", "serkit.edge.listener")),
        ("engine", engine_library),
        ("model file", model_file),
        ("graph", graph),
        ("voice gate", voice_gate),
        ("first window", first_window),
    ]


def _child(model: str, engine: str) -> None:
    lines: list[dict[str, Any]] = []

    def done(stage: str) -> None:
        threads = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("Threads"))
        lines.append(
            {
                "stage": stage,
                "at_s": time.monotonic(),
                "cpu_s": round(time.process_time(), 4),
                "threads": int(threads.split()[1]),
                **memory(),
            }
        )

    done("python")
    kept: dict[str, Any] = {}
    for name, stage in _stages(model, engine):
        stage(kept)
        done(name)
    for i in range(len(lines) - 1, 0, -1):
        lines[i]["cpu_s"] = round(lines[i]["cpu_s"] - lines[i - 1]["cpu_s"], 4)
    print("\n".join(map(json.dumps, lines)), flush=True)
    os._exit(0)  # nothing to tidy up


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2])
