"""Pictures of latency, memory, start-up and a day of listening."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def latency(rows: list[dict[str, Any]], path: Path) -> None:
    """One bar per row, its time on the processor; marks for the clock on the wall, which counts what else runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{r['system']}, {r['way']}, {r['scene']}, gate {r['gate']}" for r in rows]
    y = list(range(len(rows)))[::-1]
    colours = {"pipeline": "C0", "listening": "C1"}
    axes.barh(y, [r["cpu_ms"] for r in rows], color=[colours[r["race"]] for r in rows])
    for figure_of, mark in (("median_ms", "k|"), ("p95_ms", "k+"), ("p99_ms", "kx")):
        axes.plot([r[figure_of] for r in rows], y, mark, label=f"{figure_of.removesuffix('_ms')}, by the clock")
    axes.set_yticks(y, names)
    axes.set(xlabel="ms per hop (bars: of a core, median)", xlim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)


def _stacked(rows: list[dict[str, Any]], figure_of: str, scale: float, unit: str, path: Path) -> None:
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(r["model"] for r in rows))
    figure = Figure(figsize=(9, 1.5 + 0.6 * len(models)), layout="constrained")
    axes = figure.add_subplot()
    stages: dict[str, int] = {}
    for y, model in enumerate(models):
        left = 0.0
        for row in (r for r in rows if r["model"] == model and r["what"] == "stage"):
            stage = row["stage"]
            label = None if stage in stages else stage
            n = stages.setdefault(stage, len(stages))
            width = max(0.0, row[figure_of] / scale)
            axes.barh(y, width, left=left, color=f"C{n % 10}", hatch="//" if n > 9 else None, label=label)
            left += width
    axes.set_yticks(range(len(models)), models)
    axes.set(xlabel=unit)
    figure.legend(ncols=6, loc="outside lower center", fontsize="small")
    figure.savefig(path, dpi=110)


def memory(rows: list[dict[str, Any]], path: Path) -> None:
    """How each stage of the start adds to what is resident."""
    _stacked(rows, "grown_kb", 1024, "MB resident", path)


def startup(rows: list[dict[str, Any]], path: Path) -> None:
    """How long each stage of the start takes."""
    _stacked(rows, "median_ms", 1, "ms (median)", path)


def streaming(rows: list[dict[str, Any]], path: Path) -> None:
    """Cost of a hop and memory over the hours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    cost, size = figure.subplots(2, sharex=True)
    hours = [r["audio_s"] / 3600 for r in rows]
    for kind, colour in (("scored", "C0"), ("silent", "C1"), ("yardstick", "C2")):
        some = [(h, r["hops"][kind]) for h, r in zip(hours, rows, strict=True) if kind in r["hops"]]
        for name, style in (("median_ms", "-"), ("p99_ms", ":")):
            label = f"{kind}, {'median' if name == 'median_ms' else 'p99'}"
            cost.plot([h for h, _ in some], [f[name] for _, f in some], style, color=colour, label=label)
    cost.set(ylabel="ms of a core per hop", ylim=(0, None))
    cost.legend()
    size.plot(hours, [r["rss_kb"] / 1024 for r in rows])
    size.set(xlabel="hours heard", ylabel="MB resident", ylim=(0, None))
    figure.savefig(path, dpi=110)
