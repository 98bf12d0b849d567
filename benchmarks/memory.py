"""What `serkit listen` holds in memory: a real one after minutes of audio, and which part of it takes how much."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile

from serkit.benchmarks.hops import quiet, talking
from serkit.benchmarks.listening import Listening, as_installed, command
from serkit.benchmarks.stages import memory, run_stages
from serkit.edge.bundle import read_bundle
from serkit.edge.errors import MissingExtraError, SerkitError

_WAIT_S = 30.0


def measure(
    models: Sequence[str], *, engine: str = "auto", minutes: float = 10.0, repeats: int = 3, microphone: bool = True
) -> list[dict[str, Any]]:
    """Memory of each model's `serkit listen`.

    Args:
        models: Bundled models or .tflite files.
        engine: ``auto``, ``litert`` or ``tflite-runtime``.
        minutes: Of audio, as fast as it is taken, before the last look.
        repeats: Processes the stages are the median of.
        microphone: Also listen to a microphone of a PulseAudio of our own, where that is installed.

    Returns:
        Rows with ``model, what`` and the figures of `serkit.benchmarks.stages.memory`. ``what`` is ``listen`` (a real
        process that hears a pipe: ``audio_s`` heard, ``threads``), ``microphone`` (the same at a microphone) with
        ``capture`` (the process that looks after the sound device), or ``stage``, with its name and ``grown_kb``.
    """
    rows: list[dict[str, Any]] = []
    for model in models:
        name = read_bundle(model).name
        rows += [{"model": name, "what": "listen", **row} for row in through_a_pipe(model, engine, minutes)]
        if microphone:
            rows += [{"model": name, **row} for row in _at_a_microphone(model, engine)]
        rows += [{"model": name, "what": "stage", **row} for row in _stages(model, engine, repeats)]
    return rows


def _n_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def through_a_pipe(model: str, engine: str, minutes: float) -> list[dict[str, Any]]:
    """Rows of a `serkit listen` that hears a pipe, after its first and its last minute of audio.

    Raises:
        SerkitError: It scored nothing in a minute of speech.
    """
    rows = []
    with Listening(model, engine) as listening:
        rate = listening.sample_rate
        minute = np.resize(np.concatenate([talking(rate), quiet(rate)]), 60 * rate)
        audio_s = 0.0
        n_minutes = max(1, round(minutes))
        for i in range(n_minutes):
            if not any(event["probabilities"] for event in listening.hear(minute)):
                raise SerkitError(f"{model}: no window of a minute of speech was scored; its memory would say nothing")
            audio_s += 60.0
            if i in (0, n_minutes - 1):
                pid = listening.pid
                rows.append({"audio_s": audio_s, "threads": _n_threads(pid), "processes": 1, **memory(pid)})
    return rows


def _at_a_microphone(model: str, engine: str) -> list[dict[str, Any]]:
    from serkit.benchmarks.reconnect import AudioServer, children

    with tempfile.TemporaryDirectory() as folder:
        try:
            server = AudioServer(Path(folder))
        except MissingExtraError:
            return []
        speech = Path(folder) / "speech.wav"
        soundfile.write(speech, np.resize(talking(16000), 60 * 16000), 16000)
        with server:
            server.play(speech)
            listen = command("--model", model, "--engine", engine)
            env = as_installed() | server.env
            with subprocess.Popen(listen, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                end_s, scored = time.monotonic() + _WAIT_S, 0
                for line in process.stdout:
                    scored += b'"probabilities": {' in line
                    if scored == 5 or time.monotonic() > end_s:
                        break
                pids = {"microphone": process.pid, "capture": children(process.pid)[0]} if scored == 5 else {}
                rows = [
                    {"what": what, "threads": _n_threads(pid), "processes": len(pids), **memory(pid)}
                    for what, pid in pids.items()
                ]
                process.terminate()
            return rows


def _stages(model: str, engine: str, repeats: int) -> list[dict[str, Any]]:
    runs = [run_stages(model, engine) for _ in range(repeats)]
    rows: list[dict[str, Any]] = []
    for same in zip(*runs, strict=True):
        figures = {k: round(median(r[k] for r in same)) for k in ("rss_kb", "pss_kb", "anonymous_kb", "threads")}
        before = rows[-1] if rows else {"rss_kb": 0}
        rows.append({"stage": same[0]["stage"], "grown_kb": figures["rss_kb"] - before["rss_kb"], **figures})
    return rows
