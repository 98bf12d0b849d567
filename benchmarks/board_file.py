"""What ``benchmarks/results/<board>.json`` must look like, so that results others send in can be trusted to be read.

Everything in it is listed here, and nothing else may be: no name of a machine, a network or a person.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 20


class _Number:
    """A finite number within limits."""

    def __init__(self, least: float = 0.0, most: float = math.inf, *, whole: bool = False) -> None:
        self.least, self.most, self.whole = least, most, whole

    def fault(self, value: Any) -> str | None:
        kind = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            return "a whole number" if self.whole else "a number"
        if not self.least <= value <= self.most:
            limit = f"at least {self.least:g}" if value < self.least else f"at most {self.most:g}"
            return f"{'a whole number' if self.whole else 'a number'} of {limit}"
        return None


class _Text:
    """A short line, out of a few or of any words; never a path or an address."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, str):
            return "a text"
        if self.allowed and value not in self.allowed:
            return " or ".join(self.allowed)
        if len(value) > 300 or "\n" in value:
            return "one line of at most 300 characters"
        if re.search(r"(^|[\s=])(/|[A-Za-z]:\\|~/)\w|@\w|://", value):
            return "a text without a path or an address of the machine it was made on"
        return None


class _Maybe:
    """What the board may not tell."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


class _Optional(_Maybe):
    """What need not be there."""


class _Table:
    """Any names with values of one shape."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


_SHARE, _MS, _KB, _COUNT = _Number(0, 1), _Number(0, 1e6), _Number(1, 1e9, whole=True), _Number(1, 1e9, whole=True)
_PERCENTILES = {"median_ms": _MS, "p95_ms": _MS, "p99_ms": _MS}
_MEMORY = {"rss_kb": _KB, "pss_kb": _KB, "anonymous_kb": _KB}
_STATE = {
    "temperature_c": _Maybe(_Number(-60, 150)),
    "frequency_mhz": _Maybe([_Number(1, 20000)]),
    "frequency_max_mhz": _Maybe(_Number(1, 20000)),
    "throttling": _Maybe(
        {"source": _Text("firmware", "kernel"), "raw": _Maybe(_Text()), "now": [_Text()], "since_start": [_Text()]}
    ),
    "load": _Maybe(_Number()),
}
_ROWS = {
    "latency": {
        "what": _Text("latency"),
        "system": _Text(),
        "race": _Text("pipeline", "listening"),
        "way": _Text("streamed", "anew"),
        "scene": _Text("talking", "silent"),
        "gate": _Text(),
        "format": _Text(),
        "engine": _Text("litert", "tflite-runtime"),
        "threads": _COUNT,
        "peer": bool,
        "trained": bool,
        "n_hops": _COUNT,
        "hop_ms": _Number(1, 1e5),
        "scored_share": _SHARE,
        **_PERCENTILES,
        "cpu_ms": _MS,
        "core_share": _Number(0, 1000),
        "ratio_to": _Optional(_Text()),
        "ratio": _Optional(_Number()),
        "ratio_wall": _Optional(_Number()),
    },
    "memory": {
        "what": _Text("memory"),
        "model": _Text(),
        "audio_s": _Number(),
        "threads": _COUNT,
        "processes": _COUNT,
        **_MEMORY,
    },
    "startup": {
        "what": _Text("startup"),
        "model": _Text(),
        "repeats": _COUNT,
        **_PERCENTILES,
        "least_ms": _MS,
        "cpu_ms": _MS,
    },
}
_FILE = {
    "schema": _Number(1, 1, whole=True),
    "benchmark": _Text("device"),
    "created": _Text(),
    "commit": _Maybe(_Text()),
    "machine": {
        "board": _Maybe(_Text()),
        "cpu": _Maybe(_Text()),
        "architecture": _Text(),
        "cores": _COUNT,
        "memory_mb": _Maybe(_COUNT),
        "governor": _Maybe(_Text()),
        "temperature_c": _Maybe(_Number(-60, 150)),
        "load": _Maybe(_Number()),
        "system": _Text(),
    },
    "versions": _Table(_Text()),
    "command": _Text(),
    "before": _STATE,
    "after": _STATE,
    "energy": _Maybe(
        {
            "source": _Text(),
            "idle_w": _Number(0, 1000),
            "busy_w": _Number(0, 1000),
            "n_hops": _COUNT,
            "seconds": _Number(0, 3600),
            "joule_per_hop": _Number(-1000, 1000),
        }
    ),
    "rows": list,
}


def check(path: Path) -> list[str]:
    """The faults of one file, one line each, without the file's name; none if it is as it should be."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return [f"{path.stat().st_size} bytes; at most {_MOST_BYTES} are read"]
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return [f"cannot be read ({error.strerror})"]
    except (ValueError, RecursionError) as error:
        return [f"not JSON ({error}); send the file as `serkit bench device` wrote it"]
    if not isinstance(content, dict):
        return ["a table is needed, found something else; send the file as `serkit bench device` wrote it"]
    faults = _faults(content, _FILE, "")
    if isinstance(content.get("rows"), list):
        faults += _faults_of_rows(content["rows"])
    try:
        datetime.fromisoformat(str(content.get("created")))
    except ValueError:
        made = _shown(content.get("created"))
        faults.append(f"created is {made}; a time such as 2026-01-31T12:00:00+00:00 is needed")
    return faults


def _faults_of_rows(rows: list[Any]) -> list[str]:
    faults, seen = [], set()
    for i, row in enumerate(rows):
        where = f"rows[{i}]"
        kind = row.get("what") if isinstance(row, dict) else None
        if not isinstance(kind, str) or kind not in _ROWS:
            faults.append(f"{where}.what is {_shown(kind)}; {', '.join(_ROWS)} is needed")
            continue
        seen.add(kind)
        found = _faults(row, _ROWS[kind], where)
        if not found and "p99_ms" in row and not row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]:
            found.append(f"{where}: median, p95 and p99 are not in order")
        faults += found
    faults += [f"rows has none of {kind}" for kind in _ROWS if kind not in seen]
    return faults or _incomplete(rows)


def _incomplete(rows: list[dict[str, Any]]) -> list[str]:
    """What the table of boards shows of each model, and is not there."""
    faults = []
    for system in dict.fromkeys(row["system"] for row in rows if row["what"] == "latency"):
        scenes = {r["scene"] for r in rows if r.get("system") == system and r.get("race") == "listening"}
        others = {r["what"] for r in rows if r.get("model") == system}
        missing = [f"latency row, listening and {scene}" for scene in ("talking", "silent") if scene not in scenes]
        missing += [f"row of {what}" for what in ("memory", "startup") if what not in others]
        faults += [f"rows: {system} has no {what}" for what in missing]
    return faults


def _faults(value: Any, shape: Any, where: str) -> list[str]:
    """What is wrong with ``value``, ``where`` it is."""
    if isinstance(shape, _Maybe):
        return [] if value is None else _faults(value, shape.shape, where)
    if isinstance(shape, (_Number, _Text)):
        needed = shape.fault(value)
        return [] if needed is None else [f"{where} is {_shown(value)}; {needed} is needed"]
    if isinstance(shape, type):
        needed = {bool: "true or false", list: "a list"}[shape]
        return [] if isinstance(value, shape) else [f"{where} is {_shown(value)}; {needed} is needed"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where} is {_shown(value)}; a list is needed"]
        return [fault for i, item in enumerate(value) for fault in _faults(item, shape[0], f"{where}[{i}]")]
    if not isinstance(value, Mapping):
        return [f"{where} is {_shown(value)}; a table is needed"]
    inside = f"{where}." if where else ""
    if isinstance(shape, _Table):
        return [fault for name, item in value.items() for fault in _faults(item, shape.shape, f"{inside}{name}")]
    faults = [
        f"{inside}{name} is missing" for name, s in shape.items() if name not in value and type(s) is not _Optional
    ]
    faults += [f"{inside}{name} is not part of a board's file; leave it out" for name in value if name not in shape]
    for name, item in value.items():
        if name in shape:
            faults += _faults(item, shape[name], f"{inside}{name}")
    return faults


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
