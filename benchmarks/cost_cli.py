"""`serkit bench latency`, ``memory``, ``startup``, ``streaming`` and ``device``: what a plain install can measure."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import click

from serkit.edge.cli import as_json
from serkit.edge.errors import SerkitError
from serkit.train.cli import out_option

_models = click.option(
    "--model", "-m", "models", multiple=True, default=["default"], show_default=True,
    help="Bundled model or .tflite file; may be given again.",
)  # fmt: skip
_engine = click.option(
    "--engine", type=click.Choice(["auto", "litert", "tflite-runtime"]), default="auto", show_default=True
)
_out = out_option("Also write a results JSON, and a plot beside it where matplotlib is installed.")


def _write(out: Path | None, benchmark: str, rows: list[dict[str, Any]]) -> None:
    from serkit.train.results import write_results

    if out is None:
        return
    write_results(out, benchmark, rows)
    if importlib.util.find_spec("matplotlib") is None:
        click.echo("serkit: no plot: matplotlib is not installed", err=True)
        return
    from serkit.benchmarks import cost_plots

    getattr(cost_plots, benchmark)(rows, out.with_suffix(".png"))


def _say(rows: list[dict[str, Any]], as_json: bool, line: Any) -> None:
    for row in rows:
        click.echo(json.dumps({"schema": 1, **row}) if as_json else line(row))


def _latency_line(row: dict[str, Any]) -> str:
    what = f"{row['system']}, {row['way']}, {row['scene']}" + (f", gate {row['gate']}" if row["gate"] != "none" else "")
    ratio = f"   {row['ratio']:.2f} x {row['ratio_to']}" if "ratio" in row else ""
    return (
        f"{what:<54} median {row['median_ms']:7.2f}  p95 {row['p95_ms']:7.2f}  p99 {row['p99_ms']:7.2f} ms per "
        f"{row['hop_ms']:g} ms hop   {row['core_share']:6.2%} of a core{ratio}"
    )


def _memory_line(row: dict[str, Any]) -> str:
    what = f"{row['model']} {row['what']} {row.get('stage', '')}"
    what += f", {row['audio_s']:g} s heard" if "audio_s" in row else ""
    grown = f"  (+{row['grown_kb'] / 1024:.1f})" if "grown_kb" in row else ""
    return (
        f"{what:<48} {row['rss_kb'] / 1024:6.1f} MB resident{grown}, {row['pss_kb'] / 1024:.1f} MB its share, "
        f"{row['threads']} threads"
    )


def _startup_line(row: dict[str, Any]) -> str:
    what = f"{row['model']} {row['what']} {row.get('stage', '')}"
    return (
        f"{what:<48} median {row['median_ms']:7.1f}  p95 {row['p95_ms']:7.1f}  least {row['least_ms']:7.1f} ms, "
        f"{row['cpu_ms']:7.1f} ms of a processor"
    )


@click.command()
@_models
@click.option("--peer", "peers", multiple=True, help="A .tflite bundle, or a recipe to build one from; light-sernet.")
@click.option("--rounds", type=click.IntRange(20), default=400, show_default=True, help="Hops of each that count.")
@_engine
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads of one inference.")
@_out
@as_json
def latency(
    models: tuple[str, ...],
    peers: tuple[str, ...],
    rounds: int,
    engine: str,
    threads: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """What a hop costs from samples to decision, beside a peer on the same engine and beside computing it all anew.

    A peer given as a recipe is built with random weights, which cost what trained ones do; that needs TensorFlow.

    \b
    Example:
      serkit bench latency --out latency.json
    """
    from serkit.benchmarks.latency import measure
    from serkit.benchmarks.peer import open_peer
    from serkit.edge.bundle import read_bundle

    if not peers and importlib.util.find_spec("tensorflow") is None:
        click.echo("serkit: no peer: TensorFlow is not installed; give one with --peer FILE.tflite", err=True)
    elif not peers:
        peers = ("light-sernet",)
    bundles = [read_bundle(model) for model in models]
    rows = measure(bundles, [open_peer(peer) for peer in peers], rounds=rounds, engine=engine, threads=threads)
    _write(out, "latency", rows)
    _say(rows, as_json, _latency_line)


@click.command()
@_models
@click.option("--minutes", type=click.FloatRange(1), default=10.0, show_default=True, help="Of audio heard.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Processes for the parts.")
@_engine
@_out
@as_json
def memory(models: tuple[str, ...], minutes: float, repeats: int, engine: str, out: Path | None, as_json: bool) -> None:
    """What `serkit listen` holds in memory, and which part of it takes how much. Linux.

    With PulseAudio's programs installed, also at a microphone (a virtual one, of a sound server of its own).

    \b
    Example:
      serkit bench memory --out memory.json
    """
    from serkit.benchmarks.memory import measure

    rows = measure(models, engine=engine, minutes=minutes, repeats=repeats)
    _write(out, "memory", rows)
    _say(rows, as_json, _memory_line)


@click.command()
@_models
@click.option("--repeats", type=click.IntRange(3), default=10, show_default=True, help="Starts that count.")
@_engine
@_out
@as_json
def startup(models: tuple[str, ...], repeats: int, engine: str, out: Path | None, as_json: bool) -> None:
    """From the command to the first scored window, beyond the audio in it; and the stages on the way. Linux.

    \b
    Example:
      serkit bench startup --out startup.json
    """
    from serkit.benchmarks.startup import measure

    rows = measure(models, engine=engine, repeats=repeats)
    _write(out, "startup", rows)
    _say(rows, as_json, _startup_line)


@click.command()
@click.option("--hours", type=click.FloatRange(0.01), default=24.0, show_default=True, help="Of audio.")
@click.option("--model", "-m", default="default", show_default=True, help="Bundled model or .tflite file.")
@_engine
@_out
@as_json
def streaming(hours: float, model: str, engine: str, out: Path | None, as_json: bool) -> None:
    """A day of listening, faster than real time: windows missed, cost of a hop, memory and handles, by the hour.

    \b
    Example:
      serkit bench streaming --hours 1
    """
    import tempfile

    from serkit.benchmarks.streaming import flatness, measure, missed

    def line(row: dict[str, Any]) -> str:
        hops = ", ".join(f"{kind} {figures['median_ms']:.2f} ms" for kind, figures in row["hops"].items())
        lines = f", {row['lines']} events written" if "lines" in row else ""
        return (
            f"{row['audio_s'] / 3600:5.2f} h at {row['times_realtime']:.0f} x real time: {row['windows']} windows of "
            f"{row['expected_windows']}{lines}; hops {hops}; {row['rss_kb']} kB, {row['threads']} threads, "
            f"{row['file_handles']} open files"
        )

    with tempfile.TemporaryDirectory() as folder:
        rows = measure(hours, Path(folder), model, lambda row: _say([row], as_json, line), engine)
    _write(out, "streaming", rows)
    if not as_json and len(rows) > 1:
        click.echo("; ".join(f"{name} {value:+g}" for name, value in flatness(rows).items()))
    if lost := missed(rows):
        raise SerkitError(f"{lost} windows or events are missing")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--check", is_flag=True, help="Measure nothing: are FILEs, which others sent, as they should be?")
@_engine
@out_option("Where the results go; BOARD.json in this folder.")
@as_json
def device(files: tuple[Path, ...], check: bool, engine: str, out: Path | None, as_json: bool) -> None:
    """All about this board in about two minutes: latency, memory, start-up, throttling and, where it tells, energy.

    Needs nothing beyond a plain install. The file it writes may be sent in for `benchmarks/results`; it names the
    board and its software, and nobody.

    \b
    Examples:
      serkit bench device
      serkit bench device --check raspberry-pi-4-model-b-rev-1-5.json
    """
    if check != bool(files):
        raise click.UsageError("--check goes with FILEs, and FILEs with --check")
    if check and out is not None:
        raise click.UsageError("--check measures nothing for --out; leave one of them out")
    if check:
        from serkit.benchmarks.board_file import check as faults_of

        faults = [f"{path}: {fault}" for path in files for fault in faults_of(path)]
        for fault in faults:
            click.echo(fault, err=True)
        if n := len(faults):
            raise SerkitError(f"{n} {'fault' if n == 1 else 'faults'} in what was sent; correct them, or measure again")
        click.echo(f"{len(files)} {'file is' if len(files) == 1 else 'files are'} as they should be")
        return
    from serkit.benchmarks.device import file_name, measure
    from serkit.train.results import write_results

    results = measure(engine, lambda text: click.echo(f"serkit: {text}", err=True))
    out = out or Path(file_name())
    write_results(out, "device", **results)
    lines = {"latency": _latency_line, "memory": _memory_line, "startup": _startup_line}
    _say(results["rows"], as_json, lambda row: lines[row["what"]](row))
    if not as_json:
        for when in ("before", "after"):
            click.echo(f"{when}: {results[when]}")
        click.echo(f"energy: {results['energy'] or 'this board does not tell'}")
        click.echo(f"written to {out}; `serkit bench device --check {out}` checks it")


COMMANDS = (latency, memory, startup, streaming, device)
