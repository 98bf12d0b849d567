"""Encoders that come with serkit: who starts from one needs neither what it heard nor its teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serkit.edge.errors import SerkitError, SettingsError
from serkit.train import pretrained
from serkit.train.build import encoder_of
from serkit.train.fit import check_start, split_for, train
from serkit.train.recipe import bundled_recipes, override, read_recipe
from serkit.train.runs import load_trained, read_run
from serkit.train.student import begin


@pytest.mark.parametrize(
    "folder", sorted(f for f in pretrained.FOLDER.iterdir() if f.is_dir()), ids=lambda folder: str(folder.name)
)
def test_those_that_come_with_serkit_are_what_their_recipes_train(folder: Path) -> None:
    recipe = read_recipe(folder.name)
    assert pretrained.pretrained(recipe) == folder
    _, metrics, split = read_run(folder)
    assert metrics["validation"]["imitated"] > 0.5
    assert {*split["train"]["voices"]}.isdisjoint(split["validation"]["voices"])
    own = {"ravdess/1", "ravdess/11", "ravdess/20", "ravdess/21", "emodb/03", "emodb/08", "tess/YAF"}
    heard = {*split["train"]["voices"], *split["validation"]["voices"]}
    assert heard.isdisjoint(own)  # of ship-test
    assert {voice.partition("/")[0] for voice in heard} <= {c.removesuffix("-song") for c in recipe.corpora}
    mine = override(recipe, training={"seed": 1})
    assert pretrained.pretrained(mine) is None  # another seed is another encoder
    users = [r for name in bundled_recipes() if (r := read_recipe(name)).start == folder.name]
    for user in users:
        assert encoder_of(user) == encoder_of(recipe)
    begin(load_trained(folder), load_trained(folder))


@pytest.mark.slow
def test_a_run_starts_from_what_comes_with_serkit(
    tiny_recipe: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "imitation.toml"
    lines = ['monitor = "imitated"', "[teacher]", "weight = 1.0", "alone = true", ""]
    path.write_text(tiny_recipe.read_text() + "\n".join(lines))
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "encoders")
    first = override(read_recipe(path), training={"epochs": 1})
    path.write_text(path.read_text().replace("epochs = 6", "epochs = 1"))
    train(first, corpus, tmp_path / "elsewhere")
    assert pretrained.pretrained(first) is None
    kept = pretrained.keep(tmp_path / "elsewhere", tmp_path / "encoders")
    assert pretrained.pretrained(first) == kept == tmp_path / "encoders" / "imitation"
    encoders = [load_trained(folder).get_layer("encode").get_weights() for folder in (tmp_path / "elsewhere", kept)]
    assert all(np.array_equal(a, b) for a, b in zip(*encoders, strict=True))
    assert load_trained(kept).count_params() < load_trained(tmp_path / "elsewhere").count_params()

    before = {file: file.read_bytes() for file in kept.iterdir()}
    recipe = override(read_recipe(tiny_recipe), start=str(path), training={"epochs": 1})
    train(recipe, corpus, tmp_path / "runs" / "run")
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["run"]  # nothing was trained beside it
    assert {file: file.read_bytes() for file in kept.iterdir()} == before
    _, metrics, split = read_run(tmp_path / "runs" / "run")
    assert metrics["start"] == "imitation"
    assert metrics["taught"]
    assert split["start"]["voices"]
    fold = override(recipe, split={"protocol": "speaker-independent", "fold": 1})
    with pytest.raises(SettingsError, match=r"imitation, which this run would start from, heard a speaker that tests"):
        check_start(fold, split_for(fold, corpus), corpus)

    with pytest.raises(SerkitError, match="only an encoder that has finished imitating a teacher"):
        pretrained.keep(tmp_path / "runs" / "run", tmp_path / "encoders")
    assert pretrained.pretrained(replace(first, labels=("sad", "angry"))) is None
    config = json.loads((kept / "config.json").read_text())
    (kept / "config.json").write_text(json.dumps(config | {"nobody": 1}))
    assert pretrained.pretrained(first) is None
