"""R3, the "traditional" and the proposed LSTM, found again from their parameter counts (Traitement du Signal 2025).

The paper gives 77,160 and 305,799 parameters and no layers. Both numbers come out exactly when a sequence of *single*
values (40 MFCC averaged over time, read one coefficient per step, as public notebooks on TESS do) enters

- LSTM 128, Dense 64, Dense 32, Dense 8: 66,560 + 8,256 + 2,080 + 264 = 77,160 ("traditional"; eight outputs, although
  TESS has seven classes: with seven it has 77,127);
- LSTM 256, Dense 128, Dense 64, Dense 7: 264,192 + 32,896 + 8,256 + 455 = 305,799 (proposed).

Left open, and chosen here: ReLU, and dropout 0.2 after the LSTM and each dense layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import Cepstrum, dense_head


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    n_mfcc: int = 40,
    lstm_units: int = 256,
    dense_units: Sequence[int] = (128, 64),
    dropout: float = 0.2,
) -> Any:
    """Build the network.

    Args:
        n_frames: Frames of one window.
        n_features: Mel bands.
        n_labels: Emotions.
        twin: Build what is converted, without what only training needs.
        n_mfcc: Cepstral coefficients, the steps of the sequence.
        lstm_units: Units of the LSTM.
        dense_units: Units of the dense layers.
        dropout: Rate after the LSTM and each dense layer.
    """
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = layers.GlobalAveragePooling1D()(Cepstrum(n_mfcc)(inputs))
    x = layers.Reshape((n_mfcc, 1))(x)
    x = layers.LSTM(lstm_units, name="lstm")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, dense_head(x, dense_units, dropout, n_labels), name="r3_mfcc_lstm")
