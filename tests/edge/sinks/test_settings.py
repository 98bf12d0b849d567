"""Settings of the broker that nobody would think of, until somebody writes them."""

from __future__ import annotations

import pytest

from serkit.edge.errors import SettingsError
from serkit.edge.fleet import Fleet
from serkit.edge.listener import Listener
from serkit.edge.sinks.broker import MqttSettings, new_client
from serkit.edge.sinks.json_lines import JsonLines, JsonLinesSettings


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e11])
def test_nobody_waits_for_ever(seconds: float) -> None:
    for name in ("health_every_s", "summary_every_s"):
        with pytest.raises(SettingsError, match=f"{name} is .*; it needs 1 s or more, and at most a year"):
            MqttSettings(**{name: seconds})  # type: ignore[arg-type]
    pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt: pip install 'serkit[mqtt]'")
    with pytest.raises(SettingsError, match=r"a wave may take .* s; more than 0 s"):
        Fleet(MqttSettings()).roll_out(b"", "", patience_s=seconds)


def test_the_home_of_nobody_is_no_path(listener: Listener) -> None:
    with pytest.raises(SettingsError, match=r"json_lines: ~no-such-user/events\.jsonl cannot be written"):
        JsonLines(JsonLinesSettings(path="~no-such-user/events.jsonl")).start(listener)
    pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt: pip install 'serkit[mqtt]'")
    for settings in (
        MqttSettings(username="me", password_file="~no-such-user/password"),
        MqttSettings(tls=True, ca_file="~no-such-user/ca.pem"),
    ):
        with pytest.raises(SettingsError, match=r"_file ~no-such-user/.* cannot be read"):
            new_client(settings)
