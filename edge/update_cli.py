"""`serkit update`: new models and new keys."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serkit.edge.cli import as_json
from serkit.edge.errors import ModelError

if TYPE_CHECKING:
    from serkit.edge.store import ModelStore


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--status", is_flag=True, help="Say which model is installed, and which keys are trusted.")
@click.option("--roll-back", is_flag=True, help="Go back to the model before.")
@click.option(
    "--state", type=click.Path(path_type=Path), help="The service's state folder; /var/lib/serkit by default."
)
@click.option("--allow-downgrade", is_flag=True, help="Take a version that is not newer.")
@click.option("--allow-labels", is_flag=True, help="Take a model with other labels.")
@click.option("--retry", is_flag=True, help="Take a file that failed here before.")
@click.option(
    "--wait",
    "patience_s",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    help="Seconds for a running service to accept the model or to go back.",
)
@as_json
def update(
    file: Path | None,
    status: bool,
    roll_back: bool,
    state: Path | None,
    patience_s: float,
    as_json: bool,
    **allowed: Any,
) -> None:
    """Install a signed model, or trust or revoke a key.

    A model is tried in a process of its own first. It then answers on trial: the service accepts it, or goes back.

    FILE is a .tflite file, or a .pub file that `serkit model sign` signed; its .minisig lies beside it.

    \b
    Examples:
      serkit update my-model.tflite
      serkit update new-key.pub
      serkit update --roll-back
    """
    from serkit.edge import update as updates
    from serkit.edge.signature import state_folder
    from serkit.edge.store import ModelStore

    if (file is not None) + status + roll_back != 1:
        raise click.UsageError("give one of FILE, --status and --roll-back")
    store = ModelStore((state or state_folder()).absolute() / "models")
    if status:
        _show(store, as_json)
    elif roll_back:
        _roll_back(store, as_json)
    elif file is not None and file.suffix == ".pub":
        key, trusted = updates.install_key(file, store)
        if as_json:
            click.echo(json.dumps({"schema": 1, "key": key.name, "trusted": trusted}))
        else:
            click.echo(f"key {key.name} is {'trusted from now on' if trusted else 'revoked'}")
    elif file is not None:
        configured, engine = _configured()
        installed, health = updates.install_model(file, store, configured, engine=engine, **allowed)
        if not as_json:
            click.echo(f"{installed}: passed its test ({health.engine}, {health.load:.1%} of a hop), installed")
        runs = updates.reload_service()
        verdict = updates.await_verdict(store, installed, patience_s) if runs else None
        result = "on trial" if verdict is None else "rolled back" if verdict else "accepted"
        if as_json:
            values = {"schema": 1, "model": installed.name, "version": installed.version, "status": result}
            click.echo(json.dumps(values | asdict(health) | ({"reason": verdict} if verdict else {})))
        elif verdict is None:
            click.echo(f"on trial: {'the service has not judged it yet' if runs else 'the service is not running'}")
        elif not verdict:
            click.echo("accepted by the service")
        if verdict:
            raise ModelError(f"{installed} was rolled back: {verdict}")


def _configured() -> tuple[str, str]:
    """The service's model while none is installed, and its engine."""
    from serkit.edge.settings import read_toml

    path = Path(os.environ.get("CONFIGURATION_DIRECTORY", "").split(":")[0] or "/etc/serkit") / "serkit.toml"
    values = read_toml(path, "configuration") if path.exists() else {}
    return str(values.get("model", "default")), str(values.get("engine", "auto"))


def _show(store: ModelStore, as_json: bool) -> None:
    from serkit.edge.signature import bad_keys, trusted_keys

    state, keys = store.state(), trusted_keys(store.folder.parent)
    if as_json:
        names = {"keys": [key.name for key in keys]}
        click.echo(json.dumps({"schema": 1} | asdict(state) | names, ensure_ascii=False))
        return
    trial = "" if state.trial_starts is None else f", on trial after {state.trial_starts} starts"
    click.echo(f"active:   {state.active or 'none installed; the model of the configuration'}{trial}")
    click.echo(f"previous: {state.previous or 'the model of the configuration'}")
    for digest, reason in state.refused.items():
        click.echo(f"refused:  {digest}: {reason}")
    for key in keys:
        click.echo(f"trusted:  {key.name} ({key.source})")
    for line in bad_keys():
        click.echo(f"left out: {line}")


def _roll_back(store: ModelStore, as_json: bool) -> None:
    from serkit.edge.update import reload_service

    if (old := store.state().active) is None:
        raise ModelError("no model is installed; there is nothing to go back from")
    with store.updating():
        if not store.roll_back("rolled back by hand") or store.problem:
            raise ModelError(store.problem or "another model was installed meanwhile; look at --status")
    reload_service()
    active = store.state().active
    if as_json:
        name = {"model": None, "version": None} if active is None else {"model": active.name, "version": active.version}
        click.echo(json.dumps({"schema": 1, "status": "rolled back", **name}))
    else:
        click.echo(f"{old} rolled back; {active or 'the model of the configuration'} answers")
