"""`serkit enroll`: hear one person's ordinary speech once, and that person better from then on."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from serkit.edge.cli import as_json, say_error
from serkit.edge.errors import VoiceError


@click.command()
@click.argument("name", required=False)
@click.option("--input", "-i", "source", default="mic", show_default=True, help="mic, an audio file, or - for stdin.")
@click.option("--device", "-d", help="Microphone: number or part of its name (`serkit devices`).")
@click.option("--model", "-m", help="The model that will listen, instead of the configuration's.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML of `serkit listen`: model, device, engine, [vad]."
)
@click.option(
    "--seconds",
    type=click.FloatRange(10, 600),
    default=30,
    show_default=True,
    help="Of speech, pauses not counted.",
)
@click.option("--raw-rate", type=click.IntRange(1000, 384000), help="Of raw 16-bit samples on stdin, Hz.")
@click.option("--raw-channels", type=click.IntRange(1, 64), default=1, show_default=True, help="Their channels.")
@click.option("--list", "only_list", is_flag=True, help="List the voices kept on this device, and do nothing else.")
@click.option("--remove", is_flag=True, help="Forget NAME, and do nothing else.")
@as_json
def enroll(
    name: str | None,
    source: str,
    device: str | None,
    model: str | None,
    config: Path | None,
    seconds: float,
    raw_rate: int | None,
    raw_channels: int,
    only_list: bool,
    remove: bool,
    as_json: bool,
) -> None:
    """Adapt to one voice: NAME speaks as always for half a minute, about anything, without excitement.

    One number per emotion is kept on this device, no audio. `serkit listen --voice NAME` uses it, or
    voice = "NAME" in the configuration.

    \b
    Examples:
      serkit enroll anna
      serkit enroll anna --input anna-reads.wav
      serkit enroll anna --remove
    """
    from serkit.edge.voice import read_voice, remove_voice, voices, write_voice

    if only_list != (name is None) or (only_list and remove):
        raise click.UsageError("give a NAME, a NAME with --remove, or --list alone")
    if name is None:
        failed = False
        for known in voices():
            try:
                voice = read_voice(known)
            except VoiceError as error:
                say_error(error)
                failed = True
                continue
            line = f"{voice.name:<20} {voice.speech_s:5.1f} s of speech, {voice.model}, {voice.created}"
            click.echo(json.dumps(asdict(voice)) if as_json else line)
        if failed:
            sys.exit(1)
        return
    if remove:
        remove_voice(name)
        click.echo(f"voice {name} is forgotten", err=as_json)
        return
    if device is not None and source != "mic":
        raise click.UsageError("--device goes with --input mic")
    if source != "-" and (raw_rate is not None or raw_channels != 1):
        raise click.UsageError("--raw-rate and --raw-channels go with --input -")
    if math.isnan(seconds):
        raise click.BadParameter("a number is needed", param_hint="--seconds")
    replaced = name in voices()
    voice = _heard(name, source, device, model, config, seconds, {"raw_rate": raw_rate, "raw_channels": raw_channels})
    path = write_voice(voice)
    if as_json:
        click.echo(json.dumps(asdict(voice)))
        return
    kept = "kept in the place of the one before it" if replaced else "kept"
    click.echo(f"voice {name}: {voice.speech_s:.0f} s of speech heard, {kept} in {path}")
    click.echo(f"`serkit listen --voice {name}` uses it, `serkit enroll {name} --remove` forgets it")


def _heard(
    name: str,
    source: str,
    device: str | None,
    model: str | None,
    config: Path | None,
    seconds: float,
    raw: dict[str, Any],
) -> Any:
    from serkit.edge.audio import FileSource, Source
    from serkit.edge.bundle import read_bundle
    from serkit.edge.config import read_config
    from serkit.edge.pipe import PipeSource
    from serkit.edge.stream import Recognizer
    from serkit.edge.vad import VoiceGate
    from serkit.edge.voice import check_name, enroll, make_folder, strength

    check_name(name)
    configured = read_config(config)
    bundle = read_bundle(model or configured.model)
    strength(bundle)  # before anybody has to speak
    make_folder()
    rate = bundle.frontend.sample_rate
    recognizer, gate = Recognizer(bundle, configured.engine), VoiceGate(rate, configured.vad)
    opened: Source
    if source == "mic":
        from serkit.edge.microphone import Microphone

        opened = Microphone(rate, 512, device=device or configured.device)
    elif source == "-":
        opened = PipeSource(rate, 512, **raw)
    else:
        opened = FileSource(source, rate, 512)
    if source == "mic":
        click.echo(f"serkit: speak as always, about anything, until {seconds:g} s are heard; Ctrl-C gives up", err=True)
    live = sys.stderr is not None and sys.stderr.isatty()

    def heard(speech_s: float) -> None:
        for message in iter(opened.notice, None):
            click.echo(f"serkit: {message}", err=True)
        if live:
            click.echo(f"\r{speech_s:5.1f} of {seconds:g} s of speech ", err=True, nl=False)

    with opened:
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        try:
            return enroll(recognizer, opened, name, created, seconds=seconds, gate=gate, heard=heard)
        finally:
            if live:
                click.echo(err=True)
