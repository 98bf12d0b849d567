"""One event per line, in a file that starts anew when it is full.

The file is opened for every line: a handler that keeps it open, such as the standard library's, writes on into a file
that was deleted. It also drops what does not fit on a full disk, which waits here.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serkit.edge.errors import SettingsError
from serkit.edge.events import Event, to_json
from serkit.edge.settings import path_of
from serkit.edge.sinks import Sink

if TYPE_CHECKING:
    from serkit.edge.listener import Listener

_QUEUE_LINES = 2000  # kept while the file cannot be written; about eight minutes of four windows per second
_RETRY_S = 1.0
_HANGS_S = 5.0  # a file system that takes longer is said to hang
_CLOSE_S = 2.0
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # troubles of a disk, not of the settings


@dataclass(frozen=True, kw_only=True)
class JsonLinesSettings:
    """Where the lines go.

    Attributes:
        path: The file; its folder has to exist.
        max_bytes: Size at which it is renamed to ``path.1`` and a new one begins.
        backups: How many of those are kept; 0 throws the full file away.
    """

    path: str
    max_bytes: int = 10_000_000
    backups: int = 3

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path:
            raise SettingsError(f"path is {self.path!r}; name a file")
        if self.max_bytes < 1000:
            raise SettingsError(f"max_bytes is {self.max_bytes}; it needs 1000 or more")
        if self.backups < 0:
            raise SettingsError(f"backups is {self.backups}; it needs 0 or more")


class JsonLines(Sink):
    """Writes from a thread of its own: a file system that hangs holds up nothing else.

    Attributes:
        path: The file.
        lost: Events that gave way to newer ones.
    """

    name = "json_lines"

    def __init__(self, settings: JsonLinesSettings) -> None:
        self.path = path_of(settings.path)
        self.lost = 0
        self._settings = settings
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUE_LINES)  # None: no more
        self._notices: deque[str] = deque(maxlen=16)
        self._broken = False
        self._lost_said = 0
        self._began_s: float | None = None  # monotonic time of the write that is going on
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, listener: Listener) -> None:
        """Make sure that the file can be written; a disk that is full or read-only is waited for.

        Raises:
            SettingsError: It cannot.
        """
        ready: queue.Queue[OSError | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="serkit-json-lines", daemon=True)
        self._thread.start()
        try:
            error = ready.get(timeout=_HANGS_S)
        except queue.Empty:  # the file system hangs: it may come back
            return
        if error is not None and error.errno in _PASSING:
            self._trouble(f"cannot be written ({error.strerror})")
        elif error is not None:
            raise SettingsError(
                f"json_lines: {self.path} cannot be written ({error.strerror or error}); create the folder, "
                "allow this user to write to it, or correct path"
            )

    def send(self, event: Event) -> None:
        line = to_json(event).encode() + b"\n"
        while True:
            try:
                return self._queue.put_nowait(line)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()
                    self.lost += 1

    def notice(self) -> str | None:
        began_s = self._began_s
        if began_s is not None and time.monotonic() - began_s > _HANGS_S:
            self._trouble("does not answer")
        return self._notices.popleft() if self._notices else None

    def close(self) -> None:
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(queue.Full):  # then it cannot be written anyway
            self._queue.put(None, timeout=_CLOSE_S / 2)
        thread.join(_CLOSE_S / 2)
        if thread.is_alive() or not self._queue.empty():
            self._notices.append(f"about {self._queue.qsize() + 1} events could not be written to {self.path}")

    def _run(self, ready: queue.Queue[OSError | None]) -> None:
        self._began_s = time.monotonic()
        ready.put(self._begin())
        self._began_s = None
        while (line := self._queue.get()) is not None:
            while not self._written(line):
                if self._closing.wait(_RETRY_S):
                    return

    def _written(self, line: bytes) -> bool:
        self._began_s = time.monotonic()
        try:
            self._append(line)
        except OSError as error:
            self._trouble(f"cannot be written ({error.strerror or error})")
            return False
        finally:
            self._began_s = None
        if self._broken and self._queue.empty():
            lost, self._lost_said = self.lost - self._lost_said, self.lost
            self._broken = False
            self._notices.append(f"{self.path} is written again, {lost} events were lost")
        return True

    def _trouble(self, what: str) -> None:
        if not self._broken:
            self._broken = True
            self._notices.append(f"{self.path} {what}; the newest {_QUEUE_LINES} events wait")

    def _begin(self) -> OSError | None:
        """End the half line that a power cut may have left."""
        try:
            with self.path.open("ab+", buffering=0) as file:
                if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                    file.write(b"\n")
        except OSError as error:
            return error
        return None

    def _append(self, line: bytes) -> None:
        """Write a whole line or nothing."""
        with contextlib.suppress(FileNotFoundError):
            if 0 < self.path.stat().st_size > self._settings.max_bytes - len(line):
                self._rotate()
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)
                raise

    def _rotate(self) -> None:
        """Rename ``path`` to ``path.1``, that to ``path.2``, and so on; the last is thrown away."""
        names = [self.path, *(Path(f"{self.path}.{i + 1}") for i in range(self._settings.backups))]
        if len(names) == 1:
            self.path.unlink()
        for old, new in reversed(list(itertools.pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                old.replace(new)
