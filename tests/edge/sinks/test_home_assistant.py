from __future__ import annotations

import json
import re
from typing import Any

import pytest

from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.home_assistant import discovery

# Home Assistant's documented keys: required, and allowed; ``platform`` and ``unique_id`` are required as well in a
# device's message. See https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload, and there
# /integrations/sensor.mqtt/ and /integrations/switch.mqtt/ (June 2026).
_COMMON = {
    "availability", "availability_mode", "availability_template", "availability_topic", "default_entity_id", "device",
    "device_class", "enabled_by_default", "encoding", "entity_category", "entity_picture", "group", "icon",
    "json_attributes_template", "json_attributes_topic", "name", "payload_available", "payload_not_available",
    "platform", "qos", "state_topic", "unique_id", "value_template",
}  # fmt: skip
DOCUMENTED: dict[str, tuple[set[str], set[str]]] = {
    "sensor": (
        {"state_topic"},
        _COMMON
        | {"expire_after", "force_update", "last_reset_value_template", "options", "state_class"}
        | {"suggested_display_precision", "unit_of_measurement"},
    ),
    "switch": (
        {"command_topic"},
        _COMMON
        | {"command_template", "command_topic", "message_expiry_interval", "optimistic", "payload_off", "payload_on"}
        | {"retain", "state_off", "state_on"},
    ),
}
DEVICE = {
    "configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model", "model_id", "name",
    "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
ORIGIN = {"name", "sw_version", "support_url"}
SHARED = {
    "availability", "availability_mode", "availability_template", "availability_topic", "command_topic", "encoding",
    "payload_available", "payload_not_available", "qos", "state_topic",
}  # fmt: skip


def validate(message: dict[str, Any]) -> None:
    """Whether Home Assistant's documentation knows every key."""
    assert {"device", "origin", "components"} <= set(message) <= {"device", "origin", "components"} | SHARED
    assert set(message["device"]) <= DEVICE
    assert message["device"].get("identifiers") or message["device"].get("connections")
    assert {"name"} <= set(message["origin"]) <= ORIGIN
    for component in message["components"].values():
        required, allowed = DOCUMENTED[component["platform"]]
        assert required | {"platform", "unique_id"} <= set(component) <= allowed
        assert component.get("entity_category") in (None, "diagnostic", "config")
        assert component.get("state_class") in (None, "measurement", "total", "total_increasing")
        if "options" in component:
            assert component["options"]
            assert component["device_class"] == "enum"
            assert not {"state_class", "unit_of_measurement"} & set(component)
    ids = [component["unique_id"] for component in message["components"].values()]
    assert len(ids) == len(set(ids))


def test_home_assistant_knows_every_key() -> None:
    topic, message = discovery(MqttSettings(name="Küche links"), ("calm", "angry"), "tiny")
    assert re.fullmatch(r"homeassistant/device/serkit-K-che-links-[0-9a-f]{8}/config", topic)
    validate(message)
    assert message["device"]["name"] == "Küche links"
    emotion = message["components"]["emotion"]
    assert emotion["options"] == ["calm", "angry", "silence", "unsure"]
    assert emotion["state_topic"] == "serkit/Küche links/state"
    assert message["components"]["mute"]["command_topic"] == "serkit/Küche links/mute/set"
    assert message["availability_topic"] == "serkit/Küche links/availability"
    emotion["unit"] = "%"
    with pytest.raises(AssertionError):
        validate(message)


def test_every_name_is_a_device_of_its_own() -> None:
    names = ("кухня", "спальня", "客厅", "living room", "living-room", "living_room")
    topics = {discovery(MqttSettings(name=name), ("calm",), "tiny")[0] for name in names}
    assert len(topics) == len(names)
    assert "homeassistant/device/serkit-living-room/config" in topics


@pytest.mark.parametrize(
    ("fields", "confidence", "arousal"),
    [
        ({"answer": "calm", "confidence": 0.876, "arousal": -0.349}, "88", "-0.3"),
        ({"answer": "silence"}, "None", "None"),
        ({"answer": "status", "message": "x"}, "", ""),
    ],
)
def test_what_home_assistant_makes_of_an_event(
    event: Any, fields: dict[str, Any], confidence: str, arousal: str
) -> None:
    jinja2 = pytest.importorskip("jinja2")
    from serkit.edge.events import to_json

    components = discovery(MqttSettings(), ("calm",), "tiny")[1]["components"]
    value = json.loads(to_json(event(0, **fields)))
    for name, expected in (("confidence", confidence), ("arousal", arousal)):
        assert jinja2.Template(components[name]["value_template"]).render(value_json=value) == expected
