"""`serkit bench vad`, ``sessions`` and ``reconnect``: how good hours of listening are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from serkit.edge.cli import as_json, needs
from serkit.train.cli import data_option, out_option


@click.command()
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


@click.command()
@click.option("--model", "-m", default="default", show_default=True, help="Bundled model or .tflite file.")
@data_option
@click.option("--preset", default="driver", show_default=True, help="Compared with the raw argmax over its classes.")
@click.option("--minutes", type=click.FloatRange(1), default=60.0, show_default=True, help="Of sessions with emotions.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the composition.")
@click.option("--tune", type=click.IntRange(3), metavar="TRIALS", help="Instead, search the preset's numbers.")
@click.option("--enroll", is_flag=True, help="Instead, sessions of one voice each, before and after it is enrolled.")
@out_option("Also write a results JSON, and a plot beside it.")
@as_json
def sessions(
    model: str,
    data: Path,
    preset: str,
    minutes: float,
    seed: int,
    tune: int | None,
    enroll: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Hours of listening to people the model never heard: frames, episodes, delay, flips and false alarms.

    --tune composes sessions of other people and other noises than are tested, hears them in each other's voices as
    well, and prints the preset it finds.
    --enroll hears half of each voice's neutral utterances first, up to 30 s, leaves that half out of the sessions, and
    says what the preset's running statistics bring (adapt_s).

    \b
    Examples:
      serkit bench sessions --data ~/corpora
      serkit bench sessions --enroll --data ~/corpora
      serkit bench sessions --tune 300 --data ~/corpora
    """
    if tune is not None and enroll:
        raise click.UsageError("--tune and --enroll are two different things to do; leave one of them out")
    if tune is not None and out is not None:
        raise click.UsageError("--tune prints a preset and measures nothing for --out; leave one of them out")
    needs("train", "sklearn", "scipy", "matplotlib")
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from serkit.benchmarks import composition
    from serkit.benchmarks import sessions as job
    from serkit.benchmarks.enrolment import enrolled
    from serkit.edge.bundle import read_bundle
    from serkit.edge.decision import read_preset, to_toml
    from serkit.edge.stream import Recognizer
    from serkit.train.corpora import read_utterance
    from serkit.train.results import write_results

    console = Console(stderr=True)
    settings = read_preset(preset)
    recognizer = Recognizer(read_bundle(model))
    bundle = recognizer.bundle
    rate = bundle.frontend.sample_rate
    material = composition.material(bundle, data, "test" if tune is None else "tune")
    if enroll or (tune is not None and bundle.enrolment):
        material = composition.acquainted(material)
    offsets = {
        voice: enrolled(bundle, [read_utterance(u, rate) for u in takes]).offset
        for voice, takes in material.enrolling.items()
    }
    acquaintances = {voice: Recognizer(bundle, offset=np.array(o)) for voice, o in offsets.items() if enroll}
    composed = composition.compose(material, minutes, rate, seed)
    n = composition.n_sessions(material)
    strange, known = [], []
    for session in track(composed, "listening", total=n, console=console, transient=True):
        strange.append(job.hear(recognizer, session))
        if session.voice in acquaintances:
            known.append(job.hear(acquaintances[session.voice], session))
    if tune is not None:
        strange = job.strangers(strange, bundle, offsets, seed)
        trials = track(range(tune), "tuning", console=console, transient=True)
        found, best = job.tune(strange, bundle, settings, tune, seed, trials)
        click.echo(f"# loss {best:.4f}; {job.loss(strange, bundle, settings):.4f} before\n{to_toml(found)}", nl=False)
        return
    ways = {preset: (strange, settings)}
    if enroll:  # who is enrolled is not learned again, as in `serkit listen --voice`
        alike = replace(settings, adapt_s=0.0)
        if settings.adapt_s:
            ways[f"{preset}, not adapting"] = (strange, alike)
        ways[f"{preset}, enrolled"] = (known, alike)
    ways["raw argmax"] = (strange, job.raw(settings))
    rows = [
        {"model": bundle.name, "format": bundle.format, "decision": name, "seed": seed, **row}
        for name, (heard, way) in ways.items()
        for row in job.figures(heard, bundle, way, settings.resting)
    ]
    if out is not None:
        write_results(out, "sessions", rows)
        job.plot(bundle, {name: (heard[0], way) for name, (heard, way) in ways.items()}, out.with_suffix(".png"))
    for row in rows:
        click.echo(json.dumps({"schema": 1, **row}) if as_json else _line(row))


def _line(row: dict[str, Any]) -> str:
    """A row of sessions, for people."""
    where = f"{row['decision']:<20} {row['sessions'] + ', ' + (row['bed'] or 'all'):<20} {row['minutes']:5.1f} min  "
    if row["sessions"] == "emotion":
        return (
            f"{where}frames {row['frame_uar']:.3f} (clips {row['clip_uar']:.3f})  episodes F1 {row['event_f1']:.2f}  "
            f"delay {row['delay_median_s']} s of {row['event_recall']:.0%} found  "
            f"{row['flips_per_minute']:.1f} flips per min"
        )
    return (
        f"{where}{row['alarms']} false alarms, {row['false_alarms_per_hour']:.1f} per hour "
        f"(at most {row['at_most_per_hour']:.1f}), model asked in {row['scored_share']:.0%}"
    )


@click.command()
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


COMMANDS = (vad, sessions, reconnect)
