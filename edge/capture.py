"""The capture process: PortAudio lives alone in it, so that whatever hangs or dies there can be ended from outside.

`python -m serkit.edge.capture SAMPLE_RATE [DEVICE]` opens a microphone and writes messages to standard output until
the device fails or whoever started it is gone. `serkit.edge.microphone.Microphone` starts it, watches it and starts
another one after it: only a fresh process is sure to see the devices that are there now. Without numpy, it is small
and starts quickly.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

from serkit.edge.errors import MicrophoneError
from serkit.edge.stderr import muted

OPENED, AUDIO, FAILED = b"o", b"a", b"f"

_HEADER = struct.Struct("<cIdQQ")
_MAX_BYTES = 1 << 22  # of one payload; anything larger is no message
_QUEUE_S = 10.0  # audio kept while nobody reads; the oldest is dropped and counted
_FIRST_BLOCK_S = 5.0  # audio servers may start late
_NEXT_BLOCK_S = 3.0
_BLOCK_S = 0.1  # as PortAudio likes it, blocks may be 9 ms, and each costs a turn of two processes
_LOOK_S = 0.25  # how often a silent stream is looked at
_RATES = (48000.0, 44100.0)  # tried after the wanted rate and the device's own


@dataclass(frozen=True, kw_only=True)
class Device:
    """One microphone.

    Attributes:
        index: PortAudio's number; changes when devices come and go.
        name: What to give to ``--device``.
        channels: Input channels.
        sample_rate: Its own rate, Hz.
        default: Whether it is taken when none is named.
    """

    index: int
    name: str
    channels: int
    sample_rate: float
    default: bool


def _portaudio() -> ModuleType:
    try:
        with muted():  # ALSA writes a page of guesses about missing devices
            import sounddevice
    except OSError:
        raise MicrophoneError(
            "PortAudio is not installed; `sudo apt install libportaudio2`, or give a file with --input"
        ) from None
    except Exception as error:  # its own class of errors lives in the module that failed to load
        raise MicrophoneError(f"PortAudio does not start ({error}); is a sound system running?") from None
    return sounddevice


def devices() -> list[Device]:
    """All microphones. PortAudio looks once per process; what is plugged in later is not seen.

    Raises:
        MicrophoneError: PortAudio is missing or does not start.
    """
    sounddevice = _portaudio()
    try:
        found = sounddevice.query_devices()
        default = sounddevice.default.device[0]
    except sounddevice.PortAudioError as error:
        raise MicrophoneError(f"PortAudio does not start ({error}); is a sound system running?") from None
    return [
        Device(
            index=i,
            name=d["name"],
            channels=d["max_input_channels"],
            sample_rate=d["default_samplerate"],
            default=i == default,
        )
        for i, d in enumerate(found)
        if d["max_input_channels"] > 0
    ]


def find_device(device: str | None) -> Device:
    """A microphone by number, by part of its name, or the default one.

    ALSA puts the card's number into the name, and re-plugging may change it: where nothing else fits, the name fits
    without it.

    Raises:
        MicrophoneError: There is none, or the name fits none or several.
    """
    found = devices()
    if not found:
        raise MicrophoneError(
            "no microphone found; plug one in (`serkit devices` lists them), or give a file with --input"
        )
    if device is None:
        return next((d for d in found if d.default), found[0])
    bare = re.sub(r"\s*\(hw:\d+,\d+\)$", "", device)
    fitting = (
        [d for d in found if device in (str(d.index), d.name)]
        or [d for d in found if device.lower() in d.name.lower()]
        or [d for d in found if bare and bare.lower() in d.name.lower()]
    )
    if len(fitting) != 1:
        what = "no microphone" if not fitting else f"{len(fitting)} microphones"
        names = "; ".join(f"{d.index}: {d.name}" for d in found)
        raise MicrophoneError(f"{what} called {device!r}; choose one of {names}")
    return fitting[0]


class Message(NamedTuple):
    """What the capture process tells.

    Attributes:
        kind: ``OPENED`` (payload: JSON with ``name`` and ``rate``), ``AUDIO`` (mono float32) or ``FAILED`` (one line).
        payload: See ``kind``.
        time_s: `time.monotonic` when it happened; for audio, when PortAudio handed over its last sample.
        overflows: Blocks so far before which the device lost audio (xruns).
        dropped: Samples before this block that were dropped because nobody read them, in all.
    """

    kind: bytes
    payload: bytes
    time_s: float
    overflows: int = 0
    dropped: int = 0

    def pack(self) -> bytes:
        """As it is written: a header of fixed size and the payload."""
        header = _HEADER.pack(self.kind, len(self.payload), self.time_s, self.overflows, self.dropped)
        return header + self.payload


def unpack(received: bytearray) -> Message | None:
    """Take the first message off the front of what was received; None while it is not whole.

    Raises:
        ValueError: This is no message.
    """
    if len(received) < _HEADER.size:
        return None
    kind, length, time_s, overflows, dropped = _HEADER.unpack_from(received)
    if kind not in (OPENED, AUDIO, FAILED) or length > _MAX_BYTES or (kind == AUDIO and length % 4):
        raise ValueError("not a message of the capture process")
    end = _HEADER.size + length
    if len(received) < end:
        return None
    payload = bytes(received[_HEADER.size : end])
    del received[:end]
    return Message(kind, payload, time_s, overflows, dropped)


class Recording:
    """An open device. Its callback only copies and queues; a blocking read would hang when the device goes.

    Raises:
        MicrophoneError: The device opens at none of the rates.
    """

    def __init__(self, device: Device, sample_rate: int) -> None:
        self.dropped = 0
        self._overflows = 0
        self._held: deque[tuple[float, int, bytes]] = deque()
        self._n_held = 0  # samples
        self._ready = threading.Condition()
        self._patience_s = _FIRST_BLOCK_S
        self._stream, self.rate = self._open(device, sample_rate)
        self._heard_at = time.monotonic()

    def _open(self, device: Device, sample_rate: int) -> tuple[Any, float]:
        sounddevice = _portaudio()
        reasons = []
        for rate in dict.fromkeys((float(sample_rate), device.sample_rate, *_RATES)):
            self.rate = rate  # the callback may come before `start` is back
            stream = None
            try:
                stream = sounddevice.RawInputStream(
                    device=device.index,
                    channels=1,
                    samplerate=rate,
                    blocksize=round(_BLOCK_S * rate),
                    dtype="float32",
                    callback=self._callback,
                )
                stream.start()
            except (sounddevice.PortAudioError, ValueError) as error:
                reasons.append(error)
                if stream is not None:
                    stream.close(ignore_errors=True)
            else:
                return stream, rate
        raise MicrophoneError(
            f"microphone {device.name!r} does not open ({reasons[0]}); is another program using it? "
            "`serkit devices` lists all"
        )

    def _callback(self, data: Any, frames: int, time_info: Any, status: Any) -> None:
        with self._ready:
            self._heard_at, self._patience_s = time.monotonic(), _NEXT_BLOCK_S
            self._overflows += bool(status.input_overflow)
            self._held.append((self._heard_at, self._overflows, bytes(data)))
            self._n_held += frames
            while self._n_held > _QUEUE_S * self.rate:
                n = len(self._held.popleft()[-1]) // 4
                self._n_held -= n
                self.dropped += n
            self._ready.notify()

    def take(self) -> Message | None:
        """The oldest block; None if there was none for a moment."""
        with self._ready:
            if not self._held and not self._ready.wait(_LOOK_S):
                return None
            time_s, overflows, data = self._held.popleft()
            self._n_held -= len(data) // 4
            return Message(AUDIO, data, time_s, overflows, self.dropped)

    def trouble(self) -> str | None:
        """Why no more audio is to be expected. PortAudio does not tell: most devices just fall silent when they go."""
        if not self._stream.active:
            return "its stream stopped"
        if time.monotonic() - self._heard_at > self._patience_s:
            return f"no audio for {self._patience_s:g} s"
        return None


def capture(out: BinaryIO, sample_rate: int, device: str | None) -> None:
    """Write messages until the device fails, which is the last message.

    Raises:
        OSError: Nobody reads them any more.
    """

    def send(message: Message) -> None:
        out.write(message.pack())
        out.flush()

    try:
        found = find_device(device)
        recording = Recording(found, sample_rate)
        opened = {"name": found.name, "rate": recording.rate}
        send(Message(OPENED, json.dumps(opened).encode(), time.monotonic()))
        trouble = None
        while trouble is None:
            if (block := recording.take()) is not None:
                send(block)
            else:
                trouble = recording.trouble()
    except OSError:
        raise
    except Exception as error:  # whatever it is, the parent shall hear of it
        trouble = str(error) if isinstance(error, MicrophoneError) else repr(error)
    send(Message(FAILED, trouble.encode(), time.monotonic()))


def _end_with_parent() -> None:
    """Standard input ends when the parent closes it or is gone. Then nothing is left to do, and closing might hang."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def _list(out: BinaryIO) -> None:
    """Write the microphones as one JSON list, or one text that says why there is none to be had."""
    try:
        found: Any = [asdict(d) for d in devices()]
    except MicrophoneError as error:
        found = str(error)
    out.write(json.dumps(found).encode())


def main() -> None:
    """Entry of the process. It ends with its parent: Ctrl-C and a service's stop are the parent's business."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as out:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # what a library prints is no message
        if sys.argv[1:] == ["devices"]:
            return _list(out)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        try:
            capture(out, int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
        finally:
            os._exit(0)  # without asking PortAudio, whose farewell to a hung server never ends


if __name__ == "__main__":
    main()
