"""Several networks as one: the mean of their logits, which is the geometric mean of their probabilities.

Made from finished runs by `serkit ensemble`; never trained itself. Members that are all heard hop by hop make an
ensemble that is: its ``encode`` gives the features of all, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers


def build(
    n_frames: int, n_features: int, n_labels: int, *, twin: bool = False, members: Sequence[dict[str, Any]] = ()
) -> Any:
    """Build it.

    Args:
        n_frames: Frames of one window, the same for all members.
        n_features: Mel bands, the same for all members.
        n_labels: Emotions.
        twin: Build what is converted, without what only training needs.
        members: For each, its ``system`` and that builder's ``options``.

    Raises:
        ValueError: Fewer than two members, or members heard hop by hop that make steps of different lengths.
    """
    from serkit.train.zoo import SYSTEMS, is_encoded

    if len(members) < 2:
        raise ValueError("an ensemble needs two or more members")
    built = [SYSTEMS[m["system"]].build(n_frames, n_features, n_labels, twin=twin, **m["options"]) for m in members]
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    if not all(is_encoded(member) for member in built):
        return keras.Model(inputs, _mean([_named(m, i)(inputs) for i, m in enumerate(built)]), name="ensemble")
    encoders, classifiers = ([m.get_layer(part) for m in built] for part in ("encode", "classify"))
    if len({encoder.output.shape[1] for encoder in encoders}) > 1:
        raise ValueError(
            f"its members' windows have {', '.join(str(e.output.shape[1]) for e in encoders)} steps; they need as many"
        )
    features = layers.Concatenate()([_named(e, i)(inputs) for i, e in enumerate(encoders)])
    encode = keras.Model(inputs, features, name="encode")
    heard = keras.Input(features.shape[1:], name="features")
    answers, start = [], 0
    for i, classifier in enumerate(classifiers):
        end = start + classifier.input.shape[-1]
        answers.append(_named(classifier, i)(heard[:, :, start:end]))
        start = end
    classify = keras.Model(heard, _mean(answers), name="classify")
    return keras.Model(inputs, classify(encode(inputs)), name="ensemble")


def set_member(ensemble: Any, i: int, trained: Any) -> None:
    """Give member ``i``, from 0, the weights of its network as it was trained by itself."""
    from serkit.train.zoo import is_encoded

    if is_encoded(ensemble):
        for part in ("encode", "classify"):
            ensemble.get_layer(part).get_layer(_name(i)).set_weights(trained.get_layer(part).get_weights())
    else:
        ensemble.get_layer(_name(i)).set_weights(trained.get_weights())


def _name(i: int) -> str:
    return f"member{i + 1}"


def _named(network: Any, i: int) -> Any:
    return keras.Model(network.input, network.output, name=_name(i))


def _mean(answers: Sequence[Any]) -> Any:
    return layers.Average(name="logits")(answers)
