"""Against a real mosquitto, of the tests' own, on a free port."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from serkit.edge.config import Config, read_config
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.listener import Listener
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.home_assistant import discovery
from serkit.edge.sinks.mqtt import Mqtt

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs a broker: `sudo apt install mosquitto`")


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this should have happened by now"
        time.sleep(0.01)


class Broker:
    """mosquitto, which can be killed and started again at the same port."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        own = ["user root"] if os.getuid() == 0 else []  # as root it would become a user that cannot read the folder
        first = [f"listener {self.port} 127.0.0.1", "persistence false", *own]
        self._config.write_text("\n".join([*first, *(lines or ["allow_anonymous true"])]) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([str(MOSQUITTO), "-c", self._config], stderr=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Consumer:
    """Everything published, in order, as (topic, payload, retained)."""

    def __init__(self, port: int, topic: str = "#", setup: Callable[[Client], object] = lambda client: None) -> None:
        self.seen: list[tuple[str, str, bool]] = []
        subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2)
        setup(self.client)
        self.client.on_connect = lambda *_: self.client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(30)

    def _on_message(self, client: Client, userdata: Any, message: Any) -> None:
        self.seen.append((message.topic, message.payload.decode(errors="replace"), message.retain))

    def last(self, topic: str) -> str | None:
        return next((payload for t, payload, _ in reversed(self.seen) if t == topic), None)

    def times(self) -> list[float]:
        return [json.loads(payload)["time_s"] for topic, payload, _ in self.seen if topic.endswith("/event")]

    def close(self) -> None:
        self.client.on_connect = self.client.on_subscribe = self.client.on_message = None
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serkit.edge.sinks.mqtt._MIN_WAIT_S", 0.05)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def consume() -> Iterator[Callable[..., Consumer]]:
    consumers: list[Consumer] = []

    def make(*args: Any, **options: Any) -> Consumer:
        consumers.append(Consumer(*args, **options))
        return consumers[-1]

    yield make
    for consumer in consumers:
        consumer.close()


@pytest.fixture
def start(listener: Listener) -> Iterator[Callable[..., Mqtt]]:
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


def notices(sink: Mqtt) -> list[str]:
    return list(iter(sink.notice, None))


@needs_broker
def test_events_state_and_availability(
    event: Any, broker: Broker, start: Any, consume: Any, listener: Listener
) -> None:
    broker.start()
    consumer = consume(broker.port)
    sink = start(broker.port)
    sink.send(event(0, "calm", confidence=0.75))
    sink.send(event(1, "calm"))
    sink.send(event(2, "angry"))
    sink.send(event(3, "status", message="something"))
    wait_until(lambda: consumer.times() == [0, 1, 2, 3] and consumer.last("serkit/car/state") == "angry")
    first = json.loads(next(payload for topic, payload, _ in consumer.seen if topic == "serkit/car/event"))
    assert first["schema"] == 1
    assert first["confidence"] == 0.75
    late = consume(broker.port)
    wait_until(lambda: len(late.seen) == 4)
    assert {(topic, retained) for topic, _, retained in late.seen} == {
        ("serkit/car/availability", True),
        ("serkit/car/state", True),
        ("serkit/car/mute", True),
        ("homeassistant/device/serkit-car/config", True),
    }
    assert late.last("serkit/car/availability") == "online"
    assert late.last("serkit/car/mute") == "OFF"
    sink.close()
    wait_until(lambda: late.last("serkit/car/availability") == "offline")
    assert notices(sink) == []


@needs_broker
def test_closing_delivers_what_waits(event: Any, broker: Broker, start: Any, consume: Any) -> None:
    broker.start()
    consumer = consume(broker.port)
    sink = start(broker.port)
    wait_until(lambda: consumer.last("serkit/car/availability") == "online")
    for i in range(100):
        sink.send(event(i))
    sink.close()
    wait_until(lambda: consumer.last("serkit/car/availability") == "offline")
    assert consumer.times() == list(range(100))


@needs_broker
def test_a_broker_that_comes_late_gets_all_in_order(event: Any, broker: Broker, start: Any, consume: Any) -> None:
    sink = start(broker.port)
    for i in range(50):
        sink.send(event(i))
    wait_until(lambda: sink._trouble)
    assert notices(sink) == [f"127.0.0.1:{broker.port} cannot be reached ([Errno 111] Connection refused); events wait"]
    gate = threading.Event()
    sink._client.on_pre_connect = lambda *_: gate.wait(30)  # the consumer first
    broker.start()
    consumer = consume(broker.port)
    gate.set()
    wait_until(lambda: len(consumer.times()) == 50)
    assert consumer.times() == list(range(50))
    assert notices(sink) == [f"connected to 127.0.0.1:{broker.port}"]


@needs_broker
def test_a_killed_broker_gets_all_in_order_when_it_is_back(
    event: Any, broker: Broker, start: Any, consume: Any
) -> None:
    broker.start()
    before = consume(broker.port)
    sink = start(broker.port)
    for i in range(50):
        sink.send(event(i))
    wait_until(lambda: len(before.times()) == 50 and sink._idle())
    before.close()
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)  # what is sent now is on its way when the broker dies
    sink.send(event(50))
    wait_until(lambda: sink._in_flight)
    broker.kill()
    gate = threading.Event()
    sink._client.on_pre_connect = lambda *_: gate.wait(30)
    for i in range(51, 150):
        sink.send(event(i, "angry"))
    wait_until(lambda: sink._trouble)
    broker.start()
    after = consume(broker.port)
    gate.set()
    for i in range(150, 200):
        sink.send(event(i))
    wait_until(lambda: len(after.times()) >= 150 and sink._idle())
    assert before.times() + after.times() == list(range(200))
    assert after.last("serkit/car/availability") == "online"
    assert after.last("serkit/car/state") == "calm"
    where = f"127.0.0.1:{broker.port}"
    assert notices(sink) == [f"connection to {where} lost; events wait", f"connected to {where}"]
    assert sink.lost == 0


@needs_broker
def test_a_full_queue_loses_the_oldest_and_says_how_many(event: Any, broker: Broker, start: Any, consume: Any) -> None:
    sink = start(broker.port, queue_events=10)
    wait_until(lambda: sink._trouble)
    notices(sink)
    gate = threading.Event()
    sink._client.on_pre_connect = lambda *_: gate.wait(30)
    for i in range(25):
        sink.send(event(i))
    where = f"127.0.0.1:{broker.port}"
    assert notices(sink) == [f"10 events wait for {where}; older are lost"]
    broker.start()
    consumer = consume(broker.port)
    gate.set()
    wait_until(lambda: len(consumer.times()) == 10 and sink._idle())
    assert consumer.times() == list(range(15, 25))
    assert sink.lost == 15
    assert notices(sink) == [f"connected to {where}", f"{where} has all waiting events; 15 were lost"]


@needs_broker
def test_the_last_will(broker: Broker, consume: Any) -> None:
    broker.start()
    consumer = consume(broker.port)
    code = f"""
import time
from types import SimpleNamespace as N
from serkit.edge.listener import Listener
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.mqtt import Mqtt
listener = Listener(N(bundle=N(name="tiny")), N(close=lambda: 0), N(answers=("calm",)))
Mqtt(MqttSettings(host="127.0.0.1", port={broker.port}, name="car")).start(listener)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: consumer.last("serkit/car/availability") == "online")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: consumer.last("serkit/car/availability") == "offline")


@needs_broker
def test_mute(event: Any, broker: Broker, start: Any, consume: Any, listener: Listener) -> None:
    broker.start()
    consumer = consume(broker.port)
    sink = start(broker.port, discovery=False)
    wait_until(lambda: consumer.last("serkit/car/mute") == "OFF")
    consumer.client.publish("serkit/car/mute/set", "ON", qos=1)
    wait_until(lambda: consumer.last("serkit/car/mute") == "ON")
    assert listener.muted
    for odd in ("off", "", "x" * 100_000, b"\xff\0"):
        consumer.client.publish("serkit/car/mute/set", odd, qos=1)
    consumer.client.publish("serkit/car/mute/set", "OFF", qos=1)
    wait_until(lambda: not listener.muted)
    assert notices(sink) == ["b'off' on serkit/car/mute/set ignored; publish ON or OFF, not retained"]
    listener.mute()  # from elsewhere
    sink.send(event(0, "silence"))
    wait_until(lambda: consumer.last("serkit/car/mute") == "ON")
    assert consumer.last("homeassistant/device/serkit-car/config") is None


@needs_broker
def test_a_retained_command_is_old_and_ignored(broker: Broker, start: Any, consume: Any, listener: Listener) -> None:
    broker.start()
    consumer = consume(broker.port)
    consumer.client.publish("serkit/car/mute/set", "OFF", qos=1, retain=True)
    wait_until(lambda: consumer.seen)
    listener.mute()
    sink = start(broker.port)
    wait_until(lambda: sink._odd)
    assert listener.muted
    assert notices(sink) == ["a retained command on serkit/car/mute/set ignored; publish ON or OFF, not retained"]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A broker that asks for a name and a password."""
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "edge", "s3cret"], check=True)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    broker.start()
    yield broker
    broker.kill()


@needs_broker
def test_a_password(event: Any, guarded: Broker, start: Any, consume: Any, tmp_path: Path) -> None:
    consumer = consume(guarded.port, setup=lambda client: client.username_pw_set("edge", "s3cret"))
    (tmp_path / "password").write_text("s3cret\n")
    sink = start(guarded.port, username="edge", password_file=str(tmp_path / "password"))
    sink.send(event(0))
    wait_until(lambda: consumer.times() == [0])
    assert notices(sink) == []


@needs_broker
def test_a_wrong_password_is_said_once_and_never_shown(guarded: Broker, start: Any, capfd: Any) -> None:
    sink = start(guarded.port, username="edge", password="tr0ub4dor")
    attempts: list[int] = []
    sink._client.on_pre_connect = lambda *_: attempts.append(1)
    wait_until(lambda: len(attempts) > 3)
    where = f"127.0.0.1:{guarded.port}"
    assert notices(sink) == [f"{where} refuses the connection (Not authorized); check the [mqtt] settings"]
    assert "tr0ub4dor" not in "".join([repr(sink._settings), str(vars(sink)), *capfd.readouterr()])


def _certificates(folder: Path) -> None:
    """A certificate authority, and a certificate for 127.0.0.1."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def certificate(name: str, key: Any, issuer: str, signer: Any, *extensions: x509.ExtensionType) -> None:
        builder = x509.CertificateBuilder(
            issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
            subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=1),
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        pem = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (folder / f"{name}.pem").write_bytes(pem)

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    certificate("ca", root, "ca", root, x509.BasicConstraints(ca=True, path_length=None))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate("broker", own, "ca", root, x509.SubjectAlternativeName([address]))
    (folder / "broker.key").write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@needs_broker
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")  # paho's, after a failed handshake
def test_tls(event: Any, tmp_path: Path, start: Any, consume: Any) -> None:
    _certificates(tmp_path)
    files = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
    broker = Broker(tmp_path, "allow_anonymous true", *(f"{k} {tmp_path / v}" for k, v in files.items()))
    broker.start()
    try:
        ca = str(tmp_path / "ca.pem")
        consumer = consume(broker.port, setup=lambda c: c.tls_set_context(ssl.create_default_context(cafile=ca)))
        sink = start(broker.port, tls=True, ca_file=ca)
        sink.send(event(0))
        wait_until(lambda: consumer.times() == [0])
        assert notices(sink) == []
        stranger = start(broker.port, tls=True, name="stranger")  # trusts the system's authorities only
        wait_until(lambda: stranger._trouble)
        stranger.close()
        assert "CERTIFICATE_VERIFY_FAILED" in notices(stranger)[0]
    finally:
        broker.kill()


def test_a_broker_that_hangs_holds_up_nothing(event: Any, start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        sink = start(server.getsockname()[1])
        begin = time.monotonic()
        for i in range(1000):
            sink.send(event(i))
        assert time.monotonic() - begin < 5
        sink.close()


def test_files_that_cannot_be_read(listener: Listener, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(SettingsError, match=r"mqtt: password_file .*missing cannot be read \(No such file"):
        Mqtt(MqttSettings(username="edge", password_file=missing)).start(listener)
    with pytest.raises(SettingsError, match=r"mqtt: ca_file .*missing cannot be read \(No such file.*PEM"):
        Mqtt(MqttSettings(tls=True, ca_file=missing)).start(listener)
    (tmp_path / "missing").write_text("not PEM")
    with pytest.raises(SettingsError, match=r"mqtt: ca_file .*missing cannot be read \(.*PEM"):
        Mqtt(MqttSettings(tls=True, ca_file=missing)).start(listener)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "mqtt://x"}, "host is 'mqtt://x'; a name such as"),
        ({"host": ""}, "host is ''"),
        ({"host": "a..b"}, "host is 'a..b'"),
        ({"host": "a" * 64}, "host is 'aaa"),
        ({"port": 0}, "port is 0; it needs 1 to 65535"),
        ({"password": "x"}, "a password is given without username"),
        ({"username": "u", "password": "x", "password_file": "y"}, "password and password_file are both given"),
        ({"ca_file": "x"}, "tls is off; set tls = true"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"prefix": "a/#"}, "prefix is 'a/#'; it needs words"),
        ({"prefix": "/a"}, "prefix is '/a'; it needs words"),
        ({"prefix": "$SYS/a"}, "it needs words"),
        ({"prefix": "a\0"}, "it needs words"),
        ({"discovery_prefix": ""}, "discovery_prefix is ''; it needs words"),
        ({"keepalive_s": 0}, "keepalive_s is 0; it needs 5 to 65535 s"),
        ({"queue_events": 0}, "queue_events is 0; it needs 1 or more"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        MqttSettings(**settings)
    assert message in str(raised.value)


def test_the_password_is_not_in_the_settings_text() -> None:
    assert "s3cret" not in repr(MqttSettings(username="edge", password="s3cret"))


def test_a_password_of_the_wrong_type_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[mqtt]\nusername = 'edge'\npassword = 314159\n")
    with pytest.raises(SettingsError, match="mqtt: password is not a text; a text is needed") as raised:
        read_config(tmp_path / "c.toml")
    assert "314159" not in str(raised.value)


def test_ports() -> None:
    for host in ("h", "a.b-c.", "192.168.0.1", "fe80::1"):
        assert MqttSettings(host=host).address == (host, 1883)
    assert MqttSettings(host="h", tls=True).address == ("h", 8883)
    assert MqttSettings(host="h", tls=True, port=1).address == ("h", 1)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    Config().sinks()
    with pytest.raises(MissingExtraError, match=r"needs paho-mqtt, which is not installed; .*'\.\[mqtt\]'"):
        Config(mqtt=MqttSettings()).sinks()


# Home Assistant's documented keys: required, and allowed; ``platform`` and ``unique_id`` are required as well in a
# device's message. See https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload, and there
# /integrations/sensor.mqtt/ and /integrations/switch.mqtt/ (June 2026).
_COMMON = {
    "availability", "availability_mode", "availability_template", "availability_topic", "default_entity_id", "device",
    "device_class", "enabled_by_default", "encoding", "entity_category", "entity_picture", "group", "icon",
    "json_attributes_template", "json_attributes_topic", "name", "payload_available", "payload_not_available",
    "platform", "qos", "state_topic", "unique_id", "value_template",
}  # fmt: skip
DOCUMENTED: dict[str, tuple[set[str], set[str]]] = {
    "sensor": (
        {"state_topic"},
        _COMMON
        | {"expire_after", "force_update", "last_reset_value_template", "options", "state_class"}
        | {"suggested_display_precision", "unit_of_measurement"},
    ),
    "switch": (
        {"command_topic"},
        _COMMON
        | {"command_template", "command_topic", "message_expiry_interval", "optimistic", "payload_off", "payload_on"}
        | {"retain", "state_off", "state_on"},
    ),
}
DEVICE = {
    "configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model", "model_id", "name",
    "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
ORIGIN = {"name", "sw_version", "support_url"}
SHARED = {
    "availability", "availability_mode", "availability_template", "availability_topic", "command_topic", "encoding",
    "payload_available", "payload_not_available", "qos", "state_topic",
}  # fmt: skip


def validate(message: dict[str, Any]) -> None:
    """Whether Home Assistant's documentation knows every key."""
    assert {"device", "origin", "components"} <= set(message) <= {"device", "origin", "components"} | SHARED
    assert set(message["device"]) <= DEVICE
    assert message["device"].get("identifiers") or message["device"].get("connections")
    assert {"name"} <= set(message["origin"]) <= ORIGIN
    for component in message["components"].values():
        required, allowed = DOCUMENTED[component["platform"]]
        assert required | {"platform", "unique_id"} <= set(component) <= allowed
        assert component.get("entity_category") in (None, "diagnostic", "config")
        assert component.get("state_class") in (None, "measurement", "total", "total_increasing")
        if "options" in component:
            assert component["options"]
            assert component["device_class"] == "enum"
            assert not {"state_class", "unit_of_measurement"} & set(component)
    ids = [component["unique_id"] for component in message["components"].values()]
    assert len(ids) == len(set(ids))


def test_home_assistant_knows_every_key() -> None:
    topic, message = discovery(MqttSettings(name="Küche links"), ("calm", "angry"), "tiny")
    assert topic == "homeassistant/device/serkit-K-che-links/config"
    validate(message)
    assert message["device"]["name"] == "Küche links"
    emotion = message["components"]["emotion"]
    assert emotion["options"] == ["calm", "angry", "silence", "unsure"]
    assert emotion["state_topic"] == "serkit/Küche links/state"
    assert message["components"]["mute"]["command_topic"] == "serkit/Küche links/mute/set"
    assert message["availability_topic"] == "serkit/Küche links/availability"
    emotion["unit"] = "%"
    with pytest.raises(AssertionError):
        validate(message)


@pytest.mark.parametrize(
    ("fields", "confidence", "arousal"),
    [
        ({"answer": "calm", "confidence": 0.876, "arousal": -0.349}, "88", "-0.3"),
        ({"answer": "silence"}, "None", "None"),
        ({"answer": "status", "message": "x"}, "", ""),
    ],
)
def test_what_home_assistant_makes_of_an_event(
    event: Any, fields: dict[str, Any], confidence: str, arousal: str
) -> None:
    jinja2 = pytest.importorskip("jinja2")
    from serkit.edge.events import to_json

    components = discovery(MqttSettings(), ("calm",), "tiny")[1]["components"]
    value = json.loads(to_json(event(0, **fields)))
    for name, expected in (("confidence", confidence), ("arousal", arousal)):
        assert jinja2.Template(components[name]["value_template"]).render(value_json=value) == expected
