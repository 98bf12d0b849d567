"""R2: CNN on augmented spectrograms, several of which are averaged (E3S 2023).

The paper gives the corpus (RAVDESS speech and song, TESS), spectrogram augmentation and averaging, and no layer sizes.
Chosen here: four blocks of Conv2D, BatchNorm, ReLU, MaxPool 2 x 2 with 24, 48, 96, 96 filters, the mean over the
remaining map, dropout 0.3, one dense layer. `serkit ensemble` averages several runs into one model, see `ensemble`.
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
    filters: Sequence[int] = (24, 48, 96, 96),
    kernels: Sequence[int] = (5, 3, 3, 3),
    time_pool: int = 2,
    dense_units: Sequence[int] = (128,),
    dropout: float = 0.1,
    dense_dropout: float = 0.3,
) -> Any:
    """Build one network; the options mean what they do in `serkit.train.zoo.cnn_bilstm.build`."""
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = layers.Reshape((n_frames, n_features, 1))(inputs)
    if time_pool > 1:
        x = layers.AveragePooling2D((time_pool, 1))(x)
    x = convolution_blocks(x, filters, kernels, dropout)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dense_dropout)(x)
    return keras.Model(inputs, dense_head(x, dense_units, dense_dropout, n_labels), name="r2_cnn")
