"""Baseline of R1: a linear support vector machine on functionals of each window.

R1's paper compares with an SVM without describing it. Here the functionals (mean, mean absolute deviation, maximum,
minimum over time) of 40 MFCC and their deltas are standardised, clipped at four deviations and classified one against
the rest; the penalty C is chosen on the validation side. (Without the clip the converter folds the standardisation into
the weights, whose single int8 scale then loses most of them. ``dynamic`` works; with ``int8`` activations too, the
functionals of deltas drown beside those of MFCC, and `serkit convert` refuses.) scikit-learn finds
the weights; they live in a Keras model, so that the baseline is scored, converted and heard like every other system.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from serkit.train.zoo.layers import Cepstrum, Deltas, Functionals

PENALTIES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)

_CLIP = 4.0  # standard deviations


def build(n_frames: int, n_features: int, n_labels: int, *, twin: bool = False, n_mfcc: int = 40) -> Any:
    """The model, its weights still unknown: standardisation and decision function as layers."""
    inputs = keras.Input((n_frames, n_features), name="log_mel")
    mfcc = Cepstrum(n_mfcc)(inputs)
    x = Functionals()(layers.Concatenate()([mfcc, Deltas()(mfcc)]))
    x = layers.BatchNormalization(epsilon=1e-6, center=False, scale=False, name="standardise")(x)
    x = layers.Activation("hard_tanh")(layers.Rescaling(1 / _CLIP)(x))
    return keras.Model(inputs, layers.Dense(n_labels, name="logits")(x), name="svm")


def fit(
    model: Any,
    windows: npt.NDArray[np.float32],
    truth: npt.NDArray[np.intp],
    validation_score: Callable[[], float],
    seed: int,
) -> dict[str, Any]:
    """Fit in place.

    Args:
        model: From `build`.
        windows: Normalised, ``(n, n_frames, n_features)``.
        truth: Index of each window's label, ``(n,)``.
        validation_score: Scores the model as it stands on the validation side.
        seed: Of the solver.

    Returns:
        ``C`` and its validation score.
    """
    from sklearn.svm import LinearSVC

    standardise, decide = model.get_layer("standardise"), model.get_layer("logits")
    functionals = keras.Model(model.input, standardise.input)
    x = np.asarray(functionals.predict(windows, batch_size=256, verbose=0))
    standardise.set_weights([x.mean(axis=0), x.var(axis=0)])
    x = np.clip((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6) / _CLIP, -1, 1)
    best: dict[str, Any] = {"score": -1.0}
    for penalty in PENALTIES:
        machine = LinearSVC(C=penalty, class_weight="balanced", max_iter=5000, random_state=seed).fit(x, truth)
        # Two labels share one hyperplane; a label absent from training is never the answer.
        rows = machine.coef_ if len(machine.classes_) > 2 else np.concatenate([-machine.coef_, machine.coef_])
        offsets = machine.intercept_ if len(rows) == len(machine.intercept_) else np.r_[-1, 1] * machine.intercept_
        kernel, bias = (np.zeros_like(w) for w in decide.get_weights())
        bias -= 10.0
        kernel[:, machine.classes_], bias[machine.classes_] = rows.T, offsets
        decide.set_weights([kernel, bias])
        score = validation_score()
        if score > best["score"]:
            best = {"score": score, "C": penalty, "weights": [kernel, bias]}
    decide.set_weights(best.pop("weights"))
    return best
