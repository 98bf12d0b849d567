"""`serkit bench` and `serkit report`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from serkit.edge.cli import as_json, needs
from serkit.edge.errors import SettingsError


@click.group()
def bench() -> None:
    """Measure something, against peers, in one run."""


@bench.command()
@click.option("--repeats", type=click.IntRange(3), default=60, show_default=True, help="Rounds counted.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write a results JSON there.")
@as_json
def frontend(repeats: int, out: Path | None, as_json: bool) -> None:
    """Cost of the front end per second of audio, against python_speech_features and librosa.

    \b
    Example:
      serkit bench frontend --out frontend.json
    """
    if out is not None and not out.parent.is_dir():
        raise SettingsError(f"{out}: no folder {out.parent}; make it first")
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


@click.command()
@click.option("--readme", is_flag=True, help="Rewrite the results tables of README.md in the current folder.")
def report(readme: bool) -> None:
    """Show the results tables, made from the committed results files.

    \b
    Example:
      serkit report --readme
    """
    from serkit.benchmarks.report import tables, update_readme

    if readme:
        update_readme(Path("README.md"))
    else:
        click.echo(tables())
