"""The configuration file of `serkit listen` and `serkit serve`: TOML, every table a dataclass of settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from serkit.edge.decision import DecisionSettings, preset_values
from serkit.edge.errors import SettingsError
from serkit.edge.pace import PaceSettings
from serkit.edge.settings import build, read_toml
from serkit.edge.sinks import Sink
from serkit.edge.sinks.broker import MqttSettings
from serkit.edge.sinks.json_lines import JsonLines, JsonLinesSettings
from serkit.edge.sinks.mqtt import Mqtt
from serkit.edge.sinks.prometheus import Prometheus, PrometheusSettings
from serkit.edge.sinks.web import WebPage, WebSettings
from serkit.edge.vad import VadSettings


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole configuration.

    Attributes:
        model: Bundled model or .tflite file.
        device: Microphone: number or part of its name; None for the system's default.
        engine: What runs the model: ``litert``, ``tflite-runtime``, or ``auto``, the first that is installed.
        voice: Somebody enrolled with `serkit enroll`, by name or file; None: nobody.
        preset: What ``decision`` began with.
        decision: From window probabilities to events; what the file gives is laid over its preset.
        vad: What counts as speech.
        pace: What listening may cost.
        json_lines: Events to a file.
        mqtt: Events to an MQTT broker and Home Assistant.
        prometheus: Metrics for Prometheus.
        web: The live web page.
    """

    model: str = "default"
    device: str | None = None
    engine: Literal["auto", "litert", "tflite-runtime"] = "auto"
    voice: str | None = None
    preset: str | None = None
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    vad: VadSettings = field(default_factory=VadSettings)
    pace: PaceSettings = field(default_factory=PaceSettings)
    json_lines: JsonLinesSettings | None = None
    mqtt: MqttSettings | None = None
    prometheus: PrometheusSettings | None = None
    web: WebSettings | None = None

    def sinks(self) -> list[Sink]:
        """The sinks whose tables the file has, not started.

        Raises:
            MissingExtraError: One needs a part of serkit that is not installed.
        """
        sinks: list[Sink] = []
        if self.json_lines is not None:
            sinks.append(JsonLines(self.json_lines))
        if self.mqtt is not None:
            sinks.append(Mqtt(self.mqtt))
        if self.prometheus is not None:
            sinks.append(Prometheus(self.prometheus))
        if self.web is not None:
            sinks.append(WebPage(self.web))
        return sinks


def read_config(path: Path | None = None, preset: str | None = None) -> Config:
    """Read a configuration file.

    Args:
        path: TOML; none is an empty one.
        preset: Instead of the file's own ``preset``.

    Raises:
        SettingsError: No such file, not TOML, or a setting or preset is unknown or impossible.
    """
    values: dict[str, Any] = {} if path is None else read_toml(path, "configuration file")
    where = "the configuration" if path is None else str(path)
    name = preset or values.get("preset")
    if preset is not None:
        values["preset"] = preset
    try:
        base = {} if name is None else preset_values(str(name))
    except SettingsError as error:
        raise SettingsError(str(error) if preset is not None else f"{where}: {error}") from None
    if base and isinstance(values.get("decision", {}), dict):
        values["decision"] = _laid_over(base, values.get("decision", {}))
    return build(Config, values, where)


def _laid_over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``values`` in place of its own, table by table."""
    merged = dict(base)
    for key, value in values.items():
        old = base.get(key)
        merged[key] = _laid_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
