"""How Home Assistant finds a device by itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from serkit import __version__
from serkit.edge.sinks.broker import MqttSettings


def discovery(settings: MqttSettings, answers: Sequence[str], model: str) -> tuple[str, dict[str, Any]]:
    """Topic and message by which Home Assistant (2024.11 or newer) finds the device and its entities.

    See https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload.
    """
    device = re.sub(r"[^A-Za-z0-9_-]+", "-", f"serkit-{settings.name}")
    if device != f"serkit-{settings.name}":  # other names may be left with the same letters
        device += f"-{hashlib.sha256(settings.name.encode()).hexdigest()[:8]}"
    prefix = settings.topic_prefix

    def number(name: str, value: str, **options: Any) -> dict[str, Any]:
        """Rounded, so that not every event is a change of state; a status event leaves it as it is."""
        known = f"{{{{ {value} if value_json.{name.lower()} is number else none }}}}"
        return {
            "platform": "sensor",
            "unique_id": f"{device}-{name.lower()}",
            "name": name,
            "state_topic": f"{prefix}/event",
            "state_class": "measurement",
            "value_template": f"{{% if value_json.kind != 'status' %}}{known}{{% endif %}}",
            **options,
        }

    heard = {
        "emotion": {
            "platform": "sensor",
            "unique_id": f"{device}-emotion",
            "name": "Emotion",
            "icon": "mdi:account-voice",
            "device_class": "enum",
            "options": list(dict.fromkeys((*answers, "silence", "unsure"))),
            "state_topic": f"{prefix}/state",
        },
        "confidence": number("Confidence", "(100 * value_json.confidence) | round | int", unit_of_measurement="%"),
        "arousal": number("Arousal", "value_json.arousal | round(1)"),
        "valence": number("Valence", "value_json.valence | round(1)"),
    }
    mute = {
        "platform": "switch",
        "unique_id": f"{device}-mute",
        "name": "Mute",
        "icon": "mdi:microphone-off",
        "state_topic": f"{prefix}/mute",
        "command_topic": f"{prefix}/mute/set",
    }
    return f"{settings.discovery_prefix}/device/{device}/config", {
        "device": {
            "identifiers": [device],
            "name": settings.name,
            "manufacturer": "serkit",
            "model": model,
            "sw_version": __version__,
        },
        "origin": {"name": "serkit", "sw_version": __version__},
        "availability_topic": f"{prefix}/availability",
        "qos": 1,
        "components": {**(heard if settings.events else {}), "mute": mute},
    }
