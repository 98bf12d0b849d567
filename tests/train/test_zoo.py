"""The test every system passes: build, shapes, parameters, one training step, saving, the twin, TFLite, streaming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serkit.train.recipe import bundled_recipes, read_recipe
from serkit.train.zoo import SYSTEMS

pytestmark = pytest.mark.slow

#: Parameters of each bundled recipe's network, of which the LSTMs of R3 and Light-SERNet are published.
PARAMETERS = {
    "r1": 1_788_761,
    "r1-ship": 1_788_761,
}


@pytest.mark.parametrize("name", bundled_recipes())
def test_a_system_builds_learns_and_survives_saving(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    import keras

    recipe = read_recipe(name)
    shape = (recipe.window.n_frames, recipe.frontend.n_features)
    keras.utils.set_random_seed(0)
    build = SYSTEMS[recipe.system].build
    model = build(*shape, len(recipe.labels), **recipe.model)
    print(name, model.count_params())
    x = rng.standard_normal((4, *shape)).astype(np.float32)
    logits = np.asarray(model(x))
    assert logits.shape == (4, len(recipe.labels))
    assert np.isfinite(logits).all()

    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    before = [np.array(v) for v in model.trainable_variables]
    loss = model.train_on_batch(x, np.eye(len(recipe.labels), dtype=np.float32)[:4])
    assert np.isfinite(loss)
    assert all(not np.array_equal(b, v) for b, v in zip(before, model.trainable_variables, strict=True))

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    twin = build(*shape, len(recipe.labels), unroll=True, **recipe.model)
    twin.set_weights(model.get_weights())
    reference = np.asarray(model(x, training=False))
    assert np.max(np.abs(np.asarray(again(x, training=False)) - reference)) < 1e-5
    assert np.max(np.abs(np.asarray(twin(x, training=False)) - reference)) < 1e-5
