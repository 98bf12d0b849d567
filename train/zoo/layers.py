"""Pieces that several systems share: convolution blocks, attention pooling, the dense head, MFCC, deltas, functionals.

MFCC and deltas are computed inside the networks, from the same log-mel frames that every system gets: the speech gate,
the augmentation and the streaming cache then know one kind of input. Their formulas are those of
`serkit.edge.frontend`, and a test holds them equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

_RANGE = float(np.log(10) * 60 / 10)  # 60 dB in the unit of log-mel values


def convolution_blocks(x: Any, filters: Sequence[int], kernels: Sequence[int], dropout: float) -> Any:
    """R1's blocks, Conv2D, BatchNorm, ReLU, MaxPool 2 x 2, Dropout, on ``(batch, time, bands, channels)``."""
    for i, (n_filters, side) in enumerate(zip(filters, kernels, strict=True)):
        x = layers.Conv2D(n_filters, side, padding="same", use_bias=False, name=f"conv{i + 1}")(x)
        x = layers.BatchNormalization(name=f"norm{i + 1}")(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(dropout)(x)
    return x


def causal_context(level_frames: int, kernels: Sequence[int], strides: Sequence[int], steps: int = 0) -> int:
    """Frames before its own hop that a causal encoder needs.

    Args:
        level_frames: Earlier frames that set the level.
        kernels: Lengths of its convolutions with strides.
        strides: Their strides.
        steps: How far what follows them reaches back, in steps of ``prod(strides)`` frames.

    >>> causal_context(128, (5, 3, 3, 3), (2, 2, 2, 1))
    153
    >>> causal_context(128, (5, 3), (2, 2), 2 * (1 + 1 + 2 + 2 + 4))
    213
    """
    reach, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        reach, step = reach + (kernel - 1) * step, step * stride
    return level_frames + reach + (steps - 1) * step


def check_window(
    n_frames: int,
    level_frames: int,
    filters: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    steps: int = 0,
) -> None:
    """That ``n_frames`` are a causal encoder's context and a window of whole steps; arguments as `causal_context`'s.

    Raises:
        ValueError: They are not, or filters, kernels and strides are not one each.
    """
    if not len(filters) == len(kernels) == len(strides):
        raise ValueError(f"{len(filters)} filters, {len(kernels)} kernels, {len(strides)} strides: one each is needed")
    context, stride = causal_context(level_frames, kernels, strides, steps), math.prod(strides)
    if n_frames <= context or (n_frames - context) % stride:
        raise ValueError(
            f"{n_frames} frames are not context_frames = {context} and a window of a multiple of {stride} frames"
        )


def relative_level(inputs: Any, level_frames: int) -> Any:
    """Each frame against the loudest band of the last ``level_frames``: 1 is as loud, 0 is 60 dB below or less.

    What a z-score over the window does elsewhere, but frames to come change nothing, and neither does a gain.

    Args:
        inputs: Log-mel, ``(batch, n_frames, bands)``.
        level_frames: How many earlier frames set the level.

    Returns:
        ``(batch, n_frames - level_frames, bands)``.
    """
    n_frames, bands = inputs.shape[1:]
    x = layers.Reshape((n_frames, bands, 1))(inputs)
    loudest = layers.MaxPooling2D((1, bands))(x)
    loudest = layers.MaxPooling2D((level_frames + 1, 1), strides=1)(loudest)
    x = layers.Subtract()([layers.Cropping2D(((level_frames, 0), (0, 0)))(x), loudest])
    x = layers.ReLU()(layers.Rescaling(1 / _RANGE, offset=1.0)(x))
    return layers.Reshape((n_frames - level_frames, bands))(x)


def attention_pool(x: Any) -> Any:
    """Additive attention over the steps (Bahdanau et al. 2015) beside their maximum, ``(batch, 2 * channels)``."""
    scores = layers.Dense(1, name="attention")(layers.Dense(64, activation="tanh", name="attention_hidden")(x))
    weighted = layers.Multiply()([x, layers.Softmax(axis=1, name="attention_weights")(scores)])
    # The sum over the steps, as a scaled mean: a concatenation has one int8 scale, in which the mean would be lost.
    summed = layers.Rescaling(float(x.shape[1]))(layers.GlobalAveragePooling1D()(weighted))
    return layers.Concatenate()([summed, layers.GlobalMaxPooling1D()(x)])


def dense_head(x: Any, units: Sequence[int], dropout: float, n_labels: int) -> Any:
    """ReLU layers with dropout, then the logits."""
    for i, n in enumerate(units):
        x = layers.Dense(n, activation="relu", name=f"dense{i + 1}")(x)
        x = layers.Dropout(dropout)(x)
    return layers.Dense(n_labels, name="logits")(x)


@keras.saving.register_keras_serializable("serkit")
class Cepstrum(layers.Layer):  # type: ignore[misc]
    """MFCC of log-mel frames: orthonormal DCT-II of each, ``(..., n_mels)`` to ``(..., n_mfcc)``; fixed."""

    def __init__(self, n_mfcc: int, **options: Any) -> None:
        super().__init__(**options)
        self.n_mfcc = n_mfcc

    def build(self, shape: Sequence[int]) -> None:
        n, k = shape[-1], np.arange(self.n_mfcc)
        if self.n_mfcc > n:
            raise ValueError(f"n_mfcc {self.n_mfcc} is more than the {n} mel bands")
        scale = np.where(k == 0, np.sqrt(1 / n), np.sqrt(2 / n))
        self._dct = (scale * np.cos(np.pi * np.outer(np.arange(n) + 0.5, k) / n)).astype(np.float32)

    def call(self, x: Any) -> Any:
        return ops.matmul(x, self._dct)

    def compute_output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:-1], self.n_mfcc)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "n_mfcc": self.n_mfcc}


@keras.saving.register_keras_serializable("serkit")
class Deltas(layers.Layer):  # type: ignore[misc]
    """Regression deltas over time (HTK book, eq. 5.16), edge frames repeated; ``(batch, time, d)``, same shape."""

    def __init__(self, width: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.width = width

    def call(self, x: Any) -> Any:
        n, width = x.shape[1], self.width
        padded = ops.concatenate([x[:, :1]] * width + [x] + [x[:, -1:]] * width, axis=1)
        norm = 1.0 / (2 * sum(k * k for k in range(1, width + 1)))
        steps = [
            (k * norm) * (padded[:, width + k : width + k + n] - padded[:, width - k : width - k + n])
            for k in range(1, width + 1)
        ]
        return sum(steps[1:], steps[0])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


def three_channels(x: Any) -> list[Any]:
    """Static, delta and delta-delta of ``(batch, time, d)``, R3's three channels."""
    first = Deltas()(x)
    return [x, first, Deltas()(first)]


@keras.saving.register_keras_serializable("serkit")
class Functionals(layers.Layer):  # type: ignore[misc]
    """What a feature does over time, ``(batch, time, d)`` to ``(batch, len(parts) * d)``.

    Args:
        parts: Of ``mean``, mean absolute ``deviation``, ``maximum`` and ``minimum``, in this order.
    """

    def __init__(self, parts: Sequence[str] = ("mean", "deviation", "maximum", "minimum"), **options: Any) -> None:
        super().__init__(**options)
        self.parts = tuple(parts)

    def call(self, x: Any) -> Any:
        mean = ops.mean(x, axis=1, keepdims=True)
        known = {
            "mean": lambda: mean[:, 0],
            "deviation": lambda: ops.mean(ops.abs(x - mean), axis=1),
            "maximum": lambda: ops.max(x, axis=1),
            "minimum": lambda: -ops.max(-x, axis=1),
        }
        return ops.concatenate([known[part]() for part in self.parts], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "parts": list(self.parts)}
