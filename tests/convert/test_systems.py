"""Every system, small: trained for an epoch on the synthetic corpus, converted to every format, heard in a stream."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serkit.convert.bundle import convert_formats
from serkit.convert.export import FORMATS
from serkit.edge.audio import FakeSource
from serkit.edge.bundle import read_bundle
from serkit.edge.decision import Decision, DecisionSettings
from serkit.edge.frontend import FrontendSettings, features
from serkit.edge.listener import Listener
from serkit.edge.stream import Recognizer
from serkit.edge.window import WindowSettings, cut_windows, silence
from serkit.train.discriminant import SHRINKAGES
from serkit.train.fit import train
from serkit.train.recipe import Recipe, SplitSettings, TrainingSettings
from serkit.train.runs import load_trained
from serkit.train.zoo import SYSTEMS

pytestmark = pytest.mark.slow

CAUSAL = {"level_frames": 32, "filters": [4, 4], "kernels": [5, 3], "strides": [2, 2], "lstm_units": 8}

ENCODER = {"level_frames": 32, "filters": [6, 8], "bottleneck": 4, "dilations": [1, 2]}

#: What makes each system small: frames of a window, mel bands, options of its builder. A name may say more in brackets.
SMALL: dict[str, tuple[int, int, dict[str, Any]]] = {
    "causal-cnn-bilstm": (72, 24, CAUSAL),
    "causal-tdnn": (72, 24, ENCODER | {"project": 6, "lstm_units": 8}),
    "causal-tdnn-bilstm": (72, 24, ENCODER | {"project": 6, "lstm_units": 8}),
    "r1-cnn-bilstm": (32, 16, {"filters": [4, 4, 4], "time_pool": 1, "lstm_units": 8, "dense_units": [8]}),
    "cnn": (32, 16, {"filters": [4, 4, 4], "time_pool": 1, "dense_units": [8]}),
    "lstm": (32, 16, {"lstm_units": 8, "dense_units": [8]}),
    "svm": (32, 16, {"n_mfcc": 12}),
    "r2-cnn": (32, 16, {"filters": [4, 4, 4, 4], "time_pool": 1, "dense_units": [8]}),
    "r3-multiscale-lstm": (32, 16, {"segments": [8, 16, 32], "steps": 8, "lstm_units": 8}),
    "r3-mfcc-lstm": (32, 16, {"n_mfcc": 12, "lstm_units": 8, "dense_units": [8]}),
    "r3-densenet-lstm": (64, 32, {"n_mfcc": 12, "lstm_units": 8, "dense_units": [8]}),
    "r4-image-cnn": (90, 80, {"filters": [4, 4, 4], "dense_units": 8}),
    "light-sernet": (32, 64, {}),
    "ensemble": (32, 16, {"members": [
        {"system": "cnn", "options": {"filters": [4, 4, 4], "time_pool": 1, "dense_units": [8]}},
        {"system": "r3-mfcc-lstm", "options": {"n_mfcc": 12, "lstm_units": 8, "dense_units": [8]}},
    ]}),
    "ensemble (encoded)": (72, 24, {"members": [
        {"system": "causal-cnn-bilstm", "options": CAUSAL},
        {"system": "causal-cnn-bilstm", "options": CAUSAL | {"features": 24}},
    ]}),
}  # fmt: skip

#: What the window of a system with an encoder needs.
ENCODED: dict[str, Any] = {"normalisation": "none", "range_db": 0.0}
CONTEXT = {"causal-tdnn": 61, "causal-tdnn-bilstm": 61}  # the others': 37

#: What trains the encoder of a system that keeps it.
START = {"causal-tdnn": "causal-tdnn-bilstm"}

#: Largest |dp| of a window by format.
LARGEST = {"float32": 1e-5, "float16": 2e-2, "dynamic": 0.15, "int8": 0.5}


def streamed_is_whole(recognizer: Recognizer, speech: np.ndarray) -> None:
    """The same bits whether a window is scored in a stream, after others, some others, or alone."""
    bundle = recognizer.bundle
    windows = cut_windows(features(speech, bundle.frontend), bundle.window, silence(bundle.frontend))
    streamed = [w.probabilities for w in recognizer.windows([speech])]
    assert len(streamed) == len(windows)
    assert any(p is not None for p in streamed)
    for window, probabilities in zip(windows, streamed, strict=True):
        assert probabilities is None or np.array_equal(recognizer.score(window), probabilities)
    pace: Any = SimpleNamespace(due=lambda number: number % 3 == 0)
    for w, probabilities in zip(recognizer.windows([speech], pace=pace), streamed[::3], strict=False):
        assert np.array_equal(w.probabilities, probabilities)


def as_toml(recipe: Recipe) -> str:
    """What differs from the defaults, as a recipe's file."""
    default, lines = Recipe(name="", system=""), []
    tables = {k: v for k, v in recipe.to_dict().items() if isinstance(v, dict)}
    lines += [f"system = {recipe.system!r}", f"labels = {list(recipe.labels)}"]
    for table, values in tables.items():
        known = default.to_dict()[table]
        lines.append(f"[{table}]")
        lines += [f"{k} = {json.dumps(v)}" for k, v in values.items() if known.get(k) != v or table == "corpora"]
    return "\n".join(lines)


def test_every_system_is_tried() -> None:
    assert {name.partition(" ")[0] for name in SMALL} == set(SYSTEMS)


@pytest.mark.parametrize("name", SMALL)
def test_a_system_converts_and_listens(
    name: str, corpus: Path, tmp_path: Path, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_frames, n_mels, options = SMALL[name]
    system = name.partition(" ")[0]
    encoded = ENCODED | {"context_frames": CONTEXT.get(system, 37)} if "causal" in str((name, options)) else {}
    recipe = Recipe(
        name=system,
        system=system,
        labels=("neutral", "happy", "angry", "fearful"),
        frontend=FrontendSettings(n_mels=n_mels, n_fft=1024),
        window=WindowSettings(n_frames=n_frames, hop_frames=24, **encoded),
        split=SplitSettings(protocol="speaker-independent"),
        training=TrainingSettings(epochs=1 if "densenet" in system else 2, learning_rate=3e-3),  # 121 layers are slow
        model=options,
    )
    if system in START:
        first = replace(recipe, system=START[system], model=SMALL[START[system]][2])
        (tmp_path / "first.toml").write_text(as_toml(first))
        recipe = replace(recipe, start=str(tmp_path / "first.toml"), training=TrainingSettings())
    metrics = train(recipe, corpus, tmp_path / "run")
    if system in START:
        mine, theirs = (
            load_trained(tmp_path / run).get_layer("encode").get_weights() for run in ("run", metrics["start"])
        )
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert metrics["fit"]["shrinkage"] in SHRINKAGES
    outputs = {f: tmp_path / f"{f}.tflite" for f in FORMATS}
    monkeypatch.setattr("serkit.convert.bundle.check_parity", lambda *_: None)  # labels of a barely trained one flip
    reports = convert_formats(tmp_path / "run", outputs)
    for format, info in reports.items():
        print(name, format, info["size_bytes"], info["parity"])
        assert info["parity"]["max_abs_dp"] <= LARGEST[format]
    for format in FORMATS:
        streamed_is_whole(Recognizer(read_bundle(str(outputs[format]))), speech)
    recognizer = Recognizer(read_bundle(str(outputs["dynamic"])))
    events = {}
    for block_size in (160, 4096):
        source = FakeSource(speech, sample_rate=16000, block_size=block_size)
        decision = Decision(recognizer.bundle.labels, system, DecisionSettings())
        with Listener(recognizer, source, decision) as listener:
            events[block_size] = list(listener)
    assert events[160] == events[4096]
    assert any(e.kind in ("emotion", "unsure") for e in events[160])
