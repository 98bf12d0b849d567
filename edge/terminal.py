"""What a person sees in a terminal: bars for a file, a live view for a stream, a readable model card."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from serkit.edge.events import Event, Prediction
from serkit.edge.listener import Listener

_BAR = 30
_HISTORY = 60  # windows
_MESSAGES = 4
_RANGE_DB = 70.0  # of the level meter
_COLOURS = {
    "neutral": "white",
    "calm": "green",
    "happy": "yellow",
    "sad": "blue",
    "distressed": "blue",
    "angry": "red",
    "fearful": "magenta",
    "disgust": "bright_red",
    "surprised": "cyan",
}


def _bar(p: float, width: int = _BAR) -> str:
    return "█" * round(p * width)


def prediction_text(result: Prediction) -> str:
    """A headline and one bar per emotion, the likeliest first."""
    lines = [
        f"{result.path}: {result.emotion} ({result.confidence:.0%}), {result.duration_s:.1f} s, "
        f"{result.speech_ratio:.0%} speech"
    ]
    ranked = sorted(result.probabilities.items(), key=lambda item: -item[1])
    return "\n".join(lines + [f"  {label:<10}{p:6.1%} {_bar(p)}".rstrip() for label, p in ranked])


def event_text(event: Event) -> str:
    """One line."""
    if event.kind == "status":
        return f"{event.time_s:8.1f} s  {event.message}"
    if event.kind == "silence" or event.confidence is None:
        return f"{event.time_s:8.1f} s  ({event.message or 'no speech'})"
    word = event.emotion or "unsure"
    return f"{event.time_s:8.1f} s  {word:<10}{event.confidence:5.0%} {_bar(event.confidence)}"


def show_events(listener: Listener, title: str) -> None:
    """A live view where stdout is a terminal, else one line per event."""
    console = Console()
    bundle, engine = listener.recognizer.bundle, listener.recognizer.engine.name
    gate = "levels" if listener.gate is None else listener.gate.detector_name
    heading = f"{bundle.name} ({bundle.format}, {engine}) hears {title}, speech by {gate}; Ctrl-C ends"
    if not console.is_terminal:
        print(heading, flush=True)
        for event in listener:
            print(event_text(event), flush=True)
        return
    heard: deque[Event] = deque(maxlen=_HISTORY)
    said: deque[Event] = deque(maxlen=_MESSAGES)
    with Live(Text(heading), console=console, refresh_per_second=10) as live:
        for event in listener:
            (said if event.kind == "status" else heard).append(event)
            live.update(live_view(listener, heard, said, heading))
    if not heard:
        console.print("no audio came", highlight=False)


def live_view(listener: Listener, heard: Sequence[Event], said: Sequence[Event], heading: str) -> Group:
    """Level, answer, probabilities now and over time, and how the listening itself does.

    Args:
        listener: Whose answers and health are shown.
        heard: Newest events, but for status.
        said: Newest status events.
        heading: First line.
    """
    if not heard:
        return Group(Text(heading, style="dim"), _messages(said))
    event, health = heard[-1], listener.health
    colours = {answer: _COLOURS.get(answer, "bright_white") for answer in listener.answers}
    now = Text.assemble(
        ("  muted" if listener.muted else f"  {event.answer}", f"bold {colours.get(event.answer, 'white')}"),
        ("" if event.confidence is None else f"  {event.confidence:.0%}", "dim"),
    )
    level = -100.0 if event.level_dbfs is None else event.level_dbfs
    shown = _bar(min(1.0, max(0.0, 1 + level / _RANGE_DB)))
    meter = Text.assemble("level ", (f"{shown:<{_BAR}}", "green"), f" {level:4.0f} dBFS  ")
    meter.append("speech" if event.speech_ratio else "", style="bold")
    table = Table.grid(padding=(0, 1))
    for label in listener.answers:
        p = (event.probabilities or {}).get(label, 0.0)
        style = colours[label] if label == event.emotion else "" if event.probabilities else "dim"
        past = "".join(_height((e.probabilities or {}).get(label, 0.0)) for e in heard)
        table.add_row(
            Text(label, style=style), Text(f"{p:4.0%}", style=style), Text(f"{_bar(p):<{_BAR}}", style=style),
            Text(past, style=colours[label]),
        )  # fmt: skip
    asked = health.scored / max(1, health.windows)
    took = f"{health.latency_ms:.0f} ms from sound to answer"
    state = f"{event.time_s:.0f} s heard, {took}, model asked {asked:.0%} of the time"
    return Group(Text(heading, style="dim"), now, meter, table, Text(state, style="dim"), _messages(said))


def _height(p: float) -> str:
    return " ▁▂▃▄▅▆▇█"[round(p * 8)]


def _messages(said: Sequence[Event]) -> Text:
    return Text("\n".join(f"{e.time_s:8.1f} s  {e.message}" for e in said), style="yellow")


def show_card(card: str) -> None:
    """A model card, laid out for the terminal, or as it is where stdout is none."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(card))
    else:
        print(card)
