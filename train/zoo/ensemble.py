"""Several networks as one: the mean of their logits, which is the geometric mean of their probabilities.

Made from finished runs by `serkit ensemble`; never trained itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers


def build(
    n_frames: int, n_features: int, n_labels: int, *, unroll: bool = False, members: Sequence[dict[str, Any]] = ()
) -> Any:
    """Build it.

    Args:
        n_frames: Frames of one window, the same for all members.
        n_features: Mel bands, the same for all members.
        n_labels: Emotions.
        unroll: Write recurrent steps out, for conversion.
        members: For each, its ``system`` and that builder's ``options``.

    Raises:
        ValueError: Fewer than two members.
    """
    from serkit.train.zoo import SYSTEMS

    if len(members) < 2:
        raise ValueError("an ensemble needs two or more members")
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    answers = []
    for i, member in enumerate(members):
        built = SYSTEMS[member["system"]].build(n_frames, n_features, n_labels, unroll=unroll, **member["options"])
        answers.append(keras.Model(built.input, built.output, name=f"member{i + 1}")(inputs))
    return keras.Model(inputs, layers.Average(name="logits")(answers), name="ensemble")
