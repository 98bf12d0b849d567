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
        probabilities: Label to probability.
        speech_ratio: Share of the frames that hold speech.
        model: Name of the model.
    """

    path: str
    duration_s: float
    emotion: str
    confidence: float
    probabilities: dict[str, float]
    speech_ratio: float
    model: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something heard.

    Attributes:
        time_s: End of the window it is about, seconds since the start of the stream.
        kind: ``emotion``, ``silence`` (no speech), ``unsure`` (speech, but no clear emotion) or ``status``.
        emotion: The label, for ``emotion`` only.
        confidence: Its smoothed probability.
        probabilities: Label to smoothed probability.
        model: Name of the model.
        message: For ``status`` only, what happened.
    """

    time_s: float
    kind: Literal["emotion", "silence", "unsure", "status"]
    emotion: str | None
    confidence: float | None
    probabilities: dict[str, float] | None
    model: str
    message: str | None = None


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
