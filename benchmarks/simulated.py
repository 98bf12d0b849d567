"""Simulated devices of a fleet, many in one process.

Each has the real MQTT sink with its threads, queue, connection, health, summaries and updates. Simulated are the
microphone and the model, whose answers are drawn, and what becomes of a model that is rolled out once its signature
holds: it is neither run nor kept.
"""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from serkit.benchmarks.mosquitto import memory_kb
from serkit.edge.bundle import parse_bundle
from serkit.edge.errors import ModelError
from serkit.edge.events import Event
from serkit.edge.listener import Listener
from serkit.edge.roll_out import Answer
from serkit.edge.signature import trusted_keys, verify
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.mqtt import Mqtt
from serkit.edge.store import digest

_ANSWERS = ("calm", "happy", "angry", "sad")
_STAYS = 0.8  # probability that the next window has the same answer


class SimulatedModels:
    """The models of a simulated device.

    Attributes:
        fails: Whether models that are installed do not pass the self-test.
    """

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self._active = Answer(id="0" * 16, model="simulated", version=1, verdict="accepted")
        self._refused: dict[str, Answer] = {}

    def running(self) -> Answer:
        return self._active

    def judged(self, id: str) -> Answer | None:
        if not self.fails:
            self._refused.pop(id, None)
        return self._active if self._active.id == id else self._refused.get(id)

    def install(self, data: bytes, signature: str) -> None:
        key, _ = verify(data, signature, trusted_keys(), "the model")
        bundle, id = parse_bundle(data, Path("model.tflite"), key.name), digest(data)
        version = bundle.version
        if self.fails:
            reason = f"{bundle.name} fails its self-test (simulated)"
            self._refused[id] = Answer(id=id, model=bundle.name, version=version, verdict="refused", reason=reason)
            raise ModelError(reason)
        self._active = Answer(id=id, model=bundle.name, version=version, verdict="accepted")


class SimulatedDevice:
    """One device, which is told when to hear something.

    Args:
        settings: Of its sink.
        base_s: Where the streams' clock begins, on this machine's monotonic one.
        fails: Whether models that are installed do not pass the self-test.

    Attributes:
        name: Of the device.
        sink: The real one.
        sent: The time of every event, s.
        began: How often an answer began.
    """

    def __init__(self, settings: MqttSettings, base_s: float, fails: bool = False) -> None:
        nothing: Any = SimpleNamespace(close=lambda: None, notice=lambda: None)
        bundle = SimpleNamespace(name="simulated", version=1)
        recognizer: Any = SimpleNamespace(bundle=bundle)
        decision: Any = SimpleNamespace(answers=_ANSWERS)
        self.name = settings.name
        self.listener = Listener(recognizer, nothing, decision)
        self.models = SimulatedModels(fails)
        self.sink = Mqtt(settings, self.models)
        self.sent: list[float] = []
        self.began = 0
        self._base_s = base_s
        self._answer: str | None = None
        self._random = random.Random(self.name)

    def start(self) -> None:
        self.sink.start(self.listener)

    def hear(self) -> None:
        """Publish one event, whose time is now and differs from that of the one before."""
        answer = self._answer
        if answer is None or self._random.random() > _STAYS:
            answer = self._random.choice(_ANSWERS)
        self.began += answer != self._answer
        self._answer = answer
        time_s = round(max(time.monotonic() - self._base_s, self.sent[-1] + 1e-4 if self.sent else 0.0), 4)
        self.sent.append(time_s)
        confidence = self._random.uniform(0.4, 1)
        rest = (1 - confidence) / (len(_ANSWERS) - 1)
        self.listener.health.windows += 1
        self.listener.health.audio_s = time_s
        self.sink.send(
            Event(
                time_s=time_s, kind="emotion", emotion=answer, confidence=confidence,
                probabilities={a: confidence if a == answer else rest for a in _ANSWERS}, model="simulated",
                arousal=0.1, valence=-0.2, speech_ratio=0.9, level_dbfs=-31.5,
            )
        )  # fmt: skip

    def close(self) -> None:
        self.sink.close()


class Devices:
    """Devices in a process of their own; the methods wait for its answer.

    Args:
        settings: Of each device's sink.
        base_s: See `SimulatedDevice`.
        failing: Names of those on which models fail.
    """

    def __init__(self, settings: Sequence[MqttSettings], base_s: float, failing: Sequence[str] = ()) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, settings, base_s, failing), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, command: str, *arguments: Any) -> None:
        """Have something done; `answer` waits for it.

        Args:
            command: ``start``, ``talk`` (seconds, seconds from one event to the next), ``burst`` (events), ``heal``
                (models do not fail any longer), ``memory`` or ``close``.
            arguments: Its arguments.
        """
        self._pipe.send((command, *arguments))

    def answer(self) -> Any:
        """Of the command before.

        Raises:
            RuntimeError: The process ended.
        """
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError("the simulated devices' process ended") from None

    def end(self) -> None:
        """End the process; a second call does nothing."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(pipe: Connection, settings: Sequence[MqttSettings], base_s: float, failing: Sequence[str]) -> None:
    threading.stack_size(256 * 1024)
    before_kb = memory_kb()
    devices = [SimulatedDevice(s, base_s, s.name in failing) for s in settings]
    with pipe:
        while True:
            try:
                command, *arguments = pipe.recv()
            except EOFError:
                return
            if command == "start":
                for device in devices:
                    device.start()
                pipe.send(None)
            elif command == "talk":
                _talk(devices, *arguments)
                pipe.send(None)
            elif command == "burst":
                for _ in range(arguments[0]):
                    for device in devices:
                        device.hear()
                pipe.send(None)
            elif command == "heal":
                for device in devices:
                    device.models.fails = False
                pipe.send(None)
            elif command == "memory":
                pipe.send({"memory_kb": memory_kb() - before_kb, "threads": threading.active_count()})
            else:
                pipe.send([_closed(device) for device in devices])


def _talk(devices: Sequence[SimulatedDevice], seconds: float, every_s: float) -> None:
    """Every device in its turn, evenly over ``every_s``."""
    begin = time.monotonic()
    for turn in range(int(len(devices) * seconds / every_s)):
        time.sleep(max(0.0, begin + turn * every_s / len(devices) - time.monotonic()))
        devices[turn % len(devices)].hear()


def _closed(device: SimulatedDevice) -> dict[str, Any]:
    """What a device has sent, once it could deliver it."""
    device.close()
    return {
        "name": device.name,
        "sent": device.sent,
        "began": device.began,
        "gave_way": device.sink.lost,
        "undelivered": [n for n in iter(device.sink.notice, None) if "were not delivered" in n],
    }
