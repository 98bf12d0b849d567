"""What a person sees in a terminal: a live view of a stream, a readable model card."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from serkit.edge.events import Event
from serkit.edge.lines import BAR, bar
from serkit.edge.listener import Listener

_HISTORY = 60  # windows
_MESSAGES = 4
_RANGE_DB = 70.0  # of the level meter
_REDRAW_S = 0.1  # a drawing takes 2 ms: files that are heard at full speed need not be seen so
_STILL_S = 10.0  # between two drawings of the same silence
_LEVEL_DB = 3.0  # the same to the eye
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


def show_live(listener: Listener, heading: str) -> None:
    """A view that is redrawn as events come, in silence only now and then."""
    console = Console()
    heard: deque[Event] = deque(maxlen=_HISTORY)
    said: deque[Event] = deque(maxlen=_MESSAGES)
    drawn: Event | None = None
    drawn_at, news = -math.inf, False
    with Live(
        console=console, auto_refresh=False, get_renderable=lambda: live_view(listener, heard, said, heading)
    ) as live:
        live.refresh()
        for event in listener:
            (said if event.kind == "status" else heard).append(event)
            news = news or any(e.probabilities for e in heard) or is_news(event, drawn)
            if news and time.monotonic() - drawn_at >= _REDRAW_S:
                drawn, drawn_at, news = event, time.monotonic(), False
                live.refresh()
    if not heard:
        console.print("no audio came", highlight=False)


def is_news(event: Event, drawn: Event | None) -> bool:
    """Whether somebody who saw one silent event drawn would see another one in the next."""
    if drawn is None or (event.kind, event.message) != ("silence", drawn.message):
        return True
    level = (event.level_dbfs or 0.0) - (drawn.level_dbfs or 0.0)
    return abs(level) >= _LEVEL_DB or event.time_s - drawn.time_s >= _STILL_S


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
    shown = bar(min(1.0, max(0.0, 1 + level / _RANGE_DB)))
    meter = Text.assemble("level ", (f"{shown:<{BAR}}", "green"), f" {level:4.0f} dBFS  ")
    meter.append("speech" if event.speech_ratio else "", style="bold")
    table = Table.grid(padding=(0, 1))
    for label in listener.answers:
        p = (event.probabilities or {}).get(label, 0.0)
        style = colours[label] if label == event.emotion else "" if event.probabilities else "dim"
        past = "".join(_height((e.probabilities or {}).get(label, 0.0)) for e in heard)
        table.add_row(
            Text(label, style=style), Text(f"{p:4.0%}", style=style), Text(f"{bar(p):<{BAR}}", style=style),
            Text(past, style=colours[label]),
        )  # fmt: skip
    asked = health.scored / max(1, health.windows)
    took = f"{health.latency_ms:.0f} ms from sound to answer"
    state = f"{event.time_s:.0f} s heard, every {health.hop_s:g} s, {took}, model asked {asked:.0%} of the time"
    return Group(Text(heading, style="dim"), now, meter, table, Text(state, style="dim"), _messages(said))


def _height(p: float) -> str:
    return " ▁▂▃▄▅▆▇█"[round(p * 8)]


def _messages(said: Sequence[Event]) -> Text:
    return Text("\n".join(f"{e.time_s:8.1f} s  {e.message}" for e in said), style="yellow")


def show_card(card: str) -> None:
    """A model card, laid out for the terminal, or as it is where stdout is none."""
    console = Console()
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(card))
    else:
        print(card)
