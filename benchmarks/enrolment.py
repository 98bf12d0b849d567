"""What `serkit enroll` with half of a person's neutral utterances changes in the answers to all their others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.bundle import Bundle, read_bundle
from serkit.edge.errors import CorpusError
from serkit.edge.stream import Recognizer
from serkit.edge.voice import Voice, enroll, strength
from serkit.train.enrolment import score_enrolment
from serkit.train.evaluate import Scorer

PAUSE_S = 0.5  # between the utterances that enroll


def measure(model: str, corpus: str, data: Path, protocol: str, engine: str) -> dict[str, Any]:
    """One row of figures: each test speaker is enrolled as on the device, from one stream of neutral utterances.

    Args:
        model: A bundle; everybody's neutral point and the strength are those that it carries.
        corpus, data, protocol, engine: As for `serkit.train.evaluate.evaluate`.

    Returns:
        The strength, and `serkit.train.enrolment.score_enrolment` on the test side.

    Raises:
        VoiceError: The model takes no voice, or gains nothing.
        CorpusError: No test speaker has neutral utterances for both halves.
    """
    bundle = read_bundle(model)
    factor = strength(bundle)
    scorer = Scorer(run=None, model=model, corpus=corpus, data=data, protocol=protocol, engine=engine)
    heard = scorer.heard()
    speech_s: list[float] = []

    def offset(half: list[int]) -> npt.NDArray[np.float64]:
        voice = enrolled(bundle, [scorer.samples[i] for i in half], engine)
        speech_s.append(voice.speech_s)
        return np.array(voice.offset)

    if not (voices := heard.enrollable()):
        raise CorpusError(f"nobody whom {protocol} tests in {corpus} says enough neutrally to be enrolled and scored")
    figures = score_enrolment(heard, dict.fromkeys(voices, offset))
    return {**scorer.about(), "strength": factor, "speech_s": round(float(np.median(speech_s)), 1), **figures}


def enrolled(bundle: Bundle, utterances: Sequence[npt.NDArray[np.float32]], engine: str = "auto") -> Voice:
    """The voice of some utterances, heard as one stream; little of it is enough."""
    pause = np.zeros(int(PAUSE_S * bundle.frontend.sample_rate), np.float32)
    stream = np.concatenate([part for samples in utterances for part in (samples, pause)])
    return enroll(Recognizer(bundle, engine), [stream], "test", "", least_s=0.0)


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    changes = row["per_voice_change"]
    worst = min(changes, key=changes.__getitem__)
    return (
        f"{row['model']:<20} {row['corpus']:<8} {row['protocol']:<20} {row['speech_s']:.0f} s, strength "
        f"{row['strength']:g}  UAR {row['uar_before']:.3f} -> {row['uar_after']:.3f}  neutral missed "
        f"{row['neutral_missed_before']:.3f} -> {row['neutral_missed_after']:.3f}  worst {worst} {changes[worst]:+.3f}"
    )
