from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serkit.edge.frontend import FrontendSettings, features
from serkit.train.explain import (
    centroid_and_bandwidth,
    explain,
    integrated_gradients,
    mel_centres_hz,
    occlude,
)

pytestmark = pytest.mark.slow


def test_attribution_finds_the_band_a_model_listens_to(rng: np.random.Generator) -> None:
    import keras

    inputs = keras.Input((8, 6))
    answers = keras.layers.Dense(2, use_bias=False)(keras.layers.GlobalAveragePooling1D()(inputs))
    model = keras.Model(inputs, answers)
    weights = np.zeros((6, 2), np.float32)
    weights[4, 1] = 3.0
    model.set_weights([weights])
    x = rng.standard_normal((3, 8, 6)).astype(np.float32)
    x -= x.mean(axis=(1, 2), keepdims=True)
    found = integrated_gradients(model, x, np.array([1, 1, 0]))
    share = np.abs(found).sum(axis=(0, 1))
    assert share[4] == pytest.approx(share.sum())
    # Completeness: the attribution adds up to what the logit moved.
    assert found.sum(axis=(1, 2)) == pytest.approx(np.asarray(model(x))[[0, 1, 2], [1, 1, 0]], abs=1e-4)
    assert occlude(x + 5, np.arange(6) == 4)[:, :, 4] == pytest.approx(5, abs=1e-4)


def test_centroid_and_bandwidth_of_known_signals(rng: np.random.Generator) -> None:
    s = FrontendSettings()
    t = np.arange(16000) / 16000
    tone, noise = 0.3 * np.sin(2 * np.pi * 2000 * t), 0.3 * rng.standard_normal(16000)
    centroid, spread = centroid_and_bandwidth(features(tone, s), s)
    assert centroid == pytest.approx(2000, rel=0.03)
    assert spread < 150
    centroid, spread = centroid_and_bandwidth(features(noise, s), s)
    assert centroid == pytest.approx(4000, rel=0.05)
    assert spread == pytest.approx(8000 / np.sqrt(12), rel=0.05)


def test_a_run_is_explained_in_pictures_and_figures(tiny_run: Path, corpus: Path, tmp_path: Path) -> None:
    result = explain(tiny_run, tmp_path / "why", corpus)
    names = {p.name for p in (tmp_path / "why").iterdir()}
    assert names == {"explain.json", "attribution.png", "occlusion.png", "attention.png", "correlates.png"}
    assert 0 <= result["attribution_share_in_band"] <= 1
    assert sum(result["attribution_per_band"]) == pytest.approx(1, abs=1e-3)
    centres = mel_centres_hz(FrontendSettings(n_mels=40))
    inside = np.mean((centres >= 300) & (centres <= 3000))
    assert result["share_of_mel_bands_in_band"] == pytest.approx(inside, abs=1e-4)
    occlusion = result["occlusion"]
    assert occlusion["uar"] > 0.6
    assert len(occlusion["parts"]) == 8
    # The synthetic emotions differ in pitch, and louder harmonics with it.
    assert result["correlates"]["centroid_arousal"]["n_speakers"] == 24
    assert sum(result["attention"]["mean_over_steps"]) == pytest.approx(1, abs=1e-3)
