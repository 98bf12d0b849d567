"""A controller and simulated devices, on a real mosquitto."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serkit.benchmarks.mosquitto import Mosquitto
from serkit.edge.bundle import find_model, read_bundle, read_signed
from serkit.edge.cli import main
from serkit.edge.errors import ModelError, SettingsError
from serkit.edge.fleet import wave_sizes
from serkit.edge.roll_out import MODELS_TOPIC
from serkit.edge.store import digest

MODEL = find_model("default")
DATA, SIGNATURE = read_signed(MODEL)
ID, VERSION = digest(DATA), read_bundle(MODEL).version


@pytest.fixture
def serkit(broker: Mosquitto) -> Callable[..., Any]:
    """Runs the command against the broker."""

    def run(*arguments: str) -> Any:
        options = ["--host", "127.0.0.1", "--port", str(broker.port)]
        return CliRunner().invoke(main, ["fleet", *arguments, *options])

    return run


def test_status_and_mute(device: Any, seen: Any, serkit: Any, wait_until: Any) -> None:
    for name in ("car", "van"):
        device(name).hear()
    wait_until(lambda: seen.on("serkit/car/health") and seen.on("serkit/car/health")[-1]["windows"] == 1)
    gone = device("bus")
    seen.all_report("car", "van", "bus", what="health")
    gone.close()
    wait_until(lambda: seen.last("serkit/bus/availability") == "offline")
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


def test_a_roll_out_in_waves_stops_says_why_and_goes_on(device: Any, seen: Any, serkit: Any, subscribe: Any) -> None:
    names = [f"car-{i}" for i in range(8)]
    devices = {name: device(name) for name in names}
    seen.all_report(*names)
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
    retained = subscribe(seen.client.port)
    retained.close()
    assert not [t for t, *_ in retained.messages if t.endswith("/set") or t.startswith("serkit-fleet/models")]


def place_in(name: str) -> bytes:
    """What decides who is asked first."""
    return hashlib.sha256(f"{ID}/{name}".encode()).digest()


def test_a_device_that_says_nothing_is_a_failure(device: Any, seen: Any, fleet: Any) -> None:
    car = device("car")
    seen.all_report("car")
    car.models.install = lambda *_: threading.Event().wait(3)
    with fleet() as controller:
        outcome = controller.roll_out(DATA, SIGNATURE, waves="100%", patience_s=0.5)
    assert outcome.failed == {"car": "no verdict within 0.5 s"}
    assert outcome.stopped


def test_devices_that_are_away_or_take_no_updates_are_told_of(
    device: Any, seen: Any, fleet: Any, wait_until: Any
) -> None:
    device("closed", updates=False)
    gone = device("gone")
    seen.all_report("closed", "gone", what="health")
    gone.close()
    with fleet() as controller:
        wait_until(lambda: [d.online for d in controller.devices()] == [True, False])
        outcome = controller.roll_out(DATA, SIGNATURE)
    assert outcome.absent == ["closed", "gone"]
    assert not [*outcome.accepted, *outcome.failed, *outcome.left]


def test_what_a_controller_that_died_asked_for_is_taken_back(
    device: Any, seen: Any, fleet: Any, subscribe: Any, wait_until: Any
) -> None:
    car, van = device("car"), device("van")
    seen.all_report("car", "van")
    van.close()
    wait_until(lambda: seen.last("serkit/van/availability") == "offline")
    old = "f" * 16
    for name in ("car", "van"):
        seen.put(f"serkit/{name}/update/set", old, retain=True)
    seen.put(f"{MODELS_TOPIC}/{old}", b"x", retain=True)
    with fleet() as controller:
        assert controller.roll_out(DATA, SIGNATURE).accepted == ["car"]
    assert car.models.running().id == ID
    retained = subscribe(seen.client.port)
    retained.put("end", "")
    wait_until(lambda: retained.last("end") == "")
    retained.close()
    assert not [t for t, *_ in retained.messages if t.endswith("/set") or t.startswith(MODELS_TOPIC)]


def test_a_full_disk_is_a_reason(device: Any, seen: Any, fleet: Any) -> None:
    car = device("car")
    seen.all_report("car")

    def install(data: bytes, signature: str) -> None:
        raise OSError(28, "No space left on device")

    car.models.install = install
    with fleet() as controller:
        assert controller.roll_out(DATA, SIGNATURE).failed == {"car": "refused: [Errno 28] No space left on device"}


def test_a_broker_that_restarts_during_a_wave(device: Any, seen: Any, fleet: Any, broker: Mosquitto) -> None:
    car = device("car")
    seen.all_report("car")
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


def test_a_model_too_large_for_devices_is_not_sent(fleet: Any) -> None:
    with fleet() as controller, pytest.raises(ModelError, match="4194304 are the most"):
        controller.roll_out(bytes(4 * 2**20), SIGNATURE)


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
