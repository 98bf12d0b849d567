"""Hours of listening in minutes: is any window missed, and does memory stay flat?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import serkit
from serkit.benchmarks.reconnect import held
from serkit.edge.audio import Source, read_audio
from serkit.edge.sinks.json_lines import JsonLines, JsonLinesSettings
from serkit.edge.window import n_windows

CLIP = Path(serkit.__path__[0]) / "edge" / "demo" / "clip.flac"
_PAUSE_S = 40.0  # of soft noise after every clip
_ROW_S = 1800.0  # of audio


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


def endurance(hours: float, folder: Path, model: str, shown: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Listen to `Endless` with a JSON lines sink, and look at the process every half hour of audio.

    Returns:
        Rows with ``audio_s, windows, expected_windows`` (so far), ``lines`` (in the sink's files, at the end),
        ``times_realtime`` and the figures of `serkit.benchmarks.reconnect.held`.
    """
    rows: list[dict[str, Any]] = []
    file = folder / "events.jsonl"
    source: Endless

    def opened(rate: int) -> Endless:
        nonlocal source
        source = Endless(rate, 512, hours)
        return source

    sink = JsonLines(JsonLinesSettings(path=str(file), max_bytes=1_000_000_000))
    started = time.monotonic()
    with serkit.listen(opened, model=model, sinks=[sink]) as listener:
        f, w = listener.recognizer.bundle.frontend, listener.recognizer.bundle.window

        def row(audio_s: float) -> dict[str, Any]:
            n_frames = 1 + (round(audio_s * f.sample_rate) - f.win_length) // f.hop_length
            whole = 1 + (n_frames - w.n_frames) // w.hop_frames
            return {
                "audio_s": round(audio_s, 1),
                "windows": listener.health.windows,
                "expected_windows": whole,
                "scored": listener.health.scored,
                "times_realtime": round(audio_s / (time.monotonic() - started), 1),
                **held(),
            }

        for event in listener:
            if event.kind != "status" and _ROW_S * (len(rows) + 1) <= event.time_s < 3600 * hours - 1:
                rows.append(row(event.time_s))
                shown(rows[-1])
        rows.append(row(source.n_samples / f.sample_rate))
        rows[-1]["expected_windows"] = n_windows(1 + (source.n_samples - f.win_length) // f.hop_length, w)
    rows[-1]["lines"] = file.read_bytes().count(b"\n")
    shown(rows[-1])
    return rows
