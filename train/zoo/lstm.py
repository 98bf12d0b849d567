"""Baseline of R1: its recurrent part alone, on the log-mel frames themselves.

R1's paper compares with an LSTM without describing it; this one has two LSTM layers of R1's width, forward in time,
over the frames averaged in fours, and R1's dense layers on the last state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import dense_head


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    time_pool: int = 4,
    lstm_units: int = 128,
    dense_units: Sequence[int] = (256, 128),
    dropout: float = 0.3,
    dense_dropout: float = 0.3,
) -> Any:
    """Build the network.

    Args:
        n_frames: Frames of one window; a multiple of ``time_pool``.
        n_features: Mel bands.
        n_labels: Emotions.
        twin: Build what is converted, without what only training needs.
        time_pool: Neighbouring frames averaged into one step.
        lstm_units: Units of each LSTM layer.
        dense_units: Units of the dense layers.
        dropout: Rate after each LSTM layer.
        dense_dropout: Rate after each dense layer.
    """
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = layers.AveragePooling1D(time_pool)(inputs) if time_pool > 1 else inputs
    x = layers.LSTM(lstm_units, return_sequences=True, name="lstm1")(x)
    x = layers.Dropout(dropout)(x)
    x = layers.LSTM(lstm_units, name="lstm2")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, dense_head(x, dense_units, dense_dropout, n_labels), name="lstm")
