"""Every event and the current answer over MQTT; Home Assistant finds the device by itself.

Topics, under ``serkit/<name>`` unless the settings say otherwise:

- ``event``: every event, JSON; QoS 1, not retained.
- ``state``: the current answer, retained, when it changes.
- ``availability``: ``online``, or ``offline`` (the last will), retained.
- ``mute``: ``ON`` or ``OFF``, retained; ``mute/set`` takes either.

While the broker is away events wait here, not in paho: its own queue drops the newest when it is full, and what is
published between connecting and the broker's answer overtakes what waited. paho holds one message at a time, sent
again after a reconnection: events arrive in order, at most one of them twice per lost connection.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serkit import __version__
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.events import Event, to_json
from serkit.edge.sinks import Sink

if TYPE_CHECKING:
    import ssl

    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from serkit.edge.listener import Listener

_MIN_WAIT_S, _MAX_WAIT_S = 1, 15  # between attempts to connect; doubled after each
_CONNECT_S = 5.0
_CLOSE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class MqttSettings:
    """The broker, and what the device is called there.

    Attributes:
        host: The broker.
        port: TCP port; 1883, or 8883 with ``tls``.
        username: If the broker asks for one.
        password: Its password.
        password_file: A file that holds the password, instead of ``password``.
        tls: Encrypt, and check the broker's certificate.
        ca_file: PEM file of the certificate authority; by default those the system trusts.
        name: Of the device; has to differ between devices. By default the host name.
        client_id: By default one that no other client has.
        prefix: Of the topics; by default ``serkit/<name>``.
        discovery: Whether Home Assistant is told about the device.
        discovery_prefix: Home Assistant's own setting.
        keepalive_s: A connection that says nothing for this long is tested, s.
        queue_events: Events kept while the broker is away; then the oldest give way.
    """

    host: str = "localhost"
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    tls: bool = False
    ca_file: str | None = None
    name: str = field(default_factory=socket.gethostname)
    client_id: str | None = None
    prefix: str | None = None
    discovery: bool = True
    discovery_prefix: str = "homeassistant"
    keepalive_s: int = 30
    queue_events: int = 10_000

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([0-9A-Za-z_-]{1,63}(\.|$))+|(?=.*:)[0-9A-Fa-f.:]{2,45}", self.host):
            raise SettingsError(f"host is {self.host!r}; a name such as homeassistant.local or an address is needed")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise SettingsError(f"port is {self.port}; it needs 1 to 65535")
        if self.password is not None and self.password_file is not None:
            raise SettingsError("password and password_file are both given; keep one")
        if self.username is None and (self.password is not None or self.password_file is not None):
            raise SettingsError("a password is given without username; add it")
        if self.ca_file is not None and not self.tls:
            raise SettingsError("ca_file is given, but tls is off; set tls = true")
        if not self.name or not self.name.isprintable() or set("+#/$") & set(self.name):
            raise SettingsError(f"name is {self.name!r}; letters, digits and - are fine, + # / $ are not")
        for name, topic in (("prefix", self.topic_prefix), ("discovery_prefix", self.discovery_prefix)):
            if not re.fullmatch(r"[^/+#$]+(/[^/+#]+)*", topic) or not topic.isprintable() or len(topic) > 200:
                raise SettingsError(f"{name} is {topic!r}; it needs words joined by /, without + and #")
        if not 5 <= self.keepalive_s <= 65535:
            raise SettingsError(f"keepalive_s is {self.keepalive_s}; it needs 5 to 65535 s")
        if self.queue_events < 1:
            raise SettingsError(f"queue_events is {self.queue_events}; it needs 1 or more")

    @property
    def topic_prefix(self) -> str:
        """What every topic begins with."""
        return f"serkit/{self.name}" if self.prefix is None else self.prefix

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or (8883 if self.tls else 1883)


def discovery(settings: MqttSettings, answers: Sequence[str], model: str) -> tuple[str, dict[str, Any]]:
    """Topic and message by which Home Assistant (2024.11 or newer) finds the device and its entities.

    See https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload.
    """
    device = re.sub(r"[^A-Za-z0-9_-]+", "-", f"serkit-{settings.name}")
    prefix = settings.topic_prefix

    def number(name: str, value: str, **options: Any) -> dict[str, Any]:
        """Rounded, so that not every event is a change of state; a status event leaves it as it is."""
        known = f"{{{{ {value} if value_json.{name.lower()} is number else none }}}}"
        return {
            "platform": "sensor",
            "unique_id": f"{device}-{name.lower()}",
            "name": name,
            "state_topic": f"{prefix}/event",
            "state_class": "measurement",
            "value_template": f"{{% if value_json.kind != 'status' %}}{known}{{% endif %}}",
            **options,
        }

    components = {
        "emotion": {
            "platform": "sensor",
            "unique_id": f"{device}-emotion",
            "name": "Emotion",
            "icon": "mdi:account-voice",
            "device_class": "enum",
            "options": list(dict.fromkeys((*answers, "silence", "unsure"))),
            "state_topic": f"{prefix}/state",
        },
        "confidence": number("Confidence", "(100 * value_json.confidence) | round | int", unit_of_measurement="%"),
        "arousal": number("Arousal", "value_json.arousal | round(1)"),
        "valence": number("Valence", "value_json.valence | round(1)"),
        "mute": {
            "platform": "switch",
            "unique_id": f"{device}-mute",
            "name": "Mute",
            "icon": "mdi:microphone-off",
            "state_topic": f"{prefix}/mute",
            "command_topic": f"{prefix}/mute/set",
        },
    }
    return f"{settings.discovery_prefix}/device/{device}/config", {
        "device": {
            "identifiers": [device],
            "name": settings.name,
            "manufacturer": "serkit",
            "model": model,
            "sw_version": __version__,
        },
        "origin": {"name": "serkit", "sw_version": __version__},
        "availability_topic": f"{prefix}/availability",
        "qos": 1,
        "components": components,
    }


class Mqtt(Sink):
    """Publishes from a thread of its own, one message after the other; paho connects, and connects again.

    Attributes:
        lost: Events that gave way to newer ones.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
    """

    name = "mqtt"

    def __init__(self, settings: MqttSettings) -> None:
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                "[mqtt] needs paho-mqtt, which is not installed; in the clone, `pip install -e '.[mqtt]'`"
            ) from None
        self.lost = 0
        self._settings = settings
        self._where = "{}:{}".format(*settings.address)
        self._client: Client | None = None
        self._listener: Listener | None = None
        # all below by whoever holds it; nobody calls paho meanwhile, which calls back with locks of its own
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()  # events
        self._retained: dict[str, str] = {}  # topic to what the broker should hold
        self._unsent: list[str] = []  # topics of which the broker holds something else
        self._connected = self._in_flight = self._closing = self._ended = False
        self._trouble: str | None = None  # lost, refused or unreachable: what was said last
        self._lost_said = 0
        self._odd_command = False
        self._notices: deque[str] = deque(maxlen=16)

    def start(self, listener: Listener) -> None:
        """Begin to connect; a broker that is not there yet is a notice, not an error.

        Raises:
            SettingsError: ``password_file`` or ``ca_file`` cannot be read.
        """
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        s = self._settings
        client = Client(CallbackAPIVersion.VERSION2, client_id=s.client_id or "")
        if s.username is not None:
            client.username_pw_set(s.username, self._password())
        if s.tls:
            client.tls_set_context(self._tls())
        client.will_set(self._topic("availability"), "offline", qos=1, retain=True)
        client.reconnect_delay_set(_MIN_WAIT_S, _MAX_WAIT_S)
        client.connect_timeout = _CONNECT_S
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        self._listener, self._client = listener, client
        self._hold("availability", "online")
        if s.discovery:
            topic, message = discovery(s, listener.answers, listener.recognizer.bundle.name)
            self._retained[topic] = json.dumps(message)
        threading.Thread(target=self._publish, args=(client,), name="serkit-mqtt", daemon=True).start()
        client.connect_async(*s.address, keepalive=s.keepalive_s)
        client.loop_start()

    def send(self, event: Event) -> None:
        line = to_json(event)
        with self._changed:
            if len(self._waiting) == self._settings.queue_events:
                self._waiting.popleft()
                if self.lost == self._lost_said:
                    self._notices.append(f"{self._settings.queue_events} events wait for {self._where}; older are lost")
                self.lost += 1
            self._waiting.append(line)
            if event.kind != "status":
                self._hold("state", event.answer)
            self._hold_mute()
            self._changed.notify_all()

    def notice(self) -> str | None:
        return self._notices.popleft() if self._notices else None

    def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        with self._changed:
            self._closing = True
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

    def _topic(self, name: str) -> str:
        return f"{self._settings.topic_prefix}/{name}"

    def _password(self) -> str | None:
        path = self._settings.password_file
        if path is None:
            return self._settings.password
        try:
            return Path(path).expanduser().read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise SettingsError(f"mqtt: password_file {path} cannot be read ({reason}); correct it") from None

    def _tls(self) -> ssl.SSLContext:
        import ssl

        path = self._settings.ca_file
        try:
            return ssl.create_default_context(cafile=path and str(Path(path).expanduser()))
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"mqtt: ca_file {path} cannot be read ({error.strerror or error}); a PEM file is needed"
            ) from None

    def _idle(self) -> bool:
        return not (self._in_flight or self._unsent or self._waiting)

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
            self._changed.wait_for(
                lambda: self._ended or (self._connected and not self._in_flight and not self._idle())
            )
            if self._ended:
                return None
            self._in_flight = True
            if self._unsent:
                topic = self._unsent.pop(0)
                return topic, self._retained[topic], True
            return self._topic("event"), self._waiting.popleft(), False

    # paho's thread calls these

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._say("refused", f"{self._where} refuses the connection ({reason}); check the [mqtt] settings")
            return
        client.subscribe(self._topic("mute/set"), qos=1)
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
        command = None if message.retain else {b"ON": True, b"OFF": False}.get(bytes(message.payload))
        if command is None or self._listener is None:
            what = "a retained command" if message.retain else repr(bytes(message.payload[:20]))
            if not self._odd_command:
                self._notices.append(f"{what} on {message.topic} ignored; publish ON or OFF, not retained")
            self._odd_command = True
            return
        self._odd_command = False
        self._listener.mute(command)
        with self._changed:
            self._hold_mute()
            self._changed.notify_all()

    def _say(self, trouble: str | None, message: str) -> None:
        """Once per trouble, and once when it is over; the first connection needs no words."""
        if trouble != self._trouble:
            self._notices.append(message)
        self._trouble = trouble
