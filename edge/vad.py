"""Which frames hold speech, by their level: loud enough in absolute terms, and not far below the loudest nearby.

The simplest gate that saves a model from scoring silence. It looks at one window at a time and keeps no state.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings, features

FLOOR_DBFS = -55.0  # below this, nothing is speech
RANGE_DB = 30.0  # nor is what lies this far below the window's loudest frame
MIN_SPEECH = 0.1  # windows with a smaller share of speech frames are not scored


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


def speech_ratio(levels: npt.NDArray[np.float32]) -> float:
    """Share of one window's frames that hold speech, 0 to 1, given their levels in dB."""
    return float(np.mean(levels > max(FLOOR_DBFS, float(levels.max()) - RANGE_DB)))
