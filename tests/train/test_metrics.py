from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serkit.edge.window import softmax
from serkit.train.corpora import Utterance
from serkit.train.metrics import (
    SURE_ACCURACY,
    calibration_error,
    chance_calibration_error,
    fit_temperature,
    fit_unsure,
    risk_coverage,
    score,
    uar,
    uar_interval,
)

LABELS = ("neutral", "happy", "sad")


def utterance(speaker: str, emotion: str, sex: str, name: str) -> Utterance:
    return Utterance(corpus="ravdess", name=name, speaker=speaker, emotion=emotion, sex=sex, path=Path("none"))


def test_figures_of_a_known_confusion() -> None:
    truth = [("1", "neutral", "male"), ("1", "neutral", "male"), ("1", "happy", "male"), ("2", "happy", "female"),
             ("2", "neutral", "female"), ("2", "neutral", "female")]  # fmt: skip
    answers = ["neutral", "happy", "happy", "sad", "neutral", "neutral"]
    utterances = [utterance(*t, name=str(i)) for i, t in enumerate(truth)]
    probabilities = np.eye(3)[[LABELS.index(a) for a in answers]]
    figures = score(utterances, probabilities, LABELS)
    assert figures["accuracy"] == round(4 / 6, 4)
    assert figures["uar"] == (3 / 4 + 1 / 2) / 2
    assert figures["per_class"]["happy"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "n": 2}
    assert "sad" not in figures["per_class"]
    assert figures["per_speaker_uar"] == {"ravdess/1": 0.75, "ravdess/2": 0.5}
    assert (figures["worst_speaker"], figures["worst_speaker_uar"]) == ("ravdess/2", 0.5)
    assert figures["sex_gap"] == 0.25
    assert figures["per_sex_uar"] == {"female": 0.5, "male": 0.75}
    assert figures["confusion"] == {"labels": list(LABELS), "rows": [[3, 1, 0], [0, 1, 1], [0, 0, 0]]}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.tile([0.8, 0.2], (10, 1))
    truth = np.array([0] * 6 + [1] * 4)
    assert calibration_error(probabilities, truth) == pytest.approx(0.2)
    low, high = uar_interval(["a"] * 50 + ["b"] * 50, ["a"] * 75 + ["b"] * 25)
    assert low < 0.75 < high
    assert uar_interval(["a", "b"], ["a", "b"]) == (1.0, 1.0)


def test_uar_of_one_answer_is_chance() -> None:
    assert uar(["a"] * 90 + ["b"] * 10, ["a"] * 100) == 0.5


def test_temperature_undoes_overconfidence(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((4000, 5)) * 2
    truth = np.array([rng.choice(5, p=p) for p in softmax(logits)])
    assert fit_temperature(logits, truth) == pytest.approx(1.0, abs=0.08)
    assert fit_temperature(3 * logits, truth) == pytest.approx(3.0, abs=0.25)


def test_calibration_of_few_answers_is_far_from_zero_by_chance_alone(rng: np.random.Generator) -> None:
    probabilities = softmax(2 * rng.standard_normal((240, 8)))
    drawn = [calibration_error(probabilities, np.array([rng.choice(8, p=p) for p in probabilities])) for _ in range(30)]
    assert chance_calibration_error(probabilities) == pytest.approx(np.mean(drawn), abs=0.01)
    assert chance_calibration_error(np.tile(probabilities, (20, 1))) < 0.3 * chance_calibration_error(probabilities)
    assert chance_calibration_error(np.eye(8)) == 0.0


def test_the_surer_answers_are_the_right_ones_where_confidence_means_something(rng: np.random.Generator) -> None:
    probabilities = softmax(2 * rng.standard_normal((2000, 5)))
    truth = np.array([rng.choice(5, p=p) for p in probabilities])
    rows = risk_coverage(probabilities, truth)
    assert [r["coverage"] for r in rows] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert rows[0]["accuracy"] == pytest.approx(np.mean(probabilities.argmax(axis=1) == truth), abs=1e-4)
    accuracies = [r["accuracy"] for r in rows]
    assert accuracies[-1] > accuracies[4] > accuracies[0]
    kept = probabilities.max(axis=1) >= rows[5]["confidence"] - 1e-4
    assert np.mean(kept) == pytest.approx(0.5, abs=0.01)


def test_equal_confidences_are_sure_together_in_any_order() -> None:
    probabilities = np.tile([0.90006, 0.09994], (8, 1))
    for truth in (np.array([0, 0, 0, 1, 1, 1, 1, 1]), np.array([1, 1, 1, 1, 1, 0, 0, 0])):
        assert fit_unsure(probabilities, truth, ["a"] * 8) is None
        assert {row["accuracy"] for row in risk_coverage(probabilities, truth)} == {0.375}
    fitted = fit_unsure(probabilities, np.zeros(8, int), ["a"] * 8)
    assert fitted == {"below": 0.9, "coverage": 1.0, "accuracy": 1.0}  # what it was found by is sure


def test_unsure_begins_where_three_of_four_are_no_longer_right(rng: np.random.Generator) -> None:
    probabilities = softmax(2 * rng.standard_normal((4000, 5)))
    truth = np.array([rng.choice(5, p=p) for p in probabilities])
    fitted = fit_unsure(probabilities, truth, ["a", "b"] * 2000)
    assert fitted is not None
    sure = probabilities.max(axis=1) >= fitted["below"]
    right = probabilities.argmax(axis=1) == truth
    assert right[sure].mean() == pytest.approx(SURE_ACCURACY, abs=0.01)
    assert fitted["coverage"] == pytest.approx(sure.mean(), abs=0.01)
    assert right.mean() < SURE_ACCURACY - 0.05  # else there was nothing to find

    assert fit_unsure(probabilities, (probabilities.argmax(axis=1) + 1) % 5, ["a"] * 4000) is None
    always = fit_unsure(probabilities, probabilities.argmax(axis=1), ["a"] * 4000)
    assert always is not None
    assert always["coverage"] == 1.0


def test_a_voice_counts_once_however_much_it_says(rng: np.random.Generator) -> None:
    probabilities = softmax(3 * rng.standard_normal((200, 3)))
    truth = np.array([rng.choice(3, p=p) for p in probabilities])
    voices = ["a"] * 100 + ["b"] * 100
    more = np.r_[:100, np.tile(np.arange(100, 200), 9)]
    once = fit_unsure(probabilities, truth, voices)
    assert once is not None
    assert fit_unsure(probabilities[more], truth[more], [voices[i] for i in more]) == once
