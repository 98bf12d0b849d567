"""What serkit says: one result per file, and a stream of events."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The emotion of one file.

    Attributes:
        path: The file as it was named.
        duration_s: Its length, s.
        emotion: The most likely label.
        confidence: Its probability.
        sure: Whether that is as much as it takes for three of four such answers to be right; None where the model does
            not know how much that is.
        probabilities: Label to probability.
        speech_ratio: Share of the frames that hold speech.
        model: Name of the model.
    """

    path: str
    duration_s: float
    emotion: str
    confidence: float
    sure: bool | None
    probabilities: dict[str, float]
    speech_ratio: float
    model: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something heard.

    Attributes:
        time_s: End of the window it is about, seconds since the start of the stream.
        kind: ``emotion``, ``silence`` (no speech), ``unsure`` (speech, but no clear emotion) or ``status``.
        emotion: The answer, for ``emotion`` only: a label of the model, or a class of the preset.
        confidence: Its smoothed probability; for ``unsure`` that of the likeliest answer.
        probabilities: Every answer's smoothed probability; None where nothing was scored.
        model: Name of the model.
        arousal: Expected arousal, -1 (drowsy) to 1 (agitated), of the smoothed probabilities.
        valence: Expected valence, -1 (unpleasant) to 1 (pleasant).
        speech_ratio: Share of the window that holds speech; None for ``status`` and the answer to an utterance.
        level_dbfs: Level of the newest hop's loudest frame, dB of full scale; None for these as well.
        message: For ``status`` what happened; for ``silence`` ``"muted"`` while the microphone is muted.
    """

    time_s: float
    kind: Literal["emotion", "silence", "unsure", "status"]
    emotion: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] | None = None
    model: str
    arousal: float | None = None
    valence: float | None = None
    speech_ratio: float | None = None
    level_dbfs: float | None = None
    message: str | None = None

    @property
    def answer(self) -> str:
        """The emotion, else the kind: what changes when the answer changes."""
        return self.emotion or self.kind


def to_json(item: Prediction | Event) -> str:
    """One JSON object on one line, ``"schema": 1`` first, numbers rounded to 4 digits."""
    fields: dict[str, Any] = {k: _rounded(v) for k, v in asdict(item).items() if k != "message" or v is not None}
    return json.dumps({"schema": 1, **fields})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return value
