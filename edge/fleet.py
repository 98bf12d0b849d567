"""Many devices on one broker: who is there and how they do, muting from afar, and models in waves."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serkit.edge.errors import BrokerError, SettingsError
from serkit.edge.roll_out import MODELS_TOPIC, Answer, pack, read_answer
from serkit.edge.sinks.broker import MqttSettings, check_paho, new_client
from serkit.edge.store import digest

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage
    from typing_extensions import Self

_PREFIX = "serkit"
_TOPICS = ("availability", "health", "mute", "update")
_MARK = "serkit-fleet/mark"
_PATIENCE_S = 20.0
_LARGEST_REPORT = 4096


@dataclass(kw_only=True)
class Device:
    """What the broker holds about one device; None where it said nothing.

    Attributes:
        name: Of the device.
        online: Whether it is connected.
        muted: Whether it hears silence.
        health: See `serkit.edge.sinks.report`.
        update: What became of the model it was asked for last, or what it runs; None: it cannot be asked.
    """

    name: str
    online: bool = False
    muted: bool | None = None
    health: dict[str, Any] | None = None
    update: Answer | None = None


@dataclass(kw_only=True)
class Outcome:
    """What a roll-out came to.

    Attributes:
        accepted: Devices that run the model now.
        already: Devices that did before.
        failed: Devices that do not, and why.
        left: Devices that were not asked, or not waited for.
        absent: Devices that are not connected or take no updates.
        stopped: Whether it stopped because too many failed.
    """

    accepted: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    stopped: bool = False


def wave_sizes(waves: str, n_devices: int) -> list[int]:
    """How many devices have been asked after each wave.

    >>> wave_sizes("1,10%,100%", 500)
    [1, 50, 500]

    Raises:
        SettingsError: Not numbers and shares that grow.
    """
    sizes: list[int] = []
    for wave in waves.split(","):
        found = re.fullmatch(r"\s*(\d+)(%?)\s*", wave)
        if found is None or not int(found[1]) or (found[2] and int(found[1]) > 100):
            raise SettingsError(f"waves are {waves!r}; numbers of devices and shares are needed, such as 1,10%,100%")
        size = math.ceil(n_devices * int(found[1]) / 100) if found[2] else int(found[1])
        sizes.append(min(size, n_devices))
    return sorted(set(sizes) - {0})


class Fleet:
    """The devices that report to a broker, and what may be asked of them.

        with Fleet(MqttSettings(host="broker.example")) as fleet:
            print(fleet.devices())

    Args:
        settings: The broker.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
    """

    def __init__(self, settings: MqttSettings) -> None:
        check_paho()
        self._settings = settings
        self._where = "{}:{}".format(*settings.address)
        self._mark = f"{_MARK}/{uuid.uuid4().hex}"
        self._changed = threading.Condition()
        self._devices: dict[str, Device] = {}
        self._trouble: str | None = None
        self._complete = False
        self._offered: set[str] = set()  # topics of the models that the broker holds; looked at before a roll-out
        self._client: Client | None = None

    def __enter__(self) -> Self:
        """Connect, and wait for all that the broker holds.

        Raises:
            BrokerError: It cannot be reached, refuses, or does not answer.
        """
        client = self._client = new_client(self._settings)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        try:
            client.connect(*self._settings.address, keepalive=self._settings.keepalive_s)
        except OSError as error:  # ssl.SSLError is one
            raise BrokerError(f"{self._where} cannot be reached ({error}); check --host and --port") from None
        client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._complete or self._trouble, _PATIENCE_S)
            trouble = (
                None if self._complete else self._trouble or f"{self._where} does not answer; is it an MQTT broker?"
            )
        if trouble:
            self.close()
            raise BrokerError(trouble)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()
            client.on_connect = client.on_subscribe = client.on_message = None

    def devices(self) -> list[Device]:
        """All that are known, by name."""
        with self._changed:
            return [self._devices[name] for name in sorted(self._devices)]

    def mute(self, names: Iterable[str], muted: bool = True) -> list[str]:
        """Have devices hear silence, or hear again.

        Returns:
            Those that did not confirm it in time.
        """
        left = set(names)
        self._publish((f"{_PREFIX}/{name}/mute/set", b"ON" if muted else b"OFF") for name in left)

        def done() -> bool:
            left.difference_update([d.name for d in self._devices.values() if d.online and d.muted == muted])
            return not left

        with self._changed:
            self._changed.wait_for(done, _PATIENCE_S)
        return sorted(left)

    def roll_out(
        self,
        data: bytes,
        signature: str,
        *,
        waves: str = "1,10%,100%",
        stop_at: int = 1,
        patience_s: float = 300.0,
        shown: Callable[[str], None] = lambda line: None,
    ) -> Outcome:
        """Have devices run a model, wave after wave, until all do or too many failed.

        Devices that already run it are not asked again, so that a roll-out which was stopped can be gone on with.
        What is asked for is taken back at the end, and what an earlier roll-out that was cut short left is taken back
        at the start.

        Args:
            data: The model file.
            signature: The text of its signature.
            waves: How many devices have been asked after each wave, as numbers and shares of all.
            stop_at: Stop as soon as so many devices failed.
            patience_s: What a wave may take; no verdict until then is a failure, s.
            shown: Called with lines that say how it goes.

        Raises:
            BrokerError: The connection is lost for good.
            ModelError: The model is too large to be sent.
            SettingsError: ``waves`` or ``patience_s`` makes no sense.
        """
        if not 0 < patience_s <= threading.TIMEOUT_MAX:
            raise SettingsError(f"a wave may take {patience_s:g} s; more than 0 s and no more than years are needed")
        id, message, outcome = digest(data), pack(data, signature), Outcome()
        devices = self.devices()
        outcome.absent = [d.name for d in devices if not d.online or d.update is None]
        there = [d for d in devices if d.online and d.update is not None]
        # another order for every model, so that it is not always the same devices that try first
        there.sort(key=lambda d: hashlib.sha256(f"{id}/{d.name}".encode()).digest())
        sizes = wave_sizes(waves, len(there))
        outcome.already = [d.name for d in there if _verdict(d, id) == "accepted"]
        asked: list[str] = []
        self._take_back(devices)
        self._publish([(f"{MODELS_TOPIC}/{id}", message)], retain=True)
        try:
            before = 0
            for number, size in enumerate(sizes, 1):
                wave = [d.name for d in there[before:size] if d.name not in outcome.already]
                before = size
                shown(f"wave {number} of {len(sizes)}: {len(wave)} devices are asked")
                asked += wave
                self._ask(wave, id)
                self._judge(wave, id, outcome, stop_at, patience_s, shown)
                accepted = len(set(wave) & set(outcome.accepted))
                shown(f"wave {number} of {len(sizes)}: {accepted} of {len(wave)} accepted")
                if outcome.stopped:
                    shown(f"stopped: {len(outcome.failed)} failed, {stop_at} are the limit")
                    break
        finally:
            done = {*outcome.accepted, *outcome.already, *outcome.failed}
            outcome.left = [d.name for d in there if d.name not in done]
            taken_back = [f"{_PREFIX}/{name}/update/set" for name in asked]
            self._publish([(topic, b"") for topic in (*taken_back, f"{MODELS_TOPIC}/{id}")], retain=True)
        return outcome

    def _take_back(self, devices: Sequence[Device]) -> None:
        """What a controller that died in a roll-out still asks for."""
        assert self._client is not None
        with self._changed:
            self._complete = False
            self._client.subscribe(f"{MODELS_TOPIC}/+")
            if not self._changed.wait_for(lambda: self._complete, _PATIENCE_S):
                raise BrokerError(f"{self._where} does not say which models it holds; check the broker's ACL")
        self._client.unsubscribe(f"{MODELS_TOPIC}/+")
        left = [f"{_PREFIX}/{device.name}/update/set" for device in devices]
        self._publish([(topic, b"") for topic in (*left, *sorted(self._offered))], retain=True)
        self._offered.clear()

    def _ask(self, names: Sequence[str], id: str) -> None:
        old = [name for name in names if _verdict(self._devices[name], id) is not None]  # an old answer is no answer
        self._publish([(f"{_PREFIX}/{name}/update", b"") for name in old], retain=True)
        with self._changed:
            self._changed.wait_for(lambda: not any(_verdict(self._devices[n], id) for n in old), _PATIENCE_S)
        self._publish([(f"{_PREFIX}/{name}/update/set", id.encode()) for name in names], retain=True)

    def _judge(
        self,
        wave: Sequence[str],
        id: str,
        outcome: Outcome,
        stop_at: int,
        patience_s: float,
        shown: Callable[[str], None],
    ) -> None:
        """Wait for the verdicts of a wave."""
        open_, deadline = set(wave), time.monotonic() + patience_s

        def fail(name: str, reason: str) -> None:
            open_.discard(name)
            outcome.failed[name] = reason
            outcome.stopped = len(outcome.failed) >= stop_at
            shown(f"{name}: {reason}")

        while open_ and not outcome.stopped:
            with self._changed:
                judged = {n: a for n in open_ if (a := _judged(self._devices[n], id)) is not None}
                if not judged and not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    break
            for name, answer in sorted(judged.items()):
                if answer.verdict == "accepted":
                    open_.discard(name)
                    outcome.accepted.append(name)
                else:
                    fail(name, f"{answer.verdict}: {answer.reason}")
        if not outcome.stopped:
            for name in sorted(open_):
                gone = "" if self._devices[name].online else "; it is offline"
                fail(name, f"no verdict within {patience_s:g} s{gone}")

    def _publish(self, messages: Iterable[tuple[str, bytes]], retain: bool = False) -> None:
        """Publish at once, and wait until the broker has all of it."""
        assert self._client is not None
        sent = [(topic, self._client.publish(topic, payload, qos=1, retain=retain)) for topic, payload in messages]
        for topic, info in sent:
            info.wait_for_publish(_PATIENCE_S)
            if not info.is_published():
                raise BrokerError(f"{self._where} does not take {topic}; check the connection and the broker's ACL")

    # paho's thread calls these

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            with self._changed:
                self._trouble = f"{self._where} refuses the connection ({reason}); check name and password"
                self._changed.notify_all()
            return
        # QoS 0: all of it is retained, and no queue of the broker's limits how much comes at once
        client.subscribe([*((f"{_PREFIX}/+/{name}", 0) for name in _TOPICS), (self._mark, 0)])

    def _on_subscribe(self, client: Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        client.publish(self._mark, b"")  # comes back after all that is retained

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        if message.topic == self._mark:
            with self._changed:
                self._complete = True
                self._changed.notify_all()
            return
        if message.topic.startswith(f"{MODELS_TOPIC}/"):
            if message.retain:
                self._offered.add(message.topic)
            return
        _, name, what = message.topic.split("/")
        payload = bytes(message.payload)
        if not name.isprintable():
            return
        with self._changed:
            device = self._devices.setdefault(name, Device(name=name))
            if what == "availability":
                device.online = payload == b"online"
            elif what == "mute":
                device.muted = {b"ON": True, b"OFF": False}.get(payload)
            elif what == "health":
                device.health = _read_health(payload)
            else:
                device.update = _read_update(payload)
            self._changed.notify_all()


def _verdict(device: Device, id: str) -> str | None:
    return device.update.verdict if device.update is not None and device.update.id == id else None


def _judged(device: Device, id: str) -> Answer | None:
    """The answer about a model, once it is the last."""
    return device.update if _verdict(device, id) not in (None, "trial") else None


def _read_health(payload: bytes) -> dict[str, Any] | None:
    try:
        health = json.loads(payload, parse_constant=_no_number) if len(payload) <= _LARGEST_REPORT else None
    except (ValueError, RecursionError):
        return None
    return health if isinstance(health, dict) else None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _read_update(payload: bytes) -> Answer | None:
    try:
        return read_answer(payload) if len(payload) <= _LARGEST_REPORT else None
    except SettingsError:
        return None
