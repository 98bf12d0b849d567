"""Pictures of latency, memory, start-up and a day of listening."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def latency(rows: list[dict[str, Any]], path: Path) -> None:
    """One bar per row, its median; marks at the 95th and 99th percentile."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{r['system']}, {r['way']}, {r['scene']}, gate {r['gate']}" for r in rows]
    y = list(range(len(rows)))[::-1]
    colours = {"pipeline": "C0", "listening": "C1"}
    axes.barh(y, [r["median_ms"] for r in rows], color=[colours[r["race"]] for r in rows])
    axes.plot([r["p95_ms"] for r in rows], y, "k|", markersize=12, label="p95")
    axes.plot([r["p99_ms"] for r in rows], y, "kx", label="p99")
    axes.set_yticks(y, names)
    axes.set(xlabel="ms per hop, by the clock on the wall (median)", xlim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)


def _stacked(rows: list[dict[str, Any]], figure_of: str, scale: float, label: str, path: Path) -> None:
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(r["model"] for r in rows))
    figure = Figure(figsize=(9, 1.6 + 0.7 * len(models)), layout="constrained")
    axes = figure.add_subplot()
    colours: dict[str, str] = {}
    for y, model in enumerate(models):
        left = 0.0
        for row in (r for r in rows if r["model"] == model and r["what"] == "stage"):
            stage = row["stage"]
            first = stage not in colours
            colour = colours.setdefault(stage, f"C{len(colours) % 10}")
            width = max(0.0, row[figure_of] / scale)
            hatch = "//" if len(colours) > 10 and stage == list(colours)[-1] else None
            axes.barh(y, width, left=left, color=colour, hatch=hatch, label=stage if first else None)
            left += width
    axes.set_yticks(range(len(models)), models)
    axes.set(xlabel=label)
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.35 / len(models)), fontsize="small")
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
    for kind, colour in (("scored", "C0"), ("silent", "C1")):
        some = [(h, r["hops"][kind]) for h, r in zip(hours, rows, strict=True) if kind in r["hops"]]
        for name, style in (("median_ms", "-"), ("p99_ms", ":")):
            label = f"{kind}, {'median' if name == 'median_ms' else 'p99'}"
            cost.plot([h for h, _ in some], [f[name] for _, f in some], style, color=colour, label=label)
    cost.set(ylabel="ms of a core per hop", ylim=(0, None))
    cost.legend()
    size.plot(hours, [r["rss_kb"] / 1024 for r in rows])
    size.set(xlabel="hours heard", ylabel="MB resident", ylim=(0, None))
    figure.savefig(path, dpi=110)
