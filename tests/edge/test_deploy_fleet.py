from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from serkit.benchmarks.mosquitto import Mosquitto
from serkit.edge.bundle import find_model, read_signed
from serkit.edge.fleet import Fleet
from serkit.edge.roll_out import MODELS_TOPIC, pack
from serkit.edge.sinks.broker import MqttSettings, new_client
from serkit.edge.store import digest

DEPLOY = Path(__file__).parents[2] / "deploy" / "fleet"
DATA, SIGNATURE = read_signed(find_model("default"))
ID = digest(DATA)


@pytest.fixture
def deployed(certificates: Path, mosquitto: Any) -> Mosquitto:
    """The broker of deploy/fleet, where only the places are others.

    As in Debian's own configuration, where its persistence lies is said before, and may not be said twice.
    """
    lines = (DEPLOY / "mosquitto.conf").read_text().splitlines()
    places = {"password_file": "passwords", "acl_file": "acl", "certfile": "broker.pem", "keyfile": "broker.key"}
    kept = [
        f"{line.split()[0]} {certificates / places[line.split()[0]]}" if line.split()[0] in places else line
        for line in lines
        if line and not line.startswith(("#", "listener "))
    ]
    (certificates / "acl").write_text((DEPLOY / "acl").read_text())
    (certificates / "acl").chmod(0o600)
    (certificates / "passwords").touch(0o600)
    for name in ("controller", "collector", "car", "van"):
        subprocess.run(["mosquitto_passwd", "-b", certificates / "passwords", name, f"{name}'s"], check=True)
    broker: Mosquitto = mosquitto(*kept)
    broker.start()
    return broker


def test_the_deployed_broker_lets_everybody_speak_for_themselves_alone(
    deployed: Mosquitto, device: Any, subscribe: Any, certificates: Path, wait_until: Any
) -> None:
    def user(name: str) -> dict[str, Any]:
        secure = {"tls": True, "ca_file": str(certificates / "ca.pem")}
        return {"port": deployed.port, "username": name, "password": f"{name}'s", **secure}

    collector = subscribe(**user("collector"))
    spy = subscribe(**user("van"))
    car = device("car", summary_every_s=3600.0, **user("car"))
    device("bus", **user("van"))
    wait_until(lambda: collector.on("serkit/car/update"))
    car.hear()
    with Fleet(MqttSettings(host="127.0.0.1", **user("controller"))) as fleet:
        assert [d.name for d in fleet.devices()] == ["car"]
        assert fleet.mute(["car"]) == []
        assert car.listener.muted
        assert fleet.roll_out(DATA, SIGNATURE, waves="100%").accepted == ["car"]
    spy.put("serkit/car/mute/set", "OFF")
    spy.put(f"{MODELS_TOPIC}/{ID}", pack(DATA, SIGNATURE))
    car.close()
    wait_until(lambda: collector.on("serkit/car/summary"))
    assert car.listener.muted
    assert collector.on("serkit/car/event")
    assert not [topic for topic, *_ in collector.messages if "bus" in topic]
    assert {topic.split("/")[0] for topic, *_ in spy.messages} <= {"serkit-fleet"}
    stranger = new_client(MqttSettings(host="127.0.0.1", **{**user("car"), "password": "wrong"}))
    refused = threading.Event()
    stranger.on_connect = lambda *args: refused.set() if args[3].is_failure else None
    stranger.connect("127.0.0.1", deployed.port)
    stranger.loop_start()
    assert refused.wait(30)
    stranger.loop_stop()
