"""What a model gains from having heard a person's ordinary speech before: the neutral point, and how far to trust it.

A voice is heard a little angrier or sadder than it is meant, always by the same much. So a person's neutral speech is
heard once (`serkit enroll`); what its logits have beyond those of everybody's neutral speech, times a strength, is
taken from every later window's (`serkit.edge.voice`). With logits that are linear in the last features this is the same
as moving those features, the normalisation by speaker of Schuller et al. ("Cross-corpus acoustic emotion recognition:
variances and strategies", IEEE Trans. Affective Computing 1(2), 2010), but it is one number per emotion.

Everybody's neutral point and the strength come from validation speakers alone, each one left out in turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.window import softmax
from serkit.train.metrics import uar
from serkit.train.runs import Reference, load_run, load_trained, strangers
from serkit.train.scoring import Windows, keras_logits, pool_utterances, window_utterances

#: Strengths tried, the first that does best is taken; 0 is off.
STRENGTHS = (0.0, 0.125, 0.25, 0.375, 0.5)

#: Utterances that are sung: nobody's ordinary speech.
SUNG = "ravdess-song/"

Logits = npt.NDArray[np.float32]
Offset = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Heard:
    """The logits of some speakers' utterances.

    Attributes:
        logits: Of all windows, ``(n_windows, n_labels)``.
        windows: Which utterance each belongs to, and its weight there.
        voices: Of each utterance.
        emotions: Of each utterance.
        labels: Order of the outputs.
        temperature: Of the model.
    """

    logits: Logits
    windows: Windows
    voices: Sequence[str]
    emotions: Sequence[str]
    labels: Sequence[str]
    temperature: float

    def neutral(self, voice: str) -> list[int]:
        """The voice's neutral utterances."""
        pairs = enumerate(zip(self.voices, self.emotions, strict=True))
        return [i for i, (v, emotion) in pairs if v == voice and emotion == "neutral"]

    def mean_logits(self, utterances: Sequence[int]) -> npt.NDArray[np.float64]:
        """Mean over the windows of some utterances, less what the softmax forgets, ``(n_labels,)``."""
        mine = np.isin(self.windows.owner, utterances)
        mean = np.average(self.logits[mine].astype(np.float64), axis=0, weights=self.windows.speech[mine])
        return np.asarray(mean - mean.mean())

    def enrollable(self) -> list[str]:
        """Voices with neutral utterances enough to hear some of them before and some later."""
        return sorted({v for v in self.voices if len(self.neutral(v)) >= 2})


def heard_by_run(run: Path) -> Heard | None:
    """What a finished run's model hears in the speech of its validation speakers; singing is left out.

    None where these are no strangers: after a random split, or where a single voice validates itself.
    """
    recipe, metrics, split = load_run(run)
    if not strangers(split):
        return None
    reference = Reference(run)
    names, emotions, frames = (
        reference.names("validation"),
        reference.emotions("validation"),
        reference.frames("validation"),
    )
    spoken = [i for i, name in enumerate(names) if not name.startswith(SUNG)]
    windows = window_utterances([frames[i] for i in spoken], recipe.frontend, recipe.window)
    predictions = json.loads((run / "predictions.json").read_text(encoding="utf-8"))["validation"]
    voices = {p["utterance"]: p["voice"] for p in predictions}
    return Heard(
        logits=keras_logits(load_trained(run))(windows.inputs),
        windows=windows,
        voices=[voices[names[i]] for i in spoken],
        emotions=[emotions[i] for i in spoken],
        labels=recipe.labels,
        temperature=metrics["temperature"],
    )


def neutral_point(heard: Heard, leave_out: str | None = None) -> npt.NDArray[np.float64]:
    """Everybody's: the mean over voices of `Heard.mean_logits` of their neutral utterances, ``(n_labels,)``."""
    points = [heard.mean_logits(heard.neutral(v)) for v in heard.enrollable() if v != leave_out]
    return np.asarray(np.mean(points, axis=0))


def enrolled(heard: Heard, voice: str, offset: Callable[[list[int]], Offset]) -> list[tuple[str, str]]:
    """Truth and answer of a voice's utterances, heard after half of its neutral ones and again after the other half.

    The half that enrolled is not scored, so the neutral utterances count once and the others twice. In the order of
    their names RAVDESS's halves are two sentences, so none is enrolled with and scored.

    Args:
        heard: The utterances of this and other voices.
        voice: Whose.
        offset: Utterances that enroll to what is taken from all logits.
    """
    neutral = heard.neutral(voice)
    pairs = []
    for half in (neutral[: len(neutral) // 2], neutral[len(neutral) // 2 :]):
        scored = [i for i, v in enumerate(heard.voices) if v == voice and i not in half]
        mine = np.isin(heard.windows.owner, scored)
        owner = np.searchsorted(scored, heard.windows.owner[mine])
        part = Windows(heard.windows.inputs[:0], owner, heard.windows.speech[mine])
        probabilities = pool_utterances(
            softmax(heard.logits[mine] - offset(half), heard.temperature), part, len(scored)
        )
        answers = (heard.labels[k] for k in probabilities.argmax(axis=1))
        pairs += list(zip((heard.emotions[i] for i in scored), answers, strict=True))
    return pairs


def _uar(pairs: Sequence[tuple[str, str]]) -> float:
    return uar([truth for truth, _ in pairs], [answer for _, answer in pairs])


def fit_enrolment(validation: Heard) -> dict[str, Any] | None:
    """Everybody's neutral point and the strength, from validation speakers.

    Returns:
        ``logits``, ``strength``, the number of ``voices`` and their UAR ``before`` and ``after``; None where fewer than
        three voices have neutral utterances.
    """
    voices = validation.enrollable()
    if len(voices) < 3:
        return None
    points = {v: neutral_point(validation, leave_out=v) for v in voices}

    def uar_with(strength: float) -> float:
        def offset(half: list[int]) -> Offset:
            return strength * (validation.mean_logits(half) - points[validation.voices[half[0]]])

        return _uar([pair for v in voices for pair in enrolled(validation, v, offset)])

    figures = [uar_with(strength) for strength in STRENGTHS]
    best = int(np.argmax(figures))
    return {
        "logits": [round(float(x), 4) for x in neutral_point(validation)],
        "strength": STRENGTHS[best],
        "voices": len(voices),
        "before": round(figures[0], 4),
        "after": round(figures[best], 4),
    }


def score_enrolment(test: Heard, offsets: dict[str, Callable[[list[int]], Offset]]) -> dict[str, Any]:
    """What it changes for speakers whom nothing was fitted on.

    Args:
        test: Their utterances.
        offsets: Of each of their voices, for `enrolled`.

    Returns:
        ``uar_before`` and ``uar_after``; of the neutral utterances the share taken for something else,
        ``neutral_missed_before`` and ``_after``; each voice's change in UAR, ``per_voice_change``.
    """
    none = np.zeros(len(test.labels))
    before = {v: enrolled(test, v, lambda half: none) for v in offsets}
    after = {v: enrolled(test, v, offset) for v, offset in offsets.items()}
    both = {
        when: [p for v in by_voice.values() for p in v] for when, by_voice in (("before", before), ("after", after))
    }
    figures: dict[str, Any] = {f"uar_{when}": round(_uar(pairs), 4) for when, pairs in both.items()}
    for when, pairs in both.items():
        missed = [answer != "neutral" for truth, answer in pairs if truth == "neutral"]
        figures[f"neutral_missed_{when}"] = round(float(np.mean(missed)), 4)
    figures["per_voice_change"] = {v: round(_uar(after[v]) - _uar(before[v]), 4) for v in before}
    return figures
