"""What each form of an LSTM is in the flatbuffer, and that it answers like Keras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serkit.benchmarks.matrix import count_operators, untrained_run
from serkit.convert.export import export, export_into
from serkit.convert.lstm import LSTM_FORMS, is_recurrent, twin
from serkit.edge.engine import Engine
from serkit.edge.errors import ModelError, SettingsError
from serkit.edge.settings import build
from serkit.edge.window import softmax
from serkit.train.build import build_system
from serkit.train.recipe import Recipe, read_recipe
from serkit.train.runs import load_run, load_trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((8, 109, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def graphs(tiny_run: Path, windows: np.ndarray) -> dict[str, bytes]:
    """The tiny CNN-BiLSTM, float32, in every form."""
    return {form: export(tiny_run, ["float32"], windows, form)["float32"] for form in LSTM_FORMS}


@pytest.mark.parametrize("form", LSTM_FORMS)
def test_a_form_answers_like_keras_in_any_order(
    tiny_run: Path, graphs: dict[str, bytes], windows: np.ndarray, form: str
) -> None:
    p = softmax(load_trained(tiny_run).predict_on_batch(windows))
    engine = Engine(graphs[form], 24)
    q = engine.batch_logits(windows)
    assert np.max(np.abs(p - softmax(q))) <= 1e-5
    assert np.array_equal(q[::-1], engine.batch_logits(windows[::-1]))


def test_each_form_has_its_operators(graphs: dict[str, bytes]) -> None:
    n = {form: count_operators(graph) for form, graph in graphs.items()}
    assert n["fused"]["UNIDIRECTIONAL_SEQUENCE_LSTM"] == n["while"]["WHILE"] == 2  # one layer, both ways
    for form, other in (("unrolled", "WHILE"), ("unrolled", "UNIDIRECTIONAL_SEQUENCE_LSTM"), ("fused", "WHILE")):
        assert n[form][other] == 0
    assert n["while"]["REVERSE_V2"] > n["unrolled"]["REVERSE_V2"] == 0  # int8 kernels do not heed its scales
    assert sum(n["fused"].values()) < sum(n["while"].values()) < sum(n["unrolled"].values())


def test_a_fused_lstm_keeps_state_unless_it_is_reset(
    graphs: dict[str, bytes], windows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {}
    for form, graph in graphs.items():
        engine = Engine(graph, 24)
        alone = engine.logits(windows[0])
        monkeypatch.setattr(engine._interpreter, "reset_all_variables", lambda: None)
        engine.logits(windows[1])
        changed[form] = bool(np.any(engine.logits(windows[0]) != alone))
    assert changed == {"unrolled": False, "fused": True, "while": False}


def test_cells_may_grow_beyond_ten(tmp_path: Path) -> None:
    recipe = build(Recipe, {"name": "t", "system": "lstm", "window": {"n_frames": 64}, "frontend": {"n_mels": 16},
                            "model": {"time_pool": 1, "lstm_units": 4, "dense_units": [4]}}, "t")  # fmt: skip
    run = untrained_run(recipe, tmp_path / "run")
    model = load_trained(run)
    kernel, recurrent, bias = model.get_layer("lstm1").get_weights()
    bias[:8], kernel[:, 8:12] = 8.0, 1.0  # nothing is forgotten: cells grow to 40, and fall to 16
    model.get_layer("lstm1").set_weights([kernel, 0 * recurrent, bias])
    model.save(run / "model.keras")
    x = np.where(np.arange(64) < 40, 1.0, -1.0).astype(np.float32)[None, :, None] * np.ones((1, 1, 16), np.float32)
    engine = Engine(export(run, ["float32"], x, "fused")["float32"], 64)
    assert np.max(np.abs(engine.batch_logits(x) - model.predict_on_batch(x))) <= 1e-5


def test_the_marked_loop_is_keras_own(tiny_run: Path, windows: np.ndarray) -> None:
    recipe, _, _ = load_run(tiny_run)
    trained = load_trained(tiny_run)
    assert np.allclose(twin(recipe, trained, "fused")(windows), trained(windows), atol=1e-6)
    assert is_recurrent(trained)
    assert not is_recurrent(build_system(read_recipe("cnn")))


def test_what_was_converted_before_a_failure_is_there(tiny_run: Path, windows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="refused int8: "):  # two signatures, one of them fused
        export_into(tmp_path, tiny_run, ["dynamic", "int8"], windows, "fused")
    assert Engine((tmp_path / "dynamic.tflite").read_bytes(), 24).n_labels == 4


def test_there_are_three_forms(tiny_run: Path, windows: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="no LSTM form 'gru'; choose one of unrolled, fused, while"):
        export(tiny_run, ["float32"], windows, "gru")


@pytest.mark.parametrize("form", LSTM_FORMS)
def test_a_file_holds_nothing_that_no_engine_reads(graphs: dict[str, bytes], form: str) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(graphs[form]), 0))
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    assert not any(tensor.name for tensor in tensors)
    assert all(tensor.quantization is None for tensor in tensors)  # it is float32
    assert sum(buffer.data is None or not len(buffer.data) for buffer in model.buffers) == 1
