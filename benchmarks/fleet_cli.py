"""`serkit bench fleet`."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from serkit.edge.cli import as_json, needs
from serkit.train.cli import out_option


@click.command()
@click.option("--devices", "n_devices", type=click.IntRange(20), default=500, show_default=True, help="Simulated ones.")
@click.option("--seconds", type=click.FloatRange(30), default=60.0, show_default=True, help="Of each of two parts.")
@out_option("Also write a results JSON, and a plot beside it.")
@as_json
def fleet(n_devices: int, seconds: float, out: Path | None, as_json: bool) -> None:
    """A fleet of simulated devices on one broker, which is restarted, and models in waves. Needs mosquitto.

    \b
    Example:
      serkit bench fleet --devices 100
    """
    needs("mqtt", "paho")
    from serkit.benchmarks.fleet import measure, plot
    from serkit.benchmarks.mosquitto import version
    from serkit.train.results import write_results

    def shown(row: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps({"schema": 1, **row}))
        else:
            click.echo("  ".join([f"{row['what']:<9}", *(f"{k} {v}" for k, v in row.items() if k != "what")]))

    rows, arrivals = measure(n_devices, seconds, shown, lambda line: click.echo(line, err=True))
    if out is not None:
        write_results(out, "fleet", rows, mosquitto=version(), paho_mqtt=metadata.version("paho-mqtt"))
        plot(arrivals, rows, out.with_suffix(".png"))
