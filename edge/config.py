"""The configuration file of `serkit listen`: TOML, every table a dataclass of settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from serkit.edge.decision import DecisionSettings
from serkit.edge.settings import build, read_toml


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole configuration.

    Attributes:
        decision: From window probabilities to events.
    """

    decision: DecisionSettings = field(default_factory=DecisionSettings)


def read_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        SettingsError: No such file, not TOML, or a setting is unknown or impossible.
    """
    return build(Config, read_toml(path, "configuration file"), str(path))
