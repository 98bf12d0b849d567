"""A linear classifier of functionals as layers of a network, its weights found at once by scikit-learn.

The functionals are standardised and clipped at four deviations. Without the clip the converter would fold the
standardisation into the weights, whose single int8 scale then loses most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import layers

#: Windows and the index of each one's label.
Batches = Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]]

_CLIP = 4.0  # standard deviations


def linear(functionals: Any, n_labels: int) -> Any:
    """Standardisation, clip and decision function, ``(batch, d)`` to ``(batch, n_labels)``, their weights unknown."""
    x = layers.BatchNormalization(epsilon=1e-6, center=False, scale=False, name="standardise")(functionals)
    x = layers.Activation("hard_tanh")(layers.Rescaling(1 / _CLIP)(x))
    return layers.Dense(n_labels, name="logits")(x)


def fit_linear(
    functionals: Any,
    head: Any,
    batches: Batches,
    classifier: Callable[[float, int], Any],
    candidates: dict[str, Sequence[float]],
    validation_score: Callable[[], float],
) -> dict[str, Any]:
    """Fit in place what `linear` made.

    Args:
        functionals: Keras model of what `linear` was given.
        head: Keras model that holds its layers.
        batches: Inputs of ``functionals``, ``(n, ...)``, and the index of each one's label, ``(n,)``.
        classifier: An unfitted linear classifier of scikit-learn for a value of its option and the number of emotions.
        candidates: The option's name and the values from which the validation side chooses.
        validation_score: Of the network as it stands.

    Returns:
        The chosen value, by the option's name, and its validation ``score``.
    """
    standardise, decide = head.get_layer("standardise"), head.get_layer("logits")
    pairs = [(np.asarray(functionals.predict_on_batch(inputs)), truth) for inputs, truth in batches]
    x, truth = (np.concatenate(part) for part in zip(*pairs, strict=True))
    standardise.set_weights([x.mean(axis=0), x.var(axis=0)])
    x = np.clip((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6) / _CLIP, -1, 1)
    best: dict[str, Any] = {"score": -1.0}
    [(option, values)] = candidates.items()
    for value in values:
        machine = classifier(value, len(np.unique(truth))).fit(x, truth)
        rows, offsets = machine.coef_, machine.intercept_
        if len(rows) == 1:  # two labels share one hyperplane
            rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
        kernel, bias = (np.zeros_like(w) for w in decide.get_weights())
        # A label absent from training is never the answer: it is ten below the mean of the others.
        kernel += rows.mean(axis=0)[:, None]
        bias += offsets.mean() - 10
        kernel[:, machine.classes_], bias[machine.classes_] = rows.T, offsets
        decide.set_weights([kernel, bias])
        score = validation_score()
        if score > best["score"]:
            best = {"score": score, option: value, "weights": [kernel, bias]}
    decide.set_weights(best.pop("weights"))
    return best
