from __future__ import annotations

import io
import re
from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import serkit
from serkit.edge.audio import FakeSource
from serkit.edge.config import Config
from serkit.edge.events import Event
from serkit.edge.lines import show_events
from serkit.edge.terminal import is_news, live_view, show_live
from serkit.edge.vad import VadSettings

BY_LEVEL = Config(vad=VadSettings(detector="level"))


def shown(listener: object, heard: deque[Event], said: list[Event]) -> str:
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    console.print(live_view(listener, heard, said, "model hears a test"))
    return console.file.getvalue()


def test_the_live_view_shows_level_answer_history_and_health(speech: np.ndarray) -> None:
    heard: deque[Event] = deque(maxlen=60)
    said = [Event(time_s=3.0, kind="status", model="m", message="2 xruns")]
    with serkit.listen(lambda rate: FakeSource(speech, rate, 512), config=BY_LEVEL) as listener:
        assert "2 xruns" in shown(listener, heard, said)
        heard.extend(listener)
        text = shown(listener, heard, said)
        assert heard[-1].answer in text
        assert "dBFS  speech" in text
        assert all(label in text for label in listener.answers)
        assert "from sound to answer, model asked 100% of the time" in text
        assert set("▁▂▃▄▅▆▇█") & set(text)
        assert "2 xruns" in text
        assert "5 s heard, every 0.48 s" in text
        listener.mute()
        assert "muted" in shown(listener, heard, said)


def test_a_terminal_is_redrawn_and_a_pipe_gets_lines(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("serkit.edge.terminal.Console", lambda: Console(file=screen, width=120, force_terminal=True))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with serkit.listen(lambda rate: FakeSource(speech, rate, 512), config=BY_LEVEL) as listener:
        show_events(listener, "a test")
    assert "hears a test, speech by level; Ctrl-C ends" in screen.getvalue()
    assert "█" in screen.getvalue()


def test_silence_is_not_drawn_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(10**6))
    screen = io.StringIO()
    monkeypatch.setattr("serkit.edge.terminal.Console", lambda: Console(file=screen, width=120, force_terminal=True))
    monkeypatch.setattr("serkit.edge.terminal.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with serkit.listen(lambda rate: FakeSource(np.zeros(60 * 16000), rate, 512)) as listener:
        show_live(listener, "a test")
    drawn = [round(float(s), 1) for s in re.findall(r"(\d+) s heard", screen.getvalue())]
    assert drawn == [2, 12, 23, 33, 43, 53, 60]


def test_what_is_news_in_silence() -> None:
    event = Event(time_s=5.0, kind="silence", model="m", level_dbfs=-70.0)
    assert is_news(event, None)
    assert not is_news(replace(event, time_s=9.0, level_dbfs=-72.0), event)
    assert is_news(replace(event, level_dbfs=-66.0), event)
    assert is_news(replace(event, time_s=15.0), event)
    assert is_news(replace(event, message="muted"), event)
    assert is_news(replace(event, kind="status", message="2 xruns"), event)
    assert is_news(event, replace(event, kind="status", message="2 xruns"))
