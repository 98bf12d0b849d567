"""Devices, a controller and a real mosquitto, on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt: pip install 'serkit[mqtt]'")
from serkit.benchmarks.mosquitto import Mosquitto, program
from serkit.benchmarks.simulated import SimulatedDevice, SimulatedModels
from serkit.convert.bundle import write_bundle
from serkit.edge.bundle import find_model, parse_bundle, read_bundle, read_signed
from serkit.edge.cli import main
from serkit.edge.errors import ModelError, SettingsError
from serkit.edge.events import Event
from serkit.edge.fleet import Fleet, wave_sizes
from serkit.edge.roll_out import MODELS_TOPIC, Answer, pack, read_answer
from serkit.edge.signature import signing_key
from serkit.edge.sinks.broker import MqttSettings, new_client
from serkit.edge.sinks.mqtt import Mqtt
from serkit.edge.store import ModelStore, digest
from serkit.edge.stored_models import service_models
from serkit.edge.stream import Recognizer

pytestmark = pytest.mark.skipif(program() is None, reason="needs a broker: `sudo apt install mosquitto`")
MODEL = find_model("default")
DATA, SIGNATURE = read_signed(MODEL)
ID, VERSION = digest(DATA), read_bundle(MODEL).version
DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "fleet"


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this should have happened by now"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serkit.edge.sinks.mqtt._MIN_WAIT_S", 0.05)
    monkeypatch.setattr("serkit.edge.roll_out._WATCH_S", 0.05)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


class Seen:
    """All that is published."""

    def __init__(self, settings: MqttSettings) -> None:
        self.messages: list[tuple[str, bytes]] = []
        ready = threading.Event()
        self.client = new_client(settings)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = lambda _, __, m: self.messages.append((m.topic, bytes(m.payload)))
        self.client.connect(*settings.address)
        self.client.loop_start()
        assert ready.wait(30)

    def on(self, topic: str) -> list[Any]:
        return [json.loads(payload) if payload else None for t, payload in list(self.messages) if t == topic]

    def put(self, topic: str, payload: bytes | str, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(30)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client.on_connect = self.client.on_subscribe = self.client.on_message = None


@pytest.fixture
def seen(broker: Mosquitto) -> Iterator[Seen]:
    seen = Seen(MqttSettings(host="127.0.0.1", port=broker.port))
    yield seen
    seen.close()


@pytest.fixture
def device(broker: Mosquitto) -> Iterator[Callable[..., SimulatedDevice]]:
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
    return lambda: Fleet(MqttSettings(host="127.0.0.1", port=broker.port))


@pytest.fixture
def serkit(broker: Mosquitto) -> Callable[..., Any]:
    """Runs the command against the broker."""

    def run(*arguments: str) -> Any:
        options = ["--host", "127.0.0.1", "--port", str(broker.port)]
        return CliRunner().invoke(main, ["fleet", *arguments, *options])

    return run


def event(i: int, answer: str = "calm", **fields: Any) -> Event:
    kind: Any = answer if answer in ("silence", "status") else "emotion"
    return Event(time_s=float(i), kind=kind, emotion=answer if kind == "emotion" else None, model="m", **fields)


def notices(device: SimulatedDevice) -> list[str]:
    return list(iter(device.sink.notice, None))


def all_report(seen: Seen, names: list[str], what: str = "update") -> None:
    wait_until(lambda: all(seen.on(f"serkit/{name}/{what}") for name in names))


def test_health_says_how_a_device_does_and_nothing_that_was_heard(device: Any, seen: Seen) -> None:
    car = device("car", events=False)
    for _ in range(3):
        car.hear()
    wait_until(lambda: any(h["windows"] == 3 for h in seen.on("serkit/car/health")))
    health = seen.on("serkit/car/health")[-1]
    assert set(health) == {
        "schema", "time", "serkit", "model", "version", "uptime_s", "audio_s", "dropped_s", "windows", "hop_s",
        "latency_ms", "muted", "status",
    }  # fmt: skip
    car.listener.mute()
    car.hear()
    wait_until(lambda: seen.on("serkit/car/health")[-1]["muted"])
    assert {topic for topic, _ in seen.messages} == {
        f"serkit/car/{t}" for t in ("availability", "health", "mute", "update")
    }


def test_a_status_is_told_at_once(device: Any, seen: Seen) -> None:
    car = device("car", health_every_s=3600.0)
    all_report(seen, ["car"], "health")
    car.sink.send(event(1, "status", message="the microphone is lost"))
    wait_until(lambda: seen.on("serkit/car/health")[-1]["status"] == "the microphone is lost")


def test_a_summary_adds_up_and_the_rest_comes_at_the_end(device: Any, seen: Seen) -> None:
    car = device("car", events=False, summary_every_s=3600.0)
    all_report(seen, ["car"], "health")
    for i, answer in enumerate(("calm", "calm", "angry", "silence", "angry"), 1):
        car.sink.send(event(i, answer, probabilities={"calm": 0.5}))
    car.close()
    wait_until(lambda: seen.on("serkit/car/summary"))
    (summary,) = seen.on("serkit/car/summary")
    assert set(summary) == {"schema", "time", "model", "seconds", "answers"}
    assert summary["seconds"] == 5
    assert summary["answers"] == {
        "angry": {"seconds": 2, "times": 2},
        "calm": {"seconds": 2, "times": 1},
        "silence": {"seconds": 1, "times": 1},
    }


def test_what_is_not_switched_on_is_not_sent(device: Any, seen: Seen) -> None:
    car = device("car", updates=False, health_every_s=None, events=False, discovery=True)
    wait_until(lambda: ("serkit/car/availability", b"online") in seen.messages)
    car.hear()
    car.close()
    wait_until(lambda: ("serkit/car/availability", b"offline") in seen.messages)
    config = seen.on("homeassistant/device/serkit-car/config")[0]
    assert set(config["components"]) == {"mute"}
    assert {t.rpartition("/")[2] for t, _ in seen.messages} == {"availability", "mute", "config"}


@pytest.mark.parametrize("name", ["health_every_s", "summary_every_s"])
def test_intervals_that_make_no_sense(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is 0; it needs 1 s or more"):
        MqttSettings(**{name: 0.0})


def test_a_model_is_fetched_verified_and_reported(device: Any, seen: Seen) -> None:
    car = device("car")
    all_report(seen, ["car"])
    seen.put("serkit/car/update/set", ID, retain=True)
    seen.put(f"{MODELS_TOPIC}/{ID}", pack(DATA, SIGNATURE), retain=True)  # it does not matter what is there first
    wait_until(lambda: seen.on("serkit/car/update")[-1]["id"] == ID)
    answer = read_answer(json.dumps(seen.on("serkit/car/update")[-1]).encode())
    assert answer.verdict == "accepted"
    assert car.models.running() == answer
    assert answer.model == "serkit-dynamic"
    assert notices(car) == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (pack(DATA[:-1] + b"x", SIGNATURE), "another model than its topic says"),
        (DATA, "not a signature and a model"),
        (b"\n" * 9, "another model than its topic says"),
        (pack(DATA, SIGNATURE.replace("version", "Version").swapcase()), "signature file is damaged"),
        (pack(DATA, "a\nb\nc\nd\n"), "signature file is damaged"),
        (b"x" * (2**20 + 1), "a message of 1048577 bytes; 1048576 are the most"),
    ],
)
def test_what_is_no_model_is_refused(
    device: Any, seen: Seen, payload: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serkit.edge.roll_out.LARGEST_BYTES", 2**20)
    car = device("car")
    all_report(seen, ["car"])
    seen.put(f"{MODELS_TOPIC}/{ID}", payload, retain=True)
    seen.put("serkit/car/update/set", ID, retain=True)
    wait_until(lambda: reason in seen.on("serkit/car/update")[-1]["reason"])
    assert seen.on("serkit/car/update")[-1]["verdict"] == "refused"
    assert car.models.running().version == 1


def test_odd_commands_give_one_status_line(device: Any, seen: Seen) -> None:
    car = device("car")
    all_report(seen, ["car"])
    for odd in (b"\xff\0", b"../../etc", b"{}", ID.upper().encode(), b"0" * 100_000):
        seen.put("serkit/car/update/set", odd)
    seen.put(f"{MODELS_TOPIC}/{ID}", pack(DATA, SIGNATURE))  # never asked for
    seen.put("serkit/car/update/set", "")
    seen.put("serkit/car/mute/set", "ON")
    wait_until(lambda: car.listener.muted)
    told = notices(car)
    assert len(told) == 1
    assert "is no id of a model; use `serkit fleet roll-out`" in told[0]
    assert len(seen.on("serkit/car/update")) == 1


class OnTrial(SimulatedModels):
    """Models whose trial the test ends."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Answer | None = None

    def judged(self, id: str) -> Answer | None:
        return self.verdict

    def install(self, data: bytes, signature: str) -> None:
        self.verdict = Answer(id=ID, model="better", version=2, verdict="trial")


def test_a_trial_that_fails_later_was_rolled_back(device: Any, seen: Seen) -> None:
    car = device("car", updates=False)
    car.sink.close()
    models = OnTrial()
    car.sink = type(car.sink)(
        MqttSettings(host="127.0.0.1", port=car.sink._settings.port, name="van", updates=True), models
    )
    car.start()
    all_report(seen, ["van"])
    seen.put(f"{MODELS_TOPIC}/{ID}", pack(DATA, SIGNATURE), retain=True)
    seen.put("serkit/van/update/set", ID)
    wait_until(lambda: seen.on("serkit/van/update") and seen.on("serkit/van/update")[-1]["verdict"] == "trial")
    models.verdict = Answer(id=ID, verdict="refused", reason="it answers\nNaN")
    wait_until(lambda: seen.on("serkit/van/update")[-1]["verdict"] == "rolled back")
    assert seen.on("serkit/van/update")[-1]["reason"] == "it answers NaN"
    assert seen.on("serkit/van/update")[-1]["version"] == 2


def test_answers_are_checked_as_well() -> None:
    answer = Answer(id=ID, model="é", version=2, verdict="accepted")
    assert read_answer(answer.to_json().encode()) == answer
    for odd in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"id": 1, "verdict": "accepted"}',
        b'{"id": "1", "verdict": "x"}',
    ):
        with pytest.raises(SettingsError, match="update: "):
            read_answer(odd)


def test_status_and_mute(device: Any, seen: Seen, serkit: Any) -> None:
    for name in ("car", "van"):
        device(name).hear()
    wait_until(lambda: seen.on("serkit/car/health") and seen.on("serkit/car/health")[-1]["windows"] == 1)
    gone = device("bus")
    all_report(seen, ["car", "van", "bus"], "health")
    gone.close()
    wait_until(lambda: (b"offline") in [p for t, p in seen.messages if t == "serkit/bus/availability"])
    seen.put("serkit/odd/health", b'{"windows": NaN}', retain=True)
    huge = b'{"version": 1%s, "time": 1e308, "audio_s": true, "model": ["x"], "status": "a\\u001b[2Jb"}' % (b"0" * 400)
    seen.put("serkit/odd2/health", huge, retain=True)
    seen.put("serkit/new/health", b'{"model": "m", "version": 202611211304}', retain=True)
    seen.put("serkit/evil\u202e/availability", "online", retain=True)
    shown = serkit("status")
    assert shown.exit_code == 0, shown.output
    assert "2 of 6 devices are connected" in shown.stderr
    lines = shown.stdout.splitlines()
    assert " ".join(lines[0].split()) == "device connected muted model version heard dropped latency told status"
    assert [line.split()[:5] for line in lines[1:]] == [
        ["bus", "no", "no", "simulated", "1"],
        ["car", "yes", "no", "simulated", "1"],
        ["new", "no", "-", "m", "202611211304"],
        ["odd", "no", "-", "-", "-"],
        ["odd2", "no", "-", "-", "-"],
        ["van", "yes", "no", "simulated", "1"],
    ]
    rows = [json.loads(line) for line in serkit("status", "--json").stdout.splitlines()]
    assert [(r["name"], r["online"]) for r in rows] == [
        ("bus", False),
        ("car", True),
        ("new", False),
        ("odd", False),
        ("odd2", False),
        ("van", True),
    ]
    assert rows[1]["health"]["windows"] == 1

    muted = serkit("mute", "car")
    assert (muted.exit_code, muted.stdout) == (0, "1 of 1 devices are muted\n")
    rows = [json.loads(line) for line in serkit("status", "--json").stdout.splitlines()]
    assert [r["muted"] for r in rows] == [False, True, None, None, None, False]
    assert rows[3]["health"] is None
    assert serkit("unmute", "--all").stdout == "2 of 2 devices are no longer muted\n"
    failed = serkit("mute", "car", "bus")
    assert failed.exit_code == 1
    assert failed.stdout == "1 of 2 devices are muted\n"
    assert failed.stderr == "serkit: bus did not confirm; it is not connected\n"
    assert "no device 'lorry' reports to this broker" in serkit("mute", "lorry").stderr
    assert serkit("mute").exit_code == 2
    assert serkit("mute", "car", "--all").exit_code == 2


def test_a_roll_out_in_waves_stops_says_why_and_goes_on(device: Any, seen: Seen, serkit: Any) -> None:
    names = [f"car-{i}" for i in range(8)]
    devices = {name: device(name) for name in names}
    all_report(seen, names)
    order = sorted(names, key=place_in)
    for name in order[2:4]:
        devices[name].models.fails = True
    roll_out = ("roll-out", str(MODEL), "--waves", "1,50%,100%", "--json")
    stopped = serkit(*roll_out, "--stop-at", "2")
    assert stopped.exit_code == 1
    outcome = json.loads(stopped.stdout)
    assert outcome["stopped"]
    assert set(outcome["failed"]) == set(order[2:4])
    assert outcome["failed"][order[2]] == "refused: serkit-dynamic fails its self-test (simulated)"
    assert set(outcome["left"]) >= set(order[4:])
    assert all(devices[name].models.running().version == 1 for name in order[4:])
    assert f"{order[2]}: refused: serkit-dynamic fails its self-test (simulated)" in stopped.stderr
    assert "wave 1 of 3: 1 of 1 accepted" in stopped.stderr
    assert "stopped: 2 failed, 2 are the limit" in stopped.stderr
    assert devices[order[0]].models.running().id == ID

    still = json.loads(
        serkit(*roll_out, "--stop-at", "3").stdout
    )  # those that fail do so again, of an old answer or not
    assert set(still["failed"]) == set(order[2:4])
    assert not still["left"]
    for name in order[2:4]:
        devices[name].models.fails = False
    rest = serkit(*roll_out)
    assert rest.exit_code == 0, rest.output
    outcome = json.loads(rest.stdout)
    assert set(outcome["accepted"]) == set(order[2:4])
    assert len(outcome["already"]) == 6
    again = serkit("roll-out", str(MODEL))
    assert again.exit_code == 0
    assert again.stdout == (
        f"0 devices run serkit-dynamic version {VERSION} now, 8 did before, 0 failed, 0 are left; "
        "0 are not connected or take no updates\n"
    )
    retained = Seen(MqttSettings(host="127.0.0.1", port=seen.client.port))
    retained.close()
    assert not [t for t, _ in retained.messages if t.endswith("/set") or t.startswith("serkit-fleet/models")]


def place_in(name: str) -> bytes:
    """What decides who is asked first."""
    return hashlib.sha256(f"{ID}/{name}".encode()).digest()


def test_a_device_that_says_nothing_is_a_failure(device: Any, seen: Seen, fleet: Any) -> None:
    car = device("car")
    all_report(seen, ["car"])
    car.models.install = lambda *_: threading.Event().wait(3)
    with fleet() as controller:
        outcome = controller.roll_out(DATA, SIGNATURE, waves="100%", patience_s=0.5)
    assert outcome.failed == {"car": "no verdict within 0.5 s"}
    assert outcome.stopped


def test_devices_that_are_away_or_take_no_updates_are_told_of(device: Any, seen: Seen, fleet: Any) -> None:
    device("closed", updates=False)
    gone = device("gone")
    all_report(seen, ["closed", "gone"], "health")
    gone.close()
    with fleet() as controller:
        wait_until(lambda: [d.online for d in controller.devices()] == [True, False])
        outcome = controller.roll_out(DATA, SIGNATURE)
    assert outcome.absent == ["closed", "gone"]
    assert not [*outcome.accepted, *outcome.failed, *outcome.left]


def test_what_a_controller_that_died_asked_for_is_taken_back(device: Any, seen: Seen, fleet: Any) -> None:
    car, van = device("car"), device("van")
    all_report(seen, ["car", "van"])
    van.close()
    wait_until(lambda: ("serkit/van/availability", b"offline") in seen.messages)
    old = "f" * 16
    for name in ("car", "van"):
        seen.put(f"serkit/{name}/update/set", old, retain=True)
    seen.put(f"{MODELS_TOPIC}/{old}", b"x", retain=True)
    with fleet() as controller:
        assert controller.roll_out(DATA, SIGNATURE).accepted == ["car"]
    assert car.models.running().id == ID
    retained = Seen(MqttSettings(host="127.0.0.1", port=seen.client.port))
    retained.put("end", "")
    wait_until(lambda: ("end", b"") in retained.messages)
    retained.close()
    assert not [t for t, _ in retained.messages if t.endswith("/set") or t.startswith(MODELS_TOPIC)]


def test_a_full_disk_is_a_reason(device: Any, seen: Seen, fleet: Any) -> None:
    car = device("car")
    all_report(seen, ["car"])

    def install(data: bytes, signature: str) -> None:
        raise OSError(28, "No space left on device")

    car.models.install = install
    with fleet() as controller:
        assert controller.roll_out(DATA, SIGNATURE).failed == {"car": "refused: [Errno 28] No space left on device"}


def test_a_broker_that_restarts_during_a_wave(device: Any, seen: Seen, fleet: Any, broker: Mosquitto) -> None:
    car = device("car")
    all_report(seen, ["car"])
    install, begun, goes_on = car.models.install, threading.Event(), threading.Event()

    def slowly(data: bytes, signature: str) -> None:
        begun.set()
        goes_on.wait(30)
        install(data, signature)

    car.models.install = slowly

    def restart() -> None:
        begun.wait(30)
        broker.end()
        broker.start()
        goes_on.set()

    restarting = threading.Thread(target=restart)
    with fleet() as controller:
        restarting.start()
        outcome = controller.roll_out(DATA, SIGNATURE, patience_s=30)
    restarting.join()
    assert outcome.accepted == ["car"]


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


def bundle_of(version: int, folder: Path, key: Any = None) -> tuple[bytes, str]:
    """The default model as another version, signed by the tests' key or another one."""
    bundle = read_bundle(MODEL)
    path = folder / f"{version}.tflite"
    info = bundle.info | {"version": version}
    write_bundle(path, bundle.data[: bundle.info["size_bytes"]], info, "", key or signing_key())
    return read_signed(path)


def test_a_service_installs_what_update_would(
    seen: Seen, fleet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = FakeService(tmp_path / "state", monkeypatch)
    car = SimulatedDevice(MqttSettings(name="car"), 0.0)
    car.listener.recognizer = Recognizer(parse_bundle(DATA, MODEL, ""))
    sink = Mqtt(MqttSettings(host="127.0.0.1", port=fleet()._settings.port, name="car", updates=True))
    sink.start(car.listener)
    try:
        all_report(seen, ["car"])
        assert seen.on("serkit/car/update")[0]["id"] == ID
        with fleet() as controller:
            better = bundle_of(VERSION + 5, tmp_path)
            assert controller.roll_out(*better).accepted == ["car"]
            assert seen.on("serkit/car/update")[-2]["verdict"] == "trial"
            assert controller.roll_out(*better).already == ["car"]
            reason = controller.roll_out(*bundle_of(VERSION + 4, tmp_path)).failed["car"]
            assert f"refused: {digest(bundle_of(VERSION + 4, tmp_path)[0])}.tflite: version" in reason
            assert f"is not newer than version {VERSION + 5}" in reason
            stranger = bundle_of(VERSION + 6, tmp_path, Ed25519PrivateKey.generate())
            assert "which this machine does not trust" in controller.roll_out(*stranger).failed["car"]
            service.healthy = False
            worse = bundle_of(VERSION + 7, tmp_path)
            assert controller.roll_out(*worse).failed == {"car": "rolled back: it answers NaN"}
            assert controller.roll_out(*worse).failed == {"car": "rolled back: it answers NaN"}  # it remembers
    finally:
        sink.close()
    assert service.store.state().active.version == VERSION + 5
    assert list(iter(sink.notice, None)) == []


def test_a_model_whose_test_nobody_survived_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeService(tmp_path / "state", monkeypatch)
    models = service_models(Recognizer(read_bundle(MODEL)))
    assert models is not None
    better = bundle_of(VERSION + 5, tmp_path)
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
    newer = bundle_of(VERSION + 6, tmp_path)
    after.install(*newer)
    assert digest(newer[0]) not in ModelStore(tmp_path / "state" / "models").state().refused


def test_a_model_too_large_for_devices_is_not_sent(fleet: Any) -> None:
    with fleet() as controller, pytest.raises(ModelError, match="4194304 are the most"):
        controller.roll_out(bytes(4 * 2**20), SIGNATURE)


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
    seen: Seen, fleet: Any, broker: Mosquitto, tmp_path: Path
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
            better = bundle_of(VERSION + 5, tmp_path)
            outcome = controller.roll_out(*better, patience_s=90)
            assert outcome.accepted == ["car"], (outcome, (tmp_path / "journal").read_text())
        verdicts = [a["verdict"] for a in seen.on("serkit/car/update") if a["id"] == digest(better[0])]
        assert verdicts[0] == "trial"
        assert verdicts[-1] == "accepted"
    finally:
        process.terminate()
        process.wait()
    assert "is accepted on its self-test alone: nobody spoke" in (tmp_path / "journal").read_text()


def test_without_a_service_updates_is_said_to_do_nothing(broker: Mosquitto, seen: Seen) -> None:
    car = SimulatedDevice(MqttSettings(name="car"), 0.0)
    sink = Mqtt(MqttSettings(host="127.0.0.1", port=broker.port, name="car", updates=True))
    sink.start(car.listener)
    sink.close()
    assert sink.notice() == "updates is on, but only the service, `serkit serve`, installs models"


def test_what_makes_no_sense_is_said(serkit: Any, tmp_path: Path, broker: Mosquitto) -> None:
    assert (
        "waves are '10%,x'; numbers of devices and shares" in serkit("roll-out", str(MODEL), "--waves", "10%,x").stderr
    )
    (tmp_path / "m.tflite").write_bytes(b"x")
    assert "no signature beside it" in serkit("roll-out", str(tmp_path / "m.tflite")).stderr
    broker.end(signal.SIGKILL)
    failed = serkit("status")
    assert failed.exit_code == 1
    assert "cannot be reached ([Errno 111] Connection refused); check --host and --port" in failed.stderr


@pytest.mark.parametrize(
    ("waves", "n", "sizes"),
    [("1,10%,100%", 500, [1, 50, 500]), ("100%", 3, [3]), ("5,1", 9, [1, 5]), ("1,10%", 0, []), ("900", 7, [7])],
)
def test_wave_sizes(waves: str, n: int, sizes: list[int]) -> None:
    assert wave_sizes(waves, n) == sizes


@pytest.mark.parametrize("waves", ["", "0", "1,,2", "101%", "ten", "-1", "1.5%", "0%"])
def test_waves_that_make_no_sense(waves: str) -> None:
    with pytest.raises(SettingsError, match="waves are"):
        wave_sizes(waves, 5)


def _certificates(folder: Path) -> None:
    """A certificate authority in ca.pem, and broker.pem and broker.key for 127.0.0.1."""
    name = "/CN=serkit test"
    openssl = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    own = ["-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-addext", "keyUsage=critical,keyCertSign"]
    subprocess.run([*openssl, "-x509", "-subj", name, *own], check=True, capture_output=True)
    signed = ["-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
    leaf = ["-keyout", folder / "broker.key", "-out", folder / "broker.pem", "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run([*openssl, "-x509", "-subj", "/CN=broker", *signed, *leaf], check=True, capture_output=True)


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Mosquitto]:
    """The broker of deploy/fleet, where only the places are others."""
    lines = (DEPLOY / "mosquitto.conf").read_text().splitlines()
    places = {"password_file": "passwords", "acl_file": "acl", "certfile": "broker.pem", "keyfile": "broker.key"}
    kept = [
        f"{line.split()[0]} {tmp_path / places[line.split()[0]]}" if line.split()[0] in places else line
        for line in lines
        if line and not line.startswith(("#", "listener ", "persistence_location "))
    ]
    _certificates(tmp_path)
    (tmp_path / "acl").write_text((DEPLOY / "acl").read_text())
    (tmp_path / "acl").chmod(0o600)
    (tmp_path / "passwords").touch(0o600)
    for name in ("controller", "collector", "car", "van"):
        subprocess.run(["mosquitto_passwd", "-b", tmp_path / "passwords", name, f"{name}'s"], check=True)
    with Mosquitto(tmp_path, kept) as broker:
        yield broker


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_deployed_broker_lets_everybody_speak_for_themselves_alone(
    deployed: Mosquitto, device: Any, tmp_path: Path
) -> None:
    def user(name: str) -> dict[str, Any]:
        secure = {"tls": True, "ca_file": str(tmp_path / "ca.pem")}
        return {"port": deployed.port, "username": name, "password": f"{name}'s", **secure}

    collector = Seen(MqttSettings(host="127.0.0.1", **user("collector")))
    spy = Seen(MqttSettings(host="127.0.0.1", **user("van")))
    car = device("car", summary_every_s=3600.0, **user("car"))
    forger = device("bus", **user("van"))
    try:
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
        assert not [topic for topic, _ in collector.messages if "bus" in topic]
        assert {topic.split("/")[0] for topic, _ in spy.messages} <= {"serkit-fleet"}
        stranger = new_client(MqttSettings(host="127.0.0.1", **{**user("car"), "password": "wrong"}))
        refused = threading.Event()
        stranger.on_connect = lambda *args: refused.set() if args[3].is_failure else None
        stranger.connect("127.0.0.1", deployed.port)
        stranger.loop_start()
        assert refused.wait(30)
        stranger.loop_stop()
    finally:
        collector.close()
        spy.close()
        forger.close()
