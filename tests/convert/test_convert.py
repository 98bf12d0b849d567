from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from serkit.convert import export as export_module
from serkit.convert.bundle import MIN_SERKIT, convert_run
from serkit.convert.export import FORMATS, export
from serkit.convert.parity import strays
from serkit.edge.bundle import read_bundle, read_signed
from serkit.edge.engine import Engine
from serkit.edge.errors import ModelError, SettingsError
from serkit.edge.probe import probe
from serkit.edge.window import softmax
from serkit.train.runs import load_run

pytestmark = pytest.mark.slow

#: Largest |dp| a window may show, and least agreement of labels, by format.
LIMITS = {"float32": (1e-5, 1.0), "float16": (1e-2, 0.99), "dynamic": (0.1, 0.95), "int8": (0.25, 0.9)}


@pytest.mark.parametrize("format", FORMATS)
def test_parity_with_keras(tiny_bundles: dict[str, Path], format: str) -> None:
    report = read_bundle(str(tiny_bundles[format])).info["parity"]
    limit, agreement = LIMITS[format]
    assert 0 <= report["mean_abs_dp"] <= report["max_abs_dp"] <= limit
    assert report["window_label_agreement"] >= agreement
    assert report["uar_change"] == pytest.approx(report["uar"] - report["uar_keras"], abs=2e-4)
    assert report["n_utterances"] > 0


@pytest.mark.parametrize("format", LIMITS)
def test_a_conversion_that_answers_nan_strays(format: str) -> None:
    assert not strays({"max_abs_dp": 0.0, "utterance_label_agreement": 1.0}, format)
    assert strays({"max_abs_dp": float("nan"), "utterance_label_agreement": 1.0}, format)


def test_float32_is_keras_within_1e_5(tiny_run: Path, tiny_bundles: dict[str, Path], rng: np.random.Generator) -> None:
    import keras

    engine = Engine(read_bundle(str(tiny_bundles["float32"])).data, 24)
    x = rng.standard_normal((16, *engine.input_shape)).astype(np.float32)
    model = keras.saving.load_model(tiny_run / "model.keras", compile=False)
    assert np.max(np.abs(softmax(model.predict_on_batch(x)) - softmax(engine.batch_logits(x)))) <= 1e-5


def test_no_operator_that_keeps_state_or_needs_flex(tiny_bundles: dict[str, Path]) -> None:
    for path in tiny_bundles.values():
        names = {d["op_name"] for d in Engine(path.read_bytes(), 24)._interpreter._get_ops_details()}
        assert not any("LSTM" in n or "Flex" in n or "WHILE" in n or "VARIABLE" in n for n in names)


def test_no_tensor_has_a_name(tiny_bundles: dict[str, Path]) -> None:
    for path in tiny_bundles.values():
        details = Engine(path.read_bytes(), 24)._interpreter.get_tensor_details()
        assert details
        assert not any(d["name"] for d in details)


def test_a_bundle_carries_all_the_edge_needs(tiny_run: Path, tiny_bundles: dict[str, Path]) -> None:
    recipe, metrics, split = load_run(tiny_run)
    bundle = read_bundle(str(tiny_bundles["int8"]))
    assert bundle.labels == recipe.labels
    assert (bundle.frontend, bundle.window) == (recipe.frontend, recipe.window)
    assert bundle.temperature == metrics["temperature"]
    assert set(bundle.info["calibration"]) <= set(split["train"]["utterances"])
    assert len(bundle.info["calibration"]) >= 100
    assert set(bundle.info["learned_from"]["voices"]).isdisjoint(split["test"]["voices"])
    assert "EU AI Act" in bundle.card
    assert "ECE" in bundle.card
    assert all(voice in bundle.card for voice in split["validation"]["voices"])
    assert "CC BY-NC-SA" in bundle.card
    assert "Moonshine" not in bundle.card  # which had no teacher


def test_quantized_files_are_a_quarter_of_the_size_or_so(tiny_bundles: dict[str, Path]) -> None:
    sizes = {f: read_bundle(str(p)).info["size_bytes"] for f, p in tiny_bundles.items()}
    assert sizes["dynamic"] < sizes["float16"] < sizes["float32"]


def test_the_converter_may_crash_or_refuse(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child"
    monkeypatch.setattr(export_module.sys, "executable", str(child))
    none = np.zeros((0, 64, 128), np.float32)
    for script, message in (
        ("kill -SEGV $$", r"the TFLite converter crashed \(SIGSEGV\) on int8; another format may do"),
        ("echo first >&2; echo 'no such operator' >&2; exit 3", "refused int8: no such operator"),
    ):
        child.write_text(f"#!/bin/sh\n{script}\n")
        child.chmod(0o755)
        with pytest.raises(ModelError, match=message):
            export(tiny_run, ["int8"], none)
    assert sys.executable == str(child)


def test_what_cannot_be_converted_says_why(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no format 'int4'; choose one of float32"):
        convert_run(tiny_run, "int4", tmp_path / "m.tflite")
    with pytest.raises(SettingsError, match=r"a bundle's name ends in \.tflite"):
        convert_run(tiny_run, "int8", tmp_path / "model.bin")
    with pytest.raises(SettingsError, match="version 0: a model's version is 1 or more"):
        convert_run(tiny_run, "int8", tmp_path / "m.tflite", version=0)
    with pytest.raises(SettingsError, match=r"a model cannot be called 'a\\nb'; leave out line breaks"):
        convert_run(tiny_run, "float32", tmp_path / "m.tflite", name="a\nb")
    with pytest.raises(SettingsError, match=r"no folder .*gone; make it first"):
        convert_run(tiny_run, "int8", tmp_path / "gone" / "m.tflite")


@pytest.mark.parametrize("format", FORMATS)
def test_a_bundle_passes_its_own_golden_windows(tiny_bundles: dict[str, Path], format: str) -> None:
    bundle = read_bundle(str(tiny_bundles[format]))
    assert bundle.info["min_serkit"] == MIN_SERKIT
    assert bundle.version > 202600000000  # the minute it was converted
    assert f" version {bundle.version} " in read_signed(tiny_bundles[format])[1]
    assert np.asarray(bundle.info["golden"]).shape == (4, len(bundle.labels))
    assert probe(bundle).deviation <= 1e-5


def test_model_json_is_plain(tiny_bundles: dict[str, Path]) -> None:
    info = read_bundle(str(tiny_bundles["dynamic"])).info
    assert json.loads(json.dumps(info)) == info
    assert info["schema"] == 1
