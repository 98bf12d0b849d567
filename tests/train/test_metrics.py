from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serkit.edge.window import softmax
from serkit.train.corpora import Utterance
from serkit.train.metrics import fit_temperature, score, uar

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
    from serkit.train.metrics import calibration_error, uar_interval

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
