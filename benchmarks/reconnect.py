"""How soon audio is back after a sound server died: a private PulseAudio is killed and restarted under a microphone."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from serkit.edge.errors import MissingExtraError
from serkit.edge.microphone import Microphone

if TYPE_CHECKING:
    from typing_extensions import Self

_RATE = 16000
_DOWN_S = 4.0  # how long the server stays away
_PATIENCE_S = 20.0
_LOUD = 0.05  # of full scale; the server's tone is far above, silence far below


class AudioServer:
    """A PulseAudio of one's own with one virtual microphone, which hears what is played to it.

    It lives in a folder of its own and nothing else on the machine uses or sees it. Programs find it by ``env``.

    Args:
        folder: Where its socket and ALSA's settings go.

    Raises:
        MissingExtraError: PulseAudio's programs are not installed.
    """

    def __init__(self, folder: Path) -> None:
        for program in ("pulseaudio", "pactl", "parec", "paplay"):
            if shutil.which(program) is None:
                raise MissingExtraError(
                    f"{program} is not installed; `sudo apt install pulseaudio pulseaudio-utils libasound2-plugins`"
                )
        self._socket = folder / "socket"
        self._running: list[subprocess.Popen[bytes]] = []
        self.env = {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_SERVER": f"unix:{self._socket}",
            "PULSE_COOKIE": str(folder / "cookie"),
        }
        (folder / ".asoundrc").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._run(
            *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disable-shm=yes", "--use-pid-file=no"),
            *("-L", f"module-native-protocol-unix auth-anonymous=1 socket={self._socket}"),
            *("-L", "module-null-sink sink_name=speaker rate=48000 channels=1"),
        )
        deadline = time.monotonic() + _PATIENCE_S
        while self._pactl("set-default-source", "speaker.monitor"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"PulseAudio did not answer within {_PATIENCE_S:g} s")
            time.sleep(0.05)
        # A virtual microphone wakes up every 2 s only, unless somebody who is in a hurry listens already.
        self._run("parec", "-d", "speaker.monitor", "--latency-msec=20")

    def _run(self, *command: str) -> None:
        self._running.append(
            subprocess.Popen(
                command, env=os.environ | self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip

    def _pactl(self, *arguments: str) -> int:
        return subprocess.run(
            ["pactl", *arguments], env=os.environ | self.env, capture_output=True, timeout=_PATIENCE_S
        ).returncode

    def play(self, path: Path) -> None:
        """Start playing a recording."""
        self._run("paplay", "--latency-msec=50", str(path))

    def signal(self, number: int) -> None:
        """Send the server a signal, such as SIGSTOP."""
        self._running[0].send_signal(number)

    def kill(self) -> None:
        """End it and all it runs."""
        for process in self._running:
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self._running:
            process.wait()
        self._running.clear()


@contextmanager
def environment(changed: dict[str, str]) -> Iterator[None]:
    """Environment variables, for a while."""
    kept = os.environ.copy()
    os.environ.update(changed)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def held() -> dict[str, int]:
    """What this process holds: ``threads``, ``file_handles``, ``children`` and ``rss_kb`` (of memory, now)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": threading.active_count(),
        "file_handles": min(_open_files() for _ in range(5)),
        "children": len(children(os.getpid())),
        "rss_kb": pages * resource.getpagesize() // 1024,
    }


def _open_files() -> int:
    """Now; another thread may have one open for a moment."""
    time.sleep(0.01)
    return len(list(Path("/proc/self/fd").iterdir())) - 1  # the listing's own


def children(pid: int) -> list[int]:
    """The processes that another one started."""
    return [int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(p) == pid]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # gone meanwhile
        return -1


class _Listener:
    """Takes the blocks of a microphone, and the time they took."""

    def __init__(self, microphone: Microphone) -> None:
        self.started_s = time.monotonic()
        self.n_samples = 0
        self._blocks = iter(microphone)

    def listen(self, seconds: float, *, for_tone: bool = False) -> float | None:
        """Listen for a while, or until the tone is heard; returns when that was, None if it was not."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            block = next(self._blocks)
            self.n_samples += len(block)
            if for_tone and np.max(np.abs(block)) > _LOUD:
                return time.monotonic()
        return None

    @property
    def error_s(self) -> float:
        """Stream time less time passed."""
        return self.n_samples / _RATE - (time.monotonic() - self.started_s)


def _start(server: AudioServer, tone: Path) -> float:
    server.start()
    up_s = time.monotonic()
    server.play(tone)
    return up_s


def reconnect(restarts: int = 10, every_s: float = 30.0) -> list[dict[str, Any]]:
    """Kill the sound server under a listening microphone, start it again 4 s later, and time the audio.

    Returns:
        One row per restart: ``restart, recovery_s`` (from the server's first answer to the first tone in the stream,
        of which the virtual microphone itself may need 2 s; None if it did not come back), ``noticed`` (both that
        audio was lost and that it is back), ``notices, reconnects, lost_s, stream_error_s`` and the figures of `held`.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        server, tone = AudioServer(Path(name)), Path(name) / "tone.wav"
        t = np.arange(round((every_s + 2 * _PATIENCE_S) * _RATE)) / _RATE
        soundfile.write(tone, 0.5 * np.sin(2 * np.pi * 440 * t), _RATE)
        with server, environment(server.env), Microphone(_RATE) as microphone:
            server.play(tone)
            listener = _Listener(microphone)
            listener.listen(_PATIENCE_S, for_tone=True)
            for restart in range(1, restarts + 1):
                next_s = time.monotonic() + every_s
                server.kill()
                listener.listen(_DOWN_S + restart / 10)  # not always at the same point of the microphone's patience
                with ThreadPoolExecutor(1) as beside:
                    up = beside.submit(_start, server, tone)
                    back_s = listener.listen(_PATIENCE_S, for_tone=True)
                    up_s = up.result()
                listener.listen(next_s - time.monotonic())
                notices = list(iter(microphone.notice, None))
                rows.append(
                    {
                        "restart": restart,
                        "recovery_s": None if back_s is None else round(back_s - up_s, 2),
                        "noticed": all(any(word in n for n in notices) for word in (" lost ", " is back ")),
                        "notices": notices,
                        "reconnects": microphone.reconnects,
                        "lost_s": round(microphone.lost_s, 2),
                        "stream_error_s": round(listener.error_s, 2),
                        **held(),
                    }
                )
    return rows
