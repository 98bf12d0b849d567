from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from serkit.benchmarks import frontend
from serkit.edge.cli import main

pytestmark = pytest.mark.slow


def test_every_system_is_measured_in_every_scenario() -> None:
    rows = frontend.measure(repeats=3, warm_up=1)
    peers = {"python_speech_features", "librosa", "tflite graph", frontend.FFT_ALONE}
    assert {r["system"] for r in rows} == {"serkit", *peers}
    assert len(rows) == 2 * 5 * (1 + len(frontend.LENGTHS_S))
    assert all(r["median_ms"] > 0 and r["ratio"] > 0 for r in rows)


def test_without_tensorflow_the_graph_is_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "HAS_TENSORFLOW", False)
    result = CliRunner().invoke(main, ["bench", "frontend", "--repeats", "3"])
    assert result.exit_code == 0
    assert "without the TFLite graph: TensorFlow, which builds it, is not installed" in result.output
    assert "tflite graph" not in result.output


def test_results_never_replace_a_device() -> None:
    done = CliRunner().invoke(main, ["bench", "frontend", "--out", "/dev/null"])
    assert done.exit_code == 1
    assert done.output == "serkit: /dev/null: not a file; give the name of one\n"
    assert Path("/dev/null").is_char_device()
