"""A causal TDNN-BiLSTM: whole spectra over time instead of patches of them, made to be heard every hop.

`serkit.train.zoo.causal_cnn_bilstm` looks at patches of the log-mel picture and learns from labels. This one looks at
whole spectra, as networks for speech recognition do, is six times quicker to train, and wide enough to take over what
such a network hears (`serkit.train.teacher`):

- *Level*: as there, each frame is measured against the loudest band of the frames before it.
- *Stem*: two convolutions over time with strides, to a step every ``prod(strides)`` frames.
- *TDNN-F blocks* (Povey et al. 2018, *Semi-orthogonal low-rank matrix factorization for deep neural networks*):
  a convolution of two steps ``dilation`` apart, factorised into a narrow linear one and a wide one; batch
  normalisation, ReLU, and two thirds of the block's input added. The constraint to semi-orthogonal factors is left out.
- *Classifier*: mean and mean absolute deviation of each feature over the window's steps, beside attention and maximum
  over a BiLSTM that hears them ``pool`` at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import Functionals, attention_pool, check_window, relative_level

_BYPASS = 0.66


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    level_frames: int = 128,
    filters: Sequence[int] = (96, 192),
    kernels: Sequence[int] = (5, 3),
    strides: Sequence[int] = (2, 2),
    bottleneck: int = 64,
    dilations: Sequence[int] = (1, 1, 2, 2, 4),
    pool: int = 4,
    project: int = 48,
    lstm_units: int = 64,
    dropout: float = 0.2,
    dense_dropout: float = 0.3,
) -> Any:
    """Build the network.

    Args:
        n_frames: The context (`serkit.train.zoo.layers.causal_context`) and the frames of one window, a multiple of
            ``prod(strides)``.
        n_features: Mel bands.
        n_labels: Emotions.
        twin: Build what is converted: convolutions over time and one band, for the converter puts each Conv1D between
            two operators that reshape.
        level_frames: How many earlier frames set the level.
        filters: Filters of the stem's convolutions; the last is the width of the blocks.
        kernels: Their lengths, frames or steps.
        strides: Their strides.
        bottleneck: Width of each block's narrow half.
        dilations: Of each block's two convolutions, steps.
        pool: Steps of the encoder that the BiLSTM hears as one.
        project: Width of what it hears.
        lstm_units: Units of each LSTM direction.
        dropout: Rate around the BiLSTM.
        dense_dropout: Rate before the logits.

    Raises:
        ValueError: The window does not divide into steps.

    Returns:
        Keras model, ``(batch, n_frames, n_features)`` to logits ``(batch, n_labels)``, with the layers ``encode`` and
        ``classify``.
    """
    check_window(n_frames, level_frames, filters, kernels, strides, 2 * sum(dilations))
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = relative_level(inputs, level_frames)
    if twin:
        x = layers.Reshape((x.shape[1], 1, n_features))(x)

    def convolution(n: int, kernel: int, name: str, *, stride: int = 1, dilation: int = 1) -> Any:
        if twin:
            options = {"strides": (stride, 1), "dilation_rate": (dilation, 1)}
            return layers.Conv2D(n, (kernel, 1), use_bias=False, name=name, **options)
        return layers.Conv1D(n, kernel, strides=stride, dilation_rate=dilation, use_bias=False, name=name)

    for i, (n_filters, kernel, stride) in enumerate(zip(filters, kernels, strides, strict=True)):
        x = convolution(n_filters, kernel, f"conv{i + 1}", stride=stride)(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"norm{i + 1}")(x))
    for i, dilation in enumerate(dilations):
        y = convolution(bottleneck, 2, f"narrow{i + 1}", dilation=dilation)(x)
        y = convolution(filters[-1], 2, f"wide{i + 1}", dilation=dilation)(y)
        y = layers.ReLU()(layers.BatchNormalization(name=f"norm_wide{i + 1}")(y))
        past = layers.Cropping2D(((2 * dilation, 0), (0, 0))) if twin else layers.Cropping1D((2 * dilation, 0))
        x = layers.Add()([layers.Rescaling(_BYPASS)(past(x)), y])
    if twin:
        x = layers.Reshape((x.shape[1], filters[-1]))(x)
    encode = keras.Model(inputs, x, name="encode")

    heard = keras.Input(x.shape[1:], name="features")
    whole = layers.BatchNormalization(name="norm_functionals")(Functionals(("mean", "deviation"))(heard))
    x = layers.AveragePooling1D(pool, padding="same")(layers.Dropout(dropout)(heard))
    x = layers.Dense(project, use_bias=False, name="project")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm_project")(x))
    x = layers.Bidirectional(layers.LSTM(lstm_units, return_sequences=True), name="bilstm")(x)
    x = attention_pool(layers.Dropout(dropout)(x))
    x = layers.Dropout(dense_dropout)(layers.Concatenate()([whole, x]))
    classify = keras.Model(heard, layers.Dense(n_labels, name="logits")(x), name="classify")
    return keras.Model(inputs, classify(encode(inputs)), name="causal_tdnn_bilstm")
