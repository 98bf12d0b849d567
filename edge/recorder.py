"""What is heard, written to a file: only where somebody asked for it in so many words (``--record``)."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
from collections import deque
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from serkit.edge.errors import AudioError

_PIECE_S = 0.1  # what is queued and written at once, at least
_QUEUE_PIECES = 300  # kept while the disk is busy; half a minute
_PATIENCE_S = 10.0
_CLOSE_S = 2.0
_COUNTED = ("WAV", "AIFF", "AU")  # formats whose headers count bytes in 32 bits
_MOST_SAMPLES = 2**31 - 2**16  # of theirs, 16 bits each: 37 hours at 16 kHz


class Recorder:
    """Writes from a thread of its own: a disk that is full or hangs ends the recording, not the listening.

    Args:
        path: New file; its suffix chooses the format, such as ``.flac`` or ``.wav``.
        sample_rate: Hz.
        live: Whether audio is lost while `push` waits for the disk; if not, it does, for up to 10 s.

    Raises:
        AudioError: The file exists already, its folder does not, or the suffix is no audio format's.
    """

    def __init__(self, path: Path, sample_rate: int, *, live: bool = True) -> None:
        if path.exists():
            raise AudioError(f"{path}: exists already; give a new name to --record")
        if not soundfile.check_format(path.suffix[1:]):
            raise AudioError(f"{path}: {path.suffix or 'no suffix'} is no audio format; name it .flac or .wav")
        try:
            self._file = soundfile.SoundFile(os.fsencode(path), "w", sample_rate, 1, format=path.suffix[1:])
        except (soundfile.LibsndfileError, OSError) as error:
            reason = getattr(error, "error_string", None) or error
            raise AudioError(f"{path}: cannot be written ({reason}); check folder and space") from None
        self.path = path
        self._ended = False
        self._patience_s = 0.0 if live else _PATIENCE_S
        self._piece = round(_PIECE_S * sample_rate)
        self._held: list[npt.NDArray[np.float32]] = []  # blocks that are no piece yet
        self._n_held = 0  # samples
        self._notices: deque[str] = deque()
        self._queue: queue.Queue[npt.NDArray[np.float32] | None] = queue.Queue(_QUEUE_PIECES)  # None: no more
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="serkit-recorder", daemon=True)
        self._thread.start()

    def push(self, block: npt.NDArray[np.float32]) -> None:
        """Take a block, mono float32; where it is a live one, returns at once."""
        if self._ended:
            return
        self._held.append(block)
        self._n_held += len(block)
        if self._n_held < self._piece:
            return
        try:
            self._queue.put(np.concatenate(self._held), timeout=self._patience_s)
        except queue.Full:
            self._stop("the disk is too slow")
        self._held, self._n_held = [], 0

    def notice(self) -> str | None:
        """Why the recording ended, once."""
        return self._notices.popleft() if self._notices else None

    def close(self) -> None:
        """Write what is queued, however long that takes while it goes on; a second call does nothing.

        Where nothing was heard, no file is left.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(queue.Full):  # then the disk hangs, and waiting does not help
            if self._held and not self._ended:
                self._queue.put(np.concatenate(self._held), timeout=_CLOSE_S)
            self._queue.put(None, timeout=_CLOSE_S)
        self._ended = True
        left = self._queue.qsize() + 1
        while thread.is_alive() and self._queue.qsize() < left:  # as long as it writes
            left = self._queue.qsize()
            thread.join(_CLOSE_S)
        if not (thread.is_alive() or self._file.frames):  # so that the next try may have its name
            self.path.unlink(missing_ok=True)

    def _stop(self, why: str) -> None:
        self._ended = True
        self._notices.append(f"recording to {self.path} ended: {why}")

    def _run(self) -> None:
        with self._file:
            most = _MOST_SAMPLES if self._file.format in _COUNTED else math.inf
            while (block := self._queue.get()) is not None:
                if self._file.frames + len(block) > most:
                    return self._stop(f"a {self.path.suffix} file holds no more; name the next one .flac")
                try:
                    self._file.write(block)
                except (soundfile.LibsndfileError, OSError) as error:
                    reason = getattr(error, "error_string", None) or error
                    return self._stop(f"it cannot be written ({reason}); is the disk full?")
