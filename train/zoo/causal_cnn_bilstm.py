"""serkit's own CNN-BiLSTM, made to be heard every hop: a causal convolutional encoder, a BiLSTM over its features.

It follows R1 (`serkit.train.zoo.cnn_bilstm`) in its parts, convolutions, BiLSTM, attention, and differs where a stream
asks for it, so that each hop costs only its new frames (`serkit.edge.engine`):

- *Level*: a z-score over the window would change every earlier frame with every hop. Each frame is measured against
  the loudest band of the last ``level_frames`` instead: 1 is as loud, 0 is 60 dB below or less. A gain changes nothing.
- *Encoder*: convolutions with strides and without padding, in place of pooling. A feature depends on the frames up to
  its own time and on nothing that comes later; there is one every ``prod(strides)`` frames.
- *Classifier*: one BiLSTM over the window's features, attention and maximum over its steps, logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import attention_pool, check_window, relative_level


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    level_frames: int = 128,
    filters: Sequence[int] = (32, 64, 96, 128),
    kernels: Sequence[int] = (5, 3, 3, 3),
    strides: Sequence[int] = (2, 2, 2, 1),
    features: int = 96,
    lstm_units: int = 96,
    dropout: float = 0.1,
    dense_dropout: float = 0.3,
) -> Any:
    """Build the network.

    Args:
        n_frames: The context (`serkit.train.zoo.layers.causal_context`) and the frames of one window, a multiple of
            ``prod(strides)``.
        n_features: Mel bands.
        n_labels: Emotions.
        twin: Build what is converted, without what only training needs.
        level_frames: How many earlier frames set the level.
        filters: Filters of the convolutions.
        kernels: Their square kernels' sides.
        strides: Their strides in time; in frequency they are 2.
        features: Width of the encoder's output.
        lstm_units: Units of each LSTM direction.
        dropout: Rate of whole channels after each convolution.
        dense_dropout: Rate around the BiLSTM and before the logits.

    Raises:
        ValueError: The window does not divide into the encoder's steps.

    Returns:
        Keras model, ``(batch, n_frames, n_features)`` to logits ``(batch, n_labels)``, with the layers ``encode`` and
        ``classify``.
    """
    check_window(n_frames, level_frames, filters, kernels, strides)
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = relative_level(inputs, level_frames)
    x = layers.Reshape((*x.shape[1:], 1))(x)
    for i, (n_filters, side, stride) in enumerate(zip(filters, kernels, strides, strict=True)):
        x = layers.Conv2D(n_filters, side, strides=(stride, 2), use_bias=False, name=f"conv{i + 1}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"norm{i + 1}")(x))
        x = layers.SpatialDropout2D(dropout)(x)
    steps, bands, channels = x.shape[1:]
    x = layers.Reshape((steps, bands * channels))(x)
    x = layers.Dense(features, use_bias=False, name="project")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm_project")(x))
    encode = keras.Model(inputs, x, name="encode")

    heard = keras.Input((steps, features), name="features")
    x = layers.Dropout(dense_dropout)(heard)
    lstm = layers.LSTM(lstm_units, return_sequences=True)
    x = layers.Bidirectional(lstm, name="bilstm")(x)
    x = attention_pool(layers.Dropout(dense_dropout)(x))
    x = layers.Dropout(dense_dropout)(x)
    classify = keras.Model(heard, layers.Dense(n_labels, name="logits")(x), name="classify")
    return keras.Model(inputs, classify(encode(inputs)), name="causal_cnn_bilstm")
