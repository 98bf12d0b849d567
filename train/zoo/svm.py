"""Baseline of R1: a linear support vector machine on functionals of each window.

R1's paper compares with an SVM without describing it. Here the functionals (mean, mean absolute deviation, maximum,
minimum over time) of 40 MFCC and their deltas are classified one against the rest (`serkit.train.zoo.linear`); the
penalty C is chosen on the validation side. (``dynamic`` works; with ``int8`` activations too, the functionals of deltas
drown beside those of MFCC, and `serkit convert` refuses.) scikit-learn finds the weights; they live in a Keras model,
so that the baseline is scored, converted and heard like every other system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers

from serkit.train.zoo.layers import Cepstrum, Deltas, Functionals
from serkit.train.zoo.linear import Batches, fit_linear, linear

PENALTIES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def build(n_frames: int, n_features: int, n_labels: int, *, twin: bool = False, n_mfcc: int = 40) -> Any:
    """The model, its weights still unknown: standardisation and decision function as layers."""
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    mfcc = Cepstrum(n_mfcc)(inputs)
    x = Functionals()(layers.Concatenate()([mfcc, Deltas()(mfcc)]))
    return keras.Model(inputs, linear(x, n_labels), name="svm")


def fit(model: Any, batches: Batches, validation_score: Callable[[], float], seed: int) -> dict[str, Any]:
    """Fit in place.

    Args:
        model: From `build`.
        batches: Normalised windows ``(n, n_frames, n_features)``, and the class and voice of each one, ``(n,)``.
        validation_score: Scores the model as it stands on the validation side.
        seed: Of the solver.

    Returns:
        ``C`` and its validation score.
    """
    from sklearn.svm import LinearSVC

    functionals = keras.Model(model.input, model.get_layer("standardise").input)

    def machines(x: Any, truth: Any, _voices: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        for penalty in PENALTIES:
            machine = LinearSVC(C=penalty, class_weight="balanced", max_iter=5000, random_state=seed)
            yield {"C": penalty}, machine.fit(x, truth)

    return fit_linear(functionals, model, batches, machines, validation_score)
