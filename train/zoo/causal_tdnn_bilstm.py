"""A causal TDNN-BiLSTM: the encoder of `serkit.train.zoo.causal_tdnn`, learned from labels too.

Its classifier: mean and mean absolute deviation of each feature over the window's steps, beside attention and maximum
over a BiLSTM that hears them ``pool`` at a time.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from serkit.train.zoo.causal_tdnn import encoder
from serkit.train.zoo.layers import Functionals, attention_pool


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    pool: int = 4,
    project: int = 48,
    lstm_units: int = 64,
    dropout: float = 0.2,
    dense_dropout: float = 0.3,
    **options: Any,
) -> Any:
    """Build the network.

    Args:
        n_frames: As the encoder's, `serkit.train.zoo.causal_tdnn.encoder`.
        n_features: Mel bands.
        n_labels: Emotions.
        twin: As the encoder's.
        pool: Steps of the encoder that the BiLSTM hears as one.
        project: Width of what it hears.
        lstm_units: Units of each LSTM direction.
        dropout: Rate around the BiLSTM.
        dense_dropout: Rate before the logits.
        options: The encoder's.

    Raises:
        ValueError: The window does not divide into steps.

    Returns:
        Keras model, ``(batch, n_frames, n_features)`` to logits ``(batch, n_labels)``, with the layers ``encode`` and
        ``classify``.
    """
    encode = encoder(n_frames, n_features, twin=twin, **options)
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    heard = keras.Input(encode.output.shape[1:], name="features")
    whole = layers.BatchNormalization(name="norm_functionals")(Functionals(("mean", "deviation"))(heard))
    x = layers.AveragePooling1D(pool, padding="same")(layers.Dropout(dropout)(heard))
    x = layers.Dense(project, use_bias=False, name="project")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm_project")(x))
    x = layers.Bidirectional(layers.LSTM(lstm_units, return_sequences=True), name="bilstm")(x)
    x = attention_pool(layers.Dropout(dropout)(x))
    x = layers.Dropout(dense_dropout)(layers.Concatenate()([whole, x]))
    classify = keras.Model(heard, layers.Dense(n_labels, name="logits")(x), name="classify")
    return keras.Model(inputs, classify(encode(inputs)), name="causal_tdnn_bilstm")
