"""How far a converted model strays from the Keras model it came from, on validation speakers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import ModelError
from serkit.edge.window import softmax
from serkit.train.metrics import uar
from serkit.train.scoring import Windows, pool_utterances

#: Largest |dp| of a window, and least share of utterances with the same label, that a bundle may be written with.
LIMITS = {"float32": (1e-4, 0.99), "float16": (0.05, 0.97), "dynamic": (0.5, 0.85), "int8": (0.7, 0.8)}


def strays(report: dict[str, Any], format: str) -> bool:
    """Whether a conversion is beyond `LIMITS`."""
    largest, agreement = LIMITS[format]
    return not (report["max_abs_dp"] <= largest and report["utterance_label_agreement"] >= agreement)  # NaN does


def check_parity(report: dict[str, Any], format: str) -> None:
    """Refuse a conversion that is another model.

    Raises:
        ModelError: It strays further than `LIMITS`.
    """
    largest, agreement = LIMITS[format]
    if strays(report, format):
        raise ModelError(
            f"the {format} conversion strays too far from Keras (max |dp| {report['max_abs_dp']}, label agreement "
            f"{report['utterance_label_agreement']}; up to {largest} and at least {agreement} are needed): nothing was "
            "written; another format may do"
        )


def parity(
    reference: npt.NDArray[np.float32],
    converted: npt.NDArray[np.float32],
    windows: Windows,
    emotions: Sequence[str],
    labels: Sequence[str],
    temperature: float,
) -> dict[str, Any]:
    """Compare window by window and utterance by utterance.

    Args:
        reference: Keras' logits of the windows, ``(n_windows, n_labels)``.
        converted: The converted model's, ``(n_windows, n_labels)``.
        windows: Of validation utterances.
        emotions: Truth of each utterance.
        labels: Order of the outputs.
        temperature: Of the run.

    Returns:
        ``max_abs_dp`` and ``mean_abs_dp`` over window probabilities, ``window_label_agreement`` and
        ``utterance_label_agreement`` (fractions), ``uar_keras``, ``uar`` ``uar_change``, and what was measured.
    """
    p, q = softmax(reference, temperature), softmax(converted, temperature)
    pooled = [pool_utterances(probabilities, windows, len(emotions)) for probabilities in (p, q)]
    answers = [[labels[i] for i in np.argmax(u, axis=1)] for u in pooled]
    scores = [uar(emotions, a) for a in answers]
    return {
        "n_windows": len(reference),
        "n_utterances": len(emotions),
        "max_abs_dp": float(f"{np.max(np.abs(p - q)):.3g}"),
        "mean_abs_dp": float(f"{np.mean(np.abs(p - q)):.3g}"),
        "window_label_agreement": round(float(np.mean(p.argmax(axis=1) == q.argmax(axis=1))), 4),
        "utterance_label_agreement": round(float(np.mean([a == b for a, b in zip(*answers, strict=True)])), 4),
        "uar_keras": round(scores[0], 4),
        "uar": round(scores[1], 4),
        "uar_change": round(scores[1] - scores[0], 4),
    }
