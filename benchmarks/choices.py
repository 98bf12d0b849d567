"""Which variant of a model to ship: chosen from the conversion matrix by rule, never by hand.

A variant may be shipped if it converts, both engines load it, `serkit convert` would not refuse it, and its answers are
those of Keras for `AGREEMENT` of the utterances. Of these the fastest on an engine is taken; of those within `NEAR` of
its time, the smallest file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

AGREEMENT = 0.95
NEAR = 1.25

Row = dict[str, Any]
_HEAD = ("bytes", "operators", "max dp", "same label", "UAR change")
_ENGINE_HEAD = ("ms", "x", "load ms", "MB")


def choose(rows: Sequence[Row], engine: str) -> dict[str, Row]:
    """Model to the row of the variant to ship for an engine; models without one are left out.

    >>> fast = {"model": "m", "format": "dynamic", "lstm": "fused", "engine": "litert", "ratio": 0.3, "size_bytes": 9,
    ...         "window_label_agreement": 1.0}
    >>> choose([fast, {**fast, "format": "float32", "ratio": 1.0}], "litert")["m"]["format"]
    'dynamic'
    """
    engines = {r["engine"] for r in rows}
    fit: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if "error" not in row and not row.get("refused") and _agreement(row) >= AGREEMENT:
            fit.setdefault((row["model"], row["format"], row["lstm"]), []).append(row)
    found: dict[str, list[Row]] = {}
    for (model, *_), same in fit.items():
        if {r["engine"] for r in same} == engines:
            found.setdefault(model, []).extend(r for r in same if r["engine"] == engine and r["ratio"])
    return {
        model: min(
            (r for r in mine if r["ratio"] <= NEAR * min(m["ratio"] for m in mine)), key=lambda r: r["size_bytes"]
        )
        for model, mine in found.items()
        if mine
    }


def _agreement(row: Row) -> float:
    return float(row["utterance_label_agreement" if "utterance_label_agreement" in row else "window_label_agreement"])


def matrix_tables(results: dict[str, dict[str, Any]]) -> list[str]:
    """The choice, then every cell, as Markdown lines."""
    lines: list[str] = []
    for name, file in results.items():
        if file["benchmark"] == "matrix":
            engines = list(dict.fromkeys(r["engine"] for r in file["rows"]))
            lines += [
                f"`{file['command']}`. What to ship, by `serkit.benchmarks.choices`:",
                "",
                *_choices(file["rows"], engines),
                "",
                f"![Size against latency]({name}.png)",
                "",
                "Every cell; x is the time beside the same model's unrolled float32 in the same rounds:",
                "",
                *_cells(file["rows"], engines),
                "",
            ]
    return lines


def _choices(rows: Sequence[Row], engines: Sequence[str]) -> list[str]:
    lines = [
        f"| model | parameters | {' | '.join(f'on {e} | bytes | x | load ms | MB' for e in engines)} |",
        f"|---|---|{'---|' * 5 * len(engines)}",
    ]
    chosen = [choose(rows, engine) for engine in engines]
    for model in dict.fromkeys(r["model"] for r in rows):
        cells = [model, f"{next(r for r in rows if r['model'] == model)['n_parameters']:,}"]
        for mine in chosen:
            r = mine.get(model)
            if r is None:
                cells += ["nothing", "", "", "", ""]
                continue
            variant = " ".join(filter(None, (r["lstm"], r["format"])))
            memory = "" if r["memory_mb"] is None else f"{r['memory_mb']:.1f}"
            cells += [variant, f"{r['size_bytes']:,}", f"{r['ratio']:.2f}", f"{r['load_ms']:.1f}", memory]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cells(rows: Sequence[Row], engines: Sequence[str]) -> list[str]:
    head = ["model", "LSTM", "format", *_HEAD, *(f"{e}: {what}" for e in engines for what in _ENGINE_HEAD), "state"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["lstm"], row["format"]), {})[row["engine"]] = row
    for (model, lstm, format), by in cells.items():
        mine = [by[e] for e in engines if e in by]
        good = [r for r in mine if "error" not in r]
        line = [model, lstm or "", format]
        if not good:
            lines.append(f"| {' | '.join([*line, mine[0]['error'], *[''] * (len(head) - 4)])} |")
            continue
        first = good[0]
        change = "" if "uar" not in first else f"{first['uar_change']:+.3f}" + (", refused" if first["refused"] else "")
        largest = max(r["max_abs_dp"] for r in good)
        line += [f"{first['size_bytes']:,}", str(first["n_operators"]), f"{largest:.1g}"]
        line += [f"{min(map(_agreement, good)):.2f}", change]
        for r in mine:
            if "error" in r:
                line += [r["error"], "", "", ""]
                continue
            times = [f"{r['median_ms']:.2f}", "" if r["ratio"] is None else f"{r['ratio']:.2f}", f"{r['load_ms']:.1f}"]
            line += [*times, "" if r["memory_mb"] is None else f"{r['memory_mb']:.1f}"]
        lines.append(f"| {' | '.join([*line, 'kept' if first['keeps_state'] else ''])} |")
    return lines
