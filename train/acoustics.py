"""What a change of pitch or tempo, a room, noise and a microphone do to a signal, done to its log-mel frames.

Working on cached frames costs milliseconds where the waveform costs a hundred, so every epoch hears new variants:

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
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import get_window, oaconvolve

from serkit.edge.frontend import FrontendSettings
from serkit.edge.mel import hz_to_mel, mel_to_hz
from serkit.edge.window import silence

Array = npt.NDArray[np.float32]

#: How one analysis window, and one mel band, weighs its neighbours' sound: windows overlap by 60 %, triangles by half.
OVERLAP = (0.35, 1.0, 0.35)

#: How far below all of a frame its analysis window's side lobes lie, dB, as measured on filtered speech: what is heard
#: in a band that a filter has silenced.
LEAKAGE_DB = 57.0

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
def values_per_band(settings: FrontendSettings) -> npt.NDArray[np.float64]:
    """How many independent values the power of noise in each mel band is the mean of, at least 1, ``(n_mels,)``.

    The width of a triangle, ``(int w)^2 / int w^2`` or 1.5 of the spacing of the bands, over the analysis window's
    equivalent noise bandwidth (Harris 1978).
    """
    w = get_window(settings.window, settings.win_length)
    bandwidth_hz = settings.sample_rate * np.sum(w**2) / np.sum(w) ** 2
    return np.maximum(1.0, 1.5 * np.gradient(mel_centres_hz(settings)) / bandwidth_hz)


def scatter(shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """Noise of mean power 1 in cells of time and frequency, like its neighbours as far as they overlap."""
    n_frames, n_mels = shape
    drawn = rng.standard_normal((n_frames + 2, n_mels + 2, 2), np.float32).view(np.complex64)[..., 0]
    before, here, after = np.array(OVERLAP, np.float32) / np.float32(np.linalg.norm(OVERLAP))
    drawn = before * drawn[:-2] + here * drawn[1:-1] + after * drawn[2:]
    drawn = before * drawn[:, :-2] + here * drawn[:, 1:-1] + after * drawn[:, 2:]
    return np.asarray(drawn / np.sqrt(2), np.complex64)


def together(
    power: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    cosine: npt.NDArray[np.floating[Any]],
    settings: FrontendSettings,
) -> Array:
    """Log-mel frames of two sounds at once, from the power of each, ``(n_frames, n_mels)``.

    Powers add only on average: in one cell of time and frequency sounds of random phase may double each other or
    cancel, by the cosine of the angle between them. That is the phase term of Deng, Droppo and Acero (2004); in a band
    of ``n`` independent values it falls by the square root of ``n``.
    """
    total = power + other + 2 * cosine * np.sqrt(power * other / values_per_band(settings))
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
    g = scatter((frames.shape[0], frames.shape[1]), rng)
    return together(np.exp(frames.astype(np.float64)), np.exp(noise.astype(np.float64)), g.real / np.abs(g), settings)


def room_tail(
    rt60_s: npt.NDArray[np.float64], direct_db: float, settings: FrontendSettings, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """What a room makes of one frame: the power that joins it and follows it in each band, ``(1 + n_later, n_mels)``.

    It is Polack's noise that decays, integrated over a hop around each frame. The power of noise is no constant, which
    gives every room drawn its own colour.

    Args:
        rt60_s: Of each band, the time in which the reverberation falls by 60 dB, s, ``(n_mels,)``.
        direct_db: Level of the direct sound over that of all of the reverberation, dB, in the mean over rooms.
        settings: Of the frames.
        rng: Draws the room.
    """
    hop_s = settings.hop_length / settings.sample_rate
    edges_s = np.maximum(0, np.arange(2 + int(np.ceil(rt60_s.max() / hop_s))) - 0.5) * hop_s
    energy = -np.diff(np.exp(-np.log(1e6) * edges_s[:, None] / rt60_s), axis=0)
    n = values_per_band(settings)
    return np.asarray(10 ** (-direct_db / 10) * rng.gamma(n, energy / n))


def reverberate(
    frames: Array, tail: npt.NDArray[np.float64], settings: FrontendSettings, rng: np.random.Generator
) -> Array:
    """Join log-mel frames with a room's answer (`room_tail`) to them and to those before them.

    The answer is a sum of many echoes, so noise: its power and its phase scatter.
    """
    power = np.exp(frames.astype(np.float64))
    answer = oaconvolve(power - np.exp(silence(settings)), tail, axes=0)[: len(frames)]
    g = scatter((frames.shape[0], frames.shape[1]), rng)
    size = np.abs(g)
    answer = np.maximum(answer, 0) * (1 + (size**2 - 1) / np.sqrt(values_per_band(settings)))
    return together(power, answer, g.real / size, settings)


def limit_band(frames: Array, low_hz: float, high_hz: float, settings: FrontendSettings, fill: float) -> Array:
    """Log-mel frames behind a digital Butterworth band-pass; below what leaks from other bands nothing is heard.

    With ``w = tan(pi f / fs)``, its power response is ``1 / (1 + ((w^2 - wl wh) / ((wh - wl) w))^(2 n))``: the analogue
    prototype under the bilinear transform (Oppenheim and Schafer, "Discrete-Time Signal Processing", 7.2).
    """
    low, high = np.tan(np.pi * np.array([low_hz, high_hz]) / settings.sample_rate)
    w = np.tan(np.pi * mel_centres_hz(settings) / settings.sample_rate)
    loss = np.log1p(((w**2 - low * high) / ((high - low) * w)) ** (2 * BAND_ORDER))
    heard = frames - loss
    leaks = np.log(np.exp(heard).sum(axis=1, keepdims=True)) - LEAKAGE_DB * np.log(10) / 10
    return np.asarray(np.maximum(heard, np.maximum(np.minimum(frames, leaks), fill)), np.float32)
