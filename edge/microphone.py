"""A microphone that never gives up.

PortAudio runs in a process of its own (`serkit.edge.capture`), and there is one answer to every trouble - the device
unplugged or taken by another program, the sound server stopped or hung, PortAudio crashed: end that process and start
another one. Meanwhile the stream goes on with silence, so that its times stay right.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from serkit.edge.audio import Resampler, Source
from serkit.edge.capture import FAILED, OPENED, Device, Message, devices, find_device, unpack
from serkit.edge.clock import MISSING_S, DeviceClock
from serkit.edge.errors import MicrophoneError

__all__ = ["Device", "Microphone", "devices", "find_device"]

Array = npt.NDArray[np.float32]

_BLOCK_S = 0.1  # of silence, and at most of the capture process's audio
_BEHIND_S = 0.5  # silence comes so much later than it is due: audio may still come in its place
_OPENING_S = 8.0  # a slow board starts Python and looks at its sound cards
_ANSWER_S = 4.0  # the capture process speaks up after 3 s without audio; when it does not, it hangs
_FIRST_ANSWER_S = 6.0
_RETRY_S = 0.25  # doubled after every failure, up to
_MAX_RETRY_S = 1.5  # a try costs 0.1 s of a processor, and who waits for audio shall have it within 3 s
_STEADY_S = 5.0  # audio for that long, and the next failure is a new one
_KILL_S = 2.0
_MAX_DRIFT = 0.01
_COUNTS_S = 5.0  # between two notices of lost samples
_MAX_NOTICES = 100
_NONSENSE = "the capture process speaks nonsense"


class _Lost(Exception):
    """The capture process failed; why."""


class _CaptureProcess:
    """The capture process, seen from outside.

    Raises:
        _Lost: It cannot be started.
    """

    def __init__(self, sample_rate: int, device: str | None) -> None:
        try:
            self._process = subprocess.Popen(
                _command(sample_rate, device),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env=_environment(),
            )
        except OSError as error:
            raise _Lost(f"the capture process does not start ({error.strerror or error})") from None
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._readable = select.poll()
        self._readable.register(self._output, select.POLLIN)
        self._received = bytearray()
        self._waited_s = 0.0  # without a word; the time this program was busy elsewhere does not count
        self._patience_s = _OPENING_S

    def receive(self) -> Message | None:
        """The next message; None if none came for a moment.

        Raises:
            _Lost: The process ended, hangs, or speaks nonsense.
        """
        try:
            message = unpack(self._received)
            if message is None and self._readable.poll(1000 * _BLOCK_S):
                data = os.read(self._output, 1 << 16)
                if not data:
                    raise _Lost(self._epitaph())
                self._waited_s = 0.0
                self._received += data
                message = unpack(self._received)
            elif message is None:
                self._waited_s += _BLOCK_S
        except ValueError:
            raise _Lost(_NONSENSE) from None
        if self._waited_s > self._patience_s:
            raise _Lost(f"the sound system does not answer ({self._patience_s:g} s); restart it")
        if message is not None and message.kind == FAILED:
            raise _Lost(" ".join(message.payload.decode(errors="replace").split()))
        if message is not None:
            self._patience_s = _FIRST_ANSWER_S if message.kind == OPENED else _ANSWER_S
        return message

    def _epitaph(self) -> str:
        try:
            code = self._process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            return "the capture process fell silent"
        how = f"exit code {code}" if code >= 0 else signal.strsignal(-code)
        return f"the capture process ended ({how})"

    def kill(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):  # stuck in a driver: gone once that lets go
            self._process.wait(_KILL_S)


def _command(sample_rate: int, device: str | None) -> list[str]:
    return [sys.executable, "-m", "serkit.edge.capture", str(sample_rate), *([] if device is None else [device])]


def list_devices() -> list[Device]:
    """All microphones, as a fresh process sees them; unlike `devices`, not for ever where the sound system hangs.

    Raises:
        MicrophoneError: PortAudio is missing or does not start, or the sound system does not answer.
    """
    try:
        done = subprocess.run(
            _lister(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_OPENING_S,
            cwd="/",
            env=_environment(),
            check=False,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise MicrophoneError(f"the sound system does not answer ({_OPENING_S:g} s); restart it") from None
    except (OSError, ValueError):
        raise MicrophoneError("PortAudio ended without an answer; is a sound system running?") from None
    if isinstance(found, str):
        raise MicrophoneError(found)
    return [Device(**d) for d in found]


def _environment() -> dict[str, str]:
    """With it, and in the folder ``/``, serkit is found where this process found it, whatever lies where we are."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path)}  # noqa: PTH100


def _lister() -> list[str]:
    return [sys.executable, "-m", "serkit.edge.capture", "devices"]


class Microphone(Source):
    """A live microphone. Once open it yields audio, or silence in its place, at the pace of time, until it is closed.

    What happened meanwhile is told by `notice`.

    Args:
        sample_rate: Hz, of the blocks; a device with another rate is resampled.
        block_size: Samples per block.
        device: Number or part of the name; None for the default one, whichever that is when it is opened.
        wait: Start with silence and keep trying, instead of failing when there is no microphone yet.

    Attributes:
        name: Of the device in use, or the last one that was.
        connected: Whether audio flows.
        reconnects: How often audio came back after it was lost.
        overflows: Blocks before which the device lost audio (xruns).
        dropped_samples: Samples dropped because this program was busy for longer than the queue holds (10 s).

    Raises:
        MicrophoneError: Without ``wait``: there is no such device, or it does not open.
    """

    live = True

    def __init__(
        self, sample_rate: int, block_size: int | None = None, *, device: str | None = None, wait: bool = False
    ) -> None:
        super().__init__(sample_rate, block_size)
        self.name = device
        self.connected = False
        self.reconnects = self.overflows = self.dropped_samples = 0
        self._device = device
        self._notices: deque[str] = deque(maxlen=_MAX_NOTICES)
        self._counts = (0, 0)  # overflows and dropped samples that were told
        self._counts_due_s = 0.0
        self._drift_told = False
        self._closed = threading.Event()
        self._process_lock = threading.Lock()  # `close` may come from another thread
        self._process: _CaptureProcess | None = None
        self._retry_s, self._retry_at_s = _RETRY_S, 0.0
        self._rate = 0.0  # of the open device; 0 while none is
        self._resampler = Resampler(sample_rate, sample_rate)
        self._clock = DeviceClock(sample_rate, 0.0)
        self._seen = (0, 0)  # overflows and dropped samples of this capture process
        self._origin_s = time.monotonic()  # when sample 0 was due
        self._n_yielded = 0
        self._n_silent = 0
        self._rest_until_s = 0.0
        self._heard_s = self._flowing_since_s = self._lost_since_s = 0.0
        self._lost_why: set[str] = set()  # what was told about it
        if not wait:
            self._open()

    @property
    def lost_s(self) -> float:
        """Seconds of silence yielded in place of audio that was not heard."""
        return self._n_silent / self.sample_rate

    def _open(self) -> None:
        try:
            message = None
            while message is None:
                message = self._receive()
            self._opened(message)
        except _Lost as error:
            self.close()
            raise MicrophoneError(str(error)) from None
        except BaseException:
            self.close()
            raise
        self._origin_s = message.time_s

    def _receive(self) -> Message | None:
        """The next message of the capture process, which is started when it is time to; None after a moment."""
        with self._process_lock:
            if self._closed.is_set():
                return None
            if self._process is None and time.monotonic() >= self._retry_at_s:
                self._process = _CaptureProcess(self.sample_rate, self._device)
            if self._process is not None:
                return self._process.receive()
        self._closed.wait(_BLOCK_S)
        return None

    def rest(self, seconds: float) -> None:
        """Sleep instead of taking every block as it comes; the capture process holds them meanwhile."""
        self._rest_until_s = self._heard_s + seconds - _BLOCK_S if self.connected else 0.0

    def _blocks(self) -> Iterator[Array]:
        while not self._closed.is_set():
            try:
                if (rest_s := self._rest_until_s - time.monotonic()) > 0:
                    self._closed.wait(rest_s)
                message = self._receive()
                if message is not None and message.kind == OPENED:
                    self._opened(message)
                elif message is not None:
                    yield from self._heard(message)
                elif not self.connected:
                    yield from self._silence(time.monotonic() - _BEHIND_S)
            except _Lost as error:
                if not self._closed.is_set():
                    yield from self._lose(str(error))

    def _opened(self, message: Message) -> None:
        before = self.name
        try:
            opened = json.loads(message.payload)
            self.name, self._rate = str(opened["name"]), float(opened["rate"])
            self._resampler = Resampler(self._rate, self.sample_rate)
        except (KeyError, TypeError, ValueError):
            raise _Lost(_NONSENSE) from None
        if self._device is not None and self._device.isdigit():
            self._device = self.name  # numbers change when devices come and go
        if self._heard_s and before != self.name:
            self._notices.append(f"microphone {self.name!r} in place of {before!r}")
        self._seen = (0, 0)

    def _heard(self, message: Message) -> Iterator[Array]:
        if not self._rate:  # before it was opened
            raise _Lost(_NONSENSE)
        overflows, dropped = message.overflows - self._seen[0], message.dropped - self._seen[1]
        self._seen = (message.overflows, message.dropped)
        self.overflows += overflows
        self.dropped_samples += round(dropped * self.sample_rate / self._rate)
        samples = np.nan_to_num(np.frombuffer(message.payload, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        if not self.connected:
            yield from self._back(message.time_s - (dropped + len(samples)) / self._rate)
        self._heard_s, clock = message.time_s, self._clock
        drift_s = clock.drift_s
        missing = clock.heard(dropped + len(samples), message.time_s, overflows > 0)
        self._origin_s += clock.drift_s - drift_s  # its clock is the stream's while it is open
        if missing > MISSING_S * clock.rate:
            self._notices.append(f"microphone {self.name!r} stalled; {missing / clock.rate:.1f} s of silence in place")
        if abs(clock.drift) > _MAX_DRIFT and not self._drift_told:
            self._drift_told = True
            self._notices.append(
                f"the clock of microphone {self.name!r} is {abs(clock.drift):.1%} "
                f"{'slow' if clock.drift > 0 else 'fast'} ({clock.rate * (1 - clock.drift):.0f} samples a second "
                f"instead of {clock.rate:.0f}); times are off by as much"
            )
        lost = missing + dropped
        self._n_silent += round(lost * self.sample_rate / clock.rate)
        while lost > 0:  # a little at a time: it may be hours
            n = min(lost, 1 << 14)
            yield from self._yielded(self._resampler.push(np.zeros(n, np.float32)))
            lost -= n
        yield from self._yielded(self._resampler.push(samples))

    def _back(self, time_s: float) -> Iterator[Array]:
        """Audio flows, for the first time or again, from this time on."""
        self.connected = True
        self._clock, self._flowing_since_s = DeviceClock(self._rate, time_s), time_s
        if self._lost_why:
            how = "back" if self._heard_s else "there"
            self._notices.append(
                f"microphone {self.name!r} is {how} after {time_s - self._lost_since_s:.1f} s; "
                "silence is in place of what was not heard"
            )
            self.reconnects += bool(self._heard_s)
        self._lost_why.clear()
        if self._n_yielded:
            yield from self._silence(time_s)
        else:
            self._origin_s = time_s

    def _lose(self, reason: str) -> Iterator[Array]:
        """End the capture process and say why; the next one starts after a while."""
        now = time.monotonic()
        with self._process_lock:
            if self._process is not None:
                self._process.kill()
                self._process = None
        if self._rate:  # a device that was open; else the reason says it all
            reason = f"microphone {self.name!r} lost ({reason})"
        if not self._lost_why:
            self._lost_since_s = self._heard_s or self._origin_s
        if reason not in self._lost_why:
            self._lost_why.add(reason)
            self._notices.append(f"{reason}; trying again")
        if self.connected and self._heard_s - self._flowing_since_s >= _STEADY_S:
            self._retry_s = _RETRY_S
        self._retry_at_s = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, _MAX_RETRY_S)
        self.connected, self._rate = False, 0.0
        yield from self._yielded(self._resampler.push(np.empty(0, np.float32), last=True))
        self._resampler = Resampler(self.sample_rate, self.sample_rate)

    def _silence(self, until_s: float) -> Iterator[Array]:
        """What is due by then."""
        block = round(2 * _BLOCK_S * self.sample_rate)
        while (n := int((until_s - self._origin_s) * self.sample_rate) - self._n_yielded) > 0:
            self._n_silent += min(n, block)
            yield from self._yielded(np.zeros(min(n, block), np.float32))

    def _yielded(self, block: Array) -> Iterator[Array]:
        self._n_yielded += len(block)
        if len(block):
            yield block

    def notice(self) -> str | None:
        """What went wrong, or right again: one message per call, the oldest first; None when all is told."""
        counts = (self.overflows, self.dropped_samples)
        if counts != self._counts and time.monotonic() >= self._counts_due_s:
            self._counts, self._counts_due_s = counts, time.monotonic() + _COUNTS_S
            dropped_s = self.dropped_samples / self.sample_rate
            self._notices.append(
                f"audio lost: {self.overflows} xruns, {dropped_s:.1f} s dropped because this machine is too busy"
            )
        return self._notices.popleft() if self._notices else None

    def close(self) -> None:
        """Stop listening and end the capture process; a second call does nothing."""
        self._closed.set()
        with self._process_lock:
            if self._process is not None:
                self._process.kill()
                self._process = None
