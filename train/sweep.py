"""Folds x seeds x recipes as Ray tasks: the same call on a laptop and on a cluster; finished runs are not run again."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serkit.edge.errors import SerkitError, SettingsError
from serkit.edge.settings import build
from serkit.train.corpora import read_corpus
from serkit.train.features import load_features
from serkit.train.recipe import Recipe, lineage
from serkit.train.runs import RunState, run_name
from serkit.train.splits import n_folds
from serkit.train.teacher import hear


def plan(recipe: Recipe, data: Path, seeds: Sequence[int], folds: Sequence[int] | None = None) -> list[Recipe]:
    """One recipe per run: every fold of its protocol (of random splits the first draw) with every seed.

    Raises:
        SettingsError: A fold that the protocol does not have, or one whose test speakers would be heard by what the
            recipe starts from.
    """
    utterances = [u for c in recipe.corpora for u in read_corpus(c, data) if u.emotion in recipe.labels]
    available = n_folds(utterances, recipe.split.protocol)
    chosen = range(available) if folds is None else folds
    if not recipe.split.protocol.startswith("random") and (wrong := [f for f in chosen if not 0 <= f < available]):
        raise SettingsError(f"fold {wrong[0]}: {recipe.split.protocol} has folds 0 to {available - 1} here")
    load_features(utterances, recipe.frontend)  # once, before many processes ask for it
    if recipe.teacher.weight:
        hear(utterances, recipe.teacher)
    jobs = [
        replace(recipe, split=replace(recipe.split, fold=fold), training=replace(recipe.training, seed=seed))
        for seed in seeds
        for fold in chosen
    ]
    if recipe.start is not None:
        from serkit.train.fit import agreeing_speech, check_start, split_for

        for job in jobs[: len(chosen)]:
            check_start(job, split_for(job, data), data)
        if recipe.teacher.answers:
            hear(agreeing_speech(recipe, split_for(jobs[0], data), data), recipe.teacher)
    return jobs


def _train(recipe: dict[str, Any], data: str, out: str, backend: str) -> dict[str, Any]:
    """One task: a run folder, or the line that says why there is none."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    from serkit.train.fit import train

    keras.utils.clear_session()
    kept = RunState(Path(out)).state.get("finished")
    try:
        metrics = train(build(Recipe, recipe, "recipe"), Path(data), Path(out))
    except SerkitError as error:
        return {"error": str(error)}
    if kept:
        return {"kept": json.loads((Path(out) / "environment.json").read_text(encoding="utf-8"))["backend"]}
    return {"uar": {corpus: f["uar"] for corpus, f in metrics.get("test", {}).items()}}


def _reach(address: str) -> None:
    """Ray itself would wait for minutes.

    Raises:
        SerkitError: Nobody listens at the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SerkitError(
            f"no Ray cluster answers at {address} ({reason}); start one with `ray start --head`, or leave "
            "--ray-address out"
        ) from None


def sweep(
    recipes: Sequence[Recipe],
    data: Path,
    runs: Path,
    *,
    backend: str = "tensorflow",
    workers: int | None = None,
    threads: int = 1,
    gpus_per_run: float = 0.0,
    address: str | None = None,
) -> list[Path]:
    """Train what is not finished yet.

    Args:
        recipes: One per run, from `plan`.
        data: Folder that holds the corpora; on a cluster, the same path on every node.
        runs: Where the run folders are; on a cluster, shared by all nodes.
        backend: Of Keras.
        workers: Runs at a time on this machine; as many as cores by default, ignored with ``address``.
        threads: Cores of each run.
        gpus_per_run: Share of a GPU that each run takes; below 1, several share one.
        address: A Ray cluster's, instead of this machine.

    Returns:
        The run folders.

    Raises:
        SerkitError: Some runs failed; the others are finished, and the message names the first.
    """
    import ray

    if address is not None and address != "auto":
        _reach(address)
    outs = [runs / run_name(r) for r in recipes]
    lines = [lineage(r) for r, out in zip(recipes, outs, strict=True) if not RunState(out).state.get("finished")]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": "1"}
    quiet |= {"OMP_NUM_THREADS": str(threads), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    kept = {k: os.environ[k] for k in ("SERKIT_CACHE",) if k in os.environ}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing here calls home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {"num_cpus": (workers or os.cpu_count() or 1) * threads, "include_dashboard": False}
    try:
        ray.init(
            address=address,
            logging_level="error",
            log_to_driver=False,
            runtime_env={"env_vars": quiet | kept},
            **({} if address else local),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SerkitError(f"Ray does not start ({str(error).splitlines()[0]}); check --ray-address") from None
    console = Console(stderr=True)
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    task = ray.remote(num_cpus=threads, num_gpus=gpus_per_run, max_retries=1)(_train)

    def run(jobs: dict[Path, Recipe]) -> None:
        waiting = {
            task.remote(r.to_dict(), str(data.resolve()), str(out.resolve()), backend): out for out, r in jobs.items()
        }
        with Progress(*columns, console=console, transient=True) as progress:
            shown = progress.add_task("runs", total=len(waiting))
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                out = waiting.pop(done)
                try:
                    result = ray.get(done)
                except ray.exceptions.RayError as error:
                    result = {"error": str(error).strip().splitlines()[-1]}
                if "error" in result:
                    failed.append(f"{out.name}: {result['error']}")
                    words = f"failed: {result['error']}"
                elif "kept" in result:
                    words = f"kept, trained before with {result['kept']}"
                else:
                    words = "  ".join(f"{corpus} UAR {uar:.3f}" for corpus, uar in result["uar"].items()) or "ready"
                console.print(f"{out.name}  {words}", highlight=False, soft_wrap=True)
                progress.advance(shown)

    try:
        console.print(f"{len(outs)} runs in {runs}; interrupted, the same command goes on", highlight=False)
        for depth in range(max(map(len, lines), default=1) - 1, 0, -1):  # first what others start from
            firsts = {runs / run_name(line[depth]): line[depth] for line in lines if len(line) > depth}
            run({out: r for out, r in firsts.items() if not RunState(out).state.get("finished")})
            if failed:
                raise SerkitError(f"what other runs start from failed, so none of them began: {failed[0]}")
        run(dict(zip(outs, recipes, strict=True)))
    finally:
        ray.shutdown()
    if failed:
        raise SerkitError(f"{len(failed)} of {len(recipes)} runs failed; the first: {failed[0]}")
    return outs
