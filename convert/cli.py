"""`serkit convert`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from serkit.edge.cli import as_json
from serkit.train.cli import prepare_keras


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["float32", "float16", "dynamic", "int8"]),
    required=True,
    help="dynamic and int8 are a quarter of float32's size.",
)
@click.option(
    "--lstm",
    type=click.Choice(["unrolled", "fused", "while"]),
    default="unrolled",
    show_default=True,
    help="How recurrent layers are written; fused is smaller, and faster where they are large.",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="The .tflite file.")
@click.option("--name", help="What the model is called; the file's name by default.")
@click.option("--version", type=click.IntRange(1), help="Of the model, higher than the last; YYYYMMDDhhmm by default.")
@as_json
def convert(
    run: Path, format: str, lstm: str, output: Path, name: str | None, version: int | None, as_json: bool
) -> None:
    """Convert a finished run to one signed TFLite bundle, and report how far it strays from Keras.

    The signature is by this machine's own key, made on first use; other machines trust it once its .pub file lies in
    their ~/.config/serkit/trusted.

    \b
    Example:
      serkit convert runs/mine --format int8 -o my-model.tflite
    """
    prepare_keras("tensorflow")
    from serkit.convert.bundle import convert_run

    info = convert_run(run, format, output, name, lstm, version)
    p = info["parity"]
    if as_json:
        click.echo(
            json.dumps(
                {
                    "schema": 1,
                    "path": str(output),
                    "version": info["version"],
                    "format": format,
                    "size_bytes": info["size_bytes"],
                    **p,
                }
            )
        )
        return
    click.echo(f"{output}: version {info['version']}, {info['size_bytes']:,} bytes, signature in {output.name}.minisig")
    click.echo(
        f"parity on {p['n_utterances']} validation utterances: max |dp| {p['max_abs_dp']:.2g}, mean "
        f"{p['mean_abs_dp']:.2g}, label agreement {p['utterance_label_agreement']:.3f}, UAR {p['uar_keras']:.3f} -> "
        f"{p['uar']:.3f}"
    )
