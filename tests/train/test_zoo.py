"""The test every system passes: build, shapes, parameters, one training step, saving, the twin, TFLite, streaming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serkit.edge.frontend import FrontendSettings, delta, features
from serkit.train.recipe import bundled_recipes, read_recipe
from serkit.train.zoo import SYSTEMS
from serkit.train.zoo.layers import Cepstrum, Deltas

pytestmark = pytest.mark.slow

#: Parameters of each bundled recipe's network. Published: 305,799 for R3's LSTM, 77,160 for its traditional one (with
#: eight outputs, see `test_the_traditional_lstm`), and 463 k for Light-SERNet.
PARAMETERS = {
    "cnn": 328_408,
    "imitate": 419_658,
    "imitate-functionals": 419_658,
    "imitate-functionals-ravdess": 419_658,
    "imitate-functionals-ship": 419_658,
    "imitate-ravdess": 419_658,
    "imitate-ship": 419_658,
    "imitate-tiny": 102_658,
    "imitate-tiny-ship": 102_658,
    "light-sernet": 463_656,
    "lstm": 330_120,
    "r1": 1_788_761,
    "r1-cross": 1_788_374,
    "r1-leak": 1_788_761,
    "r1-ship": 1_788_761,
    "r2": 149_888,
    "r3-densenet": 7_385_327,
    "r3-lstm": 305_799,
    "r3-lstm-traditional": 77_127,
    "r3-multiscale": 198_741,
    "r4": 399_400,
    "serkit": 419_017,
    "serkit-cnn": 375_081,
    "serkit-cnn-tiny": 98_521,
    "serkit-ravdess": 419_017,
    "serkit-tiny": 102_345,
    "serkit-tiny-ravdess": 102_345,
    "svm": 3_208,
    "svm-cross": 2_245,
    "tdnn": 340_616,
    "tdnn-bilstm": 394_937,
    "tdnn-bilstm-ship": 394_937,
    "tdnn-tess": 340_231,
}


@pytest.mark.parametrize("name", bundled_recipes())
def test_a_system_builds_learns_and_survives_saving(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    import keras

    recipe = read_recipe(name)
    shape = (recipe.window.input_frames, recipe.frontend.n_features)
    keras.utils.set_random_seed(0)
    build = SYSTEMS[recipe.system].build
    model = build(*shape, len(recipe.labels), **recipe.model)
    assert model.count_params() == PARAMETERS[name]
    x = rng.standard_normal((4, *shape)).astype(np.float32)
    logits = np.asarray(model(x))
    assert logits.shape == (4, len(recipe.labels))
    assert np.isfinite(logits).all()

    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    before = [np.array(v) for v in model.trainable_variables]
    for _ in range(2):  # what begins at zero lets gradients through from the second step on
        loss = model.train_on_batch(x, np.eye(len(recipe.labels), dtype=np.float32)[:4])
    assert np.isfinite(loss)
    unmoved = [v.path for b, v in zip(before, model.trainable_variables, strict=True) if np.array_equal(b, v)]
    assert all(path.endswith("attention/bias") for path in unmoved)  # softmax is blind to it: its gradient is rounding

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    twin = build(*shape, len(recipe.labels), twin=True, **recipe.model)
    twin.set_weights([w.reshape(v.shape) for w, v in zip(model.get_weights(), twin.weights, strict=True)])
    reference = np.asarray(model(x, training=False))
    assert np.max(np.abs(np.asarray(again(x, training=False)) - reference)) < 1e-5
    assert np.max(np.abs(np.asarray(twin(x, training=False)) - reference)) < 1e-5


def test_the_traditional_lstm_has_the_published_size_with_eight_outputs() -> None:
    model = SYSTEMS["r3-mfcc-lstm"].build(256, 64, 8, lstm_units=128, dense_units=(64, 32))
    assert model.count_params() == 77_160


def test_deltas_and_mfcc_in_a_network_are_those_of_the_front_end(speech: np.ndarray) -> None:
    log_mel = FrontendSettings(n_mels=40)
    frames = features(speech, log_mel)
    assert np.max(np.abs(np.asarray(Deltas()(frames[None]))[0] - delta(frames))) < 1e-5
    mfcc = FrontendSettings(kind="mfcc", n_mels=40, n_mfcc=13, lifter=0)
    assert np.max(np.abs(np.asarray(Cepstrum(13)(frames[None]))[0] - features(speech, mfcc))) < 1e-3


def test_image_net_weights_that_cannot_be_had_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def offline(**options: object) -> None:
        raise OSError("URL fetch failure on https://example.org/densenet.h5\nand more")

    monkeypatch.setattr(keras.applications, "DenseNet121", offline)
    with pytest.raises(
        ValueError, match=r"the ImageNet weights cannot be had \(URL fetch failure .*pretrained = false"
    ):
        SYSTEMS["r3-densenet-lstm"].build(64, 64, 7, pretrained=True)
