"""A listener that hears nothing, for sinks to be started with, its events, and the MQTT sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from serkit.edge.events import Event
from serkit.edge.listener import Listener
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.mqtt import Mqtt


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


@pytest.fixture
def mqtt(listener: Listener) -> Iterator[Callable[..., Mqtt]]:
    """Makes sinks of a device that is called car, and starts them."""
    sinks: list[Mqtt] = []

    def make(port: int, **settings: Any) -> Mqtt:
        sink = Mqtt(MqttSettings(**{"host": "127.0.0.1", "port": port, "name": "car", **settings}))
        sinks.append(sink)
        sink.start(listener)
        return sink

    yield make
    for sink in sinks:
        sink.close()
        sink.close()
