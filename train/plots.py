"""Pictures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def confusion(confusions: dict[str, Any], path: Path) -> None:
    """One panel per corpus: rows are the truth, columns the answers, shares of each row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(confusions), 5.4), layout="constrained")
    for i, (title, table) in enumerate(confusions.items()):
        axes = figure.add_subplot(1, len(confusions), i + 1)
        rows = np.array(table["rows"], float)
        shares = rows / np.maximum(1, rows.sum(axis=1, keepdims=True))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (y, x), share in np.ndenumerate(shares):
            if share >= 0.005:
                axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color="w" if share > 0.5 else "k")
        ticks = range(len(table["labels"]))
        axes.set_xticks(ticks, table["labels"], rotation=45, ha="right")
        axes.set_yticks(ticks, table["labels"])
        axes.set(title=f"{title}: % of each true emotion", xlabel="answer", ylabel="truth")
    figure.savefig(path, dpi=110)


def history(lines: Path, path: Path) -> None:
    """Loss and scores over the epochs."""
    from matplotlib.figure import Figure

    epochs = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    x = [e["epoch"] for e in epochs]
    shown = {
        "train_accuracy": ("-", "training accuracy, augmented windows"),
        "validation_uar": ("-", "validation UAR"),
        "validation_imitated": ("-", "share of the teacher's variance, validation"),
        "loss": (":", "training loss"),
    }
    for name, (style, label) in shown.items():
        if name in epochs[0]:
            axes.plot(x, [e[name] for e in epochs], style, label=label)
    axes.set(xlabel="epoch", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)


def attribution(maps: dict[str, Any], centres_hz: Any, band_hz: tuple[float, float], path: Path) -> None:
    """Mean absolute attribution of each emotion over time and mel band; dashed lines show the band of the claim."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * min(4, len(maps)), 2.7 * -(-len(maps) // 4)), layout="constrained")
    lines = [float(np.searchsorted(centres_hz, edge)) for edge in band_hz]
    for i, (label, values) in enumerate(maps.items()):
        axes = figure.add_subplot(-(-len(maps) // 4), min(4, len(maps)), i + 1)
        axes.imshow(values.T, origin="lower", aspect="auto", cmap="magma")
        for line in lines:
            axes.axhline(line, color="w", linestyle="--", linewidth=0.8)
        ticks = np.linspace(0, len(centres_hz) - 1, 5).astype(int)
        axes.set_yticks(ticks, [f"{centres_hz[t]:.0f}" for t in ticks])
        axes.set(title=label, xlabel="frame", ylabel="Hz" if i % 4 == 0 else None)
    figure.savefig(path, dpi=110)


def occlusion(figures: dict[str, Any], band_hz: tuple[float, float], path: Path) -> None:
    """UAR that is left without each part of the spectrum."""
    from matplotlib.figure import Figure

    parts = figures["parts"]
    names = [f"{p['from_hz']:.0f}-{p['to_hz']:.0f}" for p in parts]
    names += [f"{band_hz[0]:.0f}-{band_hz[1]:.0f}", "all but that"]
    values = [p["uar_without"] for p in parts] + [figures["uar_without_band"], figures["uar_band_alone"]]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(names, values, color=["C0"] * len(parts) + ["C1", "C1"])
    axes.axhline(figures["uar"], color="k", linewidth=1, label="nothing hidden")
    axes.axhline(figures["chance"], color="k", linestyle=":", linewidth=1, label="chance")
    axes.tick_params(axis="x", rotation=35)
    axes.set(ylabel="UAR", xlabel="hidden, Hz", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)


def attention(windows: Any, weights: Any, titles: list[str], path: Path, rows: int = 4) -> None:
    """A few windows with the attention over their steps below."""
    from matplotlib.figure import Figure

    shown = np.linspace(0, len(windows) - 1, rows).astype(int)
    figure = Figure(figsize=(3 * rows, 4), layout="constrained")
    for i, row in enumerate(shown):
        top, below = figure.add_subplot(2, rows, i + 1), figure.add_subplot(2, rows, rows + i + 1)
        top.imshow(windows[row].T, origin="lower", aspect="auto", cmap="magma")
        top.set(title=titles[row], xlabel="frame")
        below.bar(np.arange(weights.shape[1]), weights[row])
        below.set(xlabel="step", ylabel="attention" if i == 0 else None)
    figure.savefig(path, dpi=110)


def correlates(figures: dict[str, Any], path: Path) -> None:
    """Centroid by arousal and bandwidth by valence, as boxes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(figures), 3.6), layout="constrained")
    for i, (name, f) in enumerate(figures.items()):
        axes = figure.add_subplot(1, len(figures), i + 1)
        values, against = np.array(f["hz"]), np.array(f["against"])
        levels = sorted(set(against.tolist()))
        axes.boxplot([values[against == level] for level in levels], showfliers=False)
        axes.set_xticks(range(1, len(levels) + 1), [f"{level:+g}" for level in levels])
        measure, dimension = name.split("_")
        axes.set(xlabel=dimension, ylabel=f"{measure}, Hz", title=f"Spearman {f['rho']:+.2f}")
    figure.savefig(path, dpi=110)


def reliability(sets: dict[str, tuple[Any, Any]], path: Any, bins: int = 10) -> None:
    """Confidence against accuracy; ``sets`` holds confidences and whether each answer was right, by name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], ":", color="gray")
    for name, (confidence, right) in sets.items():
        which = np.minimum((confidence * bins).astype(int), bins - 1)
        seen = [b for b in range(bins) if (which == b).any()]
        axes.plot(
            [confidence[which == b].mean() for b in seen], [right[which == b].mean() for b in seen], "o-", label=name
        )
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=110)
