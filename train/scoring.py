"""Score cached utterances with a batch-wise model exactly as the device scores a file, window by window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.frontend import FrontendSettings
from serkit.edge.vad import MIN_SPEECH, frame_levels, speech_ratio
from serkit.edge.window import WindowSettings, cut_windows, normalise, pool_windows, silence, softmax
from serkit.train.parallel import n_devices

Logits = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def keras_logits(model: Any) -> Logits:
    """A Keras model as a function of numpy windows, on any back end."""

    def logits(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        n = n_devices()
        filled = np.concatenate([x, np.repeat(x[-1:], -len(x) % n, axis=0)])
        return np.asarray(model.predict(filled, batch_size=-(-64 // n) * n, verbose=0), np.float32)[: len(x)]

    return logits


@dataclass(frozen=True)
class Windows:
    """The windows of many utterances, ready for a model.

    Attributes:
        inputs: Normalised, ``(n_windows, input_frames, n_features)`` float32.
        owner: Which utterance each window belongs to, ``(n_windows,)``.
        speech: Weight of each window in its utterance, ``(n_windows,)``.
    """

    inputs: npt.NDArray[np.float32]
    owner: npt.NDArray[np.intp]
    speech: npt.NDArray[np.float64]


def window_utterances(
    frames: Sequence[npt.NDArray[np.floating[Any]]], frontend: FrontendSettings, window: WindowSettings
) -> Windows:
    """All windows that `serkit predict` would score in these utterances.

    An utterance without speech by level keeps all its windows: a labelled recording always gets an answer here.
    """
    inputs, owner, speech = [], [], []
    for i, f in enumerate(frames):
        cut = cut_windows(f.astype(np.float32), window, silence(frontend))
        ratios = np.array([speech_ratio(frame_levels(w[window.context_frames :], frontend)) for w in cut])
        keep = ratios >= MIN_SPEECH
        if not keep.any():
            keep[:], ratios[:] = True, 1.0
        inputs.append(normalise(cut[keep], window))
        owner += [i] * int(keep.sum())
        speech += ratios[keep].tolist()
    return Windows(np.concatenate(inputs), np.array(owner, np.intp), np.array(speech))


def utterance_probabilities(
    logits: Logits, windows: Windows, n_utterances: int, temperature: float = 1.0, batch_size: int = 1024
) -> npt.NDArray[np.float64]:
    """Probabilities ``(n_utterances, n_labels)``, pooled over windows as on the device."""
    scored = [
        softmax(logits(windows.inputs[i : i + batch_size]), temperature)
        for i in range(0, len(windows.inputs), batch_size)
    ]
    return pool_utterances(np.concatenate(scored), windows, n_utterances)


def pool_utterances(
    probabilities: npt.NDArray[np.float64], windows: Windows, n_utterances: int
) -> npt.NDArray[np.float64]:
    """Probabilities of windows ``(n_windows, n_labels)`` to those of utterances ``(n_utterances, n_labels)``."""
    mine = [windows.owner == i for i in range(n_utterances)]
    return np.stack([pool_windows(probabilities[m], windows.speech[m]) for m in mine])
