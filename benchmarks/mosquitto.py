"""A mosquitto of one's own on a free loopback port, which can be ended and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from serkit.edge.errors import MissingExtraError

if TYPE_CHECKING:
    from typing_extensions import Self

_PATIENCE_S = 30.0
OPEN = ("allow_anonymous true",)
#: Keeps what sessions wait for over a restart, and as much of it as there may be.
PERSISTENT = (*OPEN, "persistence true", "autosave_interval 5", "max_queued_messages 0")


def program() -> str | None:
    """Where mosquitto is; Debian keeps it from those who are not root."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def version() -> str:
    """Of the mosquitto that is installed."""
    text = subprocess.run([program() or "mosquitto", "-h"], capture_output=True, text=True).stdout
    return text.splitlines()[0].removeprefix("mosquitto version ")


class Mosquitto:
    """The broker; ``with`` starts it.

    Args:
        folder: Where its configuration and its persistence go.
        lines: Of the configuration, besides where it listens.

    Attributes:
        port: TCP port.
        process: While it runs.

    Raises:
        MissingExtraError: mosquitto is not installed.
    """

    def __init__(self, folder: Path, lines: Sequence[str] = OPEN) -> None:
        found = program()
        if found is None:
            raise MissingExtraError("this needs a broker; `sudo apt install mosquitto`")
        self._program = found
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        own = [f"listener {self.port} 127.0.0.1", f"persistence_location {folder}/"]
        if os.getuid() == 0:  # it would become a user that cannot read the folder
            own.append("user root")
        self._config.write_text("\n".join([*own, *lines]) + "\n")
        self._log = folder / "mosquitto.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGKILL)

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([self._program, "-c", self._config], stderr=log)
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mosquitto did not start: {self._log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, in order or not; a second call does nothing."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None

    def memory_kb(self) -> int:
        """What it holds in memory now, kB."""
        assert self.process is not None
        return memory_kb(self.process.pid)


def memory_kb(pid: int | str = "self") -> int:
    """What a process holds in memory now, kB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])
