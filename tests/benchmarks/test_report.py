from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serkit.benchmarks.claims import CLAIMS, claims_table
from serkit.benchmarks.page import write_page
from serkit.edge.cli import main
from serkit.train.fit import train
from serkit.train.recipe import bundled_recipes, override, read_recipe
from serkit.train.results import read_results, write_results
from serkit.train.runs import run_name
from serkit.train.splits import PROTOCOLS
from serkit.train.summary import cells, read_runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for recipe in (read_recipe("svm"), override(read_recipe("svm"), training={"shuffle_labels": True})):
        job = override(recipe, split={"protocol": "random"})
        train(job, corpus, folder / f"{recipe.training.shuffle_labels}-{run_name(job)}")
    return folder


def test_the_page_stands_alone_and_shows_every_row(runs: Path, tmp_path: Path) -> None:
    found = cells(read_runs([runs]))
    write_page(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<details>") == len(found) == 2
    assert page.count("data:image/png;base64,") == 1 + 2 * len(found)
    assert "http://" not in page
    assert "https://" not in page
    for cell in found:
        assert f"{cell.row['uar']:.3f}" in page
        assert cell.row["command"] in page


def test_report_writes_page_and_results(runs: Path, tmp_path: Path) -> None:
    page, results = tmp_path / "r.html", tmp_path / "r.json"
    ran = CliRunner().invoke(main, ["report", str(runs), "--html", str(page), "--results", str(results)])
    assert ran.exit_code == 0, ran.output
    assert "2 rows from 2 runs" in ran.output
    rows = json.loads(results.read_text())["rows"]
    assert {"system", "corpus", "protocol", "seeds", "uar", "uar_ci95", "ece", "command"} <= set(rows[0])
    nothing = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert nothing.exit_code == 1
    assert "no finished run with test figures" in nothing.output
    assert CliRunner().invoke(main, ["report", "--html", "x.html"]).exit_code == 2


def test_claims_name_recipes_and_protocols_that_exist() -> None:
    known = {*bundled_recipes(), *(f"{name}-ensemble" for name in bundled_recipes())}
    for claim in CLAIMS:
        assert set(claim.recipes) <= known
        assert claim.protocol in PROTOCOLS
    table = claims_table([])
    assert len(table) == len(CLAIMS)
    assert all("not measured yet" in line for line in table)


def test_the_readme_shows_the_committed_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(readme.read_text())
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["report", "--readme"]).exit_code == 0
    assert copy.read_text() == readme.read_text(), "run `serkit report --readme`"
    more = Path("benchmarks") / "results" / "README.md"
    assert (tmp_path / more).read_text() == (readme.parent / more).read_text(), "run `serkit report --readme`"
    assert read_results()


def test_results_carry_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["serkit", "report", str(tmp_path / "runs" / "a"), "--results", "x y.json"])
    write_results(tmp_path / "r.json", "systems", [])
    assert json.loads((tmp_path / "r.json").read_text())["command"] == "serkit report runs/a --results 'x y.json'"
