"""`serkit train` and `serkit evaluate`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from serkit.edge.cli import as_json, needs
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.stderr import muted
from serkit.train.splits import PROTOCOLS

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PROTOCOLS = click.Choice(PROTOCOLS)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="SERKIT_DATA",
    required=True,
    help="Folder that holds the corpora; $SERKIT_DATA by default.",
)


def _in_a_folder(ctx: click.Context, parameter: click.Parameter, out: Path | None) -> Path | None:
    """Before the work, not after it: can a file be written there?"""
    if out is not None and not out.parent.is_dir():
        raise SettingsError(f"{out}: no folder {out.parent}; make it first")
    if out is not None and out.exists() and not out.is_file():  # a device would be replaced by a file
        raise SettingsError(f"{out}: not a file; give the name of one")
    return out


def out_option(help: str = "Also write a results JSON there.", name: str = "--out") -> Callable[[_Command], _Command]:
    """``--out``, where the results of a measurement go."""
    return click.option(name, type=click.Path(path_type=Path), callback=_in_a_folder, help=help)


def prepare_keras(backend: str | None = None) -> None:
    """Choose Keras' back end before Keras is imported, and keep TensorFlow's start-up lines off the screen."""
    needs("train", "keras", "sklearn", "matplotlib")
    if backend:
        os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    chosen = os.environ["KERAS_BACKEND"]
    if importlib.util.find_spec(chosen) is None:
        raise MissingExtraError(f"Keras' back end {chosen} is not installed; `pip install {chosen}` brings it")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of retracing wherever two models predict
    with muted():
        importlib.import_module("keras")


@click.command()
@click.argument("recipe")
@data_option
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; runs/RECIPE-CORPORA-PROTOCOL-FOLD-SEED.")
@click.option("--corpus", help="Train on this one, with its emotions, instead of the recipe's.")
@click.option("--protocol", type=_PROTOCOLS, help="Instead of the recipe's.")
@click.option("--fold", type=click.IntRange(0), help="Instead of the recipe's.")
@click.option("--seed", type=click.IntRange(0), help="Instead of the recipe's.")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--start", help="Recipe whose trained encoder this one starts from, instead of the recipe's.")
@click.option("--data-parallel", is_flag=True, help="Share each batch over all GPUs of this machine; needs JAX.")
@click.option(
    "--backend",
    type=click.Choice(["tensorflow", "jax", "torch"]),
    help="Of Keras; $KERAS_BACKEND by default.",
)
@as_json
def train(
    recipe: str,
    data: Path,
    out: Path | None,
    corpus: str | None,
    protocol: str | None,
    fold: int | None,
    seed: int | None,
    epochs: int | None,
    start: str | None,
    data_parallel: bool,
    backend: str | None,
    as_json: bool,
) -> None:
    """Train a model from RECIPE, a TOML file or a bundled recipe's name.

    Interrupted, the same command goes on where it stopped. The run folder holds weights, figures and plots.

    \b
    Examples:
      serkit train serkit-cnn --data ~/corpora
      serkit train r1 --protocol speaker-independent --fold 3 --data ~/corpora --out runs/r1-fold3
    """
    prepare_keras(backend)
    from serkit.train.build import draws_epochs
    from serkit.train.fit import train as run
    from serkit.train.parallel import use_all_devices
    from serkit.train.recipe import override, read_recipe
    from serkit.train.runs import run_name

    if data_parallel:
        use_all_devices()

    chosen = override(
        read_recipe(recipe),
        corpus=corpus,
        start=start,
        split={"protocol": protocol, "fold": fold},
        training={"seed": seed, "epochs": epochs},
    )
    if epochs is not None and not draws_epochs(chosen):
        raise click.UsageError(f"{recipe} is fitted at once, without epochs; leave --epochs out")
    s = chosen.split
    out = out or Path("runs") / run_name(chosen)
    metrics = run(chosen, data, out)
    if as_json:
        click.echo(json.dumps({"schema": 1, "run": str(out), **metrics}))
        return
    if chosen.teacher.alone:
        click.echo(f"validation  {100 * metrics['validation']['imitated']:.1f} % of the teacher's variance")
        click.echo(f"{out}: an encoder for the recipes beside it that start from {chosen.name}")
        return
    for side in ("validation", "test"):
        for corpus, figures in metrics.get(side, {}).items():
            click.echo(_figures_text(f"{side} {corpus}", figures))
    if chosen.control:
        click.echo(f"a control: {chosen.control}")
    click.echo(f"{out}: weights, figures and plots")
    if "test" not in metrics:
        click.echo(f"score the test speakers with `serkit evaluate {out} --protocol {s.protocol} --corpus ...`")


@click.command()
@click.argument("recipes", nargs=-1, required=True)
@data_option
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Run folders.")
@click.option("--corpus", help="Train on this one, with its emotions, instead of the recipe's.")
@click.option("--protocol", type=_PROTOCOLS, help="Instead of the recipe's.")
@click.option("--folds", help="Such as 0,3; all that the protocol has by default (of random splits, 0).")
@click.option("--seeds", default="0,1,2", show_default=True, help="Training seeds.")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's: a smaller schedule, which rows say.")
@click.option("--start", help="Recipe whose trained encoder they start from, instead of the recipe's.")
@click.option("--workers", type=click.IntRange(1), help="Runs at a time on this machine; as many as cores by default.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores of each run.")
@click.option("--gpus-per-run", type=click.FloatRange(0), default=0.0, show_default=True, help="0.1: ten share a GPU.")
@click.option("--ensemble", is_flag=True, help="Also average the seeds of each fold into one model.")
@click.option("--ray-address", help="A Ray cluster's, such as auto or ray://head:10001, instead of this machine.")
@click.option("--backend", type=click.Choice(["tensorflow", "jax", "torch"]), help="Of Keras.")
@as_json
def sweep(
    recipes: tuple[str, ...],
    data: Path,
    runs: Path,
    corpus: str | None,
    protocol: str | None,
    folds: str | None,
    seeds: str,
    epochs: int | None,
    start: str | None,
    workers: int | None,
    threads: int,
    gpus_per_run: float,
    ensemble: bool,
    ray_address: str | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Train RECIPES over folds and seeds, as Ray tasks, and say how good each is.

    Interrupted, the same command goes on where it stopped: finished runs are kept, unfinished ones resume.

    \b
    Examples:
      serkit sweep r1 --protocol speaker-independent --data ~/corpora
      serkit sweep svm cnn lstm r1 --corpus emodb --protocol random --epochs 40 --seeds 0
    """
    prepare_keras(backend)
    needs("sweep", "ray")
    from serkit.train.recipe import override, read_recipe
    from serkit.train.runs import run_name
    from serkit.train.summary import cells, read_runs
    from serkit.train.sweep import plan
    from serkit.train.sweep import sweep as run

    if ensemble and len(set(_numbers("--seeds", seeds))) < 2:
        raise click.UsageError("--ensemble averages seeds; give two or more with --seeds")
    planned: dict[str, Any] = {}
    for name in recipes:
        chosen = override(
            read_recipe(name), corpus=corpus, start=start, split={"protocol": protocol}, training={"epochs": epochs}
        )
        if chosen.teacher.alone:
            raise click.UsageError(f"{name} names no emotion, so there is nothing to compare; use `serkit train`")
        if chosen.split.protocol == "ship-test":
            raise click.UsageError(
                f"{name}: ship-test keeps its test speakers back; give another --protocol, or use `serkit train`"
            )
        wanted = None if folds is None else _numbers("--folds", folds)
        planned |= {run_name(job): job for job in plan(chosen, data, _numbers("--seeds", seeds), wanted)}
    jobs = list(planned.values())
    chosen_backend = os.environ["KERAS_BACKEND"]
    run(
        jobs, data, runs, backend=chosen_backend, workers=workers, threads=threads, gpus_per_run=gpus_per_run,
        address=ray_address,
    )  # fmt: skip
    outs = [runs / run_name(j) for j in jobs]
    if ensemble:
        from serkit.train.ensembles import make_ensembles

        outs += make_ensembles(jobs, data, runs)
    for cell in cells(read_runs(outs)):
        if as_json:
            click.echo(json.dumps({"schema": 1, **cell.row}))
        else:
            control = f" ({cell.row['control']})" if cell.row["control"] else ""
            click.echo(_figures_text(f"{cell.row['recipe']}{control} {cell.corpus} {cell.row['protocol']}", cell.row))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@data_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder of the ensemble.")
@click.option("--name", help="What it is called; the first run's recipe and -ensemble by default.")
@as_json
def ensemble(runs: tuple[Path, ...], data: Path, out: Path, name: str | None, as_json: bool) -> None:
    """Average finished RUNS, of the same split and front end, into one model that converts like any other.

    \b
    Example:
      serkit ensemble runs/r2-ravdess*-random-0-? --out runs/r2-ensemble
    """
    prepare_keras()
    from serkit.train.ensembles import make_ensemble

    metrics = make_ensemble(runs, data, out, name)
    if as_json:
        click.echo(json.dumps({"schema": 1, "run": str(out), **metrics}))
        return
    for side in ("validation", "test"):
        for corpus, figures in metrics.get(side, {}).items():
            click.echo(_figures_text(f"{side} {corpus}", figures))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="SERKIT_DATA",
    help="Folder that holds the run's corpora, for the acoustic correlates; $SERKIT_DATA by default.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for pictures and JSON; RUN/explain by default.")
@click.option("--results", type=click.Path(path_type=Path), help="Also write the figures there, as a results JSON.")
@as_json
def explain(run: Path, data: Path | None, out: Path | None, results: Path | None, as_json: bool) -> None:
    """Show what a run listens to: attribution maps, a band-occlusion test, attention, acoustic correlates.

    \b
    Example:
      serkit explain runs/r1-ravdess-random-0-0 --data ~/corpora
    """
    prepare_keras("tensorflow")
    from serkit.train.explain import explain as look

    if results is not None and not results.parent.is_dir():
        raise SettingsError(f"{results}: no folder {results.parent}; make it first")
    out = out or run / "explain"
    result = look(run, out, data)
    if results is not None:
        from serkit.train.results import write_results

        points = {name: {k: v for k, v in f.items() if k not in ("hz", "against")}
                  for name, f in result.get("correlates", {}).items()}  # fmt: skip
        write_results(results, "explain", [result | {"correlates": points}])
    if as_json:
        click.echo(json.dumps(result))
        return
    o, (low, high) = result["occlusion"], result["band_hz"]
    click.echo(
        f"{low:.0f}-{high:.0f} Hz holds {result['attribution_share_in_band']:.0%} of the attribution and "
        f"{result['share_of_mel_bands_in_band']:.0%} of the mel bands"
    )
    click.echo(
        f"validation UAR {o['uar']:.3f}; without that band {o['uar_without_band']:.3f}, with it alone "
        f"{o['uar_band_alone']:.3f} (chance {o['chance']:.3f})"
    )
    for name, f in result.get("correlates", {}).items():
        measure, dimension = name.split("_")
        ends = " to ".join(f"{edge:+.2f}" for edge in f["ci95"]) + ", " if f["ci95"] else ""
        who = f"{ends}{f['n_utterances']} utterances of {f['n_speakers']} speakers"
        click.echo(f"{measure} against {dimension}: Spearman {f['rho']:+.2f} ({who})")
    click.echo(f"{out}: explain.json and pictures")


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
        if min(numbers) < 0:
            raise ValueError
        return numbers
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of whole numbers such as 0,1,2", param_hint=option) from None


def _figures_text(title: str, f: dict[str, Any]) -> str:
    return (
        f"{title:<24} UAR {f['uar']:.3f}  accuracy {f['accuracy']:.3f}  macro-F1 {f['macro_f1']:.3f}  "
        f"worst speaker {f['worst_speaker']} {f['worst_speaker_uar']:.3f}  ({f['n_utterances']} utterances)"
    )


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--model", "-m", help="Bundled model or .tflite file, instead of a run.")
@click.option("--corpus", required=True, help="ravdess, ravdess-song, emodb, tess or nemo.")
@data_option
@click.option("--protocol", type=_PROTOCOLS, required=True, help="Which utterances are scored.")
@click.option("--noise", type=click.Path(path_type=Path), help="Folder of noise recordings to add.")
@click.option("--snr", type=float, help="Signal-to-noise ratio, dB; with --noise.")
@click.option("--engine", type=click.Choice(["auto", "litert", "tflite-runtime"]), default="auto", show_default=True)
@out_option()
@as_json
def evaluate(
    run: Path | None,
    model: str | None,
    corpus: str,
    data: Path,
    protocol: str,
    noise: Path | None,
    snr: float | None,
    engine: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score a run, or a model file, on the test side of a protocol.

    A recording the model learned from is never scored, and a speaker only under the random protocols, where the papers
    do so: that is an error, not a figure.

    \b
    Examples:
      serkit evaluate --model default --corpus ravdess --protocol ship-test --data ~/corpora
      serkit evaluate runs/r1-ravdess-random-0-0 --corpus ravdess --protocol random --data ~/corpora
    """
    if (run is None) == (model is None):
        raise click.UsageError("give either a run folder or --model")
    if (noise is None) != (snr is None):
        raise click.UsageError("--noise and --snr go together")
    if snr is not None and not math.isfinite(snr):
        raise click.UsageError(f"--snr is {snr}; a number of decibels is needed")
    if run is not None:
        prepare_keras()
    else:
        needs("train", "sklearn")
    from serkit.train.evaluate import evaluate as score

    result = score(
        run=run,
        model=model,
        corpus=corpus,
        data=data,
        protocol=protocol,
        noise=noise,
        snr_db=snr,
        engine=engine,
    )
    if out is not None:
        from serkit.train.results import write_results

        write_results(out, "evaluate", [result])
    if as_json:
        click.echo(json.dumps({"schema": 1, **result}))
        return
    click.echo(_figures_text(f"{result['system']} {result['format']}", result))
    for label, f in result["per_class"].items():
        click.echo(f"  {label:<10} recall {f['recall']:.3f}  precision {f['precision']:.3f}  ({f['n']})")
