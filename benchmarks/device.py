"""All that one board can tell about serkit in about two minutes: latency, memory, start-up, throttling, energy."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from serkit.benchmarks import latency, memory, startup
from serkit.benchmarks.hops import talking
from serkit.benchmarks.listening import Listening
from serkit.benchmarks.sensors import power, sampled_power, state
from serkit.edge.bundle import DEFAULT_MODEL, bundled_models, read_bundle
from serkit.train.machine import board, cpu, machine

_RACE_S = 15.0  # for each model; a slow board gets through fewer hops
_HOPS = 300
_IDLE_S = 5.0
_BUSY_S = 10.0
_STARTS = 5


def measure(engine: str = "auto", shown: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measure every bundled model.

    Args:
        engine: ``auto``, ``litert`` or ``tflite-runtime``.
        shown: Told what is being measured.

    Returns:
        ``rows`` (of `serkit.benchmarks.latency`, ``memory`` and ``startup``; ``what`` says which), ``before`` and
        ``after`` (`serkit.benchmarks.sensors.state`) and ``energy``: None where the board does not tell, else
        ``source, idle_w, busy_w, n_hops, seconds`` and ``joule_per_hop``, which is what the default model's hop costs
        beyond an idle board.
    """
    before = state()
    names = sorted(bundled_models(), key=lambda name: (name != DEFAULT_MODEL, name))
    rows: list[dict[str, Any]] = []
    for name in names:
        shown(f"{name}: latency")
        found = latency.measure([read_bundle(name)], rounds=_HOPS, seconds=_RACE_S / 2, engine=engine)
        rows += [{"what": "latency", **row} for row in found]
    for name in names:
        shown(f"{name}: memory and start-up")
        through = memory.through_a_pipe(name, engine, minutes=1)
        rows += [{"what": "memory", "model": read_bundle(name).name, **row} for row in through]
        starts = startup.measure([name], engine=engine, repeats=_STARTS, stages=False)
        rows += [{**row, "what": "startup"} for row in starts]
    shown("energy")
    return {"before": before, "after": state(), "energy": _energy(engine), "rows": rows}


def _energy(engine: str) -> dict[str, Any] | None:
    """An idle board beside one that listens as fast as it can."""
    if (found := power()) is None:
        return None
    with sampled_power() as idle:
        time.sleep(_IDLE_S)
    with Listening("default", engine) as listening:
        part = np.resize(talking(listening.sample_rate), 10 * listening.sample_rate)
        listening.hear(part)  # all is loaded
        n_hops, started = 0, time.monotonic()
        with sampled_power() as busy:
            while time.monotonic() - started < _BUSY_S:
                n_hops += sum(event["kind"] != "status" for event in listening.hear(part))
        seconds = time.monotonic() - started
    if not idle or not busy or not n_hops:
        return None
    idle_w, busy_w = median(idle), median(busy)
    return {
        "source": found[0],
        "idle_w": round(idle_w, 3),
        "busy_w": round(busy_w, 3),
        "n_hops": n_hops,
        "seconds": round(seconds, 2),
        "joule_per_hop": round((busy_w - idle_w) * seconds / n_hops, 5),
    }


def file_name(root: Path = Path("/")) -> str:
    """``<board>.json``: the board's name, else the processor's, in small letters and hyphens.

    >>> file_name().endswith(".json")
    True
    """
    name = board(root) or f"{machine(root)['architecture']} {cpu(root) or ''}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json"
