"""A linear classifier of functionals as layers of a network, its weights found at once by scikit-learn.

The functionals are standardised and clipped at four deviations. Without the clip the converter would fold the
standardisation into the weights, whose single int8 scale then loses most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

#: Windows, the index of each one's class (its label, or one beyond them that is never the answer) and its voice.
Batches = Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.intp], npt.NDArray[np.str_]]]

#: Linear classifiers fitted to functionals, classes and voices, each with what tells it from the others.
Candidates = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.intp], npt.NDArray[np.str_]], Iterable[tuple[dict[str, Any], Any]]
]

_CLIP = 4.0  # standard deviations


@keras.saving.register_keras_serializable("serkit")
class Summed(layers.Dense):  # type: ignore[misc]
    """A dense layer as products and their sum: in ``dynamic`` the converter leaves its weights as floats.

    Those of a discriminant analysis of features that say nearly the same are large and cancel out; with one 8-bit
    scale for all of them one answer in ten was another.
    """

    def call(self, x: Any) -> Any:
        return ops.sum(x[:, :, None] * self.kernel[None], axis=1) + self.bias


def linear(functionals: Any, n_labels: int, *, twin: bool = False) -> Any:
    """Standardisation, clip and decision function, ``(batch, d)`` to ``(batch, n_labels)``, their weights unknown."""
    x = layers.BatchNormalization(epsilon=1e-6, center=False, scale=False, name="standardise")(functionals)
    x = layers.Activation("hard_tanh")(layers.Rescaling(1 / _CLIP)(x))
    return (Summed if twin else layers.Dense)(n_labels, name="logits")(x)


def fit_linear(
    functionals: Any, head: Any, batches: Batches, candidates: Candidates, validation_score: Callable[[], float]
) -> dict[str, Any]:
    """Fit in place what `linear` made.

    Args:
        functionals: Keras model of what `linear` was given.
        head: Keras model that holds its layers.
        batches: Inputs of ``functionals``, ``(n, ...)``, and the class and voice of each one, ``(n,)``.
        candidates: Of which the validation side chooses.
        validation_score: Of the network as it stands.

    Returns:
        What tells the chosen one from the others, and its validation ``score``.
    """
    standardise, decide = head.get_layer("standardise"), head.get_layer("logits")
    parts = [(np.asarray(functionals.predict_on_batch(inputs)), *about) for inputs, *about in batches]
    x, truth, voices = (np.concatenate(part) for part in zip(*parts, strict=True))
    standardise.set_weights([x.mean(axis=0), x.var(axis=0)])
    x = np.clip((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6) / _CLIP, -1, 1)
    best: dict[str, Any] = {"score": -1.0}
    for about, machine in candidates(x, truth, voices):
        rows, offsets = machine.coef_, machine.intercept_
        if len(rows) == 1:  # two labels share one hyperplane
            rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
        answers = machine.classes_ < decide.units
        rows, offsets, labels = rows[answers], offsets[answers], machine.classes_[answers]
        kernel, bias = (np.zeros_like(w) for w in decide.get_weights())
        # A label absent from training is never the answer: it is ten below the mean of the others.
        kernel += rows.mean(axis=0)[:, None]
        bias += offsets.mean() - 10
        kernel[:, labels], bias[labels] = rows.T, offsets
        decide.set_weights([kernel, bias])
        score = validation_score()
        if score > best["score"]:
            best = {"score": score, **about, "weights": [kernel, bias]}
    decide.set_weights(best.pop("weights"))
    return best
