"""Log-mel and MFCC features in numpy alone, the same for training, conversion and the device.

There is one implementation, the streaming `Frontend`; the batch function `features` pushes the whole signal through
it. Frames are bit-identical however the audio is cut, because every step works row by row: the FFT and the DCT never
mix frames, and the one use of BLAS, whose rounding depends on a matrix's shape, keeps shapes and places fixed (see
`BandedMel`).

Alignment: frame ``k`` covers the samples ``k * hop_length ... k * hop_length + win_length - 1`` of the padded signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import AudioError, SettingsError
from serkit.edge.mel import BandedMel

Array = npt.NDArray[np.float32]

# Frames computed at once: large enough to amortise numpy's call overhead, small enough to stay in a level-2 cache.
_FRAMES_PER_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class FrontendSettings:
    """What turns samples into features; travels inside every model file.

    The defaults are those of R1: 16 kHz, 25 ms Hamming window, 10 ms hop, 512-point FFT, 128 mel bands.

    Attributes:
        kind: ``log_mel`` or ``mfcc``.
        sample_rate: Hz.
        n_fft: FFT length, samples; frames shorter than this are zero-padded.
        win_length: Analysis window, samples.
        hop_length: Step between frames, samples.
        window: ``hamming``, ``hann`` or ``rectangular``.
        periodic: Window of period ``win_length`` (librosa, scipy), not symmetric (numpy, python_speech_features).
        pre_emphasis: ``y[t] = x[t] - pre_emphasis * x[t - 1]``, with ``x[-1] = 0``; 0 is off.
        padding: ``none``: only whole frames; ``end``: zeros complete the last frame, as python_speech_features does;
            ``center``: frame ``k`` is centred on sample ``k * hop_length``, zeros outside, as librosa does.
        n_mels: Mel bands.
        fmin: Lower edge of the first band, Hz.
        fmax: Upper edge of the last band, Hz.
        mel_scale: ``htk`` (2595 log10(1 + f/700)), ``slaney`` (linear below 1 kHz, log above; Auditory Toolbox), or
            ``linear`` (bands evenly spaced in Hz: a spectrogram image).
        mel_norm: ``none``: triangles of height 1; ``slaney``: triangles of area 1.
        mel_edges: ``exact`` frequencies, or ``binned`` to FFT bins as python_speech_features does.
        power_scale: ``none``: |X|^2; ``n_fft``: |X|^2 / n_fft.
        log_floor: Powers below this are raised to it before the natural logarithm.
        n_mfcc: Cepstral coefficients kept (``mfcc`` only).
        lifter: Sinusoidal lifter L of HTK; 0 is off (``mfcc`` only).
        energy: Replace coefficient 0 by the log of the frame's total power (``mfcc`` only).
        deltas: 0, 1 (append deltas) or 2 (append deltas and delta-deltas).
        delta_width: Frames on either side that the delta regression looks at.

    >>> FrontendSettings().n_features
    128
    """

    kind: Literal["log_mel", "mfcc"] = "log_mel"
    sample_rate: int = 16000
    n_fft: int = 512
    win_length: int = 400
    hop_length: int = 160
    window: Literal["hamming", "hann", "rectangular"] = "hamming"
    periodic: bool = False
    pre_emphasis: float = 0.0
    padding: Literal["none", "end", "center"] = "none"
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float = 8000.0
    mel_scale: Literal["htk", "slaney", "linear"] = "htk"
    mel_norm: Literal["none", "slaney"] = "none"
    mel_edges: Literal["exact", "binned"] = "exact"
    power_scale: Literal["none", "n_fft"] = "none"
    log_floor: float = 1e-8
    n_mfcc: int = 13
    lifter: int = 22
    energy: bool = False
    deltas: int = 0
    delta_width: int = 2

    def __post_init__(self) -> None:
        choices = {
            "kind": ("log_mel", "mfcc"),
            "window": ("hamming", "hann", "rectangular"),
            "padding": ("none", "end", "center"),
            "mel_scale": ("htk", "slaney", "linear"),
            "mel_norm": ("none", "slaney"),
            "mel_edges": ("exact", "binned"),
            "power_scale": ("none", "n_fft"),
            "deltas": (0, 1, 2),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(f"front end: {name} is {getattr(self, name)!r}; choose one of {allowed}")
        for name in ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "n_mfcc", "delta_width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingsError(f"front end: {name} is {value!r}; it needs a whole number of at least 1")
        if self.win_length > self.n_fft:
            raise SettingsError(
                f"front end: win_length {self.win_length} is longer than n_fft {self.n_fft}; raise n_fft"
            )
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise SettingsError(
                f"front end: mel range {self.fmin:g} to {self.fmax:g} Hz; it needs 0 <= fmin < fmax <= "
                f"{self.sample_rate / 2:g} Hz, half the sample rate"
            )
        if self.n_mels > self.n_fft // 2 + 1:
            raise SettingsError(
                f"front end: n_mels {self.n_mels} is more than the {self.n_fft // 2 + 1} bins of n_fft {self.n_fft}; "
                "lower it, or raise n_fft"
            )
        if not self.log_floor > 0:
            raise SettingsError(f"front end: log_floor is {self.log_floor!r}; it needs a power above 0")
        if self.kind == "mfcc" and self.n_mfcc > self.n_mels:
            raise SettingsError(f"front end: n_mfcc {self.n_mfcc} is more than n_mels {self.n_mels}")

    @property
    def n_features(self) -> int:
        """Width of one frame: coefficients, times 1, 2 or 3 with the deltas."""
        return (self.n_mels if self.kind == "log_mel" else self.n_mfcc) * (1 + self.deltas)

    def n_samples(self, n_frames: int) -> int:
        """Samples that so many frames look at."""
        return (n_frames - 1) * self.hop_length + self.win_length


class _Cepstrum:
    """Orthonormal DCT-II of each row by way of one FFT of the same length (Makhoul 1980), then HTK's lifter."""

    def __init__(self, settings: FrontendSettings) -> None:
        n, k = settings.n_mels, np.arange(settings.n_mfcc)
        self._order = np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)[::-1]])
        scale = np.where(k == 0, np.sqrt(1 / n), np.sqrt(2 / n))
        if settings.lifter:
            scale = scale * (1 + settings.lifter / 2 * np.sin(np.pi * k / settings.lifter))
        twiddle = scale * np.exp(-0.5j * np.pi * k / n)
        self._real, self._imag = twiddle.real, twiddle.imag

    def __call__(self, log_mel: Array) -> Array:
        spectrum = np.fft.fft(log_mel[:, self._order], axis=1)[:, : len(self._real)]
        return (spectrum.real * self._real - spectrum.imag * self._imag).astype(np.float32)


class _Deltas:
    """Appends regression deltas to a stream of frames, edge frames repeated at both ends of the stream.

    ``d[t] = sum_n n (c[t + n] - c[t - n]) / (2 sum_n n^2)``, n = 1..width (HTK book, eq. 5.16). Frames leave
    ``width`` frames late, the last ones on `flush`.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._norm = np.float32(1.0 / (2 * sum(n * n for n in range(1, width + 1))))
        self.reset()

    def reset(self) -> None:
        self._held: Array | None = None

    def push(self, frames: Array, static: int) -> Array:
        """Frames (n, d), the last ``static`` columns to be differentiated, to (m, d + static)."""
        if self._held is None:
            if not len(frames):
                return np.empty((0, frames.shape[1] + static), np.float32)
            held = np.concatenate([np.repeat(frames[:1], self.width, axis=0), frames])
        else:
            held = np.concatenate([self._held, frames])
        n = max(0, len(held) - 2 * self.width)
        self._held = held[n:].copy()
        column = held[:, held.shape[1] - static :]
        delta = np.zeros((n, static), np.float32)
        for step in range(1, self.width + 1):
            ahead, behind = self.width + step, self.width - step
            delta += np.float32(step) * (column[ahead : ahead + n] - column[behind : behind + n])
        delta *= self._norm
        return np.concatenate([held[self.width : self.width + n], delta], axis=1)

    def flush(self, static: int) -> Array | None:
        """The frames still held back, the last one repeated ahead; None if the stream was empty."""
        if self._held is None:
            return None
        return self.push(np.repeat(self._held[-1:], self.width, axis=0), static)


class Frontend:
    """Streaming features: push blocks of any size, get the frames they complete.

    One object serves one stream at a time; `reset` starts the next. Buffers are allocated once.

    >>> frontend = Frontend(FrontendSettings())
    >>> frontend.push(np.zeros(560, np.float32)).shape, frontend.push(np.zeros(80, np.float32)).shape
    ((2, 128), (0, 128))
    """

    def __init__(self, settings: FrontendSettings) -> None:
        self.settings = s = settings
        n = np.arange(s.win_length)
        period = s.win_length if s.periodic else max(1, s.win_length - 1)
        a0 = {"hamming": 0.54, "hann": 0.5, "rectangular": 1.0}[s.window]
        self._window = a0 - (1 - a0) * np.cos(2 * np.pi * n / period)
        if s.power_scale == "n_fft":
            self._window /= np.sqrt(s.n_fft)
        self._mel = BandedMel(s, _FRAMES_PER_CHUNK)
        self._cepstrum = _Cepstrum(s) if s.kind == "mfcc" else None
        self._deltas = [_Deltas(s.delta_width) for _ in range(s.deltas)]
        self._n_static = s.n_features // (1 + s.deltas)
        chunk = _FRAMES_PER_CHUNK
        self._span = s.n_samples(chunk)
        # float64: numpy transforms it faster than float32, and casting each sample once is cheaper than in each frame.
        self._samples = np.empty(self._span)
        self._framed = np.lib.stride_tricks.sliding_window_view(self._samples, s.win_length)[:: s.hop_length]
        self._frames = np.zeros((chunk, s.n_fft))  # the right part stays zero: the FFT's padding
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        s = self.settings
        self._filled = 0  # samples waiting in the buffer
        self._skip = 0  # samples to drop before the next frame, where the hop is longer than the window
        self._previous = np.float32(0.0)  # last sample, for the pre-emphasis
        self._n_samples = 0
        self._n_frames = 0
        if s.padding == "center":
            self._samples[: s.win_length // 2] = 0.0
            self._filled = s.win_length // 2
        for stage in self._deltas:
            stage.reset()

    def push(self, block: npt.ArrayLike) -> Array:
        """Frames that ``block`` completes.

        Args:
            block: Mono samples in -1...1, any length, converted to float32.

        Returns:
            float32 ``(n_frames, n_features)``, ``n_frames`` 0 or more; the caller's to keep.

        Raises:
            AudioError: The block is not one-dimensional.
        """
        return self._with_deltas(self._static_frames(self._emphasised(block)))

    def skip(self, block: npt.ArrayLike) -> int:
        """Let ``block`` pass and return how many frames it completes; those that come later are as after `push`.

        Raises:
            AudioError: The block is not one-dimensional.
            SettingsError: The settings ask for deltas, which look at the frames that are left out.
        """
        if self._deltas:
            raise SettingsError("front end: with deltas, no frame can be left out")
        s, x = self.settings, self._emphasised(block)
        dropped = min(self._skip, len(x))
        self._skip -= dropped
        x = x[dropped:]
        available = self._filled + len(x)
        n = self._n_whole(available)
        used = n * s.hop_length
        self._skip += max(0, used - available)
        kept = max(0, available - used)
        held = max(0, kept - len(x))  # of the samples that waited
        self._samples[:held] = self._samples[self._filled - held : self._filled].copy()
        self._samples[held:kept] = x[len(x) - (kept - held) :]
        self._filled = kept
        self._n_frames += n
        return n

    def _emphasised(self, block: npt.ArrayLike) -> Array:
        x = np.asarray(block, np.float32)
        if x.ndim != 1:
            raise AudioError(f"audio block of shape {x.shape}; the front end needs mono samples of shape (n,)")
        self._n_samples += len(x)
        if self.settings.pre_emphasis and len(x):
            emphasised = np.empty_like(x)
            coefficient = np.float32(self.settings.pre_emphasis)
            emphasised[0] = x[0] - coefficient * self._previous
            np.subtract(x[1:], coefficient * x[:-1], out=emphasised[1:])
            self._previous = x[-1]
            x = emphasised
        return x

    def flush(self) -> Array:
        """End the stream: the frames that padding and deltas still owe. Call `reset` before the next stream."""
        s = self.settings
        if s.padding == "none" or not self._n_samples:
            owed = 0
        elif s.padding == "center":
            owed = 1 + self._n_samples // s.hop_length - self._n_frames
        else:
            owed = 1 + max(0, -(-(self._n_samples - s.win_length) // s.hop_length)) - self._n_frames
        zeros = np.zeros(max(0, owed * s.hop_length + s.win_length), np.float32)
        frames = self._static_frames(zeros)[:owed] if owed > 0 else np.empty((0, self._n_static), np.float32)
        frames = self._with_deltas(frames)
        for i, stage in enumerate(self._deltas):
            tail = stage.flush(self._n_static)
            if tail is None:
                break
            for later in self._deltas[i + 1 :]:
                tail = later.push(tail, self._n_static)
            frames = np.concatenate([frames, tail])
        return frames

    def _with_deltas(self, frames: Array) -> Array:
        for stage in self._deltas:
            frames = stage.push(frames, self._n_static)
        return frames

    def _n_whole(self, n_samples: int) -> int:
        """Frames that so many samples complete."""
        return max(0, (n_samples - self.settings.win_length) // self.settings.hop_length + 1)

    def _static_frames(self, x: Array) -> Array:
        s = self.settings
        position = min(self._skip, len(x))
        self._skip -= position
        n_frames = self._n_whole(self._filled + len(x) - position)
        out = np.empty((n_frames, self._n_static), np.float32)
        done = 0
        while done < n_frames or position < len(x):
            take = min(len(x) - position, self._span - self._filled)
            self._samples[self._filled : self._filled + take] = x[position : position + take]
            self._filled += take
            position += take
            n = self._n_whole(self._filled)
            if n:
                self._compute(n, out[done : done + n])
                done += n
                self._n_frames += n
                used = n * s.hop_length
                kept = max(0, self._filled - used)
                self._skip = max(0, used - self._filled)
                self._samples[:kept] = self._samples[used : used + kept].copy()
                self._filled = kept
                jump = min(self._skip, len(x) - position)
                position += jump
                self._skip -= jump
        return out

    def _compute(self, n: int, out: Array) -> None:
        """The first ``n`` frames of the sample buffer, at most one chunk, into ``out``."""
        s, k = self.settings, self._n_frames
        frames = self._frames[:n]
        np.multiply(self._framed[:n], self._window, out=frames[:, : s.win_length])
        parts = np.fft.rfft(frames, axis=1).view(np.float64).reshape(n, -1, 2)
        np.multiply(parts, parts, out=parts)
        power = self._mel.power(k, n)
        np.add(parts[:, :, 0], parts[:, :, 1], out=power, casting="same_kind")
        log_mel = out if self._cepstrum is None else np.empty((n, s.n_mels), np.float32)
        np.maximum(self._mel(k, n), np.float32(s.log_floor), out=log_mel)
        np.log(log_mel, out=log_mel)
        if self._cepstrum is not None:
            out[:] = self._cepstrum(log_mel)
            if s.energy:
                out[:, 0] = np.log(np.maximum(np.add.reduce(power, axis=1), s.log_floor))


def features(signal: npt.ArrayLike, settings: FrontendSettings) -> Array:
    """Features of a whole signal: the same frames as `Frontend` gives for any cut of it.

    Args:
        signal: Mono samples in -1...1 at ``settings.sample_rate``, shape ``(n_samples,)``.
        settings: What to compute.

    Returns:
        float32 ``(n_frames, n_features)``. Without padding ``n_frames`` is ``1 + (n_samples - win_length) //
        hop_length``, or 0 for a signal shorter than one window.
    """
    frontend = Frontend(settings)
    return np.concatenate([frontend.push(signal), frontend.flush()])


def delta(frames: npt.ArrayLike, width: int = 2) -> Array:
    """Regression deltas of ``(n_frames, d)``, same shape, float32; edge frames are repeated.

    >>> delta(np.arange(5.0)[:, None]).ravel().tolist()
    [0.5, 0.800000011920929, 1.0, 0.800000011920929, 0.5]
    """
    c = np.asarray(frames, np.float32)
    if len(c) == 0:
        return c.copy()
    stage = _Deltas(width)
    parts = [stage.push(c, c.shape[1]), stage.flush(c.shape[1])]
    return np.concatenate([p for p in parts if p is not None])[:, c.shape[1] :]
