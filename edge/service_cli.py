"""`serkit serve`: what systemd starts."""

from __future__ import annotations

import faulthandler
import signal
import sys
import traceback
from pathlib import Path

import click

from serkit.edge.errors import SerkitError


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML; by default serkit.toml in $CONFIGURATION_DIRECTORY or /etc/serkit, if it is there.",
)
def serve(config: Path | None) -> None:
    """Listen as a service: for ever, as the configuration says.

    Events go to the configuration's sinks, or to standard output where it has none; what happens goes to standard
    error. systemd is told when it is ready and that it is alive. SIGHUP reads the configuration again, SIGUSR1 mutes,
    SIGTERM ends it.

    \b
    Example:
      serkit serve --config deploy/serkit.toml
    """
    mutes: list[int] = []  # asked for before there is anything to mute
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda number, _: mutes.append(number))
    from serkit.edge.service import Service, model_store
    from serkit.edge.systemd import ERROR, notify, say

    faulthandler.enable()  # the watchdog's SIGABRT leaves in the journal where it hung
    try:
        Service(config, store=model_store(), mutes=mutes).run()
    except SerkitError as error:
        say(str(error), ERROR)
        notify(f"STATUS={error}")
        sys.exit(1)
    except OSError:  # ours, and not that of an output
        traceback.print_exc()
        sys.exit(1)
