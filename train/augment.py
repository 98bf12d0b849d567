"""Augmentation in the log-mel domain: what pitch shift, time stretch, rooms, noise and microphones do, done to frames.

Working on cached frames costs a millisecond where the waveform costs a hundred, so every epoch sees new variants:

- *time stretch*: a phase vocoder keeps each frame's magnitude and changes their spacing; so does reading the frames at
  another spacing.
- *pitch shift*: stretching and resampling scales the frequency axis; so does reading the mel axis at scaled positions.
- *late reverberation*: a room answers with noise that decays exponentially (Polack 1988), so each band is joined by the
  decaying sum of its earlier power.
- *additive noise*: real noise frames, computed by the same front end, are added at a signal-to-noise ratio drawn per
  utterance.
- *band limit*: a telephone or a small microphone; the logarithm of a filter's power response is added.
- *masking* (SpecAugment, Park et al. 2019): stretches of time and of frequency are blanked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, oaconvolve, sosfreqz

from serkit.edge.audio import read_audio
from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings, features
from serkit.edge.mel import hz_to_mel, mel_to_hz
from serkit.edge.vad import frame_levels, speech_frames
from serkit.edge.window import WindowSettings, silence
from serkit.train.corpora import recordings

Array = npt.NDArray[np.float32]


#: Kinds of noise (sub-folders) that only tests ever hear; training may use all others.
TEST_NOISES = ("babble", "car", "street", "transport")

#: Of the noise ``voices``: how many people talk at once, how many such crowds there are, and for how long, frames.
N_TALKERS, N_CROWDS, CROWD_FRAMES = 6, 8, 3000

#: The least share of a room's reverberation time that its highest band has: air and cloth take high frequencies first.
TREBLE_RT60 = 0.4

#: How far the partials of a voice are apart, Hz: a mean fundamental frequency.
PARTIALS_HZ = 150.0

#: Order of the band-pass' either slope, as Butterworth filters count: 24 dB per octave.
BAND_ORDER = 4


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """How far each augmentation goes; 0 switches it off.

    Attributes:
        crop: Where windows are cut from an utterance: ``anywhere``, or between the beginning and end of its ``speech``.
        crop_slack: How far a window may reach beyond what it is cut from, as a share of its length: the first and last
            windows of somebody who speaks are partly silent.
        time_stretch: Largest change of tempo; 0.15 draws rates from 1/1.15 to 1.15, evenly in their logarithm.
        pitch_shift: Largest shift, semitones, either way.
        reverb_probability: Share of windows heard in a room.
        reverb_s: Range the room's reverberation time (RT60) is drawn from, s, evenly in its logarithm; it falls towards
            the highest band, to between `TREBLE_RT60` and all of it.
        reverb_direct_db: Range of the direct sound's level over that of the reverberation, dB.
        noise_probability: Share of windows that get noise.
        noise_snr_db: Range the signal-to-noise ratio is drawn from, dB.
        noise_kinds: ``white`` and ``voices`` (many people at once, of those who train), made here, and sub-folders of
            the folder ``noise`` among the corpora; those that only tests may hear (`TEST_NOISES`) are refused.
        noise_phase: Whether voice and noise meet in random phase, as waves do; without it, their powers add.
        noise_tilt_db: Largest spectral tilt of the noise across the band, dB, either way (rumble, hiss).
        tilt_db: Largest spectral tilt across the band, dB, either way (another microphone).
        band_probability: Share of windows heard, noise and all, through a band-pass.
        band_low_hz: Range of its lower corner, Hz, evenly in its logarithm.
        band_high_hz: Range of its upper corner, Hz, the same.
        time_masks: How many stretches of time are blanked.
        time_mask_frames: Their largest length, frames.
        mel_masks: How many stretches of frequency are blanked.
        mel_mask_bands: Their largest width, bands.
    """

    crop: Literal["anywhere", "speech"] = "anywhere"
    crop_slack: float = 0.0
    time_stretch: float = 0.0
    pitch_shift: float = 0.0
    reverb_probability: float = 0.0
    reverb_s: tuple[float, float] = (0.2, 1.0)
    reverb_direct_db: tuple[float, float] = (-6.0, 15.0)
    noise_probability: float = 0.0
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    noise_kinds: tuple[str, ...] = ("white",)
    noise_phase: bool = False
    noise_tilt_db: float = 0.0
    tilt_db: float = 0.0
    band_probability: float = 0.0
    band_low_hz: tuple[float, float] = (50.0, 400.0)
    band_high_hz: tuple[float, float] = (3000.0, 7000.0)
    time_masks: int = 0
    time_mask_frames: int = 20
    mel_masks: int = 0
    mel_mask_bands: int = 12

    def __post_init__(self) -> None:
        if self.crop not in ("anywhere", "speech"):
            raise SettingsError(f"crop is {self.crop!r}; choose 'anywhere' or 'speech'")
        if not 0 <= self.crop_slack < 1:
            raise SettingsError(f"crop_slack is {self.crop_slack}; it needs 0 to below 1")
        for name in ("reverb_s", "reverb_direct_db", "noise_snr_db", "band_low_hz", "band_high_hz"):
            low, high = getattr(self, name)
            least = -math.inf if name.endswith("_db") else 0
            if not least < low <= high < math.inf:
                above_0 = "" if name.endswith("_db") else " above 0"
                raise SettingsError(f"{name} runs from {low} to {high}; give two numbers{above_0}, the lower one first")
        for name in ("time_stretch", "pitch_shift", "noise_tilt_db", "tilt_db", "time_masks", "time_mask_frames",
                     "mel_masks", "mel_mask_bands"):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name} is {getattr(self, name)}; it needs 0 (off) or more")
        for name in ("reverb_probability", "noise_probability", "band_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it needs 0 to 1")
        if not self.noise_kinds or (kept_back := sorted(set(self.noise_kinds) & set(TEST_NOISES))):
            raise SettingsError(
                f"noise_kinds are {', '.join(self.noise_kinds) or 'empty'}; name one or more, but not "
                f"{', '.join(kept_back if self.noise_kinds else TEST_NOISES)}, which only tests may hear"
            )

    @property
    def conditions(self) -> list[str]:
        """What a recipe trains under, in the words of `serkit.train.conditions`, which names what it is tested under:
        kinds of noise, ``telephone`` (a band-pass), and ``simulated rooms``, which no recorded room is."""
        heard = list(self.noise_kinds) if self.noise_probability else []
        heard += ["telephone"] if self.band_probability else []
        return heard + (["simulated rooms"] if self.reverb_probability else [])


def of_power_1(frames: Array) -> Array:
    """Log-mel frames brought to a mean frame power of 1."""
    return np.asarray(frames - np.log(np.mean(np.exp(frames).sum(axis=1))), np.float32)


def tilt(db: float, n_mels: int) -> Array:
    """What a spectral tilt of so many dB across the band adds to log-mel frames, ``(n_mels,)``."""
    return np.linspace(-1, 1, n_mels, dtype=np.float32) * np.float32(db * np.log(10) / 20)


def noise_frames(samples: Array, settings: FrontendSettings) -> Array:
    """Log-mel frames of a noise recording brought to a mean frame power of 1, ``(n_frames, n_mels)``."""
    return of_power_1(features(samples, settings))


def crowd(spoken: Sequence[npt.NDArray[np.floating[Any]]], rng: np.random.Generator) -> Array:
    """Log-mel frames of many who talk at once, of a mean frame power of 1, ``(CROWD_FRAMES, n_mels)``.

    Args:
        spoken: Log-mel frames of utterances.
        rng: Chooses who talks.
    """
    total = np.zeros((CROWD_FRAMES, spoken[0].shape[1]))
    for _ in range(N_TALKERS):
        said: list[Array] = []
        while sum(map(len, said)) < CROWD_FRAMES:
            power = np.exp(spoken[rng.integers(len(spoken))].astype(np.float32))
            said.append(power / power.sum(axis=1).mean())
        total += np.concatenate(said)[:CROWD_FRAMES]
    return of_power_1(np.log(total).astype(np.float32))


def noise_library(
    settings: AugmentSettings,
    frontend: FrontendSettings,
    data: Path,
    longest: int,
    spoken: Sequence[npt.NDArray[np.floating[Any]]] = (),
) -> list[Array]:
    """Frames of the noises that training may hear, each at least ``longest`` frames (short ones are repeated).

    Args:
        settings: Name the kinds.
        frontend: Of the frames.
        data: Folder of the corpora and the noise.
        longest: Frames.
        spoken: Log-mel frames of the utterances that train, of which ``voices`` is made.

    Raises:
        SettingsError: A kind has no folder of recordings below ``data / "noise"``, or nobody speaks for ``voices``.
    """
    if settings.noise_probability and "voices" in settings.noise_kinds and not spoken:
        raise SettingsError("the noise 'voices' is made of utterances that train, and there are none; drop it")
    library: list[Array] = []
    rng = np.random.default_rng(0)
    for kind in settings.noise_kinds if settings.noise_probability else ():
        if kind == "voices":
            sounds = [crowd(spoken, rng) for _ in range(N_CROWDS)]
        elif kind == "white":
            white = np.random.default_rng(0).standard_normal(20 * frontend.sample_rate).astype(np.float32)
            sounds = [noise_frames(white, frontend)]
        else:
            files = list(recordings(data / "noise" / kind))
            if not files:
                raise SettingsError(f"no noise recordings in {data / 'noise' / kind}; put some there, or drop {kind!r}")
            sounds = [noise_frames(read_audio(p, frontend.sample_rate), frontend) for p in files]
        library += [np.tile(frames, (-(-(longest + 1) // len(frames)), 1)) for frames in sounds]
    return library


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
    phase = np.cos(rng.uniform(0, 2 * np.pi, power.shape)) / np.sqrt(partials(settings))
    total = power + other + 2 * phase * np.sqrt(power * other)
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
    """Log-mel frames behind a Butterworth band-pass; what it takes away altogether is ``fill``."""
    band = butter(BAND_ORDER, (low_hz, high_hz), "bandpass", fs=settings.sample_rate, output="sos")
    response = sosfreqz(band, mel_centres_hz(settings), fs=settings.sample_rate)[1]
    return np.asarray(np.maximum(frames + 2 * np.log(np.abs(response) + 1e-12), fill), np.float32)


def speech_span(frames: Array, frontend: FrontendSettings) -> tuple[int, int]:
    """From the first frame of speech to behind the last one, by level; all of an utterance that has none."""
    speech = np.flatnonzero(speech_frames(frame_levels(frames, frontend)))
    return (int(speech[0]), int(speech[-1]) + 1) if len(speech) else (0, len(frames))


class Cut(NamedTuple):
    """Where a window lies in an utterance.

    Attributes:
        start: The utterance's frame that the window, without its context, begins with.
        rate: Frames of the utterance per frame of the window (above 1: faster speech).
    """

    start: float
    rate: float


def random_cut(
    frames: Array,
    window: WindowSettings,
    settings: AugmentSettings,
    frontend: FrontendSettings,
    rng: np.random.Generator,
) -> Cut:
    """Draw a tempo and a place.

    A longer utterance (or its speech, as ``crop`` says) is cropped at random; a shorter one lies at a random place in
    the window; either way the window may reach ``crop_slack`` beyond.
    """
    rate = float(np.exp(rng.uniform(-1, 1) * np.log1p(settings.time_stretch)))
    low, high = speech_span(frames, frontend) if settings.crop == "speech" else (0, len(frames))
    room = (high - low) / rate - window.n_frames
    slack = settings.crop_slack * window.n_frames
    return Cut(low + rate * rng.uniform(min(0, room) - slack, max(0, room) + slack), rate)


def _log_uniform(between: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(between))))


def augmented_window(
    frames: Array,
    cut: Cut,
    window: WindowSettings,
    settings: AugmentSettings,
    frontend: FrontendSettings,
    noises: Sequence[Array],
    rng: np.random.Generator,
) -> Array:
    """One augmented window and its context from an utterance, not normalised, ``(input_frames, n_mels)``.

    What is read before the recording's beginning and after its end is silence.
    """
    a, fill, n_frames = settings, silence(frontend), window.input_frames
    x = stretch_time(frames, cut.rate, cut.start - cut.rate * window.context_frames, n_frames, fill)
    if a.pitch_shift:
        x = shift_pitch(x, rng.uniform(-a.pitch_shift, a.pitch_shift), frontend, fill)
    if a.reverb_probability and rng.random() < a.reverb_probability:
        treble = np.linspace(1, rng.uniform(TREBLE_RT60, 1), x.shape[1])
        rt60_s = _log_uniform(a.reverb_s, rng) * treble
        x = reverberate(x, room_tail(rt60_s, rng.uniform(*a.reverb_direct_db), frontend, rng), frontend, rng)
    if a.tilt_db:
        x = x + tilt(rng.uniform(-a.tilt_db, a.tilt_db), x.shape[1])
    if a.noise_probability and rng.random() < a.noise_probability:
        noise = noises[rng.integers(len(noises))] if len(noises) > 1 else noises[0]
        offset = rng.integers(len(noise) - n_frames)
        noise = noise[offset : offset + n_frames]
        if a.noise_tilt_db:
            noise = of_power_1(noise + tilt(rng.uniform(-a.noise_tilt_db, a.noise_tilt_db), x.shape[1]))
        x = add_noise(x, noise, rng.uniform(*a.noise_snr_db), frontend, rng if a.noise_phase else None)
    if a.band_probability and rng.random() < a.band_probability:
        x = limit_band(x, _log_uniform(a.band_low_hz, rng), _log_uniform(a.band_high_hz, rng), frontend, fill)
    for count, longest, axis in ((a.time_masks, a.time_mask_frames, 0), (a.mel_masks, a.mel_mask_bands, 1)):
        for _ in range(count):
            width = int(rng.integers(longest + 1))
            at = int(rng.integers(x.shape[axis] - width + 1))
            mean = x.mean()
            if axis == 0:
                x[at : at + width] = mean
            else:
                x[:, at : at + width] = mean
    return x
