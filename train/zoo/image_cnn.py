"""R4: three-layer 2-D CNN on spectrogram images (JoAIRA 2021).

As published: 270 x 260 grayscale images; Conv 5 x 5 with 32, 64, 32 filters, each followed by MaxPool 5 x 5 of stride 3
and ReLU; flatten; Dense ReLU, dropout 0.25 and 0.5; softmax over 8 emotions; image augmentation by horizontal flip,
rescale, zoom and shear. Left open, and chosen here: the image is 270 frames wide and 260 linear bands of a 1,024-point
FFT high, gray values are z-scored over the image ("rescale"); same padding; dropout 0.25 before and 0.5 after one dense
layer of 128 units; zoom and shear of up to 10 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers


@keras.saving.register_keras_serializable("serkit")
class Shear(layers.RandomShear):  # type: ignore[misc]
    """Keras 3.15's RandomShear cannot read the configuration it writes; this one writes what it was given."""

    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(factor, factor, fill_mode="nearest", **options)
        self._given = factor

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "factor": self._given}


def build(
    n_frames: int,
    n_features: int,
    n_labels: int,
    *,
    twin: bool = False,
    filters: Sequence[int] = (32, 64, 32),
    dense_units: int = 128,
    flip: bool = True,
    zoom: float = 0.1,
    shear: float = 0.1,
) -> Any:
    """Build the network.

    Args:
        n_frames: Width of the image, frames.
        n_features: Its height, bands.
        n_labels: Emotions.
        twin: Build what is converted, without the augmentation, which only training sees.
        filters: Filters of the convolutions.
        dense_units: Units of the dense layer.
        flip: Mirror half of the training images in time.
        zoom: Largest zoom, as a share; 0 is off.
        shear: Largest shear, as a share; 0 is off.
    """
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    x = layers.Reshape((n_frames, n_features, 1))(inputs)
    if not twin:
        # Time is the first axis here, so the paper's horizontal flip is a vertical one.
        x = layers.RandomFlip("vertical")(x) if flip else x
        x = layers.RandomZoom((-zoom, zoom), fill_mode="nearest")(x) if zoom else x
        x = Shear(shear)(x) if shear else x
    for i, n_filters in enumerate(filters):
        x = layers.Conv2D(n_filters, 5, padding="same", name=f"conv{i + 1}")(x)
        x = layers.MaxPooling2D(5, strides=3)(x)
        x = layers.ReLU()(x)
    x = layers.Dropout(0.25)(layers.Flatten()(x))
    x = layers.Dropout(0.5)(layers.Dense(dense_units, activation="relu", name="dense1")(x))
    return keras.Model(inputs, layers.Dense(n_labels, name="logits")(x), name="r4_image_cnn")
