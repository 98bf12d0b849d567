"""What a person sees in a terminal: bars for a file, a live view for a stream, a readable model card."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from serkit.edge.events import Event, Prediction
from serkit.edge.listener import Listener

_BAR = 30
_HISTORY = 8


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
        return f"{event.time_s:8.1f} s  (no speech)"
    word = event.emotion or "unsure"
    return f"{event.time_s:8.1f} s  {word:<10}{event.confidence:5.0%} {_bar(event.confidence)}"


def show_events(events: Listener, title: str) -> None:
    """A live view where stdout is a terminal, else one line per event."""
    console = Console()
    bundle, engine = events.recognizer.bundle, events.recognizer.engine.name
    heading = f"{bundle.name} ({bundle.format}, {engine}) hears {title}; Ctrl-C ends"
    if not console.is_terminal:
        print(heading, flush=True)
        for event in events:
            print(event_text(event), flush=True)
        return
    recent: deque[Event] = deque(maxlen=_HISTORY)
    with Live(Text(heading), console=console, refresh_per_second=10) as live:
        for event in events:
            recent.append(event)
            live.update(Group(Text(heading, style="dim"), _bars(event, events.answers), _lines(recent)))
    if not recent:
        console.print("no audio came", highlight=False)


def _bars(event: Event, labels: tuple[str, ...]) -> Table:
    table = Table.grid(padding=(0, 1))
    for label in labels:
        p = (event.probabilities or {}).get(label, 0.0)
        style = "bold green" if label == event.emotion else "" if event.probabilities else "dim"
        table.add_row(Text(label, style=style), Text(f"{p:5.0%}", style=style), Text(_bar(p), style=style))
    return table


def _lines(recent: Iterable[Event]) -> Text:
    return Text("\n".join(event_text(event) for event in recent), style="dim")


def show_card(card: str) -> None:
    """A model card, laid out for the terminal, or as it is where stdout is none."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(card))
    else:
        print(card)
