"""What several modules need: a real mosquitto with who listens and talks there, and a store with models for it."""

from __future__ import annotations

import datetime
import ipaddress
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serkit.benchmarks.mosquitto import OPEN, Mosquitto, program
from serkit.benchmarks.simulated import SimulatedDevice
from serkit.edge.bundle import Bundle, read_bundle, read_signed
from serkit.edge.cli import main
from serkit.edge.fleet import Fleet
from serkit.edge.signature import signing_key
from serkit.edge.sinks.broker import MqttSettings, new_client
from serkit.edge.store import ModelStore


def _wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this should have happened by now"
        time.sleep(0.01)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return _wait_until


@pytest.fixture
def mosquitto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mosquitto]]:
    """Makes brokers, not started yet; devices wait for them with less patience than usual."""
    pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt: pip install 'serkit[mqtt]'")
    if program() is None:
        pytest.skip("needs a broker: `sudo apt install mosquitto`")
    monkeypatch.setattr("serkit.edge.sinks.mqtt._MIN_WAIT_S", 0.05)
    monkeypatch.setattr("serkit.edge.roll_out._WATCH_S", 0.05)
    brokers: list[Mosquitto] = []

    def make(*lines: str) -> Mosquitto:
        brokers.append(Mosquitto(tmp_path, lines or OPEN))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.end(signal.SIGKILL)


@pytest.fixture
def broker(mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    """One that everybody may use."""
    broker = mosquitto()
    broker.start()
    return broker


class Subscriber:
    """A client that hears all that is published, in order, as (topic, payload, retained)."""

    def __init__(self, settings: MqttSettings) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        subscribed = threading.Event()
        self.client = new_client(settings)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = lambda _, __, m: self.messages.append((m.topic, bytes(m.payload), m.retain))
        self.client.connect(*settings.address)
        self.client.loop_start()
        assert subscribed.wait(30)

    def on(self, topic: str) -> list[Any]:
        """What was said there, of JSON."""
        return [json.loads(payload) if payload else None for t, payload, _ in list(self.messages) if t == topic]

    def last(self, topic: str) -> str | None:
        """What was said there last."""
        return next((payload.decode() for t, payload, _ in reversed(self.messages) if t == topic), None)

    def times(self) -> list[float]:
        """Of all events."""
        events = [payload for topic, payload, _ in list(self.messages) if topic.endswith("/event")]
        return [json.loads(payload)["time_s"] for payload in events]

    def all_report(self, *names: str, what: str = "update") -> None:
        """Wait until every device has said so."""
        _wait_until(lambda: all(self.on(f"serkit/{name}/{what}") for name in names))

    def put(self, topic: str, payload: bytes | str, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(30)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client.on_connect = self.client.on_subscribe = self.client.on_message = None


@pytest.fixture
def subscribe() -> Iterator[Callable[..., Subscriber]]:
    subscribers: list[Subscriber] = []

    def make(port: int, **settings: Any) -> Subscriber:
        subscribers.append(Subscriber(MqttSettings(host="127.0.0.1", port=port, **settings)))
        return subscribers[-1]

    yield make
    for subscriber in subscribers:
        subscriber.close()


@pytest.fixture
def seen(broker: Mosquitto, subscribe: Callable[..., Subscriber]) -> Subscriber:
    """All that goes through the broker."""
    return subscribe(broker.port)


@pytest.fixture
def device(broker: Mosquitto) -> Iterator[Callable[..., SimulatedDevice]]:
    """Makes devices of a fleet, and starts them."""
    devices: list[SimulatedDevice] = []

    def make(name: str, fails: bool = False, **settings: Any) -> SimulatedDevice:
        own = {"host": "127.0.0.1", "port": broker.port, "discovery": False, "updates": True, "health_every_s": 1.0}
        devices.append(SimulatedDevice(MqttSettings(name=name, **{**own, **settings}), time.monotonic(), fails))
        devices[-1].start()
        return devices[-1]

    yield make
    for device in devices:
        device.close()


@pytest.fixture
def fleet(broker: Mosquitto) -> Callable[[], Fleet]:
    """Makes controllers."""
    return lambda: Fleet(MqttSettings(host="127.0.0.1", port=broker.port))


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with a certificate authority, ca.pem, and broker.pem and broker.key for 127.0.0.1."""
    now = datetime.datetime.now(datetime.timezone.utc)
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certify(name: str, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> None:
        builder = x509.CertificateBuilder(
            issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")]),
            subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=1),
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        pem = builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (tmp_path / f"{name}.pem").write_bytes(pem)

    signs = x509.KeyUsage(*(usage == 5 for usage in range(9)))  # certificates; strict clients want all of this
    id = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    certify("ca", root, x509.BasicConstraints(ca=True, path_length=None), signs, id)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(id)
    certify("broker", own, x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), issuer)
    (tmp_path / "broker.key").write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tmp_path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """An empty one, which does not wait for the disk."""
    monkeypatch.setattr("serkit.edge.store.os.fsync", lambda file: None)
    return ModelStore(tmp_path / "state" / "models")


@pytest.fixture
def bundles(tmp_path: Path) -> list[tuple[Bundle, str]]:
    """Versions 1 to 3 of a model, of which only the metadata make sense, and their signatures."""
    from serkit.convert.bundle import write_bundle

    graph = b"\x1c\0\0\0TFL3" + bytes(range(256))
    info = {
        "schema": 1, "name": "toy", "labels": ["calm", "angry"], "frontend": {}, "window": {}, "temperature": 1.0,
        "format": "float32", "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    made = []
    for version in (1, 2, 3):
        path = tmp_path / f"toy-{version}.tflite"
        write_bundle(path, graph, info | {"version": version}, "", signing_key())
        made.append((read_bundle(path), path.with_name(path.name + ".minisig").read_text()))
    return made


@pytest.fixture
def install(bundles: list[tuple[Bundle, str]]) -> Callable[..., None]:
    """Installs one of them, and accepts it if that is wanted."""

    def install(store: ModelStore, version: int, accepted: bool = False) -> None:
        with store.updating():
            store.install(*bundles[version - 1])
        if accepted:
            store.begin()
            store.accept()

    return install


@pytest.fixture
def active() -> Callable[[ModelStore], int | None]:
    """Says which version answers."""

    def active(store: ModelStore) -> int | None:
        path = store.active()
        return None if path is None else read_bundle(path).version

    return active


@pytest.fixture(scope="session")
def made() -> Callable[..., Path]:
    """Writes the default model, called toy, as another version, signed by the tests' key or another one."""
    from serkit.convert.bundle import golden_of, write_bundle

    bundle = read_bundle("default")
    whole = bundle.data[: bundle.info["size_bytes"]]
    info = bundle.info | {"name": "toy", "golden": golden_of(whole, bundle.info)}

    def make(
        path: Path, version: int = 2, key: Ed25519PrivateKey | None = None, graph: bytes = whole, **changes: object
    ) -> Path:
        write_bundle(path, graph, info | {"version": version} | changes, "", key or signing_key())
        return path

    return make


@pytest.fixture
def new(made: Callable[..., Path], tmp_path: Path) -> Path:
    """The toy's version 2."""
    return made(tmp_path / "new.tflite")


@pytest.fixture
def stocked(store: ModelStore, made: Callable[..., Path], tmp_path: Path) -> ModelStore:
    """A store with the toy's version 1, accepted."""
    path = made(tmp_path / "first.tflite", 1)
    with store.updating():
        store.install(read_bundle(path), read_signed(path)[1])
    store.begin()
    store.accept()
    return store


@pytest.fixture
def update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command on a store, where no service runs."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))

    def update(store: ModelStore, *arguments: object) -> Result:
        return CliRunner().invoke(main, ["update", "--state", str(store.folder.parent), *map(str, arguments)])

    return update
