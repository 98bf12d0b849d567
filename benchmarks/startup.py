"""From the command to the first scored window: a real `serkit listen`, and the stages it goes through."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from serkit.benchmarks.hops import percentiles, talking
from serkit.benchmarks.listening import as_installed, command
from serkit.benchmarks.stages import run_stages
from serkit.edge.bundle import read_bundle
from serkit.edge.errors import SerkitError


def measure(
    models: Sequence[str], *, engine: str = "auto", repeats: int = 10, stages: bool = True
) -> list[dict[str, Any]]:
    """Start `serkit listen` again and again; its files are in the page cache after the first time.

    Args:
        models: Bundled models or .tflite files.
        engine: ``auto``, ``litert`` or ``tflite-runtime``.
        repeats: Starts that are counted.
        stages: Also go through the stages one by one.

    Returns:
        Rows with ``model, what, repeats, median_ms, p95_ms, p99_ms, least_ms`` and ``cpu_ms`` (median): ``listen``
        is the time from the start of the process to its first scored window, less the audio up to that window's end,
        which it hears as it is spoken; ``stage``, with its name, one stage of `serkit.benchmarks.stages`.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            bundle = read_bundle(model)
            f, w = bundle.frontend, bundle.window
            speech = Path(folder) / "speech.wav"
            length = (w.n_frames + 6 * w.hop_frames) * f.hop_length
            soundfile.write(speech, np.resize(talking(f.sample_rate), length), f.sample_rate)
            first: list[tuple[float, float]] = []
            parts: dict[str, list[tuple[float, float]]] = {}
            for i in range(repeats + 1):
                listened = _first_window(model, engine, speech)
                staged = run_stages(model, engine) if stages else []
                if i:  # the first fills the page cache
                    first.append(listened)
                    for row in staged:
                        parts.setdefault(row["stage"], []).append((row["seconds"], row["cpu_s"]))
            about = {"model": bundle.name, "repeats": repeats}
            rows.append({**about, "what": "listen", **_figures(first)})
            rows += [{**about, "what": "stage", "stage": name, **_figures(took)} for name, took in parts.items()]
    return rows


def _figures(took: list[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = zip(*took, strict=True)
    return {
        **percentiles(wall),
        "least_ms": round(1000 * min(wall), 4),  # as finely as the median
        "cpu_ms": round(1000 * float(np.median(cpu)), 4),
    }


def _first_window(model: str, engine: str, speech: Path) -> tuple[float, float]:
    """Seconds to the first scored window, less its audio; and what they took of a processor."""
    options = ("--input", str(speech), "--speed", "realtime", "--model", model, "--engine", engine)
    pipe = subprocess.PIPE
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with subprocess.Popen(command(*options), stdout=pipe, stderr=pipe, env=as_installed()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["probabilities"]:
                seconds = time.monotonic() - started - event["time_s"]
                process.kill()
                break
        else:
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip() or f"{os.fspath(speech)}: no window scored"
            raise SerkitError(said.splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
