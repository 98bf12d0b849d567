"""Average finished runs into one model, which is scored, converted and heard like any other."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from serkit.edge.errors import SettingsError
from serkit.train.build import build_system
from serkit.train.environment import environment
from serkit.train.fit import load_sides, split_for
from serkit.train.outcome import report
from serkit.train.recipe import Recipe
from serkit.train.runs import RunState, load_run, load_trained, open_run, run_name, write_json
from serkit.train.zoo.ensemble import set_member


def ensemble_recipe(runs: Sequence[Path], name: str | None = None) -> Recipe:
    """The recipe of an ensemble: that of the first run, with all of them as members.

    Raises:
        SettingsError: Fewer than two runs, or runs that do not see or say the same things.
    """
    if len(runs) < 2:
        raise SettingsError("an ensemble needs two or more runs")
    loaded = [load_run(run) for run in runs]
    first, _, split = loaded[0]
    if len({run.resolve() for run in runs}) < len(runs) or any(r.system == "ensemble" for r, _, _ in loaded):
        raise SettingsError("an ensemble needs different runs, none of them an ensemble")
    for path, (recipe, _, other) in zip(runs, loaded, strict=True):
        for what in ("labels", "corpora", "frontend", "window", "split", "control"):
            if getattr(recipe, what) != getattr(first, what):
                raise SettingsError(f"{path}: its {what} differ from those of {runs[0]}; they cannot be averaged")
        if other != split:
            raise SettingsError(f"{path}: trained on other recordings than {runs[0]}; they cannot be averaged")
    members = [{"system": r.system, "options": r.model} for r, _, _ in loaded]
    return replace(first, name=name or f"{first.name}-ensemble", system="ensemble", model={"members": members})


def make_ensemble(runs: Sequence[Path], data: Path, out: Path, name: str | None = None) -> dict[str, Any]:
    """Write the run folder of an ensemble; its temperature is fitted on the validation side they share.

    Returns:
        The content of ``metrics.json``.

    Raises:
        SettingsError: The runs do not fit together, or ``out`` holds another run.
    """
    recipe = ensemble_recipe(runs, name)
    wanted = [path.name for path in runs]
    if (done := RunState(out).state).get("finished") and done.get("fit", {}).get("members") == wanted:
        return dict(load_run(out)[1])
    if "fit" in done and "members" in done["fit"]:
        shutil.rmtree(out)  # of other members, or interrupted
    run = open_run(recipe, out)
    loaded = [load_run(path) for path in runs]
    write_json(out / "split.json", loaded[0][2])  # what the members saw; `load_sides` holds the recordings to it
    model = build_system(recipe)
    for i, path in enumerate(runs):
        set_member(model, i, load_trained(path))
    sides = load_sides(split_for(recipe, data), recipe, data, out, None)
    seconds = sum(json.loads((p / "environment.json").read_text(encoding="utf-8"))["seconds"] for p in runs)
    epochs = max(metrics["epochs"] for _, metrics, _ in loaded)
    run.state.update(epoch=epochs, best_epoch=-1, environment=environment(), seconds=seconds)
    run.state["fit"] = {"recipe": loaded[0][0].name, "seeds": [m["seed"] for _, m, _ in loaded], "members": wanted}
    about = [metrics for _, metrics, _ in loaded]
    run.state.update(start=about[0]["start"], taught=any(m["taught"] for m in about))
    write_json(run.state_path, run.state)
    return report(recipe, model, sides, run)


def make_ensembles(recipes: Sequence[Recipe], data: Path, runs: Path) -> list[Path]:
    """For finished runs of a sweep: one ensemble of all seeds for each recipe and fold.

    Returns:
        The run folders of the ensembles.
    """
    groups: dict[tuple[str, int], list[Recipe]] = defaultdict(list)
    for recipe in recipes:
        groups[recipe.name, recipe.split.fold].append(recipe)
    outs = []
    for members in groups.values():
        paths = [runs / run_name(r) for r in members]
        out = runs / run_name(ensemble_recipe(paths))
        make_ensemble(paths, data, out)
        outs.append(out)
    return outs
