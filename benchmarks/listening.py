"""A real `serkit listen` in a process of its own, fed through its standard input."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from serkit.edge.bundle import read_bundle
from serkit.edge.errors import SerkitError

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE_S = 120.0  # for one event; the slowest boards need seconds
_HELD_S = 0.6  # what a pipe, a decoder and an unfinished block may hold back


def as_installed() -> dict[str, str]:
    """The environment, but that Python keeps what it has compiled, as `pip install` does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def command(*options: str) -> list[str]:
    """`serkit listen`, as it is started here, one JSON object per line."""
    return [sys.executable, "-m", "serkit.edge", "listen", "--json", *options]


class Listening:
    """A `serkit listen` that hears what it is given, no faster than it can.

    Args:
        model: Bundled model or .tflite file.
        engine: ``auto``, ``litert`` or ``tflite-runtime``.

    Attributes:
        pid: Its process.

    Raises:
        SerkitError: It ended, or said nothing for two minutes.
    """

    def __init__(self, model: str, engine: str = "auto") -> None:
        bundle = read_bundle(model)
        f, w = bundle.frontend, bundle.window
        self.sample_rate = f.sample_rate
        self._silent_s = (w.n_frames + w.hop_frames) * f.hop_length / f.sample_rate + _HELD_S
        self._hop_s = w.hop_frames * f.hop_length / f.sample_rate
        self._process = subprocess.Popen(
            command("--input", "-", "--model", model, "--engine", engine),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=as_installed(),
        )
        self.pid = self._process.pid
        self._heard_s = 0.0
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def hear(self, audio: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        """Give it audio of at least a second, and wait for the events that complete it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((32767 * np.clip(audio, -1, 1)).astype("<i2").tobytes())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        self._heard_s += len(audio) / self.sample_rate
        events: list[dict[str, Any]] = []
        if self._heard_s < self._silent_s:
            return events
        while not events or events[-1]["time_s"] < self._heard_s - self._hop_s - _HELD_S:
            try:
                event = self._events.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise SerkitError(f"`serkit listen` said nothing for {PATIENCE_S:g} s") from None
            if event is None:
                raise self._ended()
            events.append(event)
        return events

    def _ended(self) -> SerkitError:
        assert self._process.stderr is not None
        last = self._process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        return SerkitError(f"`serkit listen` ended: {last[0] if last else 'no message'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        process = self._process
        process.kill()
        process.wait()
        self._reader.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):  # what it was given last and never took
                stream.close()
