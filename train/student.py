"""A network that learns from a teacher, or starts from one that did: what `serkit.train.teacher` says, in Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from serkit.edge.errors import SettingsError
from serkit.edge.window import normalise
from serkit.train.augment import AugmentSettings, Cut, augmented_window, speech_span
from serkit.train.features import FeatureSet
from serkit.train.recipe import Recipe
from serkit.train.splits import Split
from serkit.train.teacher import Lessons, Scale, hear, scale_of

#: The figures that pick an epoch, by name.
Scores = Callable[[], dict[str, float]]


@keras.saving.register_keras_serializable("serkit")  # type: ignore[untyped-decorator]
def imitation_error(said: Any, predicted: Any) -> Any:
    """Mean squared error over what is known of the teacher's frames.

    Args:
        said: By the teacher, ``(batch, n_steps, d)``; NaN where it heard nothing.
        predicted: By the student, same shape.

    Returns:
        ``(batch,)``; 0 for a window of which nothing is known.
    """
    known = ops.isfinite(said)
    errors = ops.square(ops.where(known, said, predicted) - predicted)
    n = ops.sum(ops.cast(known, errors.dtype), axis=(1, 2))
    return ops.sum(errors, axis=(1, 2)) / ops.maximum(n, 1.0)


def n_steps(model: Any) -> int:
    """Into how many steps a network's encoder divides a window.

    Raises:
        SettingsError: It has no encoder.
    """
    if "encode" not in {layer.name for layer in model.layers}:
        raise SettingsError(f"{model.name} cannot learn from a teacher: it is not heard hop by hop")
    return int(model.get_layer("encode").output.shape[1])


def taught(model: Any, n_targets: int, *, alone: bool = False) -> Any:
    """The same network with another output, ``teacher``, linear in its encoder's features; ``alone``, with that only.

    The layers are shared: training one trains the other.
    """
    features = model.get_layer("encode")(model.input)
    outputs = {"teacher": layers.Dense(n_targets, name="teacher")(features)}
    if not alone:
        outputs["logits"] = model.get_layer("classify")(features)
    return keras.Model(model.input, outputs, name=f"{model.name}_taught")


def begin(learner: Any, trained: Any) -> None:
    """Give a network the encoder of a trained one and, where both learn from a teacher, what it says of it.

    Raises:
        SettingsError: They do not fit.
    """
    mine, theirs = ({part.name: part for part in model.layers} for model in (learner, trained))
    shapes = [
        [m["encode"].input_shape, *(tuple(w.shape) for w in m["encode"].weights)] if "encode" in m else []
        for m in (mine, theirs)
    ]
    same = bool(shapes[0]) and shapes[0] == shapes[1]
    if same:
        mine["encode"].set_weights(theirs["encode"].get_weights())
        x = np.random.default_rng(0).standard_normal((1, *shapes[0][0][1:])).astype(np.float32)
        said = [m["encode"].predict(x, verbose=0) for m in (mine, theirs)]
        # Equal weights may stand for other strides, dilations or levels.
        same = np.allclose(said[0], said[1], atol=1e-3)
    if not same:
        raise SettingsError(
            f"{learner.name} cannot start from {trained.name}: its encoder is another one; give both the same system, "
            "[model] and [window]"
        )
    if "teacher" in mine and "teacher" in theirs:
        mine["teacher"].set_weights(theirs["teacher"].get_weights())


def lessons_of(
    recipe: Recipe,
    model: Any,
    split: Split,
    sides: dict[str, FeatureSet],
    cache: Path | None,
    scale: Scale | None = None,
) -> dict[str, Lessons]:
    """The teacher's, for the training and the validation side; in the scale of the first, unless another is given."""
    heard = hear(list(dict.fromkeys([*split.train, *split.validation, *split.test])), recipe.teacher, cache)
    scale = scale or scale_of(heard.select(sides["train"].utterances))
    about = recipe.frontend, recipe.window, n_steps(model)
    return {s: Lessons(heard.select(sides[s].utterances), scale, *about) for s in ("train", "validation")}


def imitation_scores(recipe: Recipe, learner: Any, side: FeatureSet, lessons: Lessons) -> Scores:
    """How much of the teacher's variance is said rightly, over the first window of each utterance's speech."""
    r, nothing = recipe, AugmentSettings()
    windows, said = [], []
    for row, stored in enumerate(side.frames):
        frames = stored.astype(np.float32)
        cut = Cut(float(speech_span(frames, r.frontend)[0]), 1.0)
        rng = np.random.default_rng(0)
        windows.append(augmented_window(frames, cut, r.window, nothing, r.frontend, (), rng))
        said.append(lessons.targets(row, cut))
    inputs, targets = normalise(np.stack(windows), r.window), np.stack(said)

    def scores() -> dict[str, float]:
        predicted = learner.predict(inputs, batch_size=64, verbose=0)["teacher"]
        return {"imitated": round(1 - float(np.nanmean((predicted - targets) ** 2)), 4)}

    return scores
