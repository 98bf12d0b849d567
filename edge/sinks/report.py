"""What a device of a fleet tells about itself: how it does, and how long each answer held.

Neither holds audio or probabilities, and health says nothing about what was heard.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from serkit import __version__
from serkit.edge.events import Event

if TYPE_CHECKING:
    from serkit.edge.listener import Listener
    from serkit.edge.sinks.broker import MqttSettings


class Reports:
    """Health and summaries, when they are due.

    Args:
        settings: Which, and how often.
        listener: Whose.
    """

    def __init__(self, settings: MqttSettings, listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self._began = self._health_due = time.monotonic()
        self._summary_due = self._began + (settings.summary_every_s or 0.0)
        self._status: str | None = None
        self._muted = listener.muted
        self._answers: dict[str, dict[str, float]] = {}
        self._answer: str | None = None  # and the end of its window, on the stream's clock
        self._heard_s = self._since_s = 0.0

    def heard(self, event: Event) -> None:
        """Take one event: a status is news about the device, all else counts."""
        if event.kind == "status":
            self._status, self._health_due = event.message, 0.0
            return
        if self._settings.summary_every_s is None:
            return
        kept = self._answers.setdefault(event.answer, {"seconds": 0.0, "times": 0})
        kept["seconds"] += max(0.0, event.time_s - self._heard_s)
        kept["times"] += event.answer != self._answer
        self._answer, self._heard_s = event.answer, max(self._heard_s, event.time_s)

    def health(self) -> str | None:
        """How the device does, JSON; None unless it is due."""
        every_s, now = self._settings.health_every_s, time.monotonic()
        listener = self._listener
        if every_s is None or (now < self._health_due and listener.muted == self._muted):
            return None
        self._health_due, self._muted = now + every_s, listener.muted
        h, bundle = listener.health, listener.recognizer.bundle
        return json.dumps(
            {
                "schema": 1,
                "time": round(time.time()),
                "serkit": __version__,
                "model": bundle.name,
                "version": bundle.version,
                "uptime_s": round(now - self._began),
                "audio_s": round(h.audio_s, 1),
                "dropped_s": round(h.dropped_s, 1),
                "windows": h.windows,
                "hop_s": round(h.hop_s, 3),
                "latency_ms": round(h.latency_ms, 1),
                "muted": listener.muted,
                "status": self._status,
            }
        )

    def summary(self, last: bool = False) -> str | None:
        """The seconds of each answer, and how often it began, since the last one, JSON; None unless it is due.

        Args:
            last: It is due now, unless nothing was heard.
        """
        every_s, now = self._settings.summary_every_s, time.monotonic()
        if every_s is None or (not self._answers if last else now < self._summary_due):
            return None
        self._summary_due = now + every_s
        answers: dict[str, Any] = {
            answer: {"seconds": round(kept["seconds"], 1), "times": int(kept["times"])}
            for answer, kept in sorted(self._answers.items())
        }
        summary = {
            "schema": 1,
            "time": round(time.time()),
            "model": self._listener.recognizer.bundle.name,
            "seconds": round(self._heard_s - self._since_s, 1),
            "answers": answers,
        }
        self._answers, self._since_s = {}, self._heard_s
        return json.dumps(summary)

    def wait_s(self) -> float | None:
        """How long nothing is due, s; None: for ever."""
        due = []
        if self._settings.health_every_s is not None:
            due.append(self._health_due)
        if self._settings.summary_every_s is not None:
            due.append(self._summary_due)
        return max(0.0, min(due) - time.monotonic()) if due else None
