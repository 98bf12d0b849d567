"""Every event and the current answer over MQTT, and what a fleet needs; Home Assistant finds the device by itself.

Topics, under ``serkit/<name>`` unless the settings say otherwise; what is not switched on is not sent:

- ``event``: every event, JSON; QoS 1, not retained.
- ``state``: the current answer, retained, when it changes.
- ``availability``: ``online``, or ``offline`` (the last will), retained.
- ``mute``: ``ON`` or ``OFF``, retained; ``mute/set`` takes either.
- ``health``: how the device does, JSON, retained.
- ``summary``: how long each answer held, JSON; QoS 1, not retained.
- ``update``: what became of a model, JSON, retained; ``update/set`` says which model the device should run.

While the broker is away events wait here, not in paho: its own queue drops the newest when it is full, and what is
published between connecting and the broker's answer overtakes what waited. paho holds one message at a time, sent
again after a reconnection: events arrive in order, at most one of them twice per lost connection.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from serkit.edge.errors import SettingsError
from serkit.edge.events import Event, to_json
from serkit.edge.roll_out import MODELS_TOPIC, Answer, Installer, Updates
from serkit.edge.sinks import Sink
from serkit.edge.sinks.broker import MqttSettings, check_paho, new_client
from serkit.edge.sinks.home_assistant import discovery
from serkit.edge.sinks.report import Reports

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from serkit.edge.listener import Listener

_MIN_WAIT_S, _MAX_WAIT_S = 1, 15  # between attempts to connect; doubled after each
_CLOSE_S = 2.0


class Mqtt(Sink):
    """Publishes from a thread of its own, one message after the other; paho connects, and connects again.

    Args:
        settings: The broker, and what is sent.
        installer: Where models go that are rolled out; by default the models of this service.

    Attributes:
        lost: Events that gave way to newer ones.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
    """

    name = "mqtt"

    def __init__(self, settings: MqttSettings, installer: Installer | None = None) -> None:
        check_paho()
        self.lost = 0
        self._settings = settings
        self._where = "{}:{}".format(*settings.address)
        self._client: Client | None = None
        self._listener: Listener | None = None
        self._installer = installer
        self._updates: Updates | None = None
        self._reports: Reports | None = None
        # all below by whoever holds it; nobody calls paho meanwhile, which calls back with locks of its own
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, str]] = deque()  # events and summaries, with their topics
        self._retained: dict[str, str] = {}  # topic to what the broker should hold
        self._unsent: list[str] = []  # topics of which the broker holds something else
        self._connected = self._in_flight = self._closing = self._ended = False
        self._trouble: str | None = None  # lost, refused or unreachable: what was said last
        self._lost_said = 0
        self._odd: set[str] = set()  # topics of which the last command made no sense
        self._notices: deque[str] = deque(maxlen=16)

    def start(self, listener: Listener) -> None:
        """Begin to connect; a broker that is not there yet is a notice, not an error.

        Raises:
            SettingsError: ``password_file`` or ``ca_file`` cannot be read.
        """
        s = self._settings
        client = new_client(s)
        client.will_set(self._topic("availability"), "offline", qos=1, retain=True)
        client.reconnect_delay_set(_MIN_WAIT_S, _MAX_WAIT_S)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        self._listener, self._client = listener, client
        self._reports = Reports(s, listener)
        if s.updates:
            self._take_updates(listener)
        self._hold("availability", "online")
        if s.discovery:
            topic, message = discovery(s, listener.answers, listener.recognizer.bundle.name)
            self._retained[topic] = json.dumps(message)
        threading.Thread(target=self._publish, args=(client,), name="serkit-mqtt", daemon=True).start()
        client.connect_async(*s.address, keepalive=s.keepalive_s)
        client.loop_start()

    def send(self, event: Event) -> None:
        with self._changed:
            if self._settings.events:
                self._wait("event", to_json(event))
                if event.kind != "status":
                    self._hold("state", event.answer)
            if self._reports is not None:
                self._reports.heard(event)
            self._hold_mute()
            self._changed.notify_all()

    def notice(self) -> str | None:
        return self._notices.popleft() if self._notices else None

    def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if self._updates is not None:
            self._updates.close()
        with self._changed:
            if self._reports is not None and (summary := self._reports.summary(last=True)) is not None:
                self._wait("summary", summary)
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._connected or self._idle(), _CLOSE_S / 2)
            self._ended = True
            self._changed.notify_all()
            if left := len(self._waiting) + self._in_flight:
                self._notices.append(f"{left} events were not delivered to {self._where}")
        if self._connected:  # ending in order, the broker forgets the last will
            client.publish(self._topic("availability"), "offline", qos=1, retain=True)
        client.disconnect()
        ending = threading.Thread(target=client.loop_stop, daemon=True)  # waits for an attempt to connect
        ending.start()
        ending.join(_CLOSE_S / 2)
        client.on_connect = client.on_connect_fail = client.on_disconnect = client.on_publish = client.on_message = None

    def _take_updates(self, listener: Listener) -> None:
        installer = self._installer
        if installer is None:
            from serkit.edge.stored_models import service_models  # and with it all that `serkit update` needs

            installer = service_models(listener.recognizer)
        if installer is None:
            self._notices.append("updates is on, but only the service, `serkit serve`, installs models")
            return
        self._updates = Updates(installer, self._answered)
        self._updates.start()

    def _topic(self, name: str) -> str:
        return f"{self._settings.topic_prefix}/{name}"

    def _idle(self) -> bool:
        return not (self._in_flight or self._unsent or self._waiting)

    def _wait(self, name: str, payload: str) -> None:
        """What is published in its turn."""
        if len(self._waiting) == self._settings.queue_events:
            self._waiting.popleft()
            if self.lost == self._lost_said:
                self._notices.append(f"{self._settings.queue_events} events wait for {self._where}; older are lost")
            self.lost += 1
        self._waiting.append((self._topic(name), payload))

    def _hold(self, name: str, payload: str) -> None:
        """What the broker should hold from now on."""
        topic = self._topic(name)
        if self._retained.get(topic) != payload:
            self._retained[topic] = payload
            if topic not in self._unsent:
                self._unsent.append(topic)

    def _hold_mute(self) -> None:
        if self._listener is not None:
            self._hold("mute", "ON" if self._listener.muted else "OFF")

    def _publish(self, client: Client) -> None:
        while (message := self._next()) is not None:
            topic, payload, retain = message
            client.publish(topic, payload, qos=1, retain=retain)  # what it does not send now, it sends when connected

    def _next(self) -> tuple[str, str, bool] | None:
        """Topic, payload and whether it is retained, once the message before it has arrived; None at the end."""
        with self._changed:
            while not self._ended:
                wait_s = self._report()
                if self._connected and not self._in_flight and not self._idle():
                    self._in_flight = True
                    if self._unsent:
                        topic = self._unsent.pop(0)
                        return topic, self._retained[topic], True
                    return *self._waiting.popleft(), False
                self._changed.wait(wait_s)
        return None

    def _report(self) -> float | None:
        """Take up what is due now; how long nothing else will be, s."""
        if self._reports is None or self._closing:
            return None
        if (health := self._reports.health()) is not None:
            self._hold("health", health)
        if (summary := self._reports.summary()) is not None:
            self._wait("summary", summary)
        return self._reports.wait_s()

    def _answered(self, answer: Answer) -> None:
        with self._changed:
            self._retained.pop(self._topic("update"), None)  # asked again, it is said again
            self._hold("update", answer.to_json())
            self._changed.notify_all()

    # paho's thread calls these

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._say("refused", f"{self._where} refuses the connection ({reason}); check the [mqtt] settings")
            return
        commands = ["mute/set", *(["update/set"] if self._updates is not None else [])]
        client.subscribe([(self._topic(name), 1) for name in commands])
        with self._changed:
            self._hold_mute()
            self._unsent = list(self._retained)
            self._connected = True
            self._changed.notify_all()
        self._say(None, f"connected to {self._where}")

    def _on_connect_fail(self, client: Client, userdata: Any) -> None:
        if self._trouble is None:
            error = sys.exc_info()[1]  # paho calls from its except clause
            self._say("unreachable", f"{self._where} cannot be reached ({error}); events wait")

    def _on_disconnect(
        self, client: Client, userdata: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self._changed:
            was, self._connected = self._connected, False
            self._changed.notify_all()
        if was and not self._closing:
            self._say("lost", f"connection to {self._where} lost; events wait")

    def _on_publish(
        self, client: Client, userdata: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self._changed:
            self._in_flight = False
            if not self._waiting and self.lost > self._lost_said:
                self._notices.append(f"{self._where} has all waiting events; {self.lost - self._lost_said} were lost")
                self._lost_said = self.lost
            self._changed.notify_all()

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        payload = bytes(message.payload)
        if message.topic.startswith(f"{MODELS_TOPIC}/"):
            client.unsubscribe(message.topic)
            if self._updates is not None and payload:
                self._updates.take(message.topic.removeprefix(f"{MODELS_TOPIC}/"), payload)
        elif message.topic == self._topic("update/set"):
            self._want(client, message.topic, payload)
        else:
            self._mute(message.topic, payload, message.retain)

    def _mute(self, topic: str, payload: bytes, retained: bool) -> None:
        command = None if retained else {b"ON": True, b"OFF": False}.get(payload)
        if command is None or self._listener is None:
            what = "a retained command" if retained else repr(payload[:20])
            self._ignore(topic, f"{what} on {topic} ignored; publish ON or OFF, not retained")
            return
        self._odd.discard(topic)
        self._listener.mute(command)
        with self._changed:
            self._hold_mute()
            self._changed.notify_all()

    def _want(self, client: Client, topic: str, payload: bytes) -> None:
        if self._updates is None:
            return
        try:
            id = self._updates.want(payload)
        except SettingsError as error:
            self._ignore(topic, f"{topic} ignored: {error}; use `serkit fleet roll-out`")
            return
        self._odd.discard(topic)
        if id is not None:
            client.subscribe(f"{MODELS_TOPIC}/{id}", qos=1)

    def _ignore(self, topic: str, message: str) -> None:
        """Once, until a command there makes sense again."""
        if topic not in self._odd:
            self._notices.append(message)
        self._odd.add(topic)

    def _say(self, trouble: str | None, message: str) -> None:
        """Once per trouble, and once when it is over; the first connection needs no words."""
        if trouble != self._trouble:
            self._notices.append(message)
        self._trouble = trouble
