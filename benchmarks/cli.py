"""`serkit bench` and `serkit report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

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
    """Cost of the front end per second of audio, against python_speech_features and librosa.

    \b
    Example:
      serkit bench frontend --out frontend.json
    """
    needs("reference", "librosa", "python_speech_features")
    from serkit.benchmarks.frontend import measure
    from serkit.train.results import write_results

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
    """
    if (run is None) == (model is None):
        raise click.UsageError("give either a run folder or --model")
    if run is not None:
        prepare_keras()
    else:
        needs("train", "sklearn", "scipy", "matplotlib")
    from serkit.benchmarks.robustness import measure, plot
    from serkit.train.evaluate import Scorer
    from serkit.train.results import write_results

    if noises is None and (data / "noise").is_dir():
        noises = data / "noise"
    if rooms is None and (data / "rir").is_dir():
        rooms = data / "rir"

    def shown(row: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        else:
            snr = "" if row["snr_db"] is None else f" {row['snr_db']:g} dB"
            name = f"{row['condition']} {row['what']}{snr}"
            click.echo(f"{name:<50} UAR {row['uar']:.3f}  loss {row['uar_loss']:+.3f}")

    scorer = Scorer(run=run, model=model, corpus=corpus, data=data, protocol=protocol, engine=engine)
    rows = measure(scorer, noises, rooms, shown)
    if out is not None:
        write_results(out, "robustness", rows)
        plot(rows, out.with_suffix(".png"))


@bench.command()
@data_option
@click.option("--repeats", type=click.IntRange(3), default=60, show_default=True, help="Rounds counted for the costs.")
@out_option("Also write a results JSON, and a plot beside it.")
@as_json
def vad(data: Path, repeats: int, out: Path | None, as_json: bool) -> None:
    """What voice detectors miss, what they take for speech, and what they cost, on speakers nothing was chosen on.

    DATA holds RAVDESS, EMO-DB and the folder noise; with the folder speech_neutral, its everyday speech too.

    \b
    Example:
      serkit bench vad --data ~/corpora --out vad.json
    """
    needs("reference", "pymicro_vad", "webrtcvad")
    needs("train", "scipy", "matplotlib")
    from serkit.benchmarks.vad import measure, plot
    from serkit.train.results import write_results

    def share(value: float | None) -> str:
        return "      -" if value is None else f"{value:7.1%}"

    def shown(row: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        else:
            level = "" if row["level_db"] is None else f"{row['level_db']:g} dB"
            click.echo(
                f"{row['detector']:<13}{row['condition']:<8}{row['what']:<18}{level:>7}  miss {share(row['miss'])}  "
                f"false alarm {share(row['false_alarm'])}  scored {share(row['scored'])}  "
                f"compute {row['compute_ratio']:.2f}"
            )

    rows = measure(data, repeats, shown)
    if out is not None:
        write_results(out, "vad", rows)
        plot(rows, out.with_suffix(".png"))


@bench.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@data_option
@click.option(
    "--formats", default="float32,float16,dynamic,int8", show_default=True, help="Which, separated by commas."
)
@out_option()
@as_json
def formats(runs: tuple[Path, ...], data: Path, formats: str, out: Path | None, as_json: bool) -> None:
    """What quantization costs RUNS on their test speakers: UAR and size in every format, beside Keras.

    \b
    Example:
      serkit bench formats runs/r1-ravdess-random-0-0 --formats dynamic,int8 --data ~/corpora
    """
    prepare_keras("tensorflow")
    from serkit.benchmarks.formats import measure
    from serkit.train.results import write_results

    def shown(row: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        elif "error" in row:
            click.echo(f"{row['recipe']:<22} {row['format']:<8} {row['error']}")
        else:
            click.echo(
                f"{row['recipe']:<22} {row['format']:<8} {row['size_bytes']:>11,} bytes  UAR {row['uar']:.3f} "
                f"({row['uar_change']:+.4f})  label agreement {row['label_agreement']:.3f}"
                + ("  (convert refuses this)" if row["refused"] else "")
            )

    rows = measure(runs, data, formats.split(","), shown)
    if out is not None:
        write_results(out, "formats", rows)


@bench.command()
@click.option("--model", "-m", default="default", show_default=True, help="Bundled model or .tflite file.")
@data_option
@click.option("--preset", default="driver", show_default=True, help="Compared with the raw argmax over its classes.")
@click.option("--minutes", type=click.FloatRange(1), default=60.0, show_default=True, help="Of sessions with emotions.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the composition.")
@click.option("--tune", type=click.IntRange(3), metavar="TRIALS", help="Instead, search the preset's numbers.")
@out_option("Also write a results JSON, and a plot beside it.")
@as_json
def sessions(
    model: str, data: Path, preset: str, minutes: float, seed: int, tune: int | None, out: Path | None, as_json: bool
) -> None:
    """Hours of listening to people the model never heard: frames, episodes, delay, flips and false alarms.

    --tune composes sessions of other people and other noises than are tested, and prints the preset it finds.

    \b
    Examples:
      serkit bench sessions --data ~/corpora
      serkit bench sessions --tune 300 --data ~/corpora
    """
    needs("train", "sklearn", "scipy", "matplotlib")
    from rich.console import Console
    from rich.progress import track

    from serkit.benchmarks import composition
    from serkit.benchmarks import sessions as job
    from serkit.edge.bundle import read_bundle
    from serkit.edge.decision import read_preset, to_toml
    from serkit.edge.stream import Recognizer
    from serkit.train.results import write_results

    console = Console(stderr=True)
    settings = read_preset(preset)
    recognizer = Recognizer(read_bundle(model))
    bundle = recognizer.bundle
    material = composition.material(bundle, data, "test" if tune is None else "tune")
    composed = composition.compose(material, minutes, bundle.frontend.sample_rate, seed)
    n = composition.n_sessions(material)
    heard = [job.hear(recognizer, s) for s in track(composed, "listening", total=n, console=console, transient=True)]
    if tune is not None:
        trials = track(range(tune), "tuning", console=console, transient=True)
        found, best = job.tune(heard, bundle, settings, tune, seed, trials)
        click.echo(f"# loss {best:.4f}; {job.loss(heard, bundle, settings):.4f} before\n{to_toml(found)}", nl=False)
        return
    ways = {preset: settings, "raw argmax": job.raw(settings)}
    rows = [
        {"model": bundle.name, "format": bundle.format, "decision": name, "seed": seed, **row}
        for name, way in ways.items()
        for row in job.figures(heard, bundle, way, settings.resting)
    ]
    if out is not None:
        write_results(out, "sessions", rows)
        job.plot(heard[0], bundle, ways, out.with_suffix(".png"))
    for row in rows:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        elif row["sessions"] == "emotion":
            click.echo(
                f"{row['decision']:<11} {'emotion, ' + (row['bed'] or 'all'):<20} {row['minutes']:5.1f} min  "
                f"frames {row['frame_uar']:.3f} (clips {row['clip_uar']:.3f})  episodes F1 {row['event_f1']:.2f}  "
                f"delay {row['delay_median_s']} s of {row['event_recall']:.0%} found  "
                f"{row['flips_per_minute']:.1f} flips per min"
            )
        else:
            where = f"{row['sessions']}, {row['bed'] or 'all'}"
            click.echo(
                f"{row['decision']:<11} {where:<20} {row['minutes']:5.1f} min  "
                f"{row['alarms']} false alarms, {row['false_alarms_per_hour']:.1f} per hour "
                f"(at most {row['at_most_per_hour']:.1f}), model asked in {row['scored_share']:.0%}"
            )


@bench.command()
@click.option("--restarts", type=click.IntRange(1), default=10, show_default=True, help="Of a private sound server.")
@click.option("--every", type=click.FloatRange(15), default=30.0, show_default=True, help="Seconds between them.")
@out_option()
@as_json
def reconnect(restarts: int, every: float, out: Path | None, as_json: bool) -> None:
    """How soon the microphone is back after its sound server died, and what that leaves behind. Needs PulseAudio.

    \b
    Example:
      serkit bench reconnect --restarts 3
    """
    from serkit.benchmarks.reconnect import reconnect as measure
    from serkit.train.results import write_results

    rows = measure(restarts, every)
    if out is not None:
        write_results(out, "reconnect", rows)
    for row in rows:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        else:
            back = "did not come back" if row["recovery_s"] is None else f"back after {row['recovery_s']:.2f} s"
            click.echo(
                f"restart {row['restart']:>3}: {back}, {'noticed' if row['noticed'] else 'not noticed'}, "
                f"{row['threads']} threads, {row['file_handles']} open files, {row['rss_kb']} kB"
            )


@bench.command()
@click.option("--hours", type=click.FloatRange(0.01), default=8.0, show_default=True, help="Of audio.")
@click.option("--model", "-m", default="default", show_default=True, help="Bundled model or .tflite file.")
@out_option()
@as_json
def endurance(hours: float, model: str, out: Path | None, as_json: bool) -> None:
    """Hours of listening, faster than real time: windows missed, events written, memory and handles.

    \b
    Example:
      serkit bench endurance --hours 1
    """
    import tempfile

    from serkit.benchmarks.endurance import endurance as measure
    from serkit.train.results import write_results

    def shown(row: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        else:
            lines = f", {row['lines']} events written" if "lines" in row else ""
            click.echo(
                f"{row['audio_s'] / 3600:5.2f} h at {row['times_realtime']:.0f} x real time: "
                f"{row['windows']} windows of {row['expected_windows']}{lines}; "
                f"{row['rss_kb']} kB, {row['threads']} threads, {row['file_handles']} open files"
            )

    with tempfile.TemporaryDirectory() as folder:
        rows = measure(hours, Path(folder), model, shown)
    if out is not None:
        write_results(out, "endurance", rows)


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


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Write a page about RUNS there; report.html by default.")
@click.option("--results", type=click.Path(path_type=Path), help="Write the rows of RUNS there, as a results JSON.")
@click.option("--readme", is_flag=True, help="Rewrite the results tables of README.md in the current folder.")
def report(runs: tuple[Path, ...], html: Path | None, results: Path | None, readme: bool) -> None:
    """A page about RUNS (run folders, or folders of them), with tables, plots and each system's card.

    Without RUNS, show the results tables, made from the committed results files.

    \b
    Examples:
      serkit report runs/ --html report.html
      serkit report --readme
    """
    if (html is not None or results is not None) and not runs:
        raise click.UsageError("--html and --results need RUNS")
    for path in (html, results):
        if path is not None and not path.parent.is_dir():
            raise SettingsError(f"{path}: no folder {path.parent}; make it first")
    if runs:
        prepare_keras()
        from serkit.benchmarks.page import write_page
        from serkit.train.results import write_results
        from serkit.train.summary import cells, read_runs

        found = cells(read_runs(runs))
        if results is not None:
            write_results(results, "systems", [c.row for c in found])
        if html is not None or results is None:
            page = html or Path("report.html")
            write_page(found, page)
            click.echo(f"{page}: {len(found)} rows from {sum(len(c.runs) for c in found)} runs")
        if not readme:
            return
    from serkit.benchmarks.report import tables, update_readme

    if readme:
        update_readme(Path("README.md"))
    else:
        click.echo(tables())
