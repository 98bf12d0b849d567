"""A roll-out to a service, which installs models the way `serkit update` does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serkit.benchmarks.mosquitto import Mosquitto
from serkit.benchmarks.simulated import SimulatedDevice
from serkit.edge.bundle import find_model, parse_bundle, read_bundle, read_signed
from serkit.edge.errors import ModelError
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.mqtt import Mqtt
from serkit.edge.store import ModelStore, digest
from serkit.edge.stored_models import service_models
from serkit.edge.stream import Recognizer

MODEL = find_model("default")
DATA, _ = read_signed(MODEL)
ID, VERSION = digest(DATA), read_bundle(MODEL).version


class FakeService:
    """A service's process number, and what it does about a new model when it is told to reload."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STATE_DIRECTORY", str(folder))
        monkeypatch.setattr("serkit.edge.stored_models.service_pid", os.getpid)
        self.store = ModelStore(folder / "models")
        self.healthy = True
        monkeypatch.setattr("serkit.edge.stored_models.reload_service", self.reload)

    def reload(self) -> bool:
        threading.Timer(0.3, self._load).start()
        return True

    def _load(self) -> None:
        self.store.begin()
        if self.healthy:
            self.store.accept()
        else:
            self.store.roll_back("it answers NaN")


@pytest.fixture
def bundle_of(made: Any, tmp_path: Path) -> Callable[..., tuple[bytes, str]]:
    """The default model as another version, signed by the tests' key or another one."""
    return lambda version, *key: read_signed(made(tmp_path / f"{version}.tflite", version, *key))


def test_a_service_installs_what_update_would(
    seen: Any, fleet: Any, bundle_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    service = FakeService(tmp_path / "state", monkeypatch)
    car = SimulatedDevice(MqttSettings(name="car"), 0.0)
    car.listener.recognizer = Recognizer(parse_bundle(DATA, MODEL, ""))
    sink = Mqtt(MqttSettings(host="127.0.0.1", port=fleet()._settings.port, name="car", updates=True))
    sink.start(car.listener)
    try:
        seen.all_report("car")
        assert seen.on("serkit/car/update")[0]["id"] == ID
        with fleet() as controller:
            better = bundle_of(VERSION + 5)
            assert controller.roll_out(*better).accepted == ["car"]
            wait_until(lambda: [a["verdict"] for a in seen.on("serkit/car/update")][-2:] == ["trial", "accepted"])
            assert controller.roll_out(*better).already == ["car"]
            reason = controller.roll_out(*bundle_of(VERSION + 4)).failed["car"]
            assert f"refused: {digest(bundle_of(VERSION + 4)[0])}.tflite: version" in reason
            assert f"is not newer than version {VERSION + 5}" in reason
            stranger = bundle_of(VERSION + 6, Ed25519PrivateKey.generate())
            assert "which this machine does not trust" in controller.roll_out(*stranger).failed["car"]
            service.healthy = False
            worse = bundle_of(VERSION + 7)
            assert controller.roll_out(*worse).failed == {"car": "rolled back: it answers NaN"}
            assert controller.roll_out(*worse).failed == {"car": "rolled back: it answers NaN"}  # it remembers
    finally:
        sink.close()
    assert service.store.state().active.version == VERSION + 5
    assert list(iter(sink.notice, None)) == []


def test_a_model_whose_test_nobody_survived_is_not_tried_again(
    bundle_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeService(tmp_path / "state", monkeypatch)
    models = service_models(Recognizer(read_bundle(MODEL)))
    assert models is not None
    better = bundle_of(VERSION + 5)
    with monkeypatch.context() as patched:
        patched.setattr("serkit.edge.update.probe", lambda *_, **__: sys.exit("out of memory"))
        with pytest.raises(SystemExit):
            models.install(*better)
    after = service_models(Recognizer(read_bundle(MODEL)))  # in the process that systemd started next
    assert after is not None
    answer = after.judged(digest(better[0]))
    assert answer is not None
    assert (answer.verdict, answer.reason) == ("refused", "its test did not end")
    with pytest.raises(ModelError, match=r"failed here before \(its test did not end\); --retry tries it again"):
        after.install(*better)
    newer = bundle_of(VERSION + 6)
    after.install(*newer)
    assert digest(newer[0]) not in ModelStore(tmp_path / "state" / "models").state().refused


#: The real service, which hears noise and does not take long to trust a model.
SERVICE = """
import sys, time
from pathlib import Path
import numpy as np
from serkit.edge import service
from serkit.edge.audio import Source
class Noise(Source):
    live = True
    def _blocks(self):
        while True:
            time.sleep(0.1)
            yield np.random.default_rng(0).normal(0, 0.01, self.sample_rate // 10).astype(np.float32)
service._TRIAL_S = service._QUIET_TRIAL_S = 4.0
service.Service(Path(sys.argv[1]), source=Noise, store=service.model_store()).run()
"""


def test_the_real_service_takes_a_model_over_and_says_so(
    seen: Any, fleet: Any, broker: Mosquitto, bundle_of: Any, tmp_path: Path, wait_until: Any
) -> None:
    (tmp_path / "c.toml").write_text(
        f"[mqtt]\nhost = '127.0.0.1'\nport = {broker.port}\nname = 'car'\nupdates = true\n"
    )
    folders = {"STATE_DIRECTORY": str(tmp_path / "state"), "RUNTIME_DIRECTORY": str(tmp_path)}
    with (tmp_path / "journal").open("wb") as journal:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, tmp_path / "c.toml"], env=os.environ | folders, stderr=journal
        )
    try:
        wait_until(lambda: seen.on("serkit/car/event") or process.poll() is not None, 90)
        with fleet() as controller:
            better = bundle_of(VERSION + 5)
            outcome = controller.roll_out(*better, patience_s=90)
            assert outcome.accepted == ["car"], (outcome, (tmp_path / "journal").read_text())

        def verdicts() -> list[str]:
            return [a["verdict"] for a in seen.on("serkit/car/update") if a["id"] == digest(better[0])]

        wait_until(lambda: verdicts()[-1:] == ["accepted"])  # the broker may tell the controller first
        assert verdicts()[0] == "trial"
    finally:
        process.terminate()
        process.wait()
    assert "is accepted on its self-test alone: nobody spoke" in (tmp_path / "journal").read_text()


def test_without_a_service_updates_is_said_to_do_nothing(broker: Mosquitto, seen: Any) -> None:
    car = SimulatedDevice(MqttSettings(name="car"), 0.0)
    sink = Mqtt(MqttSettings(host="127.0.0.1", port=broker.port, name="car", updates=True))
    sink.start(car.listener)
    sink.close()
    assert sink.notice() == "updates is on, but only the service, `serkit serve`, installs models"
