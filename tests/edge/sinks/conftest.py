"""A listener that hears nothing, for sinks to be started with."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serkit.edge.events import Event
from serkit.edge.listener import Listener


@pytest.fixture
def listener() -> Listener:
    nothing: Any = SimpleNamespace(close=lambda: None, notice=lambda: None)
    recognizer: Any = SimpleNamespace(bundle=SimpleNamespace(name="tiny", version=3))
    decision: Any = SimpleNamespace(answers=("calm", "angry"))
    return Listener(recognizer, nothing, decision)


@pytest.fixture
def event() -> Callable[..., Event]:
    """Makes the i-th event of a stream."""

    def make(i: int, answer: str = "calm", **fields: Any) -> Event:
        kind: Any = answer if answer in ("silence", "unsure", "status") else "emotion"
        return Event(time_s=float(i), kind=kind, emotion=answer if kind == "emotion" else None, model="tiny", **fields)

    return make
