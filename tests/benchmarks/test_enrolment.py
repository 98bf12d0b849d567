"""`serkit bench enrolment`: every test speaker enrolled as on the device, and nobody a model knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serkit.convert.bundle import write_bundle
from serkit.edge.bundle import read_bundle
from serkit.edge.cli import main
from serkit.edge.signature import signing_key

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tiny_bundles: dict[str, Path], tmp_path: Path) -> Path:
    """The tiny model, as if enrolment had helped its validation speakers."""
    bundle = read_bundle(str(tiny_bundles["dynamic"]))
    graph = bundle.data[: bundle.info["size_bytes"]]
    enrolment = {"logits": [0.5, -0.5, 0.0, 0.0], "strength": 0.25}
    write_bundle(tmp_path / "toy.tflite", graph, bundle.info | {"enrolment": enrolment}, "", signing_key())
    return tmp_path / "toy.tflite"


def test_each_test_speaker_is_enrolled_with_half_of_what_is_neutral(model: Path, corpus: Path, tmp_path: Path) -> None:
    split = read_bundle(str(model)).info["split"]
    arguments = ["--model", str(model), "--corpus", "ravdess", "--data", str(corpus), "--protocol", split["protocol"]]
    out = tmp_path / "enrolment.json"
    done = CliRunner().invoke(main, ["bench", "enrolment", *arguments, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(out.read_text())["rows"]
    assert row["strength"] == 0.25
    assert 0.5 < row["speech_s"] < 2  # one utterance of 1.2 s
    voices = set(row["per_voice_change"])
    assert len(voices) == 4
    assert not voices & set(read_bundle(str(model)).info["learned_from"]["voices"])
    assert 0 <= row["uar_before"] <= 1
    assert 0 <= row["uar_after"] <= 1


def test_a_model_that_gains_nothing_is_not_measured(model: Path, corpus: Path, tmp_path: Path) -> None:
    bundle = read_bundle(str(model))
    off = bundle.info | {"enrolment": bundle.info["enrolment"] | {"strength": 0.0}}
    write_bundle(tmp_path / "off.tflite", bundle.data[: bundle.info["size_bytes"]], off, "", signing_key())
    arguments = ["--model", str(tmp_path / "off.tflite"), "--corpus", "ravdess", "--data", str(corpus)]
    done = CliRunner().invoke(main, ["bench", "enrolment", *arguments])
    assert done.exit_code == 1
    assert "gains nothing from enrolment" in done.output
