"""A network that learns from a teacher, or starts from one that did: what `serkit.train.teacher` says, in Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from serkit.train.zoo.layers import Functionals

#: The figures that pick an epoch, by name.
Scores = Callable[[], dict[str, float]]


@keras.saving.register_keras_serializable("serkit")  # type: ignore[untyped-decorator]
def imitation_error(said: Any, predicted: Any) -> Any:
    """Mean squared error over what is known of what the teacher says.

    Args:
        said: By the teacher, ``(batch, ..., d)``; NaN where it heard nothing.
        predicted: By the student, same shape.

    Returns:
        ``(batch,)``; 0 for a window of which nothing is known.
    """
    known = ops.isfinite(said)
    errors = ops.square(ops.where(known, said, predicted) - predicted)
    axes = tuple(range(1, len(errors.shape)))
    n = ops.sum(ops.cast(known, errors.dtype), axis=axes)
    return ops.sum(errors, axis=axes) / ops.maximum(n, 1.0)


def n_steps(model: Any) -> int:
    """Into how many steps a network's encoder divides a window.

    Raises:
        SettingsError: It has no encoder.
    """
    if "encode" not in {layer.name for layer in model.layers}:
        raise SettingsError(f"{model.name} cannot learn from a teacher: it is not heard hop by hop")
    return int(model.get_layer("encode").output.shape[1])


def taught(model: Any, n_targets: Mapping[str, int], *, alone: bool = False) -> Any:
    """The same network with what its teacher says as further outputs; ``alone``, with those only.

    ``teacher`` is linear in its encoder's features, ``functionals`` in their mean and deviation over the window. The
    layers are shared: training one trains the other.

    Args:
        model: The network.
        n_targets: How many values there are of each of these.
        alone: Leave the logits out.
    """
    features = model.get_layer("encode")(model.input)
    of = {"teacher": features}
    if "functionals" in n_targets:
        over_time = Functionals(("mean", "deviation"), name="over_time")(features)
        of["functionals"] = layers.BatchNormalization(name="norm_taught")(over_time)
    outputs = {what: layers.Dense(n, name=what)(of[what]) for what, n in n_targets.items()}
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
            f"{learner.name} cannot start from {trained.name}: its encoder is another one; give both the same "
            "[model] and [window]"
        )
    for name in ("teacher", "norm_taught", "functionals"):
        if name in mine and name in theirs:
            mine[name].set_weights(theirs[name].get_weights())


def lessons_of(
    recipe: Recipe,
    model: Any,
    split: Split,
    sides: dict[str, FeatureSet],
    cache: Path | None,
    scale: Scale | None = None,
) -> dict[str, Lessons]:
    """The teacher's, for the training and the validation side; in the scale of the first, unless another is given."""
    heard = hear(split.everyone, recipe.teacher, cache)
    scale = scale or scale_of(heard.select(sides["train"].utterances), recipe.teacher)
    about = recipe.teacher, scale, recipe.frontend, recipe.window, n_steps(model)
    return {s: Lessons(heard.select(sides[s].utterances), *about) for s in ("train", "validation")}


def imitation_scores(recipe: Recipe, learner: Any, side: FeatureSet, lessons: Lessons) -> Scores:
    """How much of the teacher's variance is said rightly, over the first window of each utterance's speech.

    ``imitated`` is that of the frames; where functionals are learned too, the mean of both, which are told as well.
    """
    r, nothing = recipe, AugmentSettings()
    windows, said = [], []
    for row, stored in enumerate(side.frames):
        frames = stored.astype(np.float32)
        cut = Cut(float(speech_span(frames, r.frontend)[0]), 1.0)
        rng = np.random.default_rng(0)
        windows.append(augmented_window(frames, cut, r.window, nothing, r.frontend, (), rng))
        said.append(lessons.targets(row, cut))
    inputs = normalise(np.stack(windows), r.window)
    targets = {what: np.stack([each[what] for each in said]) for what in lessons.n_targets}

    def scores() -> dict[str, float]:
        predicted = learner.predict(inputs, batch_size=64, verbose=0)
        said = {what: 1 - float(np.nanmean((predicted[what] - targets[what]) ** 2)) for what in targets}
        shares = {"imitated": float(np.mean(list(said.values())))}
        if "functionals" in said:
            shares |= {"imitated_frames": said["teacher"], "imitated_functionals": said["functionals"]}
        return {what: round(share, 4) for what, share in shares.items()}

    return scores
