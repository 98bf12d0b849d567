"""`serkit bench`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Literal

import click

from serkit.benchmarks import cost_cli, listening_cli
from serkit.benchmarks.fleet_cli import fleet
from serkit.edge.cli import as_json, needs
from serkit.edge.errors import SettingsError
from serkit.train.cli import data_option, out_option, prepare_keras
from serkit.train.splits import PROTOCOLS


@click.group()
def bench() -> None:
    """Measure something, against peers, in one run."""


@bench.command()
@click.option("--repeats", type=click.IntRange(3), default=60, show_default=True, help="Rounds counted.")
@out_option()
@as_json
def frontend(repeats: int, out: Path | None, as_json: bool) -> None:
    """Cost of the front end per second of audio, against python_speech_features, librosa and a TFLite graph.

    \b
    Example:
      serkit bench frontend --out frontend.json
    """
    needs("reference", "librosa", "python_speech_features")
    from serkit.benchmarks.frontend import HAS_TENSORFLOW, measure
    from serkit.train.results import write_results

    if not HAS_TENSORFLOW:
        click.echo("without the TFLite graph: TensorFlow, which builds it, is not installed", err=True)
    rows = measure(repeats)
    if out is not None:
        write_results(out, "frontend", rows)
    for row in rows:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        else:
            click.echo(
                f"{row['features']:<8} {row['scenario']:<10}{row['length_s']:5.2f} s at once  {row['system']:<24}"
                f"{row['median_ms']:8.3f} ms per s   {row['ratio']:6.2f} x serkit"
            )


@bench.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--model", "-m", help="Bundled model or .tflite file, instead of a run.")
@click.option("--corpus", required=True, help="ravdess, ravdess-song, emodb, tess or nemo.")
@data_option
@click.option("--protocol", type=click.Choice(PROTOCOLS), required=True, help="Which utterances are scored.")
@click.option(
    "--side",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Of a run: validation, to choose recipes by, with no noise or room of the tests.",
)
@click.option("--noises", type=click.Path(path_type=Path), help="Folder with a sub-folder per kind; DATA/noise.")
@click.option("--rooms", type=click.Path(path_type=Path), help="Folder of impulse responses; DATA/rir.")
@click.option("--engine", type=click.Choice(["auto", "litert", "tflite-runtime"]), default="auto", show_default=True)
@out_option("Also write a results JSON, and a plot beside it.")
@as_json
def robustness(
    run: Path | None,
    model: str | None,
    corpus: str,
    data: Path,
    protocol: str,
    side: Literal["test", "validation"],
    noises: Path | None,
    rooms: Path | None,
    engine: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """What noise, rooms, level, telephone and clipping cost a model, on speakers it never heard.

    Without --noises and --rooms, the folders noise and rir in DATA are used where they exist.

    \b
    Example:
      serkit bench robustness --model default --corpus ravdess --protocol ship-test --data ~/corpora
      serkit bench robustness runs/mine --corpus ravdess --protocol ship-test --side validation --data ~/corpora
    """
    if (run is None) == (model is None):
        raise click.UsageError("give either a run folder or --model")
    if run is not None:
        prepare_keras()
    else:
        needs("train", "sklearn", "scipy", "matplotlib")
    if side == "validation" and rooms is not None:
        raise click.UsageError("--rooms are the test side's; the validation side is heard in simulated ones")
    from serkit.benchmarks.robustness import measure, plot
    from serkit.train.evaluate import Scorer
    from serkit.train.noises import TEST_NOISES
    from serkit.train.results import write_results

    if noises is None and (data / "noise").is_dir():
        noises = data / "noise"
    if rooms is None and (data / "rir").is_dir():
        rooms = data / "rir"
    kept = [kind for kind in TEST_NOISES if side == "validation" and noises is not None and (noises / kind).is_dir()]
    if kept:
        click.echo(f"left out: {', '.join(kept)}, which only tests may hear", err=True)

    def shown(row: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        else:
            snr = "" if row["snr_db"] is None else f" {row['snr_db']:g} dB"
            name = f"{row['condition']} {row['what']}{snr}"
            figures = f"UAR {row['uar']:.3f}  loss {row['uar_loss']:+.3f}  log-loss {row['log_loss']:.3f}"
            click.echo(f"{name:<50} {figures}")

    scorer = Scorer(run=run, model=model, corpus=corpus, data=data, protocol=protocol, engine=engine, side=side)
    rows = measure(scorer, noises, rooms, shown)
    if out is not None:
        write_results(out, "robustness", rows)
        plot(rows, out.with_suffix(".png"))


@bench.command()
@click.option(
    "--model", "-m", "models", multiple=True, help="Bundled model or .tflite file; several times.  [default: default]"
)
@click.option("--corpus", "corpora", multiple=True, required=True, help="ravdess, emodb, tess or nemo; several times.")
@data_option
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS[:3]), default="ship-test", show_default=True, help="Who is enrolled."
)
@click.option("--engine", type=click.Choice(["auto", "litert", "tflite-runtime"]), default="auto", show_default=True)
@out_option()
@as_json
def enrolment(
    models: tuple[str, ...],
    corpora: tuple[str, ...],
    data: Path,
    protocol: str,
    engine: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """What `serkit enroll` changes for speakers nothing was fitted on, with half of their neutral utterances.

    \b
    Example:
      serkit bench enrolment --corpus ravdess --corpus emodb --data ~/corpora
    """
    needs("train", "sklearn")
    from serkit.benchmarks import enrolment as job
    from serkit.train.results import write_results

    rows = []
    for model, corpus in itertools.product(models or ("default",), corpora):
        rows.append(job.measure(model, corpus, data, protocol, engine))
        click.echo(json.dumps({"schema": 1, **rows[-1]}) if as_json else job.line(rows[-1]))
    if out is not None:
        write_results(out, "enrolment", rows)


@bench.command()
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--formats", default="float32,float16,dynamic,int8,int16x8", show_default=True, help="Which, separated by commas."
)
@click.option("--lstm", default="unrolled,fused,while", show_default=True, help="Which forms, separated by commas.")
@click.option("--rounds", type=click.IntRange(3), default=100, show_default=True, help="Windows timed in each cell.")
@click.option("--data", type=click.Path(path_type=Path), help="Corpora: compare on all of the runs' test sides.")
@out_option("Also write a results JSON, row by row, and a plot beside it; goes on where an earlier call stopped.")
@as_json
def matrix(
    models: tuple[str, ...], formats: str, lstm: str, rounds: int, data: Path | None, out: Path | None, as_json: bool
) -> None:
    """MODELS (run folders; names of recipes, measured untrained) in every format, LSTM form and engine.

    Size, operators, load time, latency on one thread, memory, and how far the answers stray from Keras: on 40
    validation utterances, or on the test side with --data.

    \b
    Examples:
      serkit bench matrix r1 lstm --formats dynamic,int8
      serkit bench matrix runs/serkit --data ~/corpora --out matrix.json
    """
    prepare_keras("tensorflow")
    from serkit.benchmarks.matrix import MatrixSettings, kept_rows, measure, plot
    from serkit.train.results import write_results

    def shown(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        if out is not None:
            write_results(out, "matrix", rows)
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
            return
        name = f"{row['recipe']:<20} {row['format']:<8} {row['lstm'] or '':<9} {row['engine']:<15}"
        if "error" in row:
            click.echo(f"{name} {row['error']}")
        else:
            click.echo(
                f"{name} {row['size_bytes']:>11,} bytes {row['n_operators']:>5} operators "
                f"{row['median_ms']:8.3f} ms {row['ratio'] or 0:6.2f} x  load {row['load_ms']:7.1f} ms  "
                f"{row['memory_mb'] or 0:6.1f} MB  max |dp| {row['max_abs_dp']:.2g}"
                + ("  keeps state" if row["keeps_state"] else "")
            )

    settings = MatrixSettings(formats=tuple(formats.split(",")), lstm=tuple(lstm.split(",")), rounds=rounds, data=data)
    rows = measure(models, settings, kept_rows(out) if out is not None else [], shown)
    if out is not None:
        write_results(out, "matrix", rows)
        plot(rows, out.with_suffix(".png"))


@bench.command()
@click.option(
    "--data", type=click.Path(path_type=Path), envvar="SERKIT_DATA", help="Compare recordings from there too."
)
@click.option(
    "--cores", default="cortex-a53,cortex-a72,cortex-a76", show_default=True, help="Emulated ones, by commas."
)
@out_option()
@as_json
def arm(data: Path | None, cores: str, out: Path | None, as_json: bool) -> None:
    """Answers and instructions on an emulated aarch64, and estimates of a Raspberry Pi's load. Needs root.

    \b
    Example:
      sudo serkit bench arm --out arm.json
    """
    from serkit.benchmarks.arm import CORES, described, measure
    from serkit.train.results import write_results

    names = cores.split(",")
    if unknown := sorted(set(names) - set(CORES)):
        raise SettingsError(f"no core {unknown[0]!r}; choose from {', '.join(CORES)}")

    def shown(row: dict[str, Any]) -> None:
        click.echo(json.dumps({"schema": 1, **row}) if as_json else described(row))

    rows = measure(data, names, shown)
    if out is not None:
        write_results(out, "arm", rows)


for _command in (*cost_cli.COMMANDS, *listening_cli.COMMANDS, fleet):
    bench.add_command(_command)


@bench.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", "-m", "models", multiple=True, default=("default",), show_default=True, help="Any number.")
@click.option("--corpus", help="ravdess, ravdess-song, emodb, tess or nemo.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="Which utterances are scored.")
@click.option("--data", type=click.Path(path_type=Path), envvar="SERKIT_DATA", help="Holds the corpora; $SERKIT_DATA.")
@click.option(
    "--utterances", type=click.Path(path_type=Path), metavar="PACK", help="Score these instead; no corpus needed."
)
@out_option("Also keep the utterances there, for --utterances on other machines.", "--pack")
@click.option("--runtimes", default="litert,tflite-runtime,jax,torch,tensorflow", show_default=True)
@click.option(
    "--threads", type=click.IntRange(1, 64), multiple=True, default=(1,), show_default=True, help="Of TFLite engines."
)
@click.option("--rounds", type=click.IntRange(3), default=30, show_default=True, help="Ten windows each, in turn.")
@out_option()
@as_json
def accuracy(
    runs: tuple[Path, ...],
    models: tuple[str, ...],
    corpus: str | None,
    protocol: str | None,
    data: Path | None,
    utterances: Path | None,
    pack: Path | None,
    runtimes: str,
    threads: tuple[int, ...],
    rounds: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """GPU against embedded: RUNS on Keras' back ends and models on TFLite's engines, on the same utterances.

    Accuracy, latency, throughput and, where the machine tells, energy, of every runtime that is installed here.
    `serkit report --readme` puts the accuracy*.json of several machines into one table.

    \b
    Examples:
      serkit bench accuracy runs/serkit --corpus ravdess --protocol ship-test --pack ship-test.npz
      serkit bench accuracy runs/serkit --utterances ship-test.npz --out accuracy-gpu.json
    """
    if (utterances is None) != (corpus is not None and protocol is not None and data is not None):
        raise click.UsageError("give either --utterances, or --corpus, --protocol and --data")
    if utterances is not None and (corpus or protocol):
        raise click.UsageError("--utterances holds a corpus and a protocol; leave --corpus and --protocol out")
    needs("train", "sklearn", "keras")
    from rich.console import Console
    from rich.progress import track

    from serkit.benchmarks import accuracy as job
    from serkit.benchmarks.pack import make_pack, read_pack, write_pack
    from serkit.benchmarks.runtimes import describe_bundle, describe_run
    from serkit.train.results import write_results

    candidates = [*map(describe_bundle, models), *map(describe_run, runs)]
    if utterances is not None:
        packed = read_pack(utterances)
    else:
        c = candidates[0]
        packed = make_pack(str(corpus), Path(str(data)), str(protocol), c.labels, c.split, c.frontend)
    if pack is not None:
        write_pack(pack, packed)
    console = Console(stderr=True)
    rows = job.measure(
        candidates,
        packed,
        runtimes.split(","),
        threads,
        rounds,
        lambda line: console.print(f"left out: {line}", highlight=False, soft_wrap=True),
        lambda steps, what: track(steps, what, console=console, transient=True),
    )
    if out is not None:
        write_results(out, "accuracy", rows)
    for row in rows:
        click.echo(json.dumps({"schema": 1, **row}) if as_json else job.line(row))
