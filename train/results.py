"""Results files: one JSON per benchmark, with the machine, versions and command that made it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from serkit.train.environment import environment

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def _portable(argument: str) -> str:
    """An argument as it may be published: of an absolute path, which only this machine has, the last two parts."""
    path = Path(argument)
    return "/".join(path.parts[-2:]) if path.is_absolute() else argument


def write_results(path: Path, benchmark: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write ``rows``, and what else there is to say, as ``benchmarks/results/<name>.json`` looks; atomically."""
    command = shlex.join(["serkit", *map(_portable, sys.argv[1:])])
    content = {"schema": 1, "benchmark": benchmark, **environment(), "command": command, **more, "rows": rows}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """All results files of a folder, by name."""
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))}
