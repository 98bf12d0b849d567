"""Build frozen dataclasses of settings from parsed TOML or JSON: what is wrong in them is one clear line."""

from __future__ import annotations

import os
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from serkit.edge.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def build(kind: type[T], values: Any, where: str) -> T:
    """An instance of a settings dataclass.

    Args:
        kind: A keyword-only dataclass.
        values: A table; nested dataclasses may be tables or built already.
        where: What is being read, for messages.

    Raises:
        SettingsError: Not a table, a name is unknown or missing, or a value has the wrong type or range.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where}: a table of settings is needed, found {values!r}")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise SettingsError(f"{where}: unknown setting {unknown[0]!r}; known: {', '.join(known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise SettingsError(f"{where}: {name} is missing; add it")
    hints = typing.get_type_hints(kind)
    converted = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**converted)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it: a whole number where a float is needed, a list where a tuple is."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # X | None: TOML knows no None, so a value is an X
        return None if value is None else _convert(arguments[0], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise SettingsError(f"{where} is {value!r}; choose one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise SettingsError(f"{where} is {value!r}; a list is needed")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise SettingsError(f"{where} has {len(value)} values; {len(kinds)} are needed")
        return tuple(_convert(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SettingsError(f"{where} is {value!r}; a table is needed")
        return {k: _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Any or (isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool))):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise SettingsError(f"{where} is a number of {len(str(value))} digits; a smaller one is needed") from None
    if hasattr(hint, "__dataclass_fields__"):
        return build(hint, value, where)
    needed = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(hint, hint.__name__)
    shown = f"not {needed}" if where.endswith("password") else repr(value)
    raise SettingsError(f"{where} is {shown}; {needed} is needed")


def path_of(text: str) -> Path:
    """A path that a setting names, ``~`` being the user's home; where there is no such user, as it is written."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - `Path.expanduser` raises there


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        SettingsError: It is missing, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a BOM
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such {what}; check the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the {what} cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: numbers too long, brackets too deep
        raise SettingsError(f"{path}: not TOML ({error}); correct the {what}") from None
