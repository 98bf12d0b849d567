"""What conversion costs: each run in every format, scored on its test side beside Keras."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from serkit.convert.bundle import convert_formats
from serkit.convert.export import FORMATS
from serkit.convert.parity import strays
from serkit.edge.bundle import read_bundle
from serkit.edge.engine import Engine
from serkit.edge.errors import ModelError, SettingsError
from serkit.train.fit import load_sides, split_for
from serkit.train.metrics import score
from serkit.train.runs import load_run, load_trained
from serkit.train.scoring import Logits, keras_logits, utterance_probabilities, window_utterances


def measure(
    runs: Sequence[Path], data: Path, formats: Sequence[str], shown: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """One row per run and format.

    Args:
        runs: Finished run folders.
        data: Folder that holds their corpora.
        formats: Keys of `FORMATS`.
        shown: Called with each row as it is made.

    Returns:
        Rows with ``system, recipe, corpus, protocol, fold, seed, format, engine, size_bytes, n_utterances, uar,
        uar_keras, uar_change, refused`` (`serkit convert` would not write it) and ``label_agreement``; fractions. Where
        the converter fails, ``error`` instead of figures.

    Raises:
        SerkitError: Unknown format, a run is not finished, or the corpora are not those it was split from.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise SettingsError(f"no format {unknown[0]!r}; choose one of {', '.join(FORMATS)}")
    rows: list[dict[str, Any]] = []
    for run in runs:
        recipe, metrics, _ = load_run(run)
        test = load_sides(split_for(recipe, data), recipe, data, run, None)["test"]  # the run's own, or an error
        windows = window_utterances(test.frames, recipe.frontend, recipe.window)

        def answers(logits: Logits, test: Any = test, windows: Any = windows, t: float = metrics["temperature"]) -> Any:
            return utterance_probabilities(logits, windows, len(test.utterances), t)

        reference = answers(keras_logits(load_trained(run)))
        with tempfile.TemporaryDirectory() as folder:
            for format in formats:
                output = Path(folder) / f"{format}.tflite"
                about = {
                    "system": recipe.system,
                    "recipe": recipe.name,
                    "corpus": "+".join(recipe.corpora),
                    "protocol": recipe.split.protocol,
                    "fold": recipe.split.fold,
                    "seed": recipe.training.seed,
                    "format": format,
                }
                try:
                    info = convert_formats(run, {format: output}, refuse_strays=False)[format]
                except ModelError as error:  # the converter's; the other formats and runs go on
                    rows.append({**about, "error": str(error)})
                    shown(rows[-1])
                    continue
                engine = Engine(read_bundle(str(output)).data, recipe.window.hop_frames)
                probabilities = answers(engine.batch_logits)
                before, after = (score(test.utterances, p, recipe.labels) for p in (reference, probabilities))
                rows.append(
                    {
                        **about,
                        "engine": engine.name,
                        "size_bytes": info["size_bytes"],
                        "n_utterances": after["n_utterances"],
                        "uar": after["uar"],
                        "uar_keras": before["uar"],
                        "uar_change": round(after["uar"] - before["uar"], 4),
                        "refused": strays(info["parity"], format),
                        "label_agreement": round(float((probabilities.argmax(1) == reference.argmax(1)).mean()), 4),
                    }
                )
                shown(rows[-1])
    return rows
