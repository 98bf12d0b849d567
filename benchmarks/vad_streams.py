"""Streams in which voice detectors look for speech: recordings, pauses and noise, and which frames are speech.

Speakers take turns, with pauses of 1 to 4 s of digital silence between their utterances. A 10 ms frame is speech by the
*clean* signal alone, whatever is added to it later: its level (over 30 ms) is no more than 35 dB below the recording's
loud frames (the 95th percentile of those within 50 dB of the loudest); gaps shorter than 0.25 s inside a recording are
closed, and what then is shorter than 50 ms (a click) is no speech. Then every recording is brought to -26 dBFS of
speech power (but in the condition "as recorded"), and noise is laid under the whole stream at a ratio to that power.

There are two sides, of other speakers and other noise: ``tuning``, on which settings are chosen, and ``test``, on which
they are judged. Recordings of the kinds of noise that training may hear are shared out between them; the kinds of
`serkit.train.noises.TEST_NOISES` are only ever judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serkit.edge.audio import read_audio
from serkit.edge.errors import CorpusError
from serkit.train.corpora import read_corpus, recordings
from serkit.train.noises import TEST_NOISES
from serkit.train.splits import SHIP_TEST

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SAMPLE_RATE = 16000
FRAME = 160  # samples
_SPEECH_DBFS = -26.0  # ITU-T P.56's usual level of speech in tests
_RANGE_DB = 35.0
#: Speakers the settings are chosen on; judged are those no shipped model ever heard.
_TUNING = {"ravdess": ("4", "10", "12", "14"), "emodb": ("09", "10", "13")}
#: Everyday speech by the first word of the file name; others have too much noise for labels by level.
_EVERYDAY = {"tuning": ("silero",), "test": ("openwakeword", "speechbrain", "vctk")}
_UTTERANCES = {"ravdess": 32, "emodb": 24}
_LONGEST_S = 60.0


@dataclass(frozen=True)
class Stream:
    """A condition's samples, and which 10 ms frames hold speech."""

    condition: str
    what: str
    level_db: float | None
    samples: Array
    speech: Mask


def speech_frames(samples: Array) -> Mask:
    """Which 10 ms frames of a clean recording hold speech, by the rule above, bool ``(n_samples // 160,)``."""
    power = np.mean(np.square(samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME), dtype=np.float64), axis=1)
    level = 10 * np.log10(np.convolve(power, np.ones(3) / 3, "same") + 1e-12)
    loud = np.quantile(level[level > level.max() - 50], 0.95)
    speech = level > loud - _RANGE_DB
    for start, end in _runs(~speech):
        if end - start < 25 and start and end < len(speech):
            speech[start:end] = True
    for start, end in _runs(speech):
        if end - start < 5:
            speech[start:end] = False
    return np.asarray(speech)


def _runs(mask: Mask) -> npt.NDArray[np.intp]:
    """First and last-but-one index of each run of True, ``(n, 2)``."""
    return np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)


def material(data: Path, side: str) -> list[Path]:
    """Recordings of one side, in a random order that is always the same."""
    rng = np.random.default_rng(0)
    chosen = []
    for corpus, count in _UTTERANCES.items():
        speakers = _TUNING[corpus] if side == "tuning" else SHIP_TEST[corpus]
        paths = [u.path for u in read_corpus(corpus, data) if u.speaker in speakers]
        chosen += [paths[i] for i in rng.permutation(len(paths))[:count]]
    everyday = data / "speech_neutral"
    if everyday.is_dir():
        chosen += [p for p in recordings(everyday) if p.stem.split("_")[0] in _EVERYDAY[side]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def compose(paths: Sequence[Path], level_dbfs: float | None) -> tuple[Array, Mask]:
    """Recordings at a level of their speech, or as they are, with pauses between them; and which frames are speech."""
    rng = np.random.default_rng(0)
    samples, speech = [np.zeros(2 * SAMPLE_RATE, np.float32)], [np.zeros(200, bool)]
    for path in paths:
        x = read_audio(path, SAMPLE_RATE)[: int(_LONGEST_S * SAMPLE_RATE)]
        x = x[: len(x) // FRAME * FRAME]
        labels = speech_frames(x)
        if level_dbfs is not None:
            power = float(np.mean(np.square(x.reshape(-1, FRAME)[labels], dtype=np.float64)))
            x = x * np.float32(10 ** (level_dbfs / 20) / np.sqrt(power))
        pause = int(100 * rng.uniform(1, 4))
        samples += [x, np.zeros(pause * FRAME, np.float32)]
        speech += [labels, np.zeros(pause, bool)]
    return np.concatenate(samples), np.concatenate(speech)


def noise(folder: Path, n: int, side: str) -> Array:
    """Noise of one kind and of power 1: its recordings in turn, each for 5 to 30 s; those of the side."""
    rng = np.random.default_rng(0)
    paths = list(recordings(folder))
    if folder.name not in TEST_NOISES:
        paths = paths[0 if side == "tuning" else 1 :: 2]
    if not paths:
        raise CorpusError(f"{folder}: too few recordings of noise to share out; give at least two")
    pieces: list[Array] = []
    while sum(map(len, pieces)) < n:
        for path in paths:
            x = read_audio(path, SAMPLE_RATE)
            length = int(np.clip(len(x), 5 * SAMPLE_RATE, 30 * SAMPLE_RATE))
            x = np.resize(np.roll(x, -int(rng.integers(len(x)))), length)
            pieces.append(x / np.float32(np.sqrt(np.mean(np.square(x, dtype=np.float64)))))
    return np.concatenate(pieces)[:n]


def read_streams(data: Path, side: str, snrs_db: Sequence[float]) -> list[Stream]:
    """Every condition of one side.

    Args:
        data: Folder of the corpora and of ``noise`` with one sub-folder per kind.
        side: ``tuning`` or ``test``.
        snrs_db: Ratios of speech to the noise under it.
    """
    paths = material(data, side)
    clean, speech = compose(paths, _SPEECH_DBFS)
    recorded, speech_recorded = compose(paths, None)
    made = [
        Stream("clean", "as recorded", None, recorded, speech_recorded),
        Stream("clean", "", _SPEECH_DBFS, clean, speech),
        Stream("clean", "soft", _SPEECH_DBFS - 20, clean / np.float32(10), speech),
    ]
    nothing = np.zeros(6000, bool)
    kinds = [d for d in sorted((data / "noise").iterdir()) if d.is_dir()]
    for folder in kinds if side == "test" else [d for d in kinds if d.name not in TEST_NOISES]:
        x = noise(folder, max(len(clean), 60 * SAMPLE_RATE), side)
        for snr in snrs_db:
            gain = np.float32(10 ** ((_SPEECH_DBFS - snr) / 20))
            made.append(Stream("noise", folder.name, snr, clean + gain * x[: len(clean)], speech))
        for level in (-30.0, -50.0):
            alone = np.float32(10 ** (level / 20)) * x[: 60 * SAMPLE_RATE]
            made.append(Stream("alone", folder.name, level, alone, nothing))
    hum = np.random.default_rng(0).standard_normal(60 * SAMPLE_RATE).astype(np.float32)
    made.append(Stream("silence", "digital", None, np.zeros(60 * SAMPLE_RATE, np.float32), nothing))
    made.append(Stream("silence", "room, white noise", -65.0, hum * np.float32(10 ** (-65 / 20)), nothing))
    return made
