"""`serkit models` and `serkit model`: what comes with serkit, and one model's card and signature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from serkit.edge.cli import as_json


@click.command()
@as_json
def models(as_json: bool) -> None:
    """List the models that come with serkit.

    \b
    Example:
      serkit models --json
    """
    from serkit.edge.bundle import DEFAULT_MODEL, bundled_models, read_bundle

    for name in bundled_models():
        bundle = read_bundle(name)
        if as_json:
            click.echo(json.dumps(_model_info(bundle), ensure_ascii=False))
        else:
            mark = "*" if name == DEFAULT_MODEL else " "
            size = len(bundle.data) / 1e6
            click.echo(f"{mark} {name:<20} {bundle.format:<8} {size:5.2f} MB  {', '.join(bundle.labels)}")


def _model_info(bundle: Any) -> dict[str, Any]:
    from serkit.edge.bundle import DEFAULT_MODEL

    info = {k: v for k, v in bundle.info.items() if k not in ("schema", "learned_from", "calibration", "golden")}
    return {
        "schema": 1,
        **info,
        "default": bundle.path.stem == DEFAULT_MODEL,
        "file_bytes": len(bundle.data),
        "signed_by": bundle.signed_by,
    }


@click.group()
def model() -> None:
    """Look at one model: its card, its signature."""


@model.command()
@click.argument("model", metavar="M")
@as_json
def info(model: str, as_json: bool) -> None:
    """Show a model's card.

    \b
    Example:
      serkit model info default
    """
    from serkit.edge.bundle import read_bundle

    bundle = read_bundle(model)
    if as_json:
        click.echo(json.dumps(_model_info(bundle), ensure_ascii=False))
        return
    from serkit.edge.terminal import show_card

    show_card(bundle.card)


@model.command()
@click.argument("model", metavar="M")
@as_json
def verify(model: str, as_json: bool) -> None:
    """Check a model's signature, and that an engine scores a window with it.

    \b
    Example:
      serkit model verify my-model.tflite
    """
    import numpy as np

    from serkit.edge.bundle import read_bundle
    from serkit.edge.stream import Recognizer

    bundle = read_bundle(model)
    recognizer = Recognizer(bundle)
    recognizer.score(np.zeros((bundle.window.input_frames, bundle.frontend.n_features), np.float32))
    engine = recognizer.engine.name
    if as_json:
        result = {
            "schema": 1,
            "model": bundle.name,
            "valid": True,
            "signed_by": bundle.signed_by,
            "engine": engine,
        }
        click.echo(json.dumps(result))
    else:
        click.echo(f"{bundle.name}: signature by {bundle.signed_by} holds, {engine} runs it")


@model.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--revoke", is_flag=True, help="FILE is a key that devices shall trust no longer.")
def sign(file: Path, revoke: bool) -> None:
    """Sign a public key with this machine's own key, for devices that trust this one.

    Beside KEY.pub, KEY.pub.minisig is written; `serkit update KEY.pub` on a device then trusts KEY, or no longer.

    \b
    Example:
      serkit model sign new.pub
    """
    from serkit.edge import signature

    key = signature.read_public_key(file)
    comment = (signature.REVOKES if revoke else signature.VOUCHES) + key.name
    text = signature.sign(file.read_bytes(), signature.signing_key(), comment)
    sidecar = file.with_name(file.name + ".minisig")
    sidecar.write_text(text, encoding="utf-8")
    click.echo(f"{sidecar}: {comment.removeprefix('serkit ')}")
