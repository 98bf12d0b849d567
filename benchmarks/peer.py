"""A peer to race against: a published network, built from its recipe, converted, and never trained.

What a network costs does not depend on its weights, so random ones will do. `python -m serkit.benchmarks.peer RECIPE
FOLDER` is the child that does it: TensorFlow must not share a process with what is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from serkit.edge.bundle import Bundle, parse_bundle, read_bundle
from serkit.edge.cli import needs
from serkit.edge.errors import ModelError


def open_peer(peer: str, format: str = "int8") -> Bundle:
    """A peer by the path of its bundle, or by the name of a recipe, which needs the training extra.

    Raises:
        MissingExtraError: A recipe, and TensorFlow is not installed.
        ModelError: The bundle cannot be read, or the recipe cannot be converted.
    """
    if peer.endswith(".tflite"):
        return read_bundle(peer)
    needs("train", "tensorflow", "keras")
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, "-m", "serkit.benchmarks.peer", peer, format, folder]
        child = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True)
        path = Path(folder) / "peer.tflite"
        if child.returncode or not path.is_file():
            lines = child.stderr.strip().splitlines() or ["no message"]
            raise ModelError(f"{peer}: the peer cannot be built: {lines[-1]}")
        return parse_bundle(path.read_bytes(), Path(f"{peer}-{format}.tflite"), "nobody: made here, for its speed")


def _build(name: str, format: str, folder: Path) -> None:
    """The child: a run that never trained, converted."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from serkit.convert.bundle import write_bundle
    from serkit.convert.export import export
    from serkit.train.build import build_system
    from serkit.train.recipe import read_recipe
    from serkit.train.runs import write_json

    recipe = read_recipe(name)
    model, run = build_system(recipe), folder / "run"
    run.mkdir()
    model.save(run / "model.keras")
    values = recipe.to_dict()
    write_json(run / "config.json", values)
    write_json(run / "metrics.json", {})
    write_json(run / "split.json", {})
    shape = (16, recipe.window.input_frames, recipe.frontend.n_features)
    graph = export(run, [format], np.random.default_rng(0).standard_normal(shape, np.float32))[format]
    info = {
        "schema": 1, "name": f"{name}-{format}", "system": recipe.system, "recipe": name, "format": format,
        "labels": list(recipe.labels), "frontend": values["frontend"], "window": values["window"], "temperature": 1.0,
        "trained": None, "created": "",
    }  # fmt: skip
    write_bundle(folder / "peer.tflite", graph, info, "Never trained.", Ed25519PrivateKey.generate())


if __name__ == "__main__":
    _build(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
