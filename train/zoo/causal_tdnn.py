"""A causal TDNN: whole spectra over time instead of patches of them, made to be heard every hop.

`serkit.train.zoo.causal_cnn_bilstm` looks at patches of the log-mel picture and learns from labels. This encoder looks
at whole spectra, as networks for speech recognition do, is six times quicker to train, and wide enough to take over
what such a network hears (`serkit.train.teacher`):

- *Level*: as there, each frame is measured against the loudest band of the frames before it.
- *Stem*: two convolutions over time with strides, to a step every ``prod(strides)`` frames.
- *TDNN-F blocks* (Povey et al. 2018, *Semi-orthogonal low-rank matrix factorization for deep neural networks*):
  a convolution of two steps ``dilation`` apart, factorised into a narrow linear one and a wide one; batch
  normalisation, ReLU, and two thirds of the block's input added. The constraint to semi-orthogonal factors is left out.

As a system of its own it names emotions by a linear discriminant analysis of mean and mean absolute deviation of each
feature over the window's steps, fitted at once: the encoder stays as the recipe that it starts from left it, unless
`serkit.train.consistency` goes on from there. `lstm_units` puts a BiLSTM beside the analysis for that; until then it
adds nothing. `serkit.train.zoo.causal_tdnn_bilstm` learns the encoder from labels too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.discriminant import SHRINKAGES, analysis, best_shrinkage
from serkit.train.zoo.layers import Functionals, attention_pool, check_window, relative_level
from serkit.train.zoo.linear import Batches, fit_linear, linear

_BYPASS = 0.66


def encoder(
    n_frames: int,
    n_features: int,
    *,
    twin: bool = False,
    level_frames: int = 128,
    filters: Sequence[int] = (96, 192),
    kernels: Sequence[int] = (5, 3),
    strides: Sequence[int] = (2, 2),
    bottleneck: int = 64,
    dilations: Sequence[int] = (1, 1, 2, 2, 4),
) -> Any:
    """Build the encoder.

    Args:
        n_frames: The context (`serkit.train.zoo.layers.causal_context`) and the frames of one window, a multiple of
            ``prod(strides)``.
        n_features: Mel bands.
        twin: Build what is converted: convolutions over time and one band, for the converter puts each Conv1D between
            two operators that reshape.
        level_frames: How many earlier frames set the level.
        filters: Filters of the stem's convolutions; the last is the width of the blocks.
        kernels: Their lengths, frames or steps.
        strides: Their strides.
        bottleneck: Width of each block's narrow half.
        dilations: Of each block's two convolutions, steps.

    Raises:
        ValueError: The window does not divide into steps.

    Returns:
        Keras model ``encode``, ``(batch, n_frames, n_features)`` to features ``(batch, n_steps, filters[-1])``.
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
    return keras.Model(inputs, x, name="encode")


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    lstm_units: int = 0,
    project: int = 48,
    pool: int = 4,
    **options: Any,
) -> Any:
    """Build the network.

    Args:
        n_frames: As the encoder's, `encoder`.
        n_features: Mel bands.
        n_labels: Emotions.
        twin: As the encoder's.
        lstm_units: Units of each direction of a BiLSTM beside the discriminant analysis; 0 is none.
        project: Width of what it hears.
        pool: Steps of the encoder that it hears as one.
        options: The encoder's.

    Raises:
        ValueError: The window does not divide into steps.

    Returns:
        Keras model, ``(batch, n_frames, n_features)`` to logits ``(batch, n_labels)``, with the layers ``encode`` and
        ``classify``, the weights of the latter still unknown; its BiLSTM adds nothing yet.
    """
    encode = encoder(n_frames, n_features, twin=twin, **options)
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    heard = keras.Input(encode.output.shape[1:], name="features")
    logits = linear(Functionals(("mean", "deviation"))(heard), n_labels, twin=twin)
    if lstm_units:
        x = layers.AveragePooling1D(pool, padding="same")(heard)
        x = layers.Dense(project, activation="relu", name="project")(x)
        x = layers.Bidirectional(layers.LSTM(lstm_units, return_sequences=True), name="bilstm")(x)
        more = layers.Dense(n_labels, use_bias=False, kernel_initializer="zeros", name="more")(attention_pool(x))
        logits = layers.Add()([logits, more])
    classify = keras.Model(heard, logits, name="classify")
    return keras.Model(inputs, classify(encode(inputs)), name="causal_tdnn")


def fit(model: Any, batches: Batches, validation_score: Callable[[], float], seed: int) -> dict[str, Any]:
    """Fit all but the encoder in place; arguments as `serkit.train.zoo.svm.fit`'s.

    Returns:
        ``shrinkage``, the best by UAR of windows of training voices that are left out in turn, and the validation
        ``score``. Where a single voice trains, validation chooses.
    """
    classify = model.get_layer("classify")
    over_time = keras.Model(classify.input, classify.get_layer("standardise").input)
    functionals = keras.Model(model.input, over_time(model.get_layer("encode")(model.input)))

    def analyses(x: Any, truth: Any, voices: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        tried: Sequence[float] = SHRINKAGES
        if len(set(voices)) > 1:
            tried = (best_shrinkage(x, truth, voices),)
        for shrinkage in tried:
            yield {"shrinkage": shrinkage}, analysis(shrinkage, x, truth)

    return fit_linear(functionals, classify, batches, analyses, validation_score)
