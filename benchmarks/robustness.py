"""How much a model loses when a voice comes through noise, a room, a bad level, a telephone or an overdriven input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from serkit.train.conditions import conditions
from serkit.train.evaluate import Scorer
from serkit.train.noises import TEST_NOISES


def measure(
    scorer: Scorer, noises: Path | None, rooms: Path | None, shown: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """One row per condition.

    Args:
        scorer: Of a model, on speakers it never heard.
        noises: Folder with one sub-folder per kind of noise.
        rooms: Folder of impulse responses; the validation side has simulated rooms, and no noise kept for tests.
        shown: Called with each row as it is made.

    Returns:
        Rows with ``condition, what, snr_db, test_only`` (no recipe may train on this kind), ``heard_in_training`` (None
        where the model does not say; a recorded room never was), ``uar, uar_loss`` (against clean) and the figures of
        `Scorer.row`, without its tables.
    """
    rows: list[dict[str, Any]] = []
    heard = scorer.trained_under
    for condition in conditions(noises, rooms, scorer.sample_rate, rehearsal=scorer.side == "validation"):
        figures = scorer.row(condition)
        for table in ("confusion", "per_class", "per_speaker_uar", "refused", "noise", "risk_coverage"):
            del figures[table]
        named = condition.what if condition.kind == "noise" else condition.kind
        clean = rows[0]["uar"] if rows else figures["uar"]
        rows.append(
            {
                "condition": condition.kind,
                "what": condition.what,
                "snr_db": condition.snr_db,
                "test_only": condition.what in TEST_NOISES if condition.kind == "noise" else None,
                "heard_in_training": None if heard is None else named in heard,
                "uar_loss": round(clean - figures["uar"], 4),
                **figures,
            }
        )
        shown(rows[-1])
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """UAR by signal-to-noise ratio, a line per kind of noise, and bars for the rest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    clean = rows[0]["uar"]
    for kind in dict.fromkeys(r["what"] for r in rows if r["condition"] == "noise"):
        points = sorted((r["snr_db"], r["uar"]) for r in rows if r["what"] == kind and r["condition"] == "noise")
        curves.plot(*zip(*points, strict=True), "o-", label=kind)
    curves.axhline(clean, color="k", linewidth=1, label="clean")
    curves.set(xlabel="signal-to-noise ratio, dB", ylabel="UAR", ylim=(0, None))
    curves.legend(fontsize="small")
    others = [r for r in rows if r["condition"] not in ("clean", "noise")]
    bars.barh([f"{r['condition']} {r['what']}" for r in others], [r["uar"] for r in others])
    bars.axvline(clean, color="k", linewidth=1)
    bars.set(xlabel="UAR")
    figure.savefig(path, dpi=110)
