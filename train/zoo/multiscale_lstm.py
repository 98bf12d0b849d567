"""R3, the multi-scale LSTM: one LSTM for each segment length, fused at score level (Traitement du Signal 2025).

As published: mel segments of three channels (static, delta, delta-delta), 64 mel x 64 frames x 3; segments of several
lengths, one LSTM each, their scores fused. Left open, and chosen here: the lengths are 64, 128 and 256 frames, each the
middle of the window and averaged down to 64 steps, so that every LSTM sees 64 x 64 x 3; 64 units each; the fused score
is the mean of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import three_channels


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    segments: Sequence[int] = (64, 128, 256),
    steps: int = 64,
    lstm_units: int = 64,
    dropout: float = 0.3,
) -> Any:
    """Build the network.

    Args:
        n_frames: Frames of one window, at least the longest segment.
        n_features: Mel bands.
        n_labels: Emotions.
        twin: Build what is converted, without what only training needs.
        segments: Segment lengths, frames; multiples of ``steps``.
        steps: Steps each segment is averaged down to.
        lstm_units: Units of each LSTM.
        dropout: Rate before each score.

    Raises:
        ValueError: A segment does not fit the window or the steps.
    """
    if any(length > n_frames or length % steps for length in segments):
        raise ValueError(f"segments {list(segments)} need multiples of {steps} frames, at most {n_frames}")
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    channels = layers.Concatenate()(three_channels(inputs))  # (n_frames, 3 * n_features)
    scores = []
    for length in segments:
        margin = n_frames - length
        x = layers.Cropping1D((margin // 2, margin - margin // 2))(channels) if margin else channels
        x = layers.AveragePooling1D(length // steps)(x) if length > steps else x
        x = layers.LSTM(lstm_units, name=f"lstm{length}")(x)
        x = layers.Dropout(dropout)(x)
        scores.append(layers.Dense(n_labels, name=f"score{length}")(x))
    logits = layers.Average(name="logits")(scores) if len(scores) > 1 else scores[0]
    return keras.Model(inputs, logits, name="r3_multiscale_lstm")
