"""A day of listening in minutes: is any window missed, and do the cost of a hop and memory stay flat?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import serkit
from serkit.benchmarks.hops import BLOCK_SIZE, CLIP, percentiles
from serkit.benchmarks.reconnect import held
from serkit.edge.audio import Source, read_audio
from serkit.edge.frontend import Frontend, FrontendSettings
from serkit.edge.sinks.json_lines import JsonLines, JsonLinesSettings
from serkit.edge.window import n_windows

_PAUSE_S = 40.0  # of soft noise after every clip
_ROW_S = 3600.0  # of audio
_YARDSTICK_HOPS = 10
_YARDSTICK_SAMPLES = 8000


class Endless(Source):
    """The demo clip and pauses of soft noise, for so long, as fast as it is taken."""

    def __init__(self, sample_rate: int, block_size: int, hours: float) -> None:
        super().__init__(sample_rate, block_size)
        self.n_samples = round(3600 * hours * sample_rate)
        clip = read_audio(CLIP, sample_rate)
        pause = 1e-3 * np.random.default_rng(0).standard_normal(round(_PAUSE_S * sample_rate))
        self._round = np.concatenate([clip, pause.astype(np.float32)])

    def _blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        left = self.n_samples
        while left > 0:
            yield self._round[:left]
            left -= len(self._round)


class _Hops:
    """Time on the processor from one event to the next, by whether the model was asked.

    What else a machine does makes the same work cost more, by way of its caches: the same half second of features,
    computed again and again in between, is the yardstick.
    """

    def __init__(self) -> None:
        self._spent: dict[bool, list[float]] = {True: [], False: []}
        self._yardstick: list[float] = []
        self._frontend = Frontend(FrontendSettings())
        self._noise = np.random.default_rng(0).standard_normal(_YARDSTICK_SAMPLES).astype(np.float32)
        self._n = 0
        self._last = time.process_time()

    def hop(self, scored: bool) -> None:
        self._spent[scored].append(time.process_time() - self._last)
        self._n += 1
        if self._n % _YARDSTICK_HOPS == 0:
            started = time.process_time()
            self._frontend.reset()
            self._frontend.push(self._noise)
            self._yardstick.append(time.process_time() - started)
        self._last = time.process_time()

    def figures(self) -> dict[str, Any]:
        """``scored``, ``silent`` and ``yardstick``: percentiles of their cost; then start anew."""
        kinds = {"scored": self._spent[True], "silent": self._spent[False], "yardstick": self._yardstick}
        figures = {name: percentiles(spent) for name, spent in kinds.items() if spent}
        for spent in kinds.values():
            spent.clear()
        return figures


def measure(
    hours: float, folder: Path, model: str, shown: Callable[[dict[str, Any]], None], engine: str = "auto"
) -> list[dict[str, Any]]:
    """Listen to `Endless` with a JSON lines sink, and look at the process every hour of audio.

    Args:
        hours: Of audio.
        folder: Where the sink's file goes.
        model: Bundled model or .tflite file.
        shown: Called with each row as it is made.
        engine: ``auto``, ``litert`` or ``tflite-runtime``.

    Returns:
        Rows with ``model, hour, audio_s, windows, expected_windows, scored`` (so far), ``lines`` (in the sink's file;
        last row), ``times_realtime``, ``hops`` (of this hour: for those the model was asked about, ``scored``, and the
        others, ``silent``, the percentiles of their time on the processor; and of the ``yardstick``) and the figures of
        `serkit.benchmarks.reconnect.held`.
    """
    rows: list[dict[str, Any]] = []
    file = folder / "events.jsonl"
    source: Endless

    def opened(rate: int) -> Endless:
        nonlocal source
        source = Endless(rate, BLOCK_SIZE, hours)
        return source

    sink = JsonLines(JsonLinesSettings(path=str(file), max_bytes=1_000_000_000))
    started = time.monotonic()
    with serkit.listen(opened, model=model, sinks=[sink], engine=engine) as listener:
        bundle = listener.recognizer.bundle
        f, w = bundle.frontend, bundle.window
        hops, scored = _Hops(), 0

        def row(audio_s: float) -> dict[str, Any]:
            n_frames = 1 + (round(audio_s * f.sample_rate) - f.win_length) // f.hop_length
            return {
                "model": bundle.name,
                "hour": len(rows) + 1,
                "audio_s": round(audio_s, 1),
                "windows": listener.health.windows,
                "expected_windows": 1 + (n_frames - w.n_frames) // w.hop_frames,
                "scored": listener.health.scored,
                "times_realtime": round(audio_s / (time.monotonic() - started), 1),
                "hops": hops.figures(),
                **held(),
            }

        for event in listener:
            if event.kind == "status":
                continue
            hops.hop(listener.health.scored > scored)
            scored = listener.health.scored
            if _ROW_S * (len(rows) + 1) <= event.time_s < 3600 * hours - 1:
                rows.append(row(event.time_s))
                shown(rows[-1])
        rows.append(row(source.n_samples / f.sample_rate))
        rows[-1]["expected_windows"] = n_windows(1 + (source.n_samples - f.win_length) // f.hop_length, w)
    rows[-1]["lines"] = file.read_bytes().count(b"\n")
    shown(rows[-1])
    return rows


def missed(rows: list[dict[str, Any]]) -> int:
    """Windows that never came, and events that were not written."""
    last = rows[-1]
    return abs(last["expected_windows"] - last["windows"]) + abs(last["windows"] - last["lines"])


def flatness(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The last hours beside the first ones: ratio of a hop's cost in yardsticks, and growth of memory in kB.

    The first hour is left out where there are more: caches and heaps settle in it.
    """
    settled = rows[1:] if len(rows) > 3 else rows
    part = max(1, len(settled) // 4)
    first, last = settled[:part], settled[-part:]

    def cost(some: list[dict[str, Any]], kind: str) -> float:
        return float(np.median([r["hops"][kind]["median_ms"] / r["hops"]["yardstick"]["median_ms"] for r in some]))

    kinds = [k for k in ("scored", "silent") if all(k in r["hops"] for r in (*first, *last))]
    ratios = {f"{kind}_ratio": round(cost(last, kind) / cost(first, kind), 3) for kind in kinds}
    return {**ratios, "rss_growth_kb": last[-1]["rss_kb"] - first[0]["rss_kb"]}
