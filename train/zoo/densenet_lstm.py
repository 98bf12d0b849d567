"""R3, MFCC fused with DenseNet features, then an LSTM (Traitement du Signal 2025).

As published: 64 mel x 64 frames x 3 segments, features of an ImageNet-pretrained DenseNet fused with MFCC, an LSTM.
Left open, and chosen here: DenseNet-121 (Huang et al. 2017) on the window averaged down to 64 frames, its 1,024 pooled
features projected to 40 and laid beside the 40 MFCC averaged over time; the LSTM reads these 40 pairs as the proposed
LSTM of `mfcc_lstm` reads its MFCC. ``pretrained`` starts from ImageNet weights, which Keras downloads on first use;
without it the network is trained from scratch, and the recipe in the run says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import Cepstrum, dense_head, three_channels


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    pretrained: bool = False,
    n_mfcc: int = 40,
    lstm_units: int = 256,
    dense_units: Sequence[int] = (128, 64),
    dropout: float = 0.2,
) -> Any:
    """Build the network.

    Args:
        n_frames: Frames of one window, a multiple of 64.
        n_features: Mel bands, at least 32.
        n_labels: Emotions.
        twin: Build what is converted, which brings weights of its own.
        pretrained: Start the DenseNet from ImageNet weights.
        n_mfcc: Cepstral coefficients, and width of the projection.
        lstm_units: Units of the LSTM.
        dense_units: Units of the dense layers.
        dropout: Rate after the LSTM and each dense layer.

    Raises:
        ValueError: ImageNet weights are asked for and cannot be had, or the window does not fit.
    """
    if n_frames % 64:
        raise ValueError(f"n_frames is {n_frames}; the DenseNet needs a multiple of 64")
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    pooled = layers.AveragePooling1D(n_frames // 64)(inputs) if n_frames > 64 else inputs
    image = layers.Concatenate()([layers.Reshape((64, n_features, 1))(c) for c in three_channels(pooled)])
    weights = "imagenet" if pretrained and not twin else None
    try:
        network = keras.applications.DenseNet121(
            include_top=False, weights=weights, input_shape=(64, n_features, 3), pooling="avg", name="densenet121"
        )
    except Exception as error:  # the download raises whatever the network layer raises
        if weights is None:
            raise
        raise ValueError(
            f"the ImageNet weights cannot be had ({str(error).splitlines()[0]}); connect to a network, or set "
            "pretrained = false"
        ) from None
    embedding = layers.Dense(n_mfcc, activation="relu", name="projection")(network(image))
    mfcc = layers.GlobalAveragePooling1D()(Cepstrum(n_mfcc)(inputs))
    x = layers.Concatenate()([layers.Reshape((n_mfcc, 1))(part) for part in (mfcc, embedding)])  # (n_mfcc, 2)
    x = layers.LSTM(lstm_units, name="lstm")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, dense_head(x, dense_units, dropout, n_labels), name="r3_densenet_lstm")
