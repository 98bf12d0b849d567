"""The `serkit` command: what a device needs is here, training and benchmarks load only when asked for."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from serkit import __version__
from serkit.edge.errors import MicrophoneError, MissingExtraError, SerkitError

#: Commands that live in modules of their own; loaded when they are called.
_ELSEWHERE = {
    "enroll": "serkit.edge.voice_cli",
    "serve": "serkit.edge.service_cli",
    "models": "serkit.edge.model_cli",
    "model": "serkit.edge.model_cli",
    "update": "serkit.edge.update_cli",
    "fleet": "serkit.edge.fleet_cli",
    "train": "serkit.train.cli",
    "sweep": "serkit.train.cli",
    "ensemble": "serkit.train.cli",
    "evaluate": "serkit.train.cli",
    "explain": "serkit.train.cli",
    "convert": "serkit.convert.cli",
    "bench": "serkit.benchmarks.cli",
    "report": "serkit.benchmarks.report_cli",
}


class _Main(click.Group):
    """Loads the other packages' commands late, and turns every SerkitError into one line and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            command: click.Command = getattr(importlib.import_module(_ELSEWHERE[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SerkitError as error:
            say_error(error)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:  # whoever read the output has seen enough; click ends quietly
            raise
        except OSError as error:
            reason = error.strerror or error
            if error.filename is None:
                say_error(SerkitError(f"the output cannot be written ({reason}); free some space"))
            else:
                say_error(SerkitError(f"{error.filename}: {reason}; check that it is there, its permissions and space"))
            ctx.exit(1)


def say_error(error: SerkitError) -> None:
    """One line on stderr."""
    click.echo(f"serkit: {' '.join(str(error).split())}", err=True)


def needs(extra: str, *modules: str) -> None:
    """Stop with one line unless the modules of an optional part are installed.

    Raises:
        MissingExtraError: One is not.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            module = {"sklearn": "scikit-learn"}.get(module, module)
            raise MissingExtraError(
                f"this command needs {module}, which is not installed; in the clone, `pip install -e '.[{extra}]'`"
            )


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="serkit")
def main() -> None:
    """Hear how somebody feels, on a device without a network.

    \b
    Examples:
      serkit demo                   listen to a clip that comes with serkit
      serkit predict speech.wav     the emotion of a recording
      serkit listen                 the emotions at the microphone, as they happen
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal without the bars' characters shows question marks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


_model = click.option("--model", "-m", default="default", show_default=True, help="Bundled model or .tflite file.")
_engines = click.Choice(["auto", "litert", "tflite-runtime"])
_engine = click.option(
    "--engine",
    type=_engines,
    default="auto",
    show_default=True,
    help="TFLite engine; auto takes LiteRT where it is installed.",
)
_own_model = click.option("--model", "-m", help="Bundled model or .tflite file, instead of the configuration's.")
_own_engine = click.option("--engine", type=_engines, help="TFLite engine, instead of the configuration's.")
_threads = click.option(
    "--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads of one inference."
)
_own_threads = click.option("--threads", type=click.IntRange(1, 64), help="Threads of one inference; [pace] or 1 else.")
_voice = click.option("--voice", help="Somebody enrolled with `serkit enroll`.")
_hop = click.option(
    "--hop",
    "hop_s",
    type=click.FloatRange(0, min_open=True),
    help="Seconds from one window to the next, rounded up to a multiple of the model's own hop.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
_block_size = click.option(
    "--block-size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Samples per block; results never depend on it.",
)


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@_model
@_engine
@_threads
@_voice
@as_json
def predict(paths: tuple[str, ...], model: str, engine: str, threads: int, voice: str | None, as_json: bool) -> None:
    """Say the emotion of each recording.

    A recording that cannot be used gets one line on stderr; the others are still scored, and the exit code is 1.

    \b
    Example:
      serkit predict *.wav --json
    """
    from serkit.edge import stream
    from serkit.edge.bundle import read_bundle
    from serkit.edge.events import to_json
    from serkit.edge.voice import voice_offset

    bundle = read_bundle(model)
    recognizer = stream.Recognizer(bundle, engine, threads, voice_offset(voice, bundle))
    failed = False
    for path in paths:
        try:
            result = stream.predict(recognizer, path)
        except SerkitError as error:
            if len(paths) == 1:
                raise
            say_error(error)
            failed = True
            continue
        if as_json:
            click.echo(to_json(result))
        else:
            from serkit.edge.lines import prediction_text

            click.echo(prediction_text(result))
    if failed:
        sys.exit(1)


_web = click.option("--web", is_flag=True, help="Also show a live page at http://127.0.0.1:8765/ ([web] changes that).")
_preset = click.option("--preset", help="driver, assistant or research, instead of the configuration's.")


@main.command()
@click.option("--input", "-i", "source", default="mic", show_default=True, help="mic, an audio file, or - for stdin.")
@click.option("--device", "-d", help="Microphone: number or part of its name (`serkit devices`).")
@_own_model
@_own_engine
@_own_threads
@_voice
@_hop
@as_json
@_preset
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML: model, device, preset, [decision], [vad], [pace] and the sinks' tables.",
)
@_web
@click.option("--record", type=click.Path(path_type=Path), help="Write all audio that is heard to this new file.")
@_block_size
@click.option("--speed", type=click.Choice(["realtime", "max"]), default="max", show_default=True, help="Of a file.")
@click.option(
    "--raw-rate",
    type=click.IntRange(1000, 384000),
    help="Rate of raw 16-bit samples on stdin, Hz; the model's by default.",
)
@click.option("--raw-channels", type=click.IntRange(1, 64), default=1, show_default=True, help="Their channels.")
def listen(
    source: str,
    device: str | None,
    as_json: bool,
    block_size: int,
    speed: str,
    raw_rate: int | None,
    raw_channels: int,
    **options: Any,
) -> None:
    """Detect emotions continuously, in a microphone, a file or standard input.

    \b
    Examples:
      serkit listen
      serkit listen --preset driver --web
      serkit listen --input drive.wav --json
      arecord -t raw -f S16_LE -r 16000 | serkit listen --input - --json
    """
    from serkit.edge.audio import Source
    from serkit.edge.pipe import PipeSource

    if device is not None and source != "mic":
        raise click.UsageError("--device goes with --input mic")
    if source != "-" and (raw_rate is not None or raw_channels != 1):
        raise click.UsageError("--raw-rate and --raw-channels go with --input -")

    def pipe(rate: int) -> Source:
        return PipeSource(rate, block_size, raw_rate=raw_rate, raw_channels=raw_channels)

    named = source not in ("mic", "-")
    _show(
        pipe if source == "-" else source,
        source if named else {"mic": "the microphone", "-": "standard input"}[source],
        as_json,
        device=device,
        block_size=block_size,
        realtime=named and speed == "realtime",
        **options,
    )


@main.command()
@_model
@_engine
@_own_threads
@_hop
@as_json
@_preset
@_web
@_block_size
@click.option(
    "--speed",
    type=click.Choice(["realtime", "max"]),
    default="realtime",
    show_default=True,
    help="Of the clip.",
)
def demo(as_json: bool, speed: str, **options: Any) -> None:
    """Listen to a clip that comes with serkit: no microphone and no network needed.

    The clip was spoken by a synthesizer, so its "emotions" show how serkit works, not how well.

    \b
    Example:
      serkit demo --speed max
    """
    clip = Path(__file__).parent / "demo" / "clip.flac"
    _show(clip, "the demo clip", as_json, realtime=speed == "realtime", **options)


def _show(
    source: Any,
    title: str,
    as_json: bool,
    *,
    web: bool,
    preset: str | None,
    config: Path | None = None,
    **options: Any,
) -> None:
    """Listen, and put the events on standard output."""
    from dataclasses import replace

    from serkit.edge.config import read_config
    from serkit.edge.events import to_json
    from serkit.edge.listener import listen as open_listener
    from serkit.edge.sinks.web import WebPage, WebSettings

    hangs_up = [s for s in (getattr(signal, n, None) for n in ("SIGTERM", "SIGHUP")) if s is not None]
    for number in hangs_up:  # end in order: the terminal, a recording, what sinks still hold
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is something to mute
    settings = read_config(config, preset)
    if web and settings.web is None:
        settings = replace(settings, web=WebSettings())
    with open_listener(source, config=settings, **options) as listener:
        for sink in listener.sinks:
            if isinstance(sink, WebPage):  # the link may hold a token, so it is no event
                click.echo(f"serkit: the live page is at {sink.link}", err=True)
        if hasattr(signal, "SIGUSR1"):  # `kill -USR1` mutes, and again hears
            signal.signal(signal.SIGUSR1, lambda *_: listener.mute(not listener.muted))
        try:
            if as_json:
                for event in listener:
                    click.echo(to_json(event))
            else:
                from serkit.edge.lines import show_events

                show_events(listener, title)
        finally:
            listener.close()
            for sink in listener.sinks:  # what they could not deliver
                for message in iter(sink.notice, None):
                    click.echo(f"serkit: {sink.name}: {message}", err=True)


@main.command()
@as_json
def devices(as_json: bool) -> None:
    """List the microphones PortAudio sees.

    \b
    Example:
      serkit devices
    """
    from dataclasses import asdict

    from serkit.edge.microphone import list_devices as find

    found = find()
    if not found:
        raise MicrophoneError("no microphone found; plug one in and try again")
    for d in found:
        if as_json:
            click.echo(json.dumps({"schema": 1, **asdict(d)}))
        else:
            mark = "*" if d.default else " "
            click.echo(f"{mark} {d.index:>3}  {d.name}  ({d.channels} channels, {d.sample_rate:g} Hz)")
