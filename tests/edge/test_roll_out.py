"""A model's way to a simulated device, through a real mosquitto."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serkit.benchmarks.simulated import SimulatedModels
from serkit.edge.bundle import find_model, read_signed
from serkit.edge.errors import SettingsError
from serkit.edge.roll_out import MODELS_TOPIC, Answer, pack, read_answer
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.store import digest

DATA, SIGNATURE = read_signed(find_model("default"))
ID = digest(DATA)


def test_a_model_is_fetched_verified_and_reported(device: Any, seen: Any, wait_until: Any) -> None:
    car = device("car")
    seen.all_report("car")
    seen.put("serkit/car/update/set", ID, retain=True)
    seen.put(f"{MODELS_TOPIC}/{ID}", pack(DATA, SIGNATURE), retain=True)  # it does not matter what is there first
    wait_until(lambda: seen.on("serkit/car/update")[-1]["id"] == ID)
    answer = read_answer(json.dumps(seen.on("serkit/car/update")[-1]).encode())
    assert answer.verdict == "accepted"
    assert car.models.running() == answer
    assert answer.model == "serkit-dynamic"
    assert car.sink.notice() is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (pack(DATA[:-1] + b"x", SIGNATURE), "another model than its topic says"),
        (DATA, "not a signature and a model"),
        (b"TFL3\0\n" * 5, "not a signature and a model"),
        (b"\n" * 9, "another model than its topic says"),
        (pack(DATA, SIGNATURE.replace("version", "Version").swapcase()), "signature file is damaged"),
        (pack(DATA, "a\nb\nc\nd\n"), "signature file is damaged"),
        (b"x" * (2**20 + 1), "a message of 1048577 bytes; 1048576 are the most"),
    ],
)
def test_what_is_no_model_is_refused(
    device: Any, seen: Any, payload: bytes, reason: str, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    monkeypatch.setattr("serkit.edge.roll_out.LARGEST_BYTES", 2**20)
    car = device("car")
    seen.all_report("car")
    seen.put(f"{MODELS_TOPIC}/{ID}", payload, retain=True)
    seen.put("serkit/car/update/set", ID, retain=True)
    wait_until(lambda: reason in seen.on("serkit/car/update")[-1]["reason"])
    assert seen.on("serkit/car/update")[-1]["verdict"] == "refused"
    assert car.models.running().version == 1


def test_odd_commands_give_one_status_line(device: Any, seen: Any, wait_until: Any) -> None:
    car = device("car")
    seen.all_report("car")
    for odd in (b"\xff\0", b"../../etc", b"{}", ID.upper().encode(), b"0" * 100_000):
        seen.put("serkit/car/update/set", odd)
    seen.put(f"{MODELS_TOPIC}/{ID}", pack(DATA, SIGNATURE))  # never asked for
    seen.put("serkit/car/update/set", "")
    seen.put("serkit/car/mute/set", "ON")
    wait_until(lambda: car.listener.muted)
    told = list(iter(car.sink.notice, None))
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


def test_a_trial_that_fails_later_was_rolled_back(device: Any, seen: Any, wait_until: Any) -> None:
    car = device("car", updates=False)
    car.sink.close()
    models = OnTrial()
    car.sink = type(car.sink)(
        MqttSettings(host="127.0.0.1", port=car.sink._settings.port, name="van", updates=True), models
    )
    car.start()
    seen.all_report("van")
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
