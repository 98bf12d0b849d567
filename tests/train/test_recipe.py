from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serkit.edge.errors import SettingsError
from serkit.edge.settings import build
from serkit.train.recipe import Recipe, bundled_recipes, override, read_recipe
from serkit.train.runs import open_run


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_are_whole_and_survive_the_round_trip(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert build(Recipe, recipe.to_dict(), "again") == recipe


def test_an_override_replaces_only_what_is_given() -> None:
    recipe = read_recipe("r1")
    changed = override(recipe, split={"protocol": None, "fold": 3}, training={"seed": 7})
    assert (changed.split.protocol, changed.split.fold, changed.training.seed) == (
        recipe.split.protocol,
        3,
        7,
    )
    assert changed.training.epochs == recipe.training.epochs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system = ", "not TOML"),
        ('system = "r1-cnn-bilstm"\nspeed = 3', "unknown setting 'speed'"),
        (
            'system = "r1-cnn-bilstm"\n[training]\nlr = 1',
            "training: unknown setting 'lr'; known: epochs",
        ),
        ('system = "r1-cnn-bilstm"\nlabels = ["joy"]', "no emotion 'joy'"),
        ('system = "r1-cnn-bilstm"\n[corpora]\nsavee = 1.0', "no corpus 'savee'"),
        ('system = "r1-cnn-bilstm"\n[corpora]\ntess = 2.0', "share above 0 and up to 1"),
        ('system = "r1-cnn-bilstm"\n[split]\nprotocol = "loso"', "protocol is 'loso'"),
        ('system = "cnn"\n[split]\nprotocol = "ship-test"\nleak = true', "leak belongs to a random split"),
        ('system = "cnn"\n[split]\nprotocol = "random"\nleak = true', "leak needs time_stretch or pitch_shift"),
        ('system = "r1-cnn-bilstm"\n[training]\nmonitor = "f1"', "monitor is 'f1'; choose one of accuracy, uar"),
        ('system = "r1-cnn-bilstm"\ntraining = 3', "a table of settings is needed, found 3"),
        ('system = "r1-cnn-bilstm"\n[training]\nepochs = 1.5', "epochs is 1.5; a whole number is needed"),
        ('system = "r1-cnn-bilstm"\n[training]\nlearning_rate = "fast"', "learning_rate is 'fast'; a number is needed"),
        ('system = "r1-cnn-bilstm"\n[training]\nema = 1.5', r"ema is 1\.5; it needs 0 to below 1"),
        (f'system = "cnn"\n[training]\nseed = {2**32}', "seed is 4294967296; it needs 0 to 4294967295"),
        ('system = "cnn"\n[training]\nweight_decay = -1', "patience, warmup and weight_decay need to be 0 or more"),
        ('system = "r1-cnn-bilstm"\n[augment]\nnoise_snr_db = [5]', "noise_snr_db has 1 values; 2 are needed"),
        ('system = "r1-cnn-bilstm"\ncorpora = ["ravdess"]', "a table is needed"),
        ('system = "r1-cnn-bilstm"\nlabels = ["sad", "sad"]', "two or more different emotions are needed"),
        ('system = "r1-cnn-bilstm"\n[frontend]\nkind = "mfcc"', "models are trained on log_mel without deltas"),
        *(
            (f'system = "cnn"\n[augment]\n{name} = {value}', rf"{name} is {value}; it needs 0 \(off\) or more")
            for name, value in (("tilt_db", -3.0), ("pitch_shift", "inf"), ("time_stretch", "nan"), ("mel_masks", -1))
        ),
        ('system = "cnn"\n[augment]\nnoise_snr_db = [nan, 30]', "noise_snr_db runs from nan to 30"),
        (
            'system = "cnn"\n[augment]\nband_probability = 0.1\nband_high_hz = [3000, 8000]',
            "band_high_hz reaches 8000; at 16000 Hz it needs less than 8000",
        ),
        ("", "system is missing; add it"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_recipe(path)


def test_a_missing_recipe_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no recipe nonesuch; give a TOML file or one of cnn, .*r1"):
        read_recipe("nonesuch")


def test_a_run_goes_on_with_settings_that_it_is_older_than(tmp_path: Path) -> None:
    recipe = read_recipe("cnn")
    open_run(recipe, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["augment"]["noise_tilt_db"]
    path.write_text(json.dumps(config))
    open_run(recipe, tmp_path)
    assert json.loads(path.read_text())["augment"]["noise_tilt_db"] == 0
    tilted = replace(recipe, augment=replace(recipe.augment, noise_tilt_db=3.0))
    with pytest.raises(SettingsError, match="holds a run of another recipe"):
        open_run(tilted, tmp_path)
    path.write_text("{}")
    with pytest.raises(SettingsError, match="holds a run of another recipe"):
        open_run(recipe, tmp_path)
