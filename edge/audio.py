"""Audio in: a file, a pipe or a microphone, all as one stream of mono float32 blocks at the model's rate.

Every source is a context manager that iterates over blocks, and closing it twice is fine:

    with FileSource("speech.wav", sample_rate=16000) as source:
        for block in source: ...

`FileSource` takes whatever libsndfile reads (WAV, FLAC, Ogg, Opus, MP3, AIFF, ...) and `FakeSource` an array, for tests
and for users who have audio of their own; `serkit.edge.pipe` takes standard input and `serkit.edge.microphone`
PortAudio's devices. Memory does not grow with the length of the audio.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from serkit.edge.errors import AudioError

if TYPE_CHECKING:
    from typing_extensions import Self

Array = npt.NDArray[np.float32]

_READ_FRAMES = 4096  # frames of a file or pipe decoded at once
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's, of a FLAC that was written to a pipe, or whose writer was killed
_ENCODER_S = 0.5  # what encoders add and decoders take off at either end, at most


class Source:
    """One stream of audio: iterate for mono float32 blocks in -1...1 at ``sample_rate``.

    Attributes:
        sample_rate: Hz, of the blocks.
        block_size: Samples per block (the last one may be shorter); None gives blocks as they come.
        live: Whether audio comes at the pace of time, and is lost when nobody takes it.
        dropped_samples: Samples that a live source dropped because nobody took them in time.
    """

    live = False
    dropped_samples = 0

    def __init__(self, sample_rate: int, block_size: int | None = None) -> None:
        if block_size is not None and block_size < 1:
            raise AudioError(f"block size {block_size}; it needs at least 1 sample")
        self.sample_rate = sample_rate
        self.block_size = block_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file or device."""

    def stop(self) -> None:
        """Nobody needs another block: do not wait for one that may never come; from any thread or signal handler."""

    def rest(self, seconds: float) -> None:
        """Nobody needs another block before so much more audio has come: a live source may sleep meanwhile."""

    def notice(self) -> str | None:
        """What went wrong since the last call without ending the stream, such as lost audio; None if nothing did."""
        return None

    def __iter__(self) -> Iterator[Array]:
        blocks = self._blocks()
        return blocks if self.block_size is None else _reblock(blocks, self.block_size)

    def _blocks(self) -> Iterator[Array]:
        """Mono blocks at ``sample_rate``, of any length."""
        raise AssertionError("each source says where its blocks come from")


def _reblock(blocks: Iterator[Array], size: int) -> Iterator[Array]:
    held: list[Array] = []
    n_held = 0
    for block in blocks:
        held.append(block)
        n_held += len(block)
        if n_held < size:
            continue
        joined = np.concatenate(held)
        whole = n_held - n_held % size
        yield from np.split(joined[:whole], range(size, whole, size))
        held, n_held = [joined[whole:]], n_held - whole
    if n_held:
        yield np.concatenate(held)


class Resampler:
    """Streaming conversion of rate and channels (soxr, high quality); results do not depend on how the audio is cut.

    Args:
        source_rate: Hz.
        sample_rate: Wanted rate, Hz.
    """

    def __init__(self, source_rate: float, sample_rate: int) -> None:
        self._stream = None if source_rate == sample_rate else soxr.ResampleStream(source_rate, sample_rate, 1)

    def push(self, samples: npt.NDArray[Any], *, last: bool = False) -> Array:
        """Samples ``(n,)`` or ``(n, channels)`` to mono float32 ``(m,)`` at the wanted rate."""
        mono = samples if samples.ndim == 1 else samples.mean(axis=1)
        mono = np.ascontiguousarray(mono, np.float32)
        if self._stream is None:
            return mono
        return np.asarray(self._stream.resample_chunk(mono, last=last), np.float32)


def describe_audio(path: str | Path) -> Any:
    """libsndfile's description of a file (``samplerate``, ``channels``, ``frames``, ``format``, ``subtype``).

    Raises:
        AudioError: Missing, no file, unreadable, empty, not audio, without samples, or a WAV or AIFF shorter than its
            own header says. (`FileSource` checks compressed formats, once they are decoded.)
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise AudioError(f"{path}: a folder; give an audio file (or several)")
        if path.exists() and not path.is_file():
            raise AudioError(f"{path}: a pipe or a device; `serkit listen --input -` hears what is piped into it")
        path.open("rb").close()  # libsndfile does not say why it may not
        if path.stat().st_size == 0:
            raise AudioError(f"{path}: an empty file (0 bytes); a recording is needed; copy it again")
        info = soundfile.info(os.fsencode(path), verbose=True)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the name") from None
    except PermissionError:
        raise AudioError(f"{path}: no permission to read it; change its owner or mode") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror or error}); check its name and disk") from None
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: not an audio file that libsndfile can read ({error.error_string.rstrip('.')}); WAV, FLAC, Ogg, "
            "Opus, MP3 or AIFF is needed"
        ) from None
    except TypeError:  # soundfile's answer to .raw
        raise AudioError(
            f"{path}: raw samples, of no known rate; pipe them into `serkit listen --input - --raw-rate HZ`"
        ) from None
    if match := re.search(r"^ *(?:data|SSND) *: (\d+) \(should be (\d+)\)", info.extra_info, re.MULTILINE):
        promised, present = map(int, match.groups())
        if present < promised < 0x7FFF0000:  # larger: a recorder that did not know the length wrote it while streaming
            raise AudioError(
                f"{path}: truncated: its header promises {promised} bytes of samples, the file holds {present}; copy "
                "it again"
            )
    if info.frames == 0:
        raise AudioError(f"{path}: holds no samples; a recording is needed")
    return info


class FileSource(Source):
    """Any file libsndfile reads, decoded, mixed down and resampled as it streams.

    Raises:
        AudioError: See `describe_audio`; also while iterating, if the file breaks off in the middle.
    """

    def __init__(self, path: str | Path, sample_rate: int, block_size: int | None = None) -> None:
        super().__init__(sample_rate, block_size)
        self.path = Path(path)
        self._promised = int(describe_audio(path).frames)
        self._file = _Sequential(os.fsencode(path))
        self._n_read = 0

    @property
    def duration_s(self) -> float:
        """Length of what was read so far, s: some headers do not know it, and some are wrong."""
        return float(self._n_read / self._file.samplerate)

    def close(self) -> None:
        self._file.close()

    def _blocks(self) -> Iterator[Array]:
        return resampled(self._read(), lambda: self._file.samplerate, self.sample_rate)

    def _read(self) -> Iterator[Array]:
        for block in decoded(self._file, str(self.path)):
            self._n_read += len(block)
            yield block
        promised_s = self._promised / self._file.samplerate
        if self._promised != _UNKNOWN_FRAMES and self.duration_s < promised_s - _ENCODER_S:
            raise AudioError(
                f"{self.path}: truncated: its header promises {promised_s:.1f} s, the file holds {self.duration_s:.1f} "
                "s; copy it again"
            )


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """Read from beginning to end: soundfile's seeking after each read fails in a FLAC that does not know its length."""

    def seekable(self) -> bool:
        return False


def decoded(file: Any, name: str) -> Iterator[Array]:
    """An open SoundFile as blocks ``(n, channels)`` at its own rate."""
    while True:
        try:
            samples = file.read(_READ_FRAMES, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{name}: breaks off while being decoded ({error.error_string}); copy it again") from None
        if not np.all(np.isfinite(samples)):
            raise AudioError(f"{name}: holds samples that are no numbers (NaN or infinite); export it again")
        if len(samples):
            yield samples
        if len(samples) < _READ_FRAMES:
            return


def resampled(blocks: Iterator[Array], source_rate: Callable[[], float], sample_rate: int) -> Iterator[Array]:
    """Blocks at a rate that is known once the first one is there, as mono blocks at ``sample_rate``."""
    resampler = None
    for block in blocks:
        resampler = resampler or Resampler(source_rate(), sample_rate)
        if len(mono := resampler.push(block)):
            yield mono
    if resampler is not None and len(rest := resampler.push(np.empty(0, np.float32), last=True)):
        yield rest


class FakeSource(Source):
    """An array as a source: for tests, and for programs that have audio of their own.

    >>> [len(block) for block in FakeSource(np.zeros(1000), 16000, block_size=400)]
    [400, 400, 200]
    """

    def __init__(
        self,
        samples: npt.ArrayLike,
        sample_rate: int,
        block_size: int | None = None,
        *,
        source_rate: int | None = None,
    ) -> None:
        super().__init__(sample_rate, block_size)
        self._samples = np.asarray(samples, np.float32)
        self._source_rate = source_rate or sample_rate

    def _blocks(self) -> Iterator[Array]:
        yield Resampler(self._source_rate, self.sample_rate).push(self._samples, last=True)


def read_audio(path: str | Path, sample_rate: int) -> Array:
    """A whole file as mono float32 ``(n_samples,)`` at ``sample_rate``: the blocks of `FileSource`, joined."""
    with FileSource(path, sample_rate) as source:
        return np.concatenate([np.empty(0, np.float32), *source])


def paced(blocks: Iterable[Array], sample_rate: int) -> Iterator[Array]:
    """Hand blocks out no faster than they were spoken."""
    started, n_samples = time.monotonic(), 0
    for block in blocks:
        n_samples += len(block)
        time.sleep(max(0.0, started + n_samples / sample_rate - time.monotonic()))
        yield block
