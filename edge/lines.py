"""What people read without a terminal's help: a few lines for a file, one for each event of a stream.

rich, which takes as long to load as all else together, is for `serkit.edge.terminal` alone.
"""

from __future__ import annotations

import sys

from serkit.edge.events import Event, Prediction
from serkit.edge.listener import Listener

BAR = 30  # characters


def bar(p: float, width: int = BAR) -> str:
    """A number between 0 and 1 as a bar."""
    return "█" * round(p * width)


def prediction_text(result: Prediction) -> str:
    """A headline and one bar per emotion, the likeliest first."""
    answer = f"unsure, perhaps {result.emotion}" if result.sure is False else result.emotion
    lines = [
        f"{result.path}: {answer} ({result.confidence:.0%}), {result.duration_s:.1f} s, "
        f"{result.speech_ratio:.0%} speech"
    ]
    ranked = sorted(result.probabilities.items(), key=lambda item: -item[1])
    return "\n".join(lines + [f"  {label:<10}{p:6.1%} {bar(p)}".rstrip() for label, p in ranked])


def event_text(event: Event) -> str:
    """One line."""
    if event.kind == "status":
        return f"{event.time_s:8.1f} s  {event.message}"
    if event.kind == "silence" or event.confidence is None:
        return f"{event.time_s:8.1f} s  ({event.message or 'no speech'})"
    word = event.emotion or "unsure"
    return f"{event.time_s:8.1f} s  {word:<10}{event.confidence:5.0%} {bar(event.confidence)}"


def show_events(listener: Listener, title: str) -> None:
    """A live view where stdout is a terminal, else one line per event."""
    bundle, engine = listener.recognizer.bundle, listener.recognizer.engine.name
    gate = "levels" if listener.gate is None else listener.gate.detector_name
    voice = "" if listener.voice is None else f", adapted to {listener.voice}"
    heading = f"{bundle.name} ({bundle.format}, {engine}{voice}) hears {title}, speech by {gate}; Ctrl-C ends"
    if sys.stdout is not None and sys.stdout.isatty():
        from serkit.edge.terminal import show_live

        show_live(listener, heading)
        return
    print(heading, flush=True)
    for event in listener:
        print(event_text(event), flush=True)
