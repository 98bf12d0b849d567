"""Data parallelism and the JAX back end, on virtual CPU devices and in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def train(*arguments: str | Path, devices: int) -> subprocess.CompletedProcess[str]:
    virtual = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "serkit.edge", "train", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"} | virtual
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_two_devices_train_the_same_model_as_one(tiny_recipe: Path, corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tiny_recipe.read_text().replace("dense_dropout = 0.1", "dense_dropout = 0.0"))
    losses = {}
    for devices, flags in ((1, []), (2, ["--data-parallel"])):
        out = tmp_path / f"run{devices}"
        ran = train(
            recipe, "--data", corpus, "--out", out, "--backend", "jax", "--epochs", "2", *flags, devices=devices
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        losses[devices] = [json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()]
        assert json.loads((out / "environment.json").read_text())["backend"] == "jax"
    assert losses[2] == pytest.approx(losses[1], abs=2e-3)


def test_other_back_ends_say_what_is_needed(tiny_recipe: Path, corpus: Path, tmp_path: Path) -> None:
    ran = train(tiny_recipe, "--data", corpus, "--out", tmp_path / "run", "--data-parallel", devices=1)
    assert ran.returncode == 1
    assert ran.stderr.strip() == (
        "serkit: --data-parallel needs Keras' JAX back end, found tensorflow; add `--backend jax`"
    )
