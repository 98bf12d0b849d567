"""Several finished runs as one model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serkit.edge.errors import SettingsError
from serkit.train.build import build_system
from serkit.train.ensembles import make_ensemble
from serkit.train.fit import train
from serkit.train.recipe import override, read_recipe
from serkit.train.runs import load_run, load_trained
from serkit.train.scoring import keras_logits
from serkit.train.zoo import is_encoded

pytestmark = pytest.mark.slow


def test_an_ensemble_is_the_mean_of_its_members(tiny_run: Path, corpus: Path, tmp_path: Path) -> None:
    recipe, _, _ = load_run(tiny_run)
    other = override(recipe, training={"seed": 1, "epochs": 2})
    train(other, corpus, tmp_path / "other")
    metrics = make_ensemble([tiny_run, tmp_path / "other"], corpus, tmp_path / "both")
    assert metrics["system"] == "ensemble"
    assert "test" not in metrics  # still kept back
    x = np.random.default_rng(0).standard_normal((5, 109, 40)).astype(np.float32)
    members = [keras_logits(load_trained(p))(x) for p in (tiny_run, tmp_path / "other")]
    assert np.allclose(keras_logits(load_trained(tmp_path / "both"))(x), np.mean(members, axis=0), atol=1e-5)
    with pytest.raises(SettingsError, match="two or more runs"):
        make_ensemble([tiny_run], corpus, tmp_path / "one")
    for twice in ([tiny_run, tiny_run], [tiny_run, tmp_path / "both"]):
        with pytest.raises(SettingsError, match="different runs, none of them an ensemble"):
            make_ensemble(twice, corpus, tmp_path / "twice")
    # A planted leak: the corpus has changed since, so the split drawn now is not what the members learned from.
    smaller = tmp_path / "smaller"
    shutil.copytree(corpus, smaller)
    next(smaller.rglob("*-05.wav")).unlink()
    with pytest.raises(SettingsError, match="its split was drawn from other recordings"):
        make_ensemble([tiny_run, tmp_path / "other"], smaller, tmp_path / "leaky")
    train(override(other, split={"protocol": "random"}), corpus, tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="its split differ from those of"):
        make_ensemble([tiny_run, tmp_path / "elsewhere"], corpus, tmp_path / "mixed")


def test_a_control_is_no_member(tiny_run: Path, corpus: Path, tmp_path: Path) -> None:
    control = shutil.copytree(tiny_run, tmp_path / "control")
    config = json.loads((control / "config.json").read_text())
    config["training"]["shuffle_labels"] = True
    (control / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="its control differ from those of"):
        make_ensemble([tiny_run, control], corpus, tmp_path / "both")


def test_members_heard_hop_by_hop_make_an_ensemble_that_is(tiny_run: Path, corpus: Path, tmp_path: Path) -> None:
    recipe, _, _ = load_run(tiny_run)
    narrow = replace(recipe, model=recipe.model | {"features": 12}, training=replace(recipe.training, epochs=1))
    train(narrow, corpus, tmp_path / "narrow")
    make_ensemble([tiny_run, tmp_path / "narrow"], corpus, tmp_path / "both")
    both = load_trained(tmp_path / "both")
    assert is_encoded(both)
    assert both.get_layer("encode").output.shape[1:] == (18, 16 + 12)


def test_such_members_need_steps_of_one_length(tiny_recipe: Path) -> None:
    alone = read_recipe(tiny_recipe)
    slower = alone.model | {"filters": [4, 4, 4], "kernels": [5, 3, 1], "strides": [2, 2, 2], "level_frames": 36}
    members = [{"system": alone.system, "options": options} for options in (alone.model, slower)]
    with pytest.raises(SettingsError, match="its members' windows have 18, 9 steps; they need as many"):
        build_system(replace(alone, system="ensemble", model={"members": members}))
