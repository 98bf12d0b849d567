"""A peer to compare with: Light-SERNet, a small fully convolutional network (Aftab et al., ICASSP 2022).

As published: 40 MFCC of 64 ms frames every 16 ms; three parallel paths of 32 filters, 11 x 1, 1 x 9 and 3 x 3, each
with BatchNorm, ReLU and 2 x 2 average pooling; then 3 x 3 convolutions of 64, 96, 128 and 160 filters with BatchNorm,
ReLU and average pooling (2 x 2, 2 x 2, 2 x 1, 2 x 1), a 1 x 1 convolution of 320, the mean over the map, dropout 0.3,
softmax: 463 k parameters.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import Cepstrum


def _block(x: Any, filters: int, kernel: tuple[int, int], pool: tuple[int, int] | None) -> Any:
    x = layers.Conv2D(filters, kernel, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return layers.AveragePooling2D(pool)(x) if pool else x


def build(
    n_frames: int, n_features: int, n_labels: int, *, twin: bool = False, n_mfcc: int = 40, dropout: float = 0.3
) -> Any:
    """Build the network; ``n_mfcc`` is the width of its input, ``dropout`` the rate before the logits."""
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = layers.Reshape((n_frames, n_mfcc, 1))(Cepstrum(n_mfcc)(inputs))
    x = layers.Concatenate()([_block(x, 32, kernel, (2, 2)) for kernel in ((11, 1), (1, 9), (3, 3))])
    for filters, pool in ((64, (2, 2)), (96, (2, 2)), (128, (2, 1)), (160, (2, 1))):
        x = _block(x, filters, (3, 3), pool)
    x = layers.GlobalAveragePooling2D()(_block(x, 320, (1, 1), None))
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, layers.Dense(n_labels, name="logits")(x), name="light_sernet")
