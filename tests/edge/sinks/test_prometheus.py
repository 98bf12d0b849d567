from __future__ import annotations

import socket
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serkit import __version__
from serkit.edge.config import Config
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.listener import Listener
from serkit.edge.sinks.prometheus import Prometheus, PrometheusSettings


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def sink(listener: Listener, port: int) -> Iterator[Prometheus]:
    sink = Prometheus(PrometheusSettings(port=port))
    sink.start(listener)
    yield sink
    sink.close()
    sink.close()


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Sample name and its labels' values to value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, "|".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_before_anything_was_heard(sink: Prometheus, port: int) -> None:
    samples = scrape(port)
    assert samples["serkit_build_info", f"tiny|{__version__}"] == 1
    assert samples["serkit_windows_total", ""] == 0
    assert samples["serkit_muted", ""] == 0
    assert not any(name in ("serkit_answer", "serkit_arousal") for name, _ in samples)


def test_an_event_and_the_counters(sink: Prometheus, port: int, event: Any, listener: Listener) -> None:
    health = listener.health
    health.audio_s, health.windows, health.scored, health.notices, health.latency_ms = 12.5, 40, 30, 2, 30.0
    health.hop_s = 1.0
    listener.mute()
    probabilities = {"calm": 0.25, "angry": 0.75}
    measured = {"arousal": 0.5, "valence": -0.5, "level_dbfs": -20.0, "speech_ratio": 0.9}
    sink.send(event(1, "angry", probabilities=probabilities, **measured))
    sink.send(event(1, "status", message="is no answer"))
    samples = scrape(port)
    expected = {
        ("serkit_answer", "angry"): 1,
        ("serkit_answer", "calm"): 0,
        ("serkit_answer", "silence"): 0,
        ("serkit_answer", "unsure"): 0,
        ("serkit_probability", "calm"): 0.25,
        ("serkit_probability", "angry"): 0.75,
        ("serkit_arousal", ""): 0.5,
        ("serkit_valence", ""): -0.5,
        ("serkit_level_dbfs", ""): -20,
        ("serkit_speech_ratio", ""): 0.9,
        ("serkit_audio_seconds_total", ""): 12.5,
        ("serkit_windows_total", ""): 40,
        ("serkit_scored_windows_total", ""): 30,
        ("serkit_notices_total", ""): 2,
        ("serkit_hop_seconds", ""): 1,
        ("serkit_muted", ""): 1,
        ("serkit_latency_seconds_count", ""): 1,
        ("serkit_latency_seconds_sum", ""): 0.03,
        ("serkit_latency_seconds_bucket", "0.025"): 0,
        ("serkit_latency_seconds_bucket", "0.05"): 1,
    }
    assert {key: samples.get(key) for key in expected} == expected
    sink.send(event(2, "silence", level_dbfs=-80.0, speech_ratio=0.0))
    samples = scrape(port)
    assert samples["serkit_answer", "silence"] == 1
    assert samples["serkit_answer", "angry"] == 0
    assert ("serkit_arousal", "") not in samples
    assert ("serkit_probability", "calm") not in samples


def test_a_port_in_use(sink: Prometheus, port: int, listener: Listener) -> None:
    second = Prometheus(PrometheusSettings(port=port))
    with pytest.raises(SettingsError, match=rf"prometheus: .*:{port} cannot be opened \(Address already in use\)"):
        second.start(listener)
    second.close()
    sink.close()  # the port is free again
    second = Prometheus(PrometheusSettings(port=port))
    second.start(listener)
    assert scrape(port)
    second.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_no_such_address(listener: Listener, host: str) -> None:
    with pytest.raises(SettingsError, match=rf"prometheus: {host}:9108 cannot be opened"):
        Prometheus(PrometheusSettings(host=host)).start(listener)


@pytest.mark.parametrize("settings", [{"host": ""}, {"port": 0}, {"port": 65536}])
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"host is empty|port is .*; it needs 1 to 65535"):
        PrometheusSettings(**settings)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"needs prometheus-client, which .*'\.\[prometheus\]'"):
        Config(prometheus=PrometheusSettings()).sinks()
