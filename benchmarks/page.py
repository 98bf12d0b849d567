"""The report on runs: one HTML file that needs nothing else, tables beside plots, a card for each system."""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from serkit.benchmarks.claims import CLAIMS_HEAD, claims_table, recipe_words
from serkit.train import plots
from serkit.train.summary import Cell, compare
from serkit.train.zoo import SYSTEMS

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}th,td{padding:.25rem .6rem;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}
code{font-size:.85em;white-space:nowrap}img{max-width:100%}pre{white-space:pre-wrap}.note{color:#555}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#161616}th,td{border-color:#444}.note{color:#aaa}
img{background:#fff}}
"""


def _image(draw: Callable[[Any], None], alt: str) -> str:
    buffer = io.BytesIO()
    draw(buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        if value is None:
            return '<td class="n">-</td>'
        if isinstance(value, float):
            return f'<td class="n">{value:.3f}</td>'
        return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f"<td>{value}</td>"

    lines = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>\n{lines}</table>"


def _schedule(row: dict[str, Any]) -> str:
    seeds = len(row["seeds"])
    epochs = "fitted at once" if row["epochs"] is None else f"{row['epochs']} epochs"
    words = f"{epochs}, {seeds} seed{'s' if seeds > 1 else ''}"
    return words if row["complete"] else f"{words}, <b>folds {', '.join(map(str, row['folds']))} only</b>"


def _results(cells: Sequence[Cell]) -> str:
    head = ("recipe", "corpus", "protocol", "UAR", "95 %", "sd over seeds", "accuracy", "macro-F1", "worst speaker",
            "sex gap", "ECE", "before", "in training", "parameters", "schedule", "command")  # fmt: skip
    rows = [
        (
            escape(recipe_words(r)), r["corpus"], r["protocol"], r["uar"],
            "{:.2f}-{:.2f}".format(*r["uar_ci95"]) if r["uar_ci95"] else None,
            r["uar_sd_over_seeds"], r["accuracy"], r["macro_f1"], f"{r['worst_speaker']} {r['worst_speaker_uar']:.3f}",
            r["sex_gap"], r["ece"], r["ece_uncalibrated"], r["train_accuracy"], r["n_parameters"], _schedule(r),
            f"<code>{escape(r['command'])}</code>",
        )
        for r in (c.row for c in cells)
    ]  # fmt: skip
    return _table(head, rows)


def _overview(cells: Sequence[Cell]) -> str:
    def draw(path: Any) -> None:
        from matplotlib.figure import Figure

        corpora = sorted({c.corpus for c in cells})
        counts = [sum(c.corpus == corpus for c in cells) for corpus in corpora]
        figure = Figure(figsize=(11, len(corpora) + 0.3 * len(cells)), layout="constrained")
        grid = figure.subplots(len(corpora), 1, squeeze=False, height_ratios=[n + 1 for n in counts])
        for axes, corpus in zip(grid[:, 0], corpora, strict=True):
            mine = sorted((c.row for c in cells if c.corpus == corpus), key=lambda r: (r["protocol"], r["uar"]))
            names = [f"{recipe_words(r)}, {r['protocol']}" for r in mine]
            ends = [r["uar_ci95"] or (r["uar"], r["uar"]) for r in mine]
            low = [max(0.0, r["uar"] - e[0]) for r, e in zip(mine, ends, strict=True)]
            high = [max(0.0, e[1] - r["uar"]) for r, e in zip(mine, ends, strict=True)]
            places = range(len(mine))
            colours = ["C1" if r["protocol"].startswith("random") else "C0" for r in mine]
            axes.set_yticks(places, names)
            axes.barh(places, [r["uar"] for r in mine], xerr=[low, high], color=colours)
            axes.set(title=corpus, xlim=(0, 1), xlabel="UAR; orange: speakers on both sides")
        figure.savefig(path, dpi=100)

    return _image(draw, "UAR of every system by corpus and protocol")


def _comparisons(cells: Sequence[Cell]) -> str:
    results = [
        compare(a, b) for a, b in combinations(cells, 2) if a.key == b.key and a.row["complete"] and b.row["complete"]
    ]
    head = ("a", "b", "corpus", "protocol", "UAR a - b", "pairs", "paired t, p", "utterances", "only a right",
            "only b right", "McNemar, p")  # fmt: skip

    def p(value: float | None) -> str | None:
        return None if value is None else f"{value:.2g}"

    return _table(
        head,
        [
            (
                escape(c["a"]), escape(c["b"]), c["corpus"], c["protocol"], c["uar_difference"], c["n_pairs"],
                p(c["paired_t_p"]), c["n_utterances"], c["only_a"], c["only_b"], p(c["mcnemar_p"]),
            )
            for c in results
        ],
    )  # fmt: skip


def _card(cell: Cell) -> str:
    r = cell.row
    module = importlib.import_module(SYSTEMS[r["system"]].build.__module__)
    reliability = {}
    for name in ("uncalibrated", "probabilities"):
        table = np.concatenate([getattr(x, name) for x in cell.repetitions.values()])
        truth = [u.emotion for x in cell.repetitions.values() for u in x.utterances]
        right = np.array([cell.confusion["labels"][i] == t for i, t in zip(table.argmax(axis=1), truth, strict=True)])
        reliability["before" if name == "uncalibrated" else "after temperature"] = (table.max(axis=1), right)
    title = f"{recipe_words(r)} on {r['corpus']}, {r['protocol']}"
    pictures = [
        _image(lambda path: plots.confusion({title: cell.confusion}, path), f"confusion of {title}"),
        _image(lambda path: plots.reliability(reliability, path), f"reliability of {title}"),
    ]
    speakers = ", ".join(f"{v.split('/')[1]} {u:.2f}" for v, u in r["per_speaker_uar"].items())
    sexes = ", ".join(f"{s} {u:.3f}" for s, u in r["per_sex_uar"].items())
    classes = _table(("emotion", "recall"), r["per_class_recall"].items())
    return f"""<details><summary><b>{escape(title)}</b>: UAR {r["uar"]:.3f}, {_schedule(r)}</summary>
<pre>{escape((module.__doc__ or "").strip())}</pre>
<p>UAR by sex: {sexes}. By speaker: {speakers}.</p>{classes}{"".join(pictures)}
<p class="note">{r["backend"]}, commit {", ".join(r["commits"])}, {r["training_seconds"]:.0f} s of training per run;
<code>{escape(r["command"])}</code></p></details>"""


def write_page(cells: Sequence[Cell], path: Path) -> None:
    """Write the report."""
    rows = [c.row for c in cells]
    claims = _table(CLAIMS_HEAD, [tuple(map(escape, line)) for line in claims_table(rows)])
    path.write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>serkit: speech emotion recognition, measured honestly</title><style>{_STYLE}</style>
<h1>Speech emotion recognition, measured honestly</h1>
<p><b>speaker-independent</b>: nobody who is tested was heard in training, validation or calibration; folds pooled,
seeds averaged, 95 % by drawing speakers anew. <b>random</b>: the papers' own splits, the same speakers on both sides;
such figures say little about a new voice. ECE before and after temperature scaling on
validation speakers (where a single voice trains, as of TESS, it is left alone). <b>in training</b>: accuracy on
augmented training windows; where it is low, the schedule was too small.</p>
{_overview(cells)}
<h2>Results</h2>{_results(cells)}
<h2>What the papers claim</h2>{claims}
<h2>Is the difference real?</h2>
<p class="note">The t-test compares folds, averaged over seeds; they share training speakers, so its p is too small.
McNemar's test compares the first seed of each and takes utterances of one speaker for independent. No correction for
the number of comparisons.</p>
{_comparisons(cells)}
<h2>Cards</h2>{"".join(map(_card, cells))}
</html>
""",
        encoding="utf-8",
    )
