"""Consistency training: a network that is good in quiet learns to answer beside noise as it answers without.

What is fitted at once to windows as they are recorded is at a loss beside noise, and a linear classifier cannot help
it. So the whole network, encoder and all, goes on from there: it hears the windows that the recipe's ``[augment]``
makes, and its targets are the answers of itself, as it was fitted, to the same windows unchanged (Li et al. 2017,
*Large-Scale Domain Adaptation via Teacher-Student Learning*; Xie et al. 2020, *Unsupervised Data Augmentation for
Consistency Training*). No label is looked at, so the speech that its encoder learned from takes part as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from serkit.edge.window import normalise, softmax
from serkit.train.augment import AugmentSettings, augmented_window, random_cut
from serkit.train.epochs import Array, Epochs
from serkit.train.features import FeatureSet
from serkit.train.recipe import Recipe
from serkit.train.student import Scores

#: Divides the logits, so that the targets say more than which emotion is first.
TEMPERATURE = 2.0


@keras.saving.register_keras_serializable("serkit")
class AsDeployed(layers.Wrapper):  # type: ignore[misc]
    """A network as it answers on the device, trained or not: batch normalisation keeps the statistics it has."""

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs, training=False)


def learner_of(model: Any) -> Any:
    """What is trained: the network, ``(batch, ...)`` to logits divided by `TEMPERATURE`; it shares all weights."""
    inputs = keras.Input(model.input_shape[1:])
    return keras.Model(inputs, layers.Rescaling(1 / TEMPERATURE)(AsDeployed(model)(inputs)), name="consistent")


def _answers(kept: Any, windows: Array) -> Array:
    return softmax(np.asarray(kept.predict_on_batch(windows)), TEMPERATURE).astype(np.float32)


class Pairs(Epochs):
    """Batches of one epoch: augmented windows, and what ``kept`` answers to the same windows unchanged.

    Args:
        recipe: Its windows, augmentation and training.
        data: Speech, of whatever labels: each epoch hears all of it, in another order.
        noises: To be added.
        kept: The network as it was fitted.
    """

    def __init__(self, recipe: Recipe, data: FeatureSet, noises: Sequence[Array], kept: Any) -> None:
        self.recipe, self.data, self.noises, self.kept = recipe, data, noises, kept

    def order(self, epoch: int) -> npt.NDArray[np.intp]:
        """Rows of this epoch, shuffled."""
        return np.random.default_rng([self.recipe.training.seed, epoch]).permutation(len(self.data.utterances))

    def batches(self, epoch: int) -> Iterator[tuple[Array, Array]]:
        """Inputs ``(n, input_frames, n_features)`` and probabilities ``(n, n_labels)``."""
        for heard, unchanged in super().batches(epoch):
            assert isinstance(unchanged, np.ndarray)
            yield heard, _answers(self.kept, unchanged)

    def _batch(self, epoch: int, start: int, rows: npt.NDArray[np.intp]) -> tuple[Array, Array]:
        pairs = [self._pair([epoch, position], row) for position, row in enumerate(rows, start)]
        heard, unchanged = (normalise(np.stack(side), self.recipe.window) for side in zip(*pairs, strict=True))
        return heard, unchanged

    def _pair(self, draw: Sequence[int], row: np.intp) -> tuple[Array, Array]:
        r, rng = self.recipe, np.random.default_rng([self.recipe.training.seed, *draw])
        frames = self.data.frames[row].astype(np.float32)
        cut = random_cut(frames, r.window, r.augment, r.frontend, rng)
        unchanged = augmented_window(frames, cut, r.window, AugmentSettings(), r.frontend, (), rng)
        return augmented_window(frames, cut, r.window, r.augment, r.frontend, self.noises, rng), unchanged


def agreement(recipe: Recipe, model: Any, side: FeatureSet, noises: Sequence[Array], kept: Any) -> Scores:
    """How many of a side's augmented windows are named as ``kept`` names them unchanged; drawn once, never trained."""
    drawn = list(Pairs(recipe, side, noises, kept).batches(0))
    heard, answers = (np.concatenate(part) for part in zip(*drawn, strict=True))

    def scores() -> dict[str, float]:
        said = model.predict(heard, batch_size=64, verbose=0)
        return {"agreement": round(float(np.mean(said.argmax(axis=1) == answers.argmax(axis=1))), 4)}

    return scores
