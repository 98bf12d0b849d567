"""Simulated devices tell of themselves, through a real mosquitto."""

from __future__ import annotations

from typing import Any


def test_health_says_how_a_device_does_and_nothing_that_was_heard(device: Any, seen: Any, wait_until: Any) -> None:
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
    assert {topic for topic, *_ in seen.messages} == {
        f"serkit/car/{t}" for t in ("availability", "health", "mute", "update")
    }


def test_a_status_is_told_at_once(event: Any, device: Any, seen: Any, wait_until: Any) -> None:
    car = device("car", health_every_s=3600.0)
    seen.all_report("car", what="health")
    car.sink.send(event(1, "status", message="the microphone is lost"))
    wait_until(lambda: len(seen.on("serkit/car/health")) == 2)
    assert [h["status"] for h in seen.on("serkit/car/health")] == [None, "the microphone is lost"]


def test_a_summary_adds_up_and_the_rest_comes_at_the_end(event: Any, device: Any, seen: Any, wait_until: Any) -> None:
    car = device("car", events=False, summary_every_s=3600.0)
    seen.all_report("car", what="health")
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


def test_what_is_not_switched_on_is_not_sent(device: Any, seen: Any, wait_until: Any) -> None:
    car = device("car", updates=False, health_every_s=None, events=False, discovery=True)
    wait_until(lambda: seen.last("serkit/car/availability") == "online")
    car.hear()
    car.close()
    wait_until(lambda: seen.last("serkit/car/availability") == "offline")
    config = seen.on("homeassistant/device/serkit-car/config")[0]
    assert set(config["components"]) == {"mute"}
    assert {t.rpartition("/")[2] for t, *_ in seen.messages} == {"availability", "mute", "config"}
