"""Audio from a stream that cannot seek, such as standard input: a WAV, an AU, or raw 16-bit samples."""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

import soundfile

from serkit.edge.audio import Array, Source, decoded, resampled
from serkit.edge.errors import AudioError

_HEADERS = {b"RIFF", b"RIFX", b"RF64", b".snd"}  # how a WAV begins, and an AU
_HEADER_BYTES = 44  # of most WAV files
_COMPRESSED = {b"fLaC", b"OggS", b"FORM", b"caff", b"riff"}


class PipeSource(Source):
    """A WAV, an AU, or raw samples, from a stream that cannot seek, such as standard input.

    The first bytes decide: ``RIFF``, ``RIFX`` or ``RF64`` is a WAV, ``.snd`` an AU, anything else raw 16-bit
    little-endian samples, but for the beginnings of compressed files, which need a file to seek in.

    Args:
        stream: Binary stream; standard input by default.
        raw_rate: Rate of raw samples, Hz; ``sample_rate`` by default.
        raw_channels: Channels of raw samples, interleaved.

    Raises:
        AudioError: Nothing arrives before the stream ends, it is compressed, or the WAV's header is broken.
    """

    def __init__(
        self,
        sample_rate: int,
        block_size: int | None = None,
        *,
        stream: BinaryIO | None = None,
        raw_rate: int | None = None,
        raw_channels: int = 1,
    ) -> None:
        super().__init__(sample_rate, block_size)
        if stream is None and sys.stdin is None:
            raise AudioError("standard input is closed; pipe a WAV or raw 16-bit samples into it")
        self._stream = stream if stream is not None else sys.stdin.buffer
        self._raw_rate = raw_rate or sample_rate
        self._surely_raw = raw_rate is not None  # one quiet sample, -1025 or -3073, looks like an MP3
        self._raw_channels = raw_channels
        self._source_rate = sample_rate  # known once the header is read
        self._closed = threading.Event()

    def stop(self) -> None:
        self._closed.set()

    close = stop

    def _blocks(self) -> Iterator[Array]:
        """Decoding blocks in libsndfile, deaf to Ctrl-C: a thread does it, and this one waits where it can be woken."""
        ready: queue.Queue[Array | AudioError | None] = queue.Queue(maxsize=64)
        threading.Thread(target=self._decode, args=(ready,), daemon=True).start()
        yield from resampled(self._waited(ready), lambda: self._source_rate, self.sample_rate)

    def _waited(self, ready: queue.Queue[Array | AudioError | None]) -> Iterator[Array]:
        while not self._closed.is_set():
            try:
                block = ready.get(timeout=0.2)
            except queue.Empty:
                continue
            if block is None:
                return
            if isinstance(block, AudioError):
                raise block
            yield block

    def _decode(self, ready: queue.Queue[Array | AudioError | None]) -> None:
        def hand_over(item: Array | AudioError | None) -> None:
            while not self._closed.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue

        try:
            head = self._head()
            # libsndfile reads pipes by file descriptor only, so the first bytes and the rest travel through one.
            reader, writer = os.pipe()
            threading.Thread(target=self._forward, args=(head, writer), daemon=True).start()
            raw = {
                "samplerate": self._raw_rate,
                "channels": self._raw_channels,
                "format": "RAW",
                "subtype": "PCM_16",
                "endian": "LITTLE",
            }
            try:
                file = soundfile.SoundFile(reader, **({} if head[:4] in _HEADERS else raw))
            except soundfile.LibsndfileError as error:
                raise AudioError(
                    f"standard input: starts like a WAV or AU but is none ({error.error_string.rstrip('.')}); pipe a "
                    "WAV or raw 16-bit samples"
                ) from None
            with file:
                n_samples = 0
                self._source_rate = file.samplerate
                for block in decoded(file, "standard input"):
                    n_samples += len(block)
                    hand_over(block)
            if not n_samples:
                raise AudioError("standard input: a WAV without samples; a recording is needed")
        except AudioError as error:
            hand_over(error)
        else:
            hand_over(None)

    def _read(self) -> bytes:
        """Some bytes; by file descriptor where there is one, so that no lock of Python's is held while waiting."""
        try:
            return os.read(self._stream.fileno(), 65536)
        except io.UnsupportedOperation:
            return self._stream.read(65536)
        except BlockingIOError:  # whoever started this program left it so
            os.set_blocking(self._stream.fileno(), True)
            return self._read()
        except (OSError, ValueError):  # closed meanwhile
            return b""

    def _head(self) -> bytes:
        head = b""
        while len(head) < _HEADER_BYTES and (more := self._read()):
            head += more
        if not head:
            raise AudioError("standard input: ended before any audio; pipe a WAV or raw 16-bit samples into it")
        mp3 = head[:3] == b"ID3" or (head[:2] in {b"\xff\xfb", b"\xff\xf3"} and not self._surely_raw)
        if head[:4] in _COMPRESSED or mp3:
            raise AudioError(
                "standard input: a compressed or AIFF file; give it by name (--input FILE), or pipe a WAV or raw "
                "16-bit samples"
            )
        if head[:4] in _HEADERS:  # a length of 0 is one that was not known yet
            head = head.replace(b"data\0\0\0\0", b"data\xff\xff\xff\xff", 1)
        return head

    def _forward(self, data: bytes, writer: int) -> None:
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            try:
                while data and not self._closed.is_set():
                    pipe.write(data)
                    data = self._read()
            except BrokenPipeError:  # the decoder stopped
                pass
