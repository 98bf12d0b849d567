"""What may happen to a voice on its way to the microphone, done to clean recordings: how much does a model lose?

Each condition changes samples and nothing else, the same way for the same utterance in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, oaconvolve, sosfilt

from serkit.edge.audio import read_audio
from serkit.edge.errors import SettingsError
from serkit.train.augment import TELEPHONE_HZ
from serkit.train.corpora import recordings
from serkit.train.noises import TEST_NOISES

Array = npt.NDArray[np.float32]

#: Signal-to-noise ratios of a noise curve, dB.
SNRS_DB = (20.0, 10.0, 5.0, 0.0)
_GAINS_DB = (-30.0, -15.0, 15.0)

#: Simulated rooms: reverberation time (RT60), s, and the direct sound's level over the reverberation's, dB.
ROOMS = ((0.3, 3.0), (0.6, 0.0), (1.0, -3.0))


@dataclass(frozen=True)
class Condition:
    """One way to change a recording.

    Attributes:
        kind: ``clean``, ``noise``, ``room``, ``simulated rooms``, ``gain``, ``telephone`` or ``clipped``.
        what: Which noise, room or amount.
        snr_db: Signal-to-noise ratio, of noise.
        apply: Samples and the utterance's name to changed samples, float32, same length.
    """

    kind: str
    what: str
    apply: Callable[[Array, str], Array]
    snr_db: float | None = None


def _recordings(folder: Path, what: str) -> list[Path]:
    files = list(recordings(folder)) if folder.is_dir() else []
    if not files:
        raise SettingsError(f"{folder}: no {what} recordings; give a folder of audio files")
    return files


def noise(what: str, noises: Sequence[Array], snr_db: float) -> Condition:
    """One of the ``noises``, added; each utterance always meets the same one at the same place."""

    def apply(samples: Array, name: str) -> Array:
        rng = np.random.default_rng(list(name.encode()))
        chosen = noises[rng.integers(len(noises))]
        chosen = np.resize(np.roll(chosen, -int(rng.integers(len(chosen)))), len(samples))
        power = float(np.mean(np.square(chosen)))
        gain = np.sqrt(float(np.mean(np.square(samples))) / max(power, 1e-12) / 10 ** (snr_db / 10))
        return np.asarray(samples + np.float32(gain) * chosen, np.float32)

    return Condition("noise", what, apply, snr_db)


def noises(folder: Path, sample_rate: int) -> tuple[Array, ...]:
    """The samples of all recordings in ``folder``.

    Raises:
        SettingsError: There is none.
    """
    return tuple(read_audio(p, sample_rate) for p in _recordings(folder, "noise"))


def room(path: Path, sample_rate: int) -> Condition:
    """Convolution with a room impulse response, brought back to the level the recording had."""
    response = read_audio(path, sample_rate)
    return Condition("room", path.stem, _heard_in(response[int(np.argmax(np.abs(response))) :]))  # direct sound first


def simulated_room(rt60_s: float, direct_db: float, sample_rate: int) -> Condition:
    """The simplest room there is: one impulse, then white noise that decays (Polack 1988); the same one every time.

    Args:
        rt60_s: Time in which the reverberation falls by 60 dB, s.
        direct_db: Energy of the impulse over that of the reverberation, dB.
        sample_rate: Hz.
    """
    n = int(rt60_s * sample_rate)
    tail = np.random.default_rng(n).standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    response = np.concatenate([[1.0], tail / np.linalg.norm(tail) / 10 ** (direct_db / 20)])
    return Condition("simulated rooms", f"{rt60_s:g} s, {direct_db:+g} dB", _heard_in(response.astype(np.float32)))


def _heard_in(response: Array) -> Callable[[Array, str], Array]:
    def apply(samples: Array, name: str) -> Array:
        wet = oaconvolve(samples, response)[: len(samples)]
        level = np.sqrt(np.mean(np.square(samples)) / max(float(np.mean(np.square(wet))), 1e-12))
        return np.asarray(wet * level, np.float32)

    return apply


def gain(db: float) -> Condition:
    """Louder or softer; above full scale it clips, as a recording would."""
    factor = np.float32(10 ** (db / 20))
    return Condition("gain", f"{db:+g} dB", lambda samples, name: np.clip(samples * factor, -1, 1))


def telephone(sample_rate: int) -> Condition:
    """The telephone's band, 300 to 3400 Hz (ITU-T G.712), as an eighth-order Butterworth band-pass."""
    band = butter(4, TELEPHONE_HZ, "bandpass", fs=sample_rate, output="sos")
    return Condition("telephone", "300-3400 Hz", lambda samples, name: np.asarray(sosfilt(band, samples), np.float32))


def clipped(share: float = 0.05) -> Condition:
    """An overdriven input: the loudest ``share`` of the samples stand at the limit."""

    def apply(samples: Array, name: str) -> Array:
        limit = max(float(np.quantile(np.abs(samples), 1 - share)), 1e-6)
        return np.asarray(np.clip(samples, -limit, limit), np.float32)

    return Condition("clipped", f"{share:.0%} of samples", apply)


def conditions(
    noise_folder: Path | None, rooms: Path | None, sample_rate: int, *, rehearsal: bool = False
) -> Sequence[Condition]:
    """The whole set: clean, every kind of noise at every ratio, every room, gains, telephone, clipping.

    Args:
        noise_folder: Folder with one sub-folder of recordings per kind of noise; without it, no noise.
        rooms: Folder of impulse responses; without it, no rooms.
        sample_rate: Hz.
        rehearsal: What recipes are chosen by: no noise that is kept for tests, and simulated `ROOMS` instead of
            recorded ones.

    Raises:
        SettingsError: A folder holds no recording.
    """
    made = [Condition("clean", "", lambda samples, name: samples)]
    if noise_folder is not None:
        _recordings(noise_folder, "noise")
        kinds = [d for d in sorted(noise_folder.iterdir()) if d.is_dir()] or [noise_folder]
        heard = {k.name: noises(k, sample_rate) for k in kinds if not (rehearsal and k.name in TEST_NOISES)}
        made += [noise(kind, samples, snr) for kind, samples in heard.items() for snr in SNRS_DB]
    if rehearsal:
        made += [simulated_room(*shape, sample_rate) for shape in ROOMS]
    elif rooms is not None:
        made += [room(path, sample_rate) for path in _recordings(rooms, "room impulse response")]
    return [*made, *map(gain, _GAINS_DB), telephone(sample_rate), clipped()]
