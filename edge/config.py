"""The configuration file of `serkit listen`: TOML, every table a dataclass of settings."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from serkit.edge.decision import DecisionSettings
from serkit.edge.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_config(path: Path) -> DecisionSettings:
    """Decision settings from the ``[decision]`` table.

    Raises:
        SettingsError: No such file, not TOML, or a setting is unknown or impossible.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: not a TOML file that can be read ({error})") from None
    known = [f.name for f in fields(DecisionSettings)]
    decision = values.pop("decision", {})
    if values:
        raise SettingsError(f"{path}: unknown table or setting {next(iter(values))!r}; known: [decision]")
    if unknown := sorted(set(decision) - set(known)):
        raise SettingsError(f"{path}: [decision] has no setting {unknown[0]!r}; known: {', '.join(known)}")
    try:
        return DecisionSettings(**decision)
    except TypeError as error:
        raise SettingsError(f"{path}: [decision]: {error}") from None
