from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serkit.benchmarks.mosquitto import Mosquitto
from serkit.edge.config import Config, read_config
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.listener import Listener
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.mqtt import Mqtt


@pytest.fixture
def guarded(tmp_path: Path, mosquitto: Any) -> Mosquitto:
    """A broker that asks for a name and a password."""
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "edge", "s3cret"], check=True)
    broker: Mosquitto = mosquitto("allow_anonymous false", f"password_file {passwords}")
    broker.start()
    return broker


def test_a_password(event: Any, guarded: Mosquitto, mqtt: Any, subscribe: Any, tmp_path: Path, wait_until: Any) -> None:
    consumer = subscribe(guarded.port, username="edge", password="s3cret")
    (tmp_path / "password").write_text("s3cret\n")
    sink = mqtt(guarded.port, username="edge", password_file=str(tmp_path / "password"))
    sink.send(event(0))
    wait_until(lambda: consumer.times() == [0])
    assert sink.notice() is None


def test_a_wrong_password_is_said_once_and_never_shown(
    guarded: Mosquitto, mqtt: Any, capfd: Any, wait_until: Any
) -> None:
    sink = mqtt(guarded.port, username="edge", password="tr0ub4dor")
    attempts: list[int] = []
    sink._client.on_pre_connect = lambda *_: attempts.append(1)
    wait_until(lambda: len(attempts) > 3)
    where = f"127.0.0.1:{guarded.port}"
    assert list(iter(sink.notice, None)) == [
        f"{where} refuses the connection (Not authorized); check the [mqtt] settings"
    ]
    assert "tr0ub4dor" not in "".join([repr(sink._settings), str(vars(sink)), *capfd.readouterr()])


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")  # paho's, after a failed handshake
def test_tls(event: Any, certificates: Path, mosquitto: Any, mqtt: Any, subscribe: Any, wait_until: Any) -> None:
    files = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
    broker = mosquitto("allow_anonymous true", *(f"{k} {certificates / v}" for k, v in files.items()))
    broker.start()
    trusting = {"tls": True, "ca_file": str(certificates / "ca.pem")}
    consumer = subscribe(broker.port, **trusting)
    sink = mqtt(broker.port, **trusting)
    sink.send(event(0))
    wait_until(lambda: consumer.times() == [0])
    assert sink.notice() is None
    stranger = mqtt(broker.port, tls=True, name="stranger")  # trusts the system's authorities only
    wait_until(lambda: stranger._trouble)
    stranger.close()
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.notice()


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
        ({"username": "\udce9"}, "username has characters that MQTT cannot send; leave them out"),
        ({"username": "u", "password": "\0"}, "password has characters that MQTT cannot send"),
        ({"ca_file": "x"}, "tls is off; set tls = true"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"prefix": "a/#"}, "prefix is 'a/#'; it needs words"),
        ({"prefix": "/a"}, "prefix is '/a'; it needs words"),
        ({"prefix": "$SYS/a"}, "it needs words"),
        ({"prefix": "a\0"}, "it needs words"),
        ({"discovery_prefix": ""}, "discovery_prefix is ''; it needs words"),
        ({"keepalive_s": 0}, "keepalive_s is 0; it needs 5 to 65535 s"),
        ({"queue_events": 0}, "queue_events is 0; it needs 1 or more"),
        ({"health_every_s": 0.0}, "health_every_s is 0; it needs 1 s or more"),
        ({"summary_every_s": 0.0}, "summary_every_s is 0; it needs 1 s or more"),
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
