"""How good a set of answers is: UAR, accuracy, macro-F1, per class, per speaker, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from serkit.edge.window import softmax
from serkit.train.corpora import Utterance


def uar(truth: Sequence[str], answers: Sequence[str]) -> float:
    """Unweighted average recall over the emotions that occur in ``truth``; 1 / n_classes is chance.

    >>> uar(["sad", "sad", "sad", "happy"], ["sad", "sad", "sad", "sad"])
    0.5
    """
    _, recall, _, _ = precision_recall_fscore_support(truth, answers, labels=sorted(set(truth)), zero_division=0)
    return float(np.mean(recall))


def uar_interval(truth: Sequence[str], answers: Sequence[str], draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the UAR over utterances (of this model and split; another seed moves it further)."""
    classes = sorted(set(truth))
    known = np.array([classes.index(t) for t in truth])
    right = np.array([t == a for t, a in zip(truth, answers, strict=True)])
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(known == c) for c in range(len(classes))]
    recalls = [right[rng.choice(r, (draws, len(r)))].mean(axis=1) for r in rows]
    low, high = np.quantile(np.mean(recalls, axis=0), (0.025, 0.975))
    return float(low), float(high)


def calibration_error(probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.intp], bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015): mean gap between confidence and accuracy over equal bins."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float(right[which == b].mean() - confidence[which == b].mean())) for b in np.unique(which)]
    shares = [float(np.mean(which == b)) for b in np.unique(which)]
    return float(np.dot(gaps, shares))


def chance_calibration_error(probabilities: npt.NDArray[np.float64], bins: int = 15, draws: int = 200) -> float:
    """What `calibration_error` would be, on average, if these probabilities were perfect.

    Of few answers it is far from 0: some 0.08 of 240, 0.03 of 1,440. A smaller difference is no fault of the model.
    """
    confidence = probabilities.max(axis=1)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    right = np.random.default_rng(0).random((draws, len(confidence))) < confidence
    gaps = [np.abs((right - confidence)[:, which == b].sum(axis=1)) for b in np.unique(which)]
    return float(np.mean(np.sum(gaps, axis=0)) / len(confidence))


def risk_coverage(probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.intp]) -> list[dict[str, float]]:
    """How right the surer answers are (El-Yaniv and Wiener 2010): a row for each tenth of the answers that is kept.

    Returns:
        Rows with the ``coverage`` kept, the least ``confidence`` among it, and its ``accuracy`` (over all orders of
        equal confidences); from all answers down to the surest tenth.
    """
    confidence = probabilities.max(axis=1)
    surest = np.argsort(-confidence, kind="stable")
    _, level = np.unique(confidence, return_inverse=True)
    right = (np.bincount(level, probabilities.argmax(axis=1) == truth) / np.bincount(level))[level][surest]
    rows = []
    for tenths in range(10, 0, -1):
        n = max(1, round(len(truth) * tenths / 10))
        rows.append(
            {
                "coverage": round(n / len(truth), 4),
                "confidence": round(float(confidence[surest[n - 1]]), 4),
                "accuracy": round(float(right[:n].mean()), 4),
            }
        )
    return rows


#: Of the answers that a model is sure of, at least so many shall be right.
SURE_ACCURACY = 0.75


def fit_unsure(
    probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.intp], voices: Sequence[str]
) -> dict[str, float] | None:
    """The confidence below which a model should say "unsure", from validation speakers.

    Each voice counts alike, however many of its utterances there are.

    Args:
        probabilities: ``(n_utterances, n_labels)``.
        truth: Columns of the true emotions, ``(n_utterances,)``.
        voices: Of each utterance.

    Returns:
        ``below``, the smallest confidence such that of the answers with that much or more `SURE_ACCURACY` are right;
        the ``coverage`` and ``accuracy`` that it leaves. None where not even the surest twentieth is so often right.
    """
    confidence = probabilities.max(axis=1)
    surest = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == truth)[surest]
    _, owner, n_of = np.unique(np.asarray(voices), return_inverse=True, return_counts=True)
    share = (1 / (len(n_of) * n_of[owner]))[surest]
    coverage = np.cumsum(share)
    accuracy = np.cumsum(right * share) / coverage
    below = np.floor(1e4 * confidence[surest]) / 1e4  # so that what it stands for has as much
    whole = np.append(below[1:] < below[:-1], True)  # not in the middle of equal ones
    enough = np.flatnonzero(whole & (accuracy >= SURE_ACCURACY - 1e-9) & (coverage >= 0.05 - 1e-9))
    if not len(enough):
        return None
    last = int(enough[-1])
    return {
        "below": round(float(below[last]), 4),
        "coverage": round(float(coverage[last]), 4),
        "accuracy": round(float(accuracy[last]), 4),
    }


def score(
    utterances: Sequence[Utterance], probabilities: npt.NDArray[np.float64], labels: Sequence[str]
) -> dict[str, Any]:
    """All figures for one set of utterances; fractions, rounded to 4 digits.

    Args:
        utterances: The truth.
        probabilities: ``(n_utterances, n_labels)``.
        labels: Order of the columns. Labels that never occur in the truth count as wrong answers, not as classes.
    """
    truth = [u.emotion for u in utterances]
    answers = [labels[i] for i in np.argmax(probabilities, axis=1)]
    present = [label for label in labels if label in set(truth)]
    precision, recall, f1, support = precision_recall_fscore_support(truth, answers, labels=present, zero_division=0)
    per_speaker = {}
    for voice in sorted({u.voice for u in utterances}):
        rows = [i for i, u in enumerate(utterances) if u.voice == voice]
        per_speaker[voice] = round(uar([truth[i] for i in rows], [answers[i] for i in rows]), 4)
    by_sex = {}
    for sex in sorted({u.sex for u in utterances}):
        rows = [i for i, u in enumerate(utterances) if u.sex == sex]
        by_sex[sex] = round(uar([truth[i] for i in rows], [answers[i] for i in rows]), 4)
    worst = min(per_speaker, key=lambda voice: per_speaker[voice])
    index = np.array([labels.index(e) for e in truth])
    return {
        "n_utterances": len(utterances),
        "uar": round(uar(truth, answers), 4),
        "uar_ci95": [round(edge, 4) for edge in uar_interval(truth, answers)],
        "accuracy": round(float(accuracy_score(truth, answers)), 4),
        "macro_f1": round(float(f1_score(truth, answers, labels=present, average="macro", zero_division=0)), 4),
        "per_class": {
            label: {
                "precision": round(float(precision[i]), 4),
                "recall": round(float(recall[i]), 4),
                "f1": round(float(f1[i]), 4),
                "n": int(support[i]),
            }
            for i, label in enumerate(present)
        },
        "per_speaker_uar": per_speaker,
        "worst_speaker": worst,
        "worst_speaker_uar": per_speaker[worst],
        "per_sex_uar": by_sex,
        "sex_gap": round(max(by_sex.values()) - min(by_sex.values()), 4) if len(by_sex) > 1 else None,
        "log_loss": round(float(-np.mean(np.log(probabilities[np.arange(len(index)), index] + 1e-12))), 4),
        "ece": round(calibration_error(probabilities, index), 4),
        "ece_by_chance": round(chance_calibration_error(probabilities), 4),
        "risk_coverage": risk_coverage(probabilities, index),
        "confusion": {
            "labels": list(labels),
            "rows": confusion_matrix(truth, answers, labels=list(labels)).tolist(),
        },
    }


def fit_temperature(logits: npt.ArrayLike, truth: npt.NDArray[np.intp]) -> float:
    """The temperature that makes window probabilities honest (Guo et al. 2017): least negative log-likelihood.

    Args:
        logits: ``(n_windows, n_labels)`` of validation speakers.
        truth: Index of the true label, ``(n_windows,)``.
    """
    temperatures = np.geomspace(0.2, 5.0, 200)
    losses = [-np.mean(np.log(softmax(logits, t)[np.arange(len(truth)), truth] + 1e-12)) for t in temperatures]
    return round(float(temperatures[int(np.argmin(losses))]), 4)
