"""`serkit train` and `serkit evaluate`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import click

from serkit.edge.cli import as_json, needs
from serkit.edge.errors import MissingExtraError, SettingsError
from serkit.edge.stderr import muted
from serkit.train.splits import PROTOCOLS

_PROTOCOLS = click.Choice(PROTOCOLS)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="SERKIT_DATA",
    required=True,
    help="Folder that holds the corpora; $SERKIT_DATA by default.",
)


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
    backend: str | None,
    as_json: bool,
) -> None:
    """Train a model from RECIPE, a TOML file or a bundled recipe's name.

    Interrupted, the same command goes on where it stopped. The run folder holds weights, figures and plots.

    \b
    Examples:
      serkit train r1-ship --data ~/corpora
      serkit train r1 --protocol speaker-independent --fold 3 --data ~/corpora --out runs/r1-fold3
    """
    prepare_keras(backend)
    from serkit.train.fit import train as run
    from serkit.train.recipe import override, read_recipe
    from serkit.train.runs import run_name

    chosen = override(
        read_recipe(recipe),
        corpus=corpus,
        split={"protocol": protocol, "fold": fold},
        training={"seed": seed, "epochs": epochs},
    )
    s = chosen.split
    out = out or Path("runs") / run_name(chosen)
    metrics = run(chosen, data, out)
    if as_json:
        click.echo(json.dumps({"schema": 1, "run": str(out), **metrics}))
        return
    for side in ("validation", "test"):
        for corpus, figures in metrics.get(side, {}).items():
            click.echo(_figures_text(f"{side} {corpus}", figures))
    click.echo(f"{out}: weights, figures and plots")
    if "test" not in metrics:
        click.echo(f"score the test speakers with `serkit evaluate {out} --protocol {s.protocol} --corpus ...`")


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
@click.option("--out", type=click.Path(path_type=Path), help="Also write the result there, as a results JSON.")
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
    if out is not None and not out.parent.is_dir():
        raise SettingsError(f"{out}: no folder {out.parent}; make it first")
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
