"""The rows of `serkit bench accuracy` from several machines: one list for the table, one plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serkit.edge.errors import SettingsError

#: Windows that Keras is given at once. TFLite graphs take one.
BATCHES = (1, 8, 64, 512)
_MARKERS = {"keras": "o", "float32": "s", "float16": "D", "dynamic": "^", "int8": "v"}


def name_of(model: str, engine: str, threads: int | None) -> str:
    """How a row is named where others compare with it."""
    return f"{model}, {engine}" + ("" if threads in (None, 1) else f", {threads} threads")


def is_reference(row: dict[str, Any]) -> bool:
    """Whether the other rows of its file compare with this one."""
    return bool(row["ratio_to"] == name_of(row["model"], row["engine"], row["threads"]))


def agreement(a: str, b: str) -> float:
    """Share of utterances with the same answer.

    >>> agreement("0123", "0120")
    0.75
    """
    return round(sum(x == y for x, y in zip(a, b, strict=True)) / len(a), 4)


def merged(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of every machine in one list, the reference first, each with ``machine`` and ``label_agreement``.

    Args:
        results: Results files by name, as `serkit.train.results.read_results` gives them; others are passed over.

    Raises:
        SettingsError: Two files scored other utterances, or another training of one recipe.
    """
    files = {name: file for name, file in results.items() if file["benchmark"] == "accuracy" and file["rows"]}
    first = next(iter(files), "")
    trained: dict[str, tuple[str, str]] = {}
    rows = []
    for name, file in files.items():
        machine = file["machine"]
        for row in file["rows"]:
            if row["utterances"] != files[first]["rows"][0]["utterances"]:
                raise SettingsError(
                    f"{name}.json and {first}.json scored different utterances and do not compare; write one pack with "
                    "`serkit bench accuracy --pack`, and record both with it and --utterances"
                )
            when, where = trained.setdefault(row["recipe"], (row["trained"], name))
            if row["trained"] != when:
                raise SettingsError(
                    f"{name}.json holds the {row['recipe']} trained {row['trained']}, {where}.json that of {when}; "
                    "record the older one again"
                )
            rows.append(row | {"machine": f"{machine['board'] or machine['cpu']}, {machine['cores']} cores"})
    reference = next((r for r in rows if "answers" in r and is_reference(r)), None)
    for row in rows:
        if reference is not None and "answers" in row:
            row["label_agreement"] = agreement(row["answers"], reference["answers"])
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """UAR against milliseconds per window: area is file size, colour the engine, shape the format, the line a batch."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [r for r in rows if "error" not in r]
    engines = sorted(dict.fromkeys((r["processor"], r["engine"]) for r in rows), key=lambda e: e[0] == "cpu")
    colours = {engine: f"C{i}" for i, engine in enumerate(engines)}
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.add_subplot()
    low, high = rows[0]["uar_ci95"]
    axes.axhspan(low, high, color="0.95", zorder=0)
    axes.text(
        0.995, high, "95 % of the reference", transform=axes.get_yaxis_transform(), ha="right", va="top", color="0.5"
    )
    for r in sorted(rows, key=lambda r: -r["size_bytes"]):
        colour = colours[r["processor"], r["engine"]]
        best = 1e3 / max(r["windows_per_s"].values())
        if len(r["windows_per_s"]) > 1:
            axes.plot([best, r["median_ms"]], [r["uar"]] * 2, color=colour, linewidth=1, zorder=1)
            axes.plot(best, r["uar"], "o", color="white", markeredgecolor=colour, markersize=5, zorder=2)
        area, marker = 60 * r["size_bytes"] / 1e6, _MARKERS[r["format"]]
        axes.scatter(
            r["median_ms"], r["uar"], s=area, marker=marker, color=colour, alpha=0.55, edgecolor="0.2", zorder=3
        )
    axes.set(xscale="log", xlabel="milliseconds per window, one at a time (hollow: in the best batch)", ylabel="UAR")
    shown = [f for f in _MARKERS if any(r["format"] == f for r in rows)]
    handles = [
        *(
            Line2D([], [], marker="o", linestyle="", color=c, label=f"{e[1]}, {e[0].upper()}")
            for e, c in colours.items()
        ),
        *(Line2D([], [], marker=_MARKERS[f], linestyle="", color="0.5", label=f) for f in shown),
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize="small", title="area: size of the file")
    figure.savefig(path, dpi=110)
