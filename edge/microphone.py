"""Microphones, as PortAudio sees them.

The callback only copies and queues. A blocking read is never used: it hangs for ever when the device goes. A stream
that stays silent (no callback) for a few seconds is an error here, not a hang.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.audio import Resampler, Source
from serkit.edge.errors import MicrophoneError
from serkit.edge.stderr import muted

Array = npt.NDArray[np.float32]

_QUEUE_SECONDS = 10.0  # audio kept while the program is busy; older blocks are dropped and counted
_FIRST_BLOCK_S = 5.0  # audio servers may start late
_NEXT_BLOCK_S = 3.0
_CLOSE_S = 2.0


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
    return sounddevice


def devices() -> list[Device]:
    """All microphones.

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
    exact = [d for d in found if device in (str(d.index), d.name)]
    fitting = exact or [d for d in found if device.lower() in d.name.lower()]
    if len(fitting) != 1:
        what = "no microphone" if not fitting else f"{len(fitting)} microphones"
        names = "; ".join(f"{d.index}: {d.name}" for d in found)
        raise MicrophoneError(f"{what} called {device!r}; choose one of {names}")
    return fitting[0]


class Microphone(Source):
    """A live microphone.

    Attributes:
        device: Which one.
        dropped_samples: Samples lost because the program was busy for longer than the queue holds.
        overflows: How often the device itself reported lost samples (xruns).

    Raises:
        MicrophoneError: No such device, it refuses to open, or, while iterating, it stops delivering.
    """

    def __init__(self, sample_rate: int, block_size: int | None = None, *, device: str | None = None) -> None:
        super().__init__(sample_rate, block_size)
        self.device = find_device(device)
        self.dropped_samples = 0
        self.overflows = 0
        self._noticed = (0, 0)
        self._queue: queue.Queue[Array] = queue.Queue()
        self._rate = float(sample_rate)
        self._stream: Any = self._open()

    def _open(self) -> Any:
        sounddevice = _portaudio()
        reason: Exception | None = None
        for rate in dict.fromkeys((float(self.sample_rate), self.device.sample_rate)):
            self._rate = rate
            stream = None
            try:
                with muted():
                    stream = sounddevice.InputStream(
                        device=self.device.index,
                        channels=1,
                        samplerate=rate,
                        dtype="float32",
                        callback=self._callback,
                    )
                    stream.start()
            except (sounddevice.PortAudioError, ValueError) as error:
                reason = error
                if stream is not None:
                    stream.close(ignore_errors=True)
            else:
                return stream
        raise MicrophoneError(
            f"microphone {self.device.name!r} does not open ({reason}); is another program using it? "
            "`serkit devices` lists all"
        )

    def _callback(self, data: Array, frames: int, time: Any, status: Any) -> None:
        if status.input_overflow:
            self.overflows += 1
        if self._queue.qsize() * frames > _QUEUE_SECONDS * self._rate:
            self.dropped_samples += len(self._queue.get_nowait())
        self._queue.put_nowait(data[:, 0].copy())

    def _blocks(self) -> Iterator[Array]:
        resampler = Resampler(self._rate, self.sample_rate)
        patience = _FIRST_BLOCK_S
        filled = 0
        while self._stream is not None:
            try:
                block = self._queue.get(timeout=patience)
            except queue.Empty:
                raise MicrophoneError(
                    f"microphone {self.device.name!r} went silent for {patience:g} s; was it unplugged? "
                    "`serkit devices` lists what is there"
                ) from None
            patience = _NEXT_BLOCK_S
            if self.dropped_samples > filled:  # silence in place of what was lost keeps the times right
                block = np.concatenate([np.zeros(self.dropped_samples - filled, np.float32), block])
                filled = self.dropped_samples
            resampled = resampler.push(block)
            if len(resampled):
                yield resampled

    def notice(self) -> str | None:
        seen, self._noticed = self._noticed, (self.overflows, self.dropped_samples)
        if self._noticed == seen:
            return None
        dropped_s = self.dropped_samples / self._rate
        return f"audio lost: {self.overflows} xruns, {dropped_s:.1f} s dropped because this machine is too busy"

    def close(self) -> None:
        """Stop listening; a second call does nothing.

        A hung sound server never answers: closing is left to a thread of its own and given up after a while.
        """
        stream, self._stream = self._stream, None
        if stream is None:
            return

        def end() -> None:
            stream.abort(ignore_errors=True)
            stream.close(ignore_errors=True)

        closing = threading.Thread(target=end, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
