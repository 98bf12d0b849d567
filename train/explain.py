"""What a model listens to: attribution maps, a band-occlusion test of what they claim, and acoustic correlates.

R1's paper says that attention concentrates on 300 Hz to 3 kHz, that the spectral centroid tracks arousal and bandwidth
tracks valence. Nothing of that is assumed here:

- *integrated gradients* (Sundararajan et al. 2017) of the answered emotion's logit, from the window's mean level to the
  window; the share of absolute attribution in the band stands beside the share of mel bands that lie in it, which a
  model that listens everywhere alike would show;
- *occlusion*: the band, and all but the band, are set to the window's mean level, and the UAR is measured again;
- *correlation* (Spearman) of centroid and bandwidth with the arousal and valence that the emotions stand for, after
  removing each speaker's mean, with a 95 % interval from drawing speakers anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.affect import AFFECT
from serkit.edge.frontend import FrontendSettings
from serkit.edge.vad import frame_levels
from serkit.edge.window import softmax
from serkit.train import plots
from serkit.train.acoustics import mel_centres_hz
from serkit.train.corpora import Utterance, read_corpus
from serkit.train.features import load_features
from serkit.train.metrics import uar
from serkit.train.runs import Reference, load_run, load_trained, write_json
from serkit.train.scoring import Windows, keras_logits, pool_utterances, window_utterances
from serkit.train.summary import MIN_SPEAKERS
from serkit.train.zoo import is_encoded

Array = npt.NDArray[np.float32]

#: The band of the claim, Hz.
BAND_HZ = (300.0, 3000.0)


def integrated_gradients(model: Any, windows: Array, labels: npt.NDArray[np.intp], steps: int = 24) -> Array:
    """Attribution of one logit per window, from the window's mean level to the window.

    Args:
        model: Keras model on the TensorFlow back end, ``(batch, n_frames, n_features)`` to logits.
        windows: Normalised, ``(n, n_frames, n_features)``.
        labels: Which logit of each, ``(n,)``.
        steps: Points of the path integral (midpoint rule).

    Returns:
        float32, shape of ``windows``; the sum over a window is about ``logit(window) - logit(mean level)``.
    """
    import tensorflow as tf

    @tf.function  # type: ignore[untyped-decorator]
    def gradient(x: Any, label: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            chosen = tf.gather(model(x, training=False), label, batch_dims=1)
        return tape.gradient(chosen, x)

    out = np.empty_like(windows)
    for i, (window, label) in enumerate(zip(windows, labels, strict=True)):
        mean = window.mean()
        path = mean + ((np.arange(steps) + 0.5) / steps).astype(np.float32)[:, None, None] * (window - mean)
        out[i] = (window - mean) * np.mean(gradient(tf.constant(path), tf.fill([steps], int(label))), axis=0)
    return out


def occlude(windows: Array, bands: npt.NDArray[np.bool_]) -> Array:
    """The windows with the marked mel bands at the window's mean level."""
    hidden = windows.copy()
    hidden[:, :, bands] = windows.mean(axis=(1, 2), keepdims=True)
    return hidden


def _uar(logits: Array, windows: Windows, emotions: Sequence[str], labels: Sequence[str]) -> float:
    pooled = pool_utterances(softmax(logits), windows, len(emotions))
    return round(uar(emotions, [labels[i] for i in pooled.argmax(axis=1)]), 4)


def occlusion(
    model_logits: Callable[[Array], Array],
    windows: Windows,
    emotions: Sequence[str],
    labels: Sequence[str],
    centres_hz: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """UAR with everything, without the band of the claim, with it alone, and without each of eight parts."""
    inside = (centres_hz >= BAND_HZ[0]) & (centres_hz <= BAND_HZ[1])

    def without(bands: npt.NDArray[np.bool_]) -> float:
        return _uar(model_logits(occlude(windows.inputs, bands)), windows, emotions, labels)

    parts = []
    for part in np.array_split(np.arange(len(centres_hz)), 8):
        bands = np.isin(np.arange(len(centres_hz)), part)
        low, high = centres_hz[part[0]], centres_hz[part[-1]]
        parts.append({"from_hz": round(float(low), 1), "to_hz": round(float(high), 1), "uar_without": without(bands)})
    return {
        "uar": _uar(model_logits(windows.inputs), windows, emotions, labels),
        "uar_without_band": without(inside),
        "uar_band_alone": without(~inside),
        "chance": round(1 / len(set(emotions)), 4),
        "parts": parts,
    }


def centroid_and_bandwidth(frames: Array, settings: FrontendSettings) -> tuple[float, float]:
    """Power-weighted mean frequency and its spread over the frames within 30 dB of the loudest, Hz."""
    levels = frame_levels(frames, settings)
    power = np.exp(frames[levels > levels.max() - 30, : settings.n_mels].astype(np.float64))
    hz = mel_centres_hz(settings)
    share = power / power.sum(axis=1, keepdims=True)
    centroid = share @ hz
    spread = np.sqrt(np.einsum("tb,tb->t", share, (hz[None] - centroid[:, None]) ** 2))
    return float(centroid.mean()), float(spread.mean())


def acoustic_correlates(utterances: Sequence[Utterance], frames: Sequence[Any], settings: FrontendSettings) -> Any:
    """Spearman correlation of centroid with arousal and of bandwidth with valence, speakers' means removed.

    Returns:
        For each pair ``rho``, ``ci95`` and the number of utterances and speakers, and the points themselves.
    """
    from scipy.stats import spearmanr

    measured = np.array([centroid_and_bandwidth(f.astype(np.float32), settings) for f in frames])
    affect = np.array([AFFECT[u.emotion] for u in utterances], float)
    voices = np.array([u.voice for u in utterances])
    rng = np.random.default_rng(0)
    result = {}
    for name, column, dimension in (("centroid_arousal", 0, 0), ("bandwidth_valence", 1, 1)):
        x, y = measured[:, column].copy(), affect[:, dimension]
        for voice in set(voices):
            x[voices == voice] -= x[voices == voice].mean()
        rows = [np.flatnonzero(voices == v) for v in sorted(set(voices))]
        draws = (np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(200))
        enough = len(rows) >= MIN_SPEAKERS
        drawn = [spearmanr(x[picked], y[picked]).statistic for picked in draws] if enough else []
        result[name] = {
            "rho": round(float(spearmanr(x, y).statistic), 4),
            "ci95": [round(float(q), 4) for q in np.nanquantile(drawn, (0.025, 0.975))] if enough else None,
            "n_utterances": len(x),
            "n_speakers": len(rows),
            "hz": np.round(measured[:, column], 1).tolist(),
            "against": y.tolist(),
        }
    return result


def explain(run: Path, out: Path, data: Path | None = None, n_maps: int = 12) -> dict[str, Any]:
    """Explain a run on its validation utterances; leaves ``explain.json`` and pictures in ``out``.

    Args:
        run: A finished run folder.
        out: Made if missing.
        data: Folder that holds the run's corpora, for the acoustic correlates; left out without it.
        n_maps: Windows per emotion that get an attribution map.

    Returns:
        The content of ``explain.json``.
    """
    import keras

    recipe, _, _ = load_run(run)
    model, labels = load_trained(run), recipe.labels
    reference = Reference(run)
    emotions = reference.emotions("validation")
    windows = window_utterances(reference.frames("validation"), recipe.frontend, recipe.window)
    hz = mel_centres_hz(recipe.frontend)
    inside = (hz >= BAND_HZ[0]) & (hz <= BAND_HZ[1])
    logits = keras_logits(model)
    truth = np.array([labels.index(emotions[i]) for i in windows.owner])
    spread = (np.flatnonzero(truth == c) for c in range(len(labels)))  # over all speakers, not the first one
    chosen = np.concatenate(
        [rows[np.linspace(0, len(rows) - 1, min(n_maps, len(rows))).astype(int)] for rows in spread]
    )
    inputs = windows.inputs[chosen]
    answers = logits(inputs).argmax(axis=1)
    attribution = integrated_gradients(model, inputs, answers)
    per_band = np.abs(attribution).mean(axis=(0, 1))
    maps = {
        label: np.abs(attribution[truth[chosen] == i]).mean(axis=0)
        for i, label in enumerate(labels)
        if (truth[chosen] == i).any()
    }
    result: dict[str, Any] = {
        "schema": 1,
        "run": run.name,
        "system": recipe.system,
        "band_hz": list(BAND_HZ),
        "n_windows": len(inputs),
        "attribution_share_in_band": round(float(per_band[inside].sum() / per_band.sum()), 4),
        "share_of_mel_bands_in_band": round(float(inside.mean()), 4),
        "attribution_per_band": np.round(per_band / per_band.sum(), 6).tolist(),
        "centres_hz": np.round(hz, 1).tolist(),
        "occlusion": occlusion(logits, windows, emotions, labels, hz),
    }
    out.mkdir(parents=True, exist_ok=True)
    network, heard = model, inputs
    if is_encoded(model):
        network, heard = model.get_layer("classify"), model.get_layer("encode").predict(inputs, verbose=0)
    if "attention_weights" in {layer.name for layer in network.layers}:
        weights = keras.Model(network.input, network.get_layer("attention_weights").output)
        attention = np.asarray(weights.predict(heard, batch_size=64, verbose=0))[:, :, 0]
        inputs = inputs[:, recipe.window.context_frames :]
        energy = inputs.mean(axis=2).reshape(len(inputs), attention.shape[1], -1).mean(axis=2)
        loudest = [np.corrcoef(a, e)[0, 1] for a, e in zip(attention, energy, strict=True)]
        result["attention"] = {
            "mean_over_steps": np.round(attention.mean(axis=0), 5).tolist(),
            "correlation_with_level": round(float(np.nanmean(loudest)), 4),
        }
        plots.attention(inputs, attention, [labels[i] for i in truth[chosen]], out / "attention.png")
    if data is not None:
        utterances = [u for c in recipe.corpora for u in read_corpus(c, data) if u.emotion in labels]
        features = load_features(utterances, recipe.frontend)
        result["correlates"] = acoustic_correlates(features.utterances, features.frames, recipe.frontend)
        plots.correlates(result["correlates"], out / "correlates.png")
    plots.attribution(maps, hz, BAND_HZ, out / "attribution.png")
    plots.occlusion(result["occlusion"], BAND_HZ, out / "occlusion.png")
    write_json(out / "explain.json", result)
    return dict(json.loads(json.dumps(result)))
