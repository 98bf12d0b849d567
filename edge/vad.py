"""Which frames hold speech, by their level: loud enough in absolute terms, and not far below the loudest nearby.

The simplest gate that saves a model from scoring silence. It looks at one window at a time and keeps no state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serkit.edge.frontend import FrontendSettings

FLOOR_DBFS = -55.0  # below this, nothing is speech
RANGE_DB = 30.0  # nor is what lies this far below the window's loudest frame
MIN_SPEECH = 0.1  # windows with a smaller share of speech frames are not scored


def frame_levels(frames: npt.NDArray[np.float32], settings: FrontendSettings) -> npt.NDArray[np.float32]:
    """Level of each frame in dB relative to a full-scale square wave, float32 ``(n_frames,)``.

    From the total mel energy by Parseval's theorem; for MFCC from coefficient 0, the mean log-mel.
    """
    s = settings
    n_mels = s.n_mels
    if s.kind == "log_mel":
        energy = 10 * np.log10(np.sum(np.exp(frames[:, :n_mels], dtype=np.float32), axis=1, dtype=np.float32))
    else:
        energy = 10 / np.log(10) * frames[:, 0] / np.sqrt(n_mels) + 10 * np.log10(n_mels)
    a0 = {"hamming": 0.54, "hann": 0.5, "rectangular": 1.0}[s.window]
    window_energy = s.win_length * (a0**2 + (1 - a0) ** 2 / 2)
    full_scale = window_energy * s.n_fft / 2 / (s.n_fft if s.power_scale == "n_fft" else 1)
    return np.asarray(energy - 10 * np.log10(full_scale), np.float32)


def speech_ratio(levels: npt.NDArray[np.float32]) -> float:
    """Share of one window's frames that hold speech, 0 to 1, given their levels in dB."""
    return float(np.mean(levels > max(FLOOR_DBFS, float(levels.max()) - RANGE_DB)))
