"""`serkit fleet`: many devices on one MQTT broker."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serkit.edge.cli import as_json
from serkit.edge.errors import SettingsError

if TYPE_CHECKING:
    from serkit.edge.fleet import Device
    from serkit.edge.sinks.broker import MqttSettings

_LARGEST = 1e15  # of what a device says; more is nonsense


@click.group()
def fleet() -> None:
    """Look after many devices that report to one MQTT broker.

    The broker is that of a configuration's [mqtt], which the options change.

    \b
    Examples:
      serkit fleet status --host broker.example
      serkit fleet roll-out better.tflite --waves 1,10%,100% --stop-at 3
    """


def _with_broker(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which broker; the command gets the settings."""

    @click.option("--config", type=click.Path(path_type=Path), help="TOML file whose [mqtt] says which broker.")
    @click.option("--host", help="The broker; by default localhost.")
    @click.option("--port", type=int, help="1883, or 8883 with --tls.")
    @click.option("--username", help="If the broker asks for one.")
    @click.option("--password-file", help="File that holds the password.")
    @click.option("--tls", is_flag=True, default=None, help="Encrypt, and check the broker's certificate.")
    @click.option("--ca-file", help="PEM file of the authority that signed it; those the system trusts else.")
    @wraps(command)
    def with_settings(config: Path | None, **options: Any) -> None:
        from serkit.edge.config import read_config
        from serkit.edge.sinks.broker import MqttSettings

        own = {name: options.pop(name) for name in ("host", "port", "username", "password_file", "tls", "ca_file")}
        given = {name: value for name, value in own.items() if value is not None}
        settings = read_config(config).mqtt or MqttSettings()
        if "password_file" in given:
            given["password"] = None
        command(replace(settings, client_id=None, **given), **options)

    return with_settings


_names = click.argument("names", nargs=-1, metavar="[NAME]...")
_all = click.option("--all", "every", is_flag=True, help="All that are connected.")


@fleet.command()
@_with_broker
@as_json
def status(settings: MqttSettings, as_json: bool) -> None:
    """Who is there, what runs, and how it does.

    \b
    Example:
      serkit fleet status --config fleet.toml --json
    """
    from serkit.edge.fleet import Fleet

    with Fleet(settings) as fleet:
        devices = fleet.devices()
    if as_json:
        for device in devices:
            click.echo(json.dumps({"schema": 1, **asdict(device)}))
        return
    columns = ("device", "connected", "muted", "model", "version", "heard", "dropped", "latency", "told", "status")
    rows = [columns, *map(_row, devices)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) - 1)]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (*widths, 0), strict=True)).rstrip())
    click.echo(f"{sum(d.online for d in devices)} of {len(devices)} devices are connected", err=True)


def _row(device: Device) -> tuple[str, ...]:
    health = device.health or {}

    def text(name: str) -> str:
        value = health.get(name)
        return (_printable(value) if isinstance(value, str) else "") or "-"

    def number(name: str, form: str) -> str:
        value = health.get(name)
        return form.format(value) if isinstance(value, (int, float)) and abs(value) < _LARGEST else "-"

    told = health.get("time")
    age_s = time.time() - told if isinstance(told, (int, float)) and abs(told) < _LARGEST else None
    return (
        device.name,
        "yes" if device.online else "no",
        {None: "-", True: "yes", False: "no"}[device.muted],
        text("model"),
        number("version", "{:.0f}"),
        number("audio_s", "{:.0f} s"),
        number("dropped_s", "{:.1f} s"),
        number("latency_ms", "{:.0f} ms"),
        "-" if age_s is None else f"{max(0.0, age_s):.0f} s ago",
        text("status"),
    )


def _printable(text: str) -> str:
    """What a device says, on one line and without control characters."""
    return "".join(c for c in text[:200] if c.isprintable())


@fleet.command()
@_names
@_all
@_with_broker
def mute(settings: MqttSettings, names: tuple[str, ...], every: bool) -> None:
    """Have devices hear silence.

    \b
    Example:
      serkit fleet mute car-7 car-9
    """
    _mute(settings, names, every, True)


@fleet.command()
@_names
@_all
@_with_broker
def unmute(settings: MqttSettings, names: tuple[str, ...], every: bool) -> None:
    """Have devices hear again.

    \b
    Example:
      serkit fleet unmute --all
    """
    _mute(settings, names, every, False)


def _mute(settings: MqttSettings, names: tuple[str, ...], every: bool, muted: bool) -> None:
    from serkit.edge.fleet import Fleet

    if every == bool(names):
        raise click.UsageError("give either names or --all")
    with Fleet(settings) as fleet:
        known = {d.name: d for d in fleet.devices()}
        if unknown := sorted(set(names) - set(known)):
            raise SettingsError(f"no device {unknown[0]!r} reports to this broker; see `serkit fleet status`")
        chosen = [name for name in known if name in names or (every and known[name].online)]
        left = fleet.mute([name for name in chosen if known[name].online], muted)
    left += [name for name in chosen if not known[name].online]
    what = "muted" if muted else "no longer muted"
    click.echo(f"{len(chosen) - len(left)} of {len(chosen)} devices are {what}")
    for name in left:
        click.echo(f"serkit: {name} did not confirm{'' if known[name].online else '; it is not connected'}", err=True)
    if left:
        sys.exit(1)


@fleet.command("roll-out")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--waves", default="1,10%,100%", show_default=True, help="How many have been asked after each wave.")
@click.option("--stop-at", type=click.IntRange(1), default=1, show_default=True, help="Stop when so many failed.")
@click.option(
    "--patience", "patience_s", type=click.FloatRange(1), default=300.0, show_default=True, help="Of a wave, s."
)
@_with_broker
@as_json
def roll_out(settings: MqttSettings, model: Path, as_json: bool, **options: Any) -> None:
    """Have all connected devices run MODEL, wave after wave; stops by itself when too many fail.

    MODEL needs its .minisig beside it. Devices that run it already are skipped: after a stop, the same command goes
    on. The exit code is 0 if every connected device runs it.

    \b
    Example:
      serkit fleet roll-out better.tflite --waves 1,10%,100% --stop-at 3
    """
    from serkit.edge.bundle import read_bundle, read_signed
    from serkit.edge.fleet import Fleet

    bundle = read_bundle(model)  # what devices would refuse is not sent
    signature = read_signed(bundle.path)[1]
    with Fleet(settings) as fleet:
        outcome = fleet.roll_out(
            bundle.data, signature, shown=lambda line: click.echo(_printable(line), err=True), **options
        )
    if as_json:
        click.echo(json.dumps({"schema": 1, **asdict(outcome)}))
    else:
        version = bundle.version
        click.echo(
            f"{len(outcome.accepted)} devices run {bundle.name} version {version} now, "
            f"{len(outcome.already)} did before, {len(outcome.failed)} failed, {len(outcome.left)} are left; "
            f"{len(outcome.absent)} are not connected or take no updates"
        )
    if outcome.failed or outcome.left:
        sys.exit(1)
