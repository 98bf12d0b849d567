from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt: pip install 'serkit[mqtt]'")
from serkit.benchmarks import fleet


@pytest.fixture
def sent() -> dict[str, Any]:
    def device(*times: float) -> dict[str, Any]:
        return {"sent": list(times), "began": 2, "gave_way": 0, "undelivered": []}

    return {"car": device(0.5, 1.0, 2.0), "van": device(1.5, 9.0)}


def test_lost_and_double_events_are_counted_apart(sent: dict[str, Any]) -> None:
    received = {"car": [(0.5, 0.51), (1.0, 1.01), (1.0, 3.0)], "van": [(1.5, 1.52), (9.0, 9.5)]}
    found = fleet._delivery(sent, received, 0.0, 8.0, back_s=12.0)
    assert (found["sent"], found["lost"], found["duplicates"]) == (4, 1, 1)
    assert found["median_ms"] == 10.0
    assert found["longest_s"] == 0.02
    assert fleet._delivery(sent, received, 8.0, 20.0, back_s=30.0)["lost"] == 0


def test_summaries_have_to_add_up(sent: dict[str, Any]) -> None:
    def summary(**times: int) -> bytes:
        return json.dumps({"answers": {a: {"seconds": 1, "times": n} for a, n in times.items()}}).encode()

    one, other = summary(calm=1), summary(calm=0, angry=1)
    seen = [("serkit/car/summary", one, 1.0), ("serkit/car/summary", other, 2.0), ("serkit/car/summary", one, 2.0)]
    consumer: Any = SimpleNamespace(seen=[*seen, ("serkit/van/summary", one, 1.0), ("serkit/van/health", b"{}", 1.0)])
    found = fleet._reports(sent, consumer)
    assert found["summaries"] == 3
    assert found["devices_whose_summaries_add_up"] == 1
    assert found["health"] == 1
