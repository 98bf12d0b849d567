"""What a finished run leaves behind: figures of the chosen weights, predictions, plots, and the network itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from serkit.train import plots
from serkit.train.build import build_system
from serkit.train.enrolment import SUNG
from serkit.train.features import FeatureSet
from serkit.train.metrics import fit_temperature, score
from serkit.train.recipe import Recipe
from serkit.train.runs import RunState, save_reference, strangers, write_json
from serkit.train.scoring import keras_logits, utterance_probabilities, window_utterances
from serkit.train.student import taught


def report(recipe: Recipe, model: Any, sides: dict[str, FeatureSet], run: RunState) -> dict[str, Any]:
    """Score the chosen weights and write everything a run leaves behind.

    Returns:
        The content of ``metrics.json``.
    """
    out = run.out
    metrics = _about(recipe, model, run)
    if "fit" in run.state:
        metrics["fit"] = run.state["fit"]
    validation = sides["validation"]
    windows = window_utterances(validation.frames, recipe.frontend, recipe.window)
    logits = keras_logits(model)(windows.inputs)
    truth = np.array([recipe.labels.index(validation.utterances[i].emotion) for i in windows.owner])
    # A single training voice validates itself: a temperature fitted on it would make others' answers too sure.
    listed = json.loads((out / "split.json").read_text(encoding="utf-8"))
    metrics["calibrated"] = recipe.split.protocol.startswith("random") or strangers(listed)
    spoken = np.array([not validation.utterances[i].key.startswith(SUNG) for i in windows.owner])
    heard = spoken if spoken.any() else ~spoken
    metrics["temperature"] = fit_temperature(logits[heard], truth[heard]) if metrics["calibrated"] else 1.0
    # The ship-test speakers are for `serkit evaluate` alone: shown after every run, they would be tuned on.
    scored = ("validation",) if recipe.split.protocol == "ship-test" else ("validation", "test")
    predictions: dict[str, Any] = {"labels": list(recipe.labels)}
    for side in scored:
        utterances = sides[side].utterances
        windows = window_utterances(sides[side].frames, recipe.frontend, recipe.window)
        pair = [
            utterance_probabilities(keras_logits(model), windows, len(utterances), temperature)
            for temperature in (1.0, metrics["temperature"])
        ]
        metrics[side] = {
            corpus: score([utterances[i] for i in rows], pair[1][rows], recipe.labels)
            for corpus in recipe.corpora
            if (rows := [i for i, u in enumerate(utterances) if u.corpus == corpus])
        }
        predictions[side] = [
            {
                "utterance": u.key, "voice": u.voice, "sex": u.sex, "emotion": u.emotion,
                "uncalibrated": np.round(before, 5).tolist(), "probabilities": np.round(after, 5).tolist(),
            }
            for u, before, after in zip(utterances, *pair, strict=True)
        ]  # fmt: skip
    metrics["refused"] = list(validation.refused)
    bare = build_system(recipe)  # without the optimizer, which is twice the size of the weights
    bare.set_weights(model.get_weights())
    save_reference(recipe, sides, out)
    confusions = {corpus: figures["confusion"] for corpus, figures in metrics[scored[-1]].items()}
    write_json(out / "confusion.json", confusions)
    write_json(out / "predictions.json", predictions)
    plots.confusion(confusions, out / "confusion.png")
    return _finish(recipe, bare, metrics, run)


def report_imitation(recipe: Recipe, learner: Any, sides: dict[str, FeatureSet], run: RunState) -> dict[str, Any]:
    """Of an encoder that names nothing: how well it imitates."""
    sizes = {what: output.shape[-1] for what, output in learner.output.items()}
    bare = taught(build_system(recipe), sizes, alone=True)
    bare.set_weights(learner.get_weights())
    metrics = _about(recipe, bare, run) | {
        "validation": {"imitated": run.state["best_score"]}, "refused": list(sides["validation"].refused)
    }  # fmt: skip
    return _finish(recipe, bare, metrics, run)


def _about(recipe: Recipe, model: Any, run: RunState) -> dict[str, Any]:
    """What any run's ``metrics.json`` begins with."""
    return {
        "system": recipe.system,
        "protocol": recipe.split.protocol,
        "fold": recipe.split.fold,
        "seed": recipe.training.seed,
        "n_parameters": int(model.count_params()),
        "best_epoch": run.state["best_epoch"],
        "epochs": run.state["epoch"],
        "start": run.state["start"],
        "taught": run.state["taught"],
    }


def _finish(recipe: Recipe, model: Any, metrics: dict[str, Any], run: RunState) -> dict[str, Any]:
    """Keep the network and what every run leaves behind."""
    import keras

    model.save(run.out / "model.keras")
    write_json(run.out / "metrics.json", metrics)
    about = {"backend": keras.backend.backend(), "seed": recipe.training.seed, "seconds": run.state["seconds"]}
    write_json(run.out / "environment.json", run.state["environment"] | about | {"seconds": round(about["seconds"], 1)})
    if (run.out / "history.jsonl").exists():
        plots.history(run.out / "history.jsonl", run.out / "history.png")
    run.finish()
    return metrics
