"""`serkit report`."""

from __future__ import annotations

from pathlib import Path

import click

from serkit.edge.errors import SettingsError
from serkit.train.cli import prepare_keras


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Write a page about RUNS there; report.html by default.")
@click.option("--results", type=click.Path(path_type=Path), help="Write the rows of RUNS there, as a results JSON.")
@click.option("--readme", is_flag=True, help="Rewrite the results tables of README.md in the current folder.")
def report(runs: tuple[Path, ...], html: Path | None, results: Path | None, readme: bool) -> None:
    """A page about RUNS (run folders, or folders of them), with tables, plots and each system's card.

    Without RUNS, show the results tables, made from the committed results files.

    \b
    Examples:
      serkit report runs/ --html report.html
      serkit report --readme
    """
    if (html is not None or results is not None) and not runs:
        raise click.UsageError("--html and --results need RUNS")
    for path in (html, results):
        if path is not None and not path.parent.is_dir():
            raise SettingsError(f"{path}: no folder {path.parent}; make it first")
    if runs:
        prepare_keras()
        from serkit.benchmarks.page import write_page
        from serkit.train.results import write_results
        from serkit.train.summary import cells, read_runs

        found = cells(read_runs(runs))
        if results is not None:
            write_results(results, "systems", [c.row for c in found])
        if html is not None or results is None:
            page = html or Path("report.html")
            write_page(found, page)
            click.echo(f"{page}: {len(found)} rows from {sum(len(c.runs) for c in found)} runs")
        if not readme:
            return
    from serkit.benchmarks.report import tables, update_readme

    if readme:
        update_readme(Path("README.md"))
    else:
        click.echo(tables())
