"""The neutral point: what moving it brings where voices differ by just that, and that nobody tested takes part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serkit.train.enrolment import STRENGTHS, Heard, Offset, enrolled, fit_enrolment, neutral_point, score_enrolment
from serkit.train.scoring import Windows

LABELS = ("neutral", "happy", "sad")


def speakers(rng: np.random.Generator, n_voices: int, lean: float, noise: float = 0.5) -> Heard:
    """Every voice says each emotion eight times, two windows each; its logits lean its own way."""
    logits, voices, emotions = [], [], []
    for v in range(n_voices):
        own = lean * rng.standard_normal(3)
        for emotion in LABELS:
            for _ in range(8):
                voices.append(f"v{v}")
                emotions.append(emotion)
                z = 2.0 * np.eye(3)[LABELS.index(emotion)] + own + noise * rng.standard_normal((2, 3))
                logits += list(z)
    owner = np.repeat(np.arange(len(voices)), 2)
    windows = Windows(np.empty((0, 1, 1), np.float32), owner, np.ones(len(owner)))
    return Heard(np.array(logits, np.float32), windows, voices, emotions, LABELS, 1.0)


def scored_with(test: Heard, fitted: dict[str, Any]) -> dict[str, Any]:
    def offset(half: list[int]) -> Offset:
        return np.asarray(fitted["strength"] * (test.mean_logits(half) - np.array(fitted["logits"])))

    return score_enrolment(test, dict.fromkeys(test.enrollable(), offset))


def test_voices_that_lean_gain_and_the_strength_is_found(rng: np.random.Generator) -> None:
    fitted = fit_enrolment(speakers(rng, 6, lean=2.0))
    assert fitted is not None
    assert fitted["strength"] == max(STRENGTHS)
    assert fitted["after"] > fitted["before"] + 0.05
    scored = scored_with(speakers(rng, 6, lean=2.0), fitted)
    assert scored["uar_after"] > scored["uar_before"] + 0.05
    assert len(scored["per_voice_change"]) == 6


def test_where_it_brings_nothing_it_stays_off(rng: np.random.Generator) -> None:
    fitted = fit_enrolment(speakers(rng, 6, lean=0.0, noise=0.1))
    assert fitted is not None
    assert fitted["strength"] == 0.0
    assert fitted["after"] == fitted["before"]
    scored = scored_with(speakers(rng, 4, lean=2.0), fitted)
    assert scored["uar_after"] == scored["uar_before"]
    assert set(scored["per_voice_change"].values()) == {0.0}


def test_a_voice_left_out_has_no_part_in_the_neutral_point(rng: np.random.Generator) -> None:
    heard = speakers(rng, 4, lean=1.0)
    logits = heard.logits.copy()
    logits[np.isin(heard.windows.owner, [i for i, v in enumerate(heard.voices) if v == "v2"])] = 99.0 * rng.random(3)
    other = Heard(logits, heard.windows, heard.voices, heard.emotions, LABELS, 1.0)
    np.testing.assert_array_equal(neutral_point(heard, leave_out="v2"), neutral_point(other, leave_out="v2"))
    assert not np.allclose(neutral_point(heard), neutral_point(other))


def test_what_enrolled_is_not_scored(rng: np.random.Generator) -> None:
    heard = speakers(rng, 3, lean=1.0)
    halves: list[list[int]] = []
    pairs = enrolled(heard, "v1", lambda half: (halves.append(half), np.zeros(3))[1])  # type: ignore[func-returns-value]
    assert sorted(halves[0] + halves[1]) == heard.neutral("v1")
    assert max(halves[0]) < min(halves[1])
    truths = [truth for truth, _ in pairs]
    assert truths.count("neutral") == 8
    assert truths.count("happy") == truths.count("sad") == 16


@pytest.mark.parametrize("n_voices", [0, 1, 2])
def test_too_few_voices_fit_nothing(rng: np.random.Generator, n_voices: int) -> None:
    assert fit_enrolment(speakers(rng, n_voices, lean=1.0)) is None
