"""R1: the CNN-BiLSTM of "Sound Emotion Mapping" (ShodhKosh 2025).

As published: a 128 x 128 log-mel patch; three blocks of Conv2D, BatchNorm, ReLU, MaxPool 2 x 2, Dropout 0.3; the
feature maps flattened along frequency and sequenced along time; two stacked bidirectional LSTM layers of 128 units;
Dense 256, Dense 128; softmax over the emotions.

What the paper leaves open, and what is chosen here:

- *Filters and kernels*: 16, 32, 64 filters of 5 x 5, 5 x 5, 3 x 3, same padding.
- *The patch*: 128 frames at a 10 ms hop are 1.28 s; the paper does not say whether utterances are cropped or resized
  to that. Here a window of ``n_frames`` frames is resized to 128 by averaging ``time_pool`` neighbours inside the
  network: 1 crops 1.28 s, 2 (the default) sees 2.56 s. Utterances are scored as the mean over their windows.
- *Dense activations*: ReLU, and dropout 0.3 after each as after the blocks.
- *After the second BiLSTM*: the paper shows attention maps but no attention layer; here the steps are summed by
  additive attention (Bahdanau et al. 2015, 64 hidden units), beside their maximum.
- *Output*: logits; the softmax, with the calibration temperature, is applied by whoever calls the model.
- *Amplitude normalisation and per-recording z-score*: a z-score over each window (`serkit.edge.window`), since a
  microphone has no recordings. *Noise reduction*: no method is named; values 60 dB below the window's peak are raised
  to that floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import attention_pool, convolution_blocks, dense_head


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    filters: Sequence[int] = (16, 32, 64),
    kernels: Sequence[int] = (5, 5, 3),
    time_pool: int = 2,
    lstm_units: int = 128,
    dense_units: Sequence[int] = (256, 128),
    dropout: float = 0.3,
    lstm_dropout: float = 0.0,
    dense_dropout: float = 0.3,
) -> Any:
    """Build the network; see the module for the choices.

    Args:
        n_frames: Frames of one window; a multiple of ``8 * time_pool``.
        n_features: Mel bands; a multiple of 8.
        n_labels: Emotions.
        twin: Build what is converted, without what only training needs.
        filters: Filters of the convolution blocks.
        kernels: Their square kernels' sides.
        time_pool: Neighbouring frames averaged into one before the first block.
        lstm_units: Units of each LSTM direction.
        dense_units: Units of the dense layers.
        dropout: Rate after each block.
        lstm_dropout: Rate on the sequence into each BiLSTM.
        dense_dropout: Rate after each dense layer.

    Raises:
        ValueError: The window does not halve three times.

    Returns:
        Keras model, ``(batch, n_frames, n_features)`` to logits ``(batch, n_labels)``.
    """
    if n_frames % (8 * time_pool) or n_features % 8:
        raise ValueError(
            f"a window of {n_frames} x {n_features} does not halve three times after time_pool {time_pool}"
        )
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = layers.Reshape((n_frames, n_features, 1))(inputs)
    if time_pool > 1:
        x = layers.AveragePooling2D((time_pool, 1))(x)  # (128, 128, 1)
    x = convolution_blocks(x, filters, kernels, dropout)
    steps, bands, channels = x.shape[1:]
    x = layers.Reshape((steps, bands * channels))(x)  # time first: (16, 16 * filters)
    for i in range(2):
        if lstm_dropout:
            x = layers.Dropout(lstm_dropout)(x)
        lstm = layers.LSTM(lstm_units, return_sequences=True)
        x = layers.Bidirectional(lstm, name=f"bilstm{i + 1}")(x)  # (16, 2 * units)
    logits = dense_head(attention_pool(x), dense_units, dense_dropout, n_labels)
    return keras.Model(inputs, logits, name="r1_cnn_bilstm")
