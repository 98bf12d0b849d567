"""Training windows, drawn anew every epoch: where they are cut, and what happens to them on the way.

Time stretch, pitch shift, rooms, noise and microphones are those of `serkit.train.acoustics`; *masking* (SpecAugment,
Park et al. 2019) blanks stretches of time and of frequency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.vad import frame_levels, speech_frames
from serkit.edge.window import WindowSettings, silence
from serkit.train.acoustics import (
    add_noise,
    colour,
    limit_band,
    of_power_1,
    reverberate,
    room_tail,
    shift_pitch,
    stretch_time,
    tilt,
)
from serkit.train.noises import TEST_NOISES

Array = npt.NDArray[np.float32]

#: The least share of a room's reverberation time that its highest band has: air and cloth take high frequencies first.
TREBLE_RT60 = 0.4

#: The telephone's band, Hz (ITU-T G.712).
TELEPHONE_HZ = (300.0, 3400.0)

#: Reverberation times that rooms have, s: a padded car, a cathedral.
REVERB_S = (0.05, 10.0)


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
        colour_db: Largest peak or dip, dB, of a smooth frequency response drawn per window: small loudspeakers, cases,
            walls and microphones.
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
    colour_db: float = 0.0
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
        if not REVERB_S[0] <= self.reverb_s[0] <= self.reverb_s[1] <= REVERB_S[1]:
            raise SettingsError(
                f"reverb_s runs from {self.reverb_s[0]} to {self.reverb_s[1]}; rooms have {REVERB_S[0]} to "
                f"{REVERB_S[1]}"
            )
        if self.band_probability and self.band_low_hz[1] >= self.band_high_hz[0]:
            raise SettingsError(
                f"band_low_hz reaches {self.band_low_hz[1]} and band_high_hz begins at {self.band_high_hz[0]}; leave a "
                "band between them"
            )
        for name in ("time_stretch", "pitch_shift", "noise_tilt_db", "tilt_db", "colour_db", "time_masks",
                     "time_mask_frames", "mel_masks", "mel_mask_bands"):  # fmt: skip
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
        kinds of noise, ``telephone`` or another ``band-pass``, and ``simulated rooms``, which no recorded room is."""
        heard = list(self.noise_kinds) if self.noise_probability else []
        if self.band_probability:
            ranges = zip(TELEPHONE_HZ, (self.band_low_hz, self.band_high_hz), strict=True)
            drawn = all(low <= corner <= high for corner, (low, high) in ranges)
            heard.append("telephone" if drawn else "band-pass")
        return heard + (["simulated rooms"] if self.reverb_probability else [])


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
    tail = None
    if a.reverb_probability and rng.random() < a.reverb_probability:
        treble = np.linspace(1, rng.uniform(TREBLE_RT60, 1), frontend.n_mels)
        tail = room_tail(_log_uniform(a.reverb_s, rng) * treble, rng.uniform(*a.reverb_direct_db), frontend, rng)
    lead = 0 if tail is None else len(tail) - 1  # what was said before the window still sounds in it
    x = stretch_time(frames, cut.rate, cut.start - cut.rate * (window.context_frames + lead), n_frames + lead, fill)
    if a.pitch_shift:
        x = shift_pitch(x, rng.uniform(-a.pitch_shift, a.pitch_shift), frontend, fill)
    if tail is not None:
        x = reverberate(x, tail, frontend, rng)[lead:]
    if a.tilt_db:
        x = x + tilt(rng.uniform(-a.tilt_db, a.tilt_db), x.shape[1])
    if a.noise_probability and rng.random() < a.noise_probability:
        noise = noises[rng.integers(len(noises))] if len(noises) > 1 else noises[0]
        offset = rng.integers(len(noise) - n_frames)
        noise = noise[offset : offset + n_frames]
        if a.noise_tilt_db:
            noise = of_power_1(noise + tilt(rng.uniform(-a.noise_tilt_db, a.noise_tilt_db), x.shape[1]))
        x = add_noise(x, noise, rng.uniform(*a.noise_snr_db), frontend, rng if a.noise_phase else None)
    if a.colour_db:
        x = np.where(x > fill, np.maximum(x + colour(a.colour_db, x.shape[1], rng), fill), x)
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
