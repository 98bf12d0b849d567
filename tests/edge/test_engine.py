from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.edge.bundle import read_bundle
from serkit.edge.engine import ENGINES, Engine, available_engines, dequantize, quantize
from serkit.edge.errors import MissingExtraError, ModelError

FORMATS = ["float32", "float16", "dynamic", "int8"]


pytestmark = pytest.mark.skipif(not available_engines(), reason="no TFLite engine is installed")

# tflite-runtime does not load beside TensorFlow, which other tests bring into this process: score in a child.
CHILD = """
import json, sys
import numpy as np
from serkit.edge.bundle import read_bundle
from serkit.edge.engine import Engine
bundle, name = read_bundle(sys.argv[1]), sys.argv[2]
load = lambda: Engine(bundle.data, bundle.window.hop_frames, name)
engine = load()
a, b = np.random.default_rng(0).standard_normal((2, *engine.input_shape)).astype(np.float32)
sequence = [a, a, b, a, 30 * b, a, np.zeros_like(a), a]
answers = [engine.logits(w) for w in sequence] + [load().logits(a), engine.logits(b)]
print(json.dumps([x.tolist() for x in answers]))
"""


@pytest.fixture(scope="session")
def answers(tiny_bundles: dict[str, Path]) -> Callable[[str, str], np.ndarray]:
    @cache
    def run(format: str, engine: str) -> np.ndarray:
        command = [sys.executable, "-c", CHILD, str(tiny_bundles[format]), engine]
        return np.array(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    return run


@pytest.mark.slow
@pytest.mark.parametrize("engine", available_engines())
@pytest.mark.parametrize("format", FORMATS)
def test_no_window_leaves_a_trace(answers: Callable[[str, str], np.ndarray], format: str, engine: str) -> None:
    a1, a2, b1, a3, _, a4, _, a5, a_fresh, b2 = answers(format, engine)
    for a in (a2, a3, a4, a5, a_fresh):
        assert np.array_equal(a, a1)
    assert np.array_equal(b1, b2)
    assert not np.array_equal(a1, b1)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_engines_agree(answers: Callable[[str, str], np.ndarray], format: str) -> None:
    first, *others = (answers(format, engine) for engine in available_engines())
    limit = {"float32": 1e-4, "float16": 1e-3, "dynamic": 0.2, "int8": 0.2}[format]
    for other in others:
        assert np.max(np.abs(first - other)) < limit


def test_integers_are_rounded_and_clipped() -> None:
    detail = {"dtype": np.int8, "quantization": (0.1, 3)}
    x = np.float32([-100, -0.26, -0.24, 0, 0.04, 0.06, 100])
    assert quantize(x, detail).tolist() == [-128, 0, 1, 3, 3, 4, 127]
    inside = np.float32(np.linspace(-13, 12.3, 500))
    assert np.max(np.abs(dequantize(quantize(inside, detail), detail) - inside)) <= 0.05 + 1e-6
    floats = {"dtype": np.float32, "quantization": (0.0, 0)}
    assert np.array_equal(quantize(x, floats), x)


@pytest.mark.slow
def test_a_window_of_another_shape_is_refused(tiny_bundles: dict[str, Path]) -> None:
    engine = Engine(tiny_bundles["dynamic"].read_bytes(), 24)
    with pytest.raises(ModelError, match=r"window of shape \(3, 128\); this model needs \(109, 40\)"):
        engine.logits(np.zeros((3, 128), np.float32))


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot load this model"):
        Engine(b"\0" * 64, 25)


def test_tflite_runtime_beside_tensorflow_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if "tflite-runtime" not in available_engines():
        pytest.skip("tflite-runtime is not installed")
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    with pytest.raises(ModelError, match="does not work in a process that has loaded TensorFlow"):
        Engine(b"\0" * 64, 25, "tflite-runtime")


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "litert", "no_such_module_a")
    monkeypatch.setitem(ENGINES, "tflite-runtime", "no_such_module_b")
    with pytest.raises(MissingExtraError, match="pip install ai-edge-litert"):
        Engine(b"", 25)
    with pytest.raises(MissingExtraError, match="pip install tflite-runtime"):
        Engine(b"", 25, "tflite-runtime")
    with pytest.raises(ModelError, match="no engine 'tensorrt'"):
        Engine(b"", 25, "tensorrt")


@given(hops=st.sets(st.integers(0, 30), min_size=1).map(sorted))
def test_hops_that_were_left_out_are_encoded_when_a_window_needs_them(hops: list[int]) -> None:
    """With any of the windows left out the others give the same bits, and no chunk is encoded twice."""
    encoded: list[bytes] = []

    def encode(chunk: np.ndarray) -> np.ndarray:
        encoded.append(chunk.tobytes())
        return np.cumsum(chunk, axis=0)[3:]

    engine = Engine.__new__(Engine)
    engine._interpreter = SimpleNamespace(reset_all_variables=lambda: None)
    encode.input_shape = (5, 2)  # type: ignore[attr-defined]
    engine._encode, engine._classify = encode, lambda x: np.float32([x.sum(), x[0, 0]])  # type: ignore[assignment]
    engine._hop, engine._n_chunks, engine.input_shape, engine._chunks = 2, 4, (11, 2), {}
    frames = np.random.default_rng(0).standard_normal((80, 2)).astype(np.float32)
    windows = {h: frames[2 * h : 2 * h + 11] for h in hops}
    streamed = {h: engine.logits(w, h) for h, w in windows.items()}
    assert len(encoded) == len(set(encoded)) == len({h + i for h in hops for i in range(4)})
    for h, w in windows.items():
        assert np.array_equal(engine.logits(w), streamed[h])


def test_an_engine_that_fails_in_service_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle("default")
    engine = Engine(bundle.data, bundle.window.hop_frames)

    def fails(x: np.ndarray) -> np.ndarray:
        raise RuntimeError("tensor_index out of range")

    monkeypatch.setattr(engine, "_classify", fails)
    with pytest.raises(ModelError, match="fails at a window \\(tensor_index out of range\\); convert the model again"):
        engine.logits(np.zeros(engine.input_shape, np.float32))
