"""Baseline of R1: its convolution blocks alone, with the mean over time where the BiLSTM was.

R1's paper compares with a CNN without describing it. A maximum over time beside the mean does not work here: right
after dropout, which scales what it keeps, it is larger in training than in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import convolution_blocks, dense_head


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    filters: Sequence[int] = (16, 32, 64),
    kernels: Sequence[int] = (5, 5, 3),
    time_pool: int = 2,
    dense_units: Sequence[int] = (256, 128),
    dropout: float = 0.3,
    dense_dropout: float = 0.3,
) -> Any:
    """Build the network; the options mean what they do in `serkit.train.zoo.cnn_bilstm.build`."""
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = layers.Reshape((n_frames, n_features, 1))(inputs)
    if time_pool > 1:
        x = layers.AveragePooling2D((time_pool, 1))(x)
    x = convolution_blocks(x, filters, kernels, dropout)
    steps, bands, channels = x.shape[1:]
    x = layers.Reshape((steps, bands * channels))(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, dense_head(x, dense_units, dense_dropout, n_labels), name="cnn")
