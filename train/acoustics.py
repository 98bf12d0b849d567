"""What a change of pitch or tempo, a room, noise and a microphone do to a signal, done to its log-mel frames.

Working on cached frames costs a millisecond where the waveform costs a hundred, so every epoch hears new variants:

- *time stretch*: a phase vocoder keeps each frame's magnitude and changes their spacing; so does reading the frames at
  another spacing.
- *pitch shift*: stretching and resampling scales the frequency axis; so does reading the mel axis at scaled positions.
- *late reverberation*: a room answers with noise that decays exponentially (Polack 1988), so each band is joined by the
  decaying sum of its earlier power.
- *additive noise*: real noise frames, computed by the same front end, are added at a signal-to-noise ratio.
- *tilt, colour, band limit*: the logarithm of a microphone's or a telephone's power response is added.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.signal import oaconvolve

from serkit.edge.frontend import FrontendSettings
from serkit.edge.mel import hz_to_mel, mel_to_hz
from serkit.edge.window import silence

Array = npt.NDArray[np.float32]

#: How far the partials of a voice are apart, Hz: a mean fundamental frequency.
PARTIALS_HZ = 150.0

#: How many cosines over the mel axis make a microphone's colour.
N_RIPPLES = 5

#: Order of the band-pass' either slope, as Butterworth filters count: 24 dB per octave.
BAND_ORDER = 4


def of_power_1(frames: Array) -> Array:
    """Log-mel frames brought to a mean frame power of 1."""
    return np.asarray(frames - np.log(np.mean(np.exp(frames).sum(axis=1))), np.float32)


def tilt(db: float, n_mels: int) -> Array:
    """What a spectral tilt of so many dB across the band adds to log-mel frames, ``(n_mels,)``."""
    return np.linspace(-1, 1, n_mels, dtype=np.float32) * np.float32(db * np.log(10) / 20)


def colour(db: float, n_mels: int, rng: np.random.Generator) -> Array:
    """What a smooth frequency response adds to log-mel frames, ``(n_mels,)``: up to ``db`` at its highest or lowest.

    A sum of the first cosines over the mel axis, as the first cepstral coefficients are.
    """
    over_bands = np.pi * np.linspace(0, 1, n_mels)
    shape = rng.uniform(-1, 1, N_RIPPLES) @ np.cos(np.outer(np.arange(1, N_RIPPLES + 1), over_bands))
    return np.asarray(shape / np.abs(shape).max() * rng.uniform(0, db) * np.log(10) / 10, np.float32)


@lru_cache(maxsize=4)
def mel_centres_hz(settings: FrontendSettings) -> npt.NDArray[np.float64]:
    """Centre of each mel band, Hz, ``(n_mels,)``."""
    low, high = hz_to_mel([settings.fmin, settings.fmax], settings.mel_scale)
    return mel_to_hz(np.linspace(low, high, settings.n_mels + 2)[1:-1], settings.mel_scale)


def _pitch_positions(settings: FrontendSettings, semitones: float) -> npt.NDArray[np.float64]:
    """Where, in bands, each band of the shifted spectrum is read from the original one."""
    s = settings
    low, high = hz_to_mel([s.fmin, s.fmax], s.mel_scale)
    source = hz_to_mel(mel_centres_hz(s) / 2 ** (semitones / 12), s.mel_scale)
    return np.asarray((source - low) / ((high - low) / (s.n_mels + 1)) - 1)


def _interpolate(frames: Array, positions: npt.NDArray[np.float64], axis: int, fill: float | None) -> Array:
    """Linear interpolation along an axis; outside, ``fill``, or the edge value where that is None."""
    n = frames.shape[axis]
    clipped = np.clip(positions, 0, n - 1)
    left = np.minimum(clipped.astype(np.intp), max(0, n - 2))
    weight = (clipped - left).astype(np.float32)
    right = np.minimum(left + 1, n - 1)
    shape = (-1, 1) if axis == 0 else (1, -1)
    below = np.take(frames, left, axis=axis)
    out = below + (np.take(frames, right, axis=axis) - below) * weight.reshape(shape)
    if fill is not None:
        outside = (positions < -0.5) | (positions > n - 0.5)
        if axis == 0:
            out[outside] = fill
        else:
            out[:, outside] = fill
    return np.asarray(out, np.float32)


def stretch_time(frames: Array, rate: float, start: float, n_frames: int, fill: float) -> Array:
    """``n_frames`` frames read from ``start`` on at a spacing of ``rate`` frames (above 1: faster speech)."""
    return _interpolate(frames, start + rate * np.arange(n_frames), 0, fill)


def shift_pitch(frames: Array, semitones: float, settings: FrontendSettings, fill: float) -> Array:
    """Scale the frequency axis; what would come from above ``fmax`` is silence."""
    return _interpolate(frames, _pitch_positions(settings, semitones), 1, fill)


@lru_cache(maxsize=4)
def partials(settings: FrontendSettings) -> npt.NDArray[np.float64]:
    """How many partials of a voice (`PARTIALS_HZ` apart) each mel band holds, at least 1, ``(n_mels,)``."""
    return np.maximum(1.0, np.gradient(mel_centres_hz(settings)) / PARTIALS_HZ)


def together(
    power: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    settings: FrontendSettings,
    rng: np.random.Generator,
) -> Array:
    """Log-mel frames of two sounds at once, from the power of each, ``(n_frames, n_mels)``.

    Powers add only on average: in one cell of time and frequency two partials of random phase may double each other or
    cancel. That is the phase term of Deng, Droppo and Acero (2004), averaged over the partials of a band.
    """
    phase = np.cos(np.float32(2 * np.pi) * rng.random(power.shape, np.float32))
    total = power + other + 2 * phase / np.sqrt(partials(settings)) * np.sqrt(power * other)
    return np.asarray(np.log(np.maximum(total, np.exp(silence(settings)))), np.float32)


def add_noise(
    frames: Array, noise: Array, snr_db: float, settings: FrontendSettings, rng: np.random.Generator | None = None
) -> Array:
    """Add noise frames of mean power 1 so that the loudest tenth of the frames stand ``snr_db`` above it.

    Powers add; with ``rng``, phases are drawn as well.
    """
    power = np.exp(frames).sum(axis=1)
    signal = np.log(max(float(np.quantile(power, 0.9)), 1e-12))
    noise = noise + np.float32(signal - snr_db * np.log(10) / 10)
    if rng is None:
        return np.asarray(np.logaddexp(frames, noise), np.float32)
    return together(np.exp(frames.astype(np.float64)), np.exp(noise.astype(np.float64)), settings, rng)


def room_tail(
    rt60_s: npt.NDArray[np.float64], direct_db: float, settings: FrontendSettings, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """What a room makes of one frame later: the power that follows it in each band, ``(n_later, n_mels)``.

    It is Polack's noise that decays; the power of noise in one cell of time and frequency is distributed exponentially,
    which gives every room drawn its own colour.

    Args:
        rt60_s: Of each band, the time in which the reverberation falls by 60 dB, s, ``(n_mels,)``.
        direct_db: Level of the direct sound over that of all of the reverberation, dB.
        settings: Of the frames.
        rng: Draws the room.
    """
    hop_s = settings.hop_length / settings.sample_rate
    later_s = np.arange(1, 2 + int(rt60_s.max() / hop_s))[:, None] * hop_s
    decay = np.exp(-np.log(1e6) * later_s / rt60_s)
    return np.asarray(10 ** (-direct_db / 10) * rng.exponential(decay / decay.sum(axis=0)))


def reverberate(
    frames: Array, tail: npt.NDArray[np.float64], settings: FrontendSettings, rng: np.random.Generator
) -> Array:
    """Join log-mel frames with a room's answer (`room_tail`) to those before them.

    The answer to a partial is a sum of many echoes: its power is distributed exponentially, its phase evenly.
    """
    floor = np.exp(silence(settings))
    power = np.exp(frames.astype(np.float64))
    answer = np.zeros_like(power)
    answer[1:] = np.maximum(oaconvolve(power - floor, tail, axes=0)[: len(frames) - 1], 0)
    n = partials(settings)
    return together(power, answer * rng.gamma(n, 1 / n, answer.shape), settings, rng)


def limit_band(frames: Array, low_hz: float, high_hz: float, settings: FrontendSettings, fill: float) -> Array:
    """Log-mel frames behind a digital Butterworth band-pass; what it takes away altogether is ``fill``.

    With ``w = tan(pi f / fs)``, its power response is ``1 / (1 + ((w^2 - wl wh) / ((wh - wl) w))^(2 n))``: the analogue
    prototype under the bilinear transform (Oppenheim and Schafer, "Discrete-Time Signal Processing", 7.2).
    """
    low, high = np.tan(np.pi * np.array([low_hz, high_hz]) / settings.sample_rate)
    w = np.tan(np.pi * mel_centres_hz(settings) / settings.sample_rate)
    loss = np.log1p(((w**2 - low * high) / ((high - low) * w)) ** (2 * BAND_ORDER))
    return np.asarray(np.maximum(frames - loss, fill), np.float32)
