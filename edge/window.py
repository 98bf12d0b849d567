"""What the model sees once: a window of frames, cut from the stream every hop and normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """How frames become model inputs; travels inside every model file.

    Attributes:
        n_frames: Length of a window, frames.
        hop_frames: Step from one window to the next, frames.
        context_frames: Earlier frames that the model gets in front of each window, because its convolutions reach back
            or because they set the level; silence before the beginning of a stream.
        normalisation: ``window``: z-score over the whole window (one mean, one deviation), which makes the model deaf
            to gain; ``none``: log-mel as it comes.
        range_db: Values this far below the window's maximum are raised to it before the z-score, so that the noise
            floor of the recording carries nothing; 0 is off.
    """

    n_frames: int = 128
    hop_frames: int = 50
    context_frames: int = 0
    normalisation: Literal["window", "none"] = "window"
    range_db: float = 60.0

    def __post_init__(self) -> None:
        if self.n_frames < 1 or self.hop_frames < 1:
            raise SettingsError(f"window of {self.n_frames} frames every {self.hop_frames}: both need to be at least 1")
        if self.context_frames < 0:
            raise SettingsError(f"window: context_frames is {self.context_frames}; it needs 0 or more")
        if self.normalisation not in ("window", "none"):
            raise SettingsError(f"window: normalisation is {self.normalisation!r}; choose 'window' or 'none'")
        if self.range_db < 0:
            raise SettingsError(f"window: range_db is {self.range_db}; it needs 0 (off) or more")

    @property
    def input_frames(self) -> int:
        """What the model is given: context and window, frames."""
        return self.context_frames + self.n_frames


def silence(settings: FrontendSettings) -> float:
    """The log-mel value of digital silence, with which short windows are filled up."""
    return float(np.log(np.float32(settings.log_floor)))


def normalise(window: Array, settings: WindowSettings) -> Array:
    """A window, or a batch of them ``(..., input_frames, n_features)``, as the model was trained to see it; float32."""
    x = np.asarray(window, np.float32)
    axes = (-2, -1)
    if settings.range_db:
        x = np.maximum(x, x.max(axis=axes, keepdims=True) - np.float32(settings.range_db * np.log(10) / 10))
    if settings.normalisation == "window":
        x = x - x.mean(axis=axes, keepdims=True)
        x = x / np.maximum(np.sqrt(np.mean(np.square(x), axis=axes, keepdims=True)), np.float32(1e-3))
    return np.ascontiguousarray(x, np.float32)


def n_windows(n_frames: int, settings: WindowSettings) -> int:
    """Windows of a recording of ``n_frames``: every frame is in one (unless the hop is longer than a window and jumps
    over it), the last one is filled up with silence."""
    return 1 + max(0, -(-(n_frames - max(settings.n_frames, settings.hop_frames)) // settings.hop_frames))


def cut_windows(frames: Array, settings: WindowSettings, fill: float) -> Array:
    """All windows of a recording with their context, not normalised, ``(n_windows, input_frames, n_features)``."""
    count, context = n_windows(len(frames), settings), settings.context_frames
    padded = np.full(((count - 1) * settings.hop_frames + settings.input_frames, frames.shape[1]), fill, np.float32)
    padded[context : context + len(frames)] = frames[: len(padded) - context]
    view = np.lib.stride_tricks.sliding_window_view(padded, settings.input_frames, axis=0)
    return np.ascontiguousarray(view[:: settings.hop_frames].transpose(0, 2, 1))


def pool_windows(probabilities: npt.ArrayLike, speech: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """One answer for an utterance: the mean of its windows' probabilities, weighted by how much speech each holds.

    Args:
        probabilities: ``(n_windows, n_labels)``.
        speech: Share of speech in each window, ``(n_windows,)``; not all zero.

    Returns:
        float64 ``(n_labels,)``, adding up to 1.

    >>> pool_windows([[1.0, 0.0], [0.0, 1.0]], [0.9, 0.3]).tolist()
    [0.75, 0.25]
    """
    weights = np.asarray(speech, np.float64)
    return np.asarray(weights @ np.asarray(probabilities, np.float64) / weights.sum())


def log_probabilities(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Logits of a softmax but for a constant, ``(..., n_labels)``; a probability of 0 counts as 1e-12."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-12))


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Logits ``(..., n_labels)`` to probabilities, float64; a temperature above 1 makes them less certain.

    >>> softmax([0.0, 0.0]).tolist()
    [0.5, 0.5]
    """
    z = np.asarray(logits, np.float64) / temperature
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))
