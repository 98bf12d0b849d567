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
    axes.plot(x, [e["train_accuracy"] for e in epochs], label="training accuracy, augmented windows")
    axes.plot(x, [e["validation_uar"] for e in epochs], label="validation UAR")
    axes.plot(x, [e["loss"] for e in epochs], ":", label="training loss")
    axes.set(xlabel="epoch", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)
