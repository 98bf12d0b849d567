from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serkit.benchmarks import matrix
from serkit.benchmarks.choices import choose, matrix_tables
from serkit.benchmarks.matrix import MatrixSettings, kept_rows, measure
from serkit.edge.cli import main
from serkit.edge.engine import ENGINES, available_engines
from serkit.edge.errors import SettingsError

pytestmark = pytest.mark.slow

SMALL = """
system = "r3-mfcc-lstm"
[window]
n_frames = 32
[frontend]
n_mels = 16
[model]
n_mfcc = 12
lstm_units = 8
dense_units = [8]
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="module")
def measured(small: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("matrix") / "matrix.json"
    arguments = ["bench", "matrix", small, "--formats", "float32,int8", "--lstm", "unrolled,while", "--rounds", "3"]
    ran = CliRunner().invoke(main, [*arguments, "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert len(ran.output.splitlines()) == 8
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [r for r in json.loads(out.read_text())["rows"] if r["engine"] in available_engines()]


def test_every_cell_is_a_row(measured: Path) -> None:
    rows = {(r["format"], r["lstm"], r["engine"]): r for r in rows_of(measured)}
    assert len(rows) == 4 * len(available_engines())
    for (format, lstm, _), row in rows.items():
        assert row["trained"] is False
        if (format, lstm) == ("int8", "while"):
            assert row["error"].startswith("the TFLite converter crashed (SIGSEGV) on int8")
            continue
        assert row["size_bytes"] > 0
        assert row["n_operators"] == sum(row["operators"].values())
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["ratio"] > 0
        assert row["load_ms"] > 0
        assert row["max_abs_dp"] <= (1e-5 if format == "float32" else 0.1)
        assert not row["keeps_state"]
        assert "uar" not in row
    assert all(rows["float32", "unrolled", e]["ratio"] == 1 for e in available_engines())
    assert all(rows["float32", "while", e]["operators"]["WHILE"] == 1 for e in available_engines())
    assert measured.with_suffix(".png").stat().st_size > 10_000


def test_rows_of_the_same_code_are_kept(measured: Path, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MatrixSettings(formats=("float32", "int8"), lstm=("unrolled", "while"), rounds=3)
    monkeypatch.setattr(matrix, "environment", lambda: json.loads(measured.read_text()) | {"commit": "1"})
    assert kept_rows(measured) == [] == kept_rows(measured.with_name("none.json"))
    clean = json.loads(measured.read_text()) | {"commit": "1"}
    clean["machine"] |= {"load": 99.0, "temperature_c": 99.0}  # as they were then
    clean["rows"] = [r for r in clean["rows"] if (r["format"], r["lstm"]) != ("int8", "while")]
    other = measured.with_name("other.json")
    other.write_text(json.dumps(clean))
    monkeypatch.setattr(matrix, "export_into", lambda *_: None)  # makes nothing, and says nothing
    new: list[Any] = []
    rows = measure([small], settings, kept_rows(other), lambda row, _: new.append(row))
    assert [r for r in rows if r not in new] == clean["rows"]
    assert {(r["format"], r["lstm"]) for r in new} == {("int8", "while")}


def test_an_engine_may_crash(
    tiny_run: Path, tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_into(folder: Path, run: Path, formats: list[str], *_: Any) -> None:
        for format in formats:
            (folder / f"{format}.tflite").write_bytes(tiny_bundles[format].read_bytes())

    child = tmp_path / "child"
    child.write_text("#!/bin/sh\nkill -SEGV $$\n")
    child.chmod(0o755)
    monkeypatch.setattr(matrix, "export_into", export_into)
    monkeypatch.setattr(matrix.sys, "executable", str(child))
    settings = MatrixSettings(formats=("dynamic",), lstm=("unrolled",), rounds=3)
    rows = measure([str(tiny_run)], settings, [], lambda *_: None)
    assert [r["error"] for r in rows] == ["the engine crashed (SIGSEGV)"] * len(ENGINES)
    assert sys.executable == str(child)


def test_a_trained_run_and_its_bundle_on_both_engines(
    tiny_run: Path, tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_into(folder: Path, run: Path, formats: list[str], *_: Any) -> None:
        for format in formats:
            (folder / f"{format}.tflite").write_bytes(tiny_bundles[format].read_bytes())

    monkeypatch.setattr(matrix, "export_into", export_into)  # whole bundles, flatbuffer and zip
    settings = MatrixSettings(formats=("dynamic",), lstm=("unrolled",), rounds=3)
    rows = measure([str(tiny_run)], settings, [], lambda *_: None)
    for row in (r for r in rows if r["engine"] in available_engines()):
        assert row["trained"]
        assert row["max_abs_dp"] <= 0.1
        assert row["n_utterances"] <= matrix.N_UTTERANCES
        assert row["uar_change"] == pytest.approx(row["uar"] - row["uar_keras"], abs=2e-4)
        assert row["refused"] is False


def test_tables_come_from_the_rows(measured: Path) -> None:
    lines = matrix_tables({"matrix": json.loads(measured.read_text())})
    text = "\n".join(lines)
    assert "| small | unrolled | int8 |" in text
    assert "converter crashed (SIGSEGV)" in text
    assert "![" in text


def test_unknown_formats_and_forms_are_told() -> None:
    with pytest.raises(SettingsError, match="no format 'int4'; choose one of float32, float16"):
        MatrixSettings(formats=("int4",))
    with pytest.raises(SettingsError, match="no LSTM form 'gru'; choose one of unrolled"):
        MatrixSettings(lstm=("gru",))


def test_what_may_be_shipped_and_what_is(measured: Path) -> None:
    row = {"model": "m", "lstm": None, "engine": "litert", "ratio": 0.5, "size_bytes": 100, "refused": False,
           "utterance_label_agreement": 1.0}  # fmt: skip
    rows = [
        row | {"format": "float32", "ratio": 1.0, "size_bytes": 400},
        row | {"format": "dynamic"},
        row | {"format": "int8", "ratio": 0.45, "size_bytes": 110},  # faster by less than it is larger
        row | {"format": "float16", "ratio": 0.1, "utterance_label_agreement": 0.9},
    ]
    both = [r | {"engine": e} for r in rows for e in ENGINES]
    assert choose(both, "litert")["m"]["format"] == "dynamic"
    both = [r | ({"refused": True} if r["format"] == "dynamic" else {}) for r in both]
    assert choose(both, "litert")["m"]["format"] == "int8"
    broken = {"model": "m", "lstm": None, "format": "int8", "engine": "tflite-runtime", "error": "crashed"}
    both = [broken if (r["format"], r["engine"]) == ("int8", "tflite-runtime") else r for r in both]
    assert choose(both, "litert")["m"]["format"] == "float32"
    assert choose([broken], "tflite-runtime") == {}
    assert {r["format"] for r in choose(rows_of(measured), "litert").values()} <= {"float32", "int8"}
