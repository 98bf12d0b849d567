"""Score a run or a model file on the test side of a protocol, and refuse figures that would not be honest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from serkit.edge.audio import read_audio
from serkit.edge.bundle import read_bundle
from serkit.edge.engine import Engine
from serkit.edge.errors import AudioError, CorpusError, SettingsError
from serkit.edge.frontend import FrontendSettings, features
from serkit.train.corpora import Utterance, read_corpus, read_utterance
from serkit.train.metrics import score
from serkit.train.scoring import keras_logits, utterance_probabilities, window_utterances
from serkit.train.splits import check_unseen, make_split, n_folds

Array = npt.NDArray[np.float32]


def evaluate(
    *,
    run: Path | None,
    model: str | None,
    corpus: str,
    data: Path,
    protocol: str,
    noise: Path | None = None,
    snr_db: float | None = None,
    engine: str = "auto",
) -> dict[str, Any]:
    """Score every test utterance of a protocol, from the recording to the pooled answer as on the device.

    Args:
        run: A finished run folder, scored with Keras.
        model: Or a bundle, scored with a TFLite engine.
        corpus: Key of `serkit.train.corpora.CORPORA`.
        data: Folder that holds it.
        protocol: Whose test side; fold and seed are those the model was trained under.
        noise: Folder of noise recordings; each utterance gets one, at a drawn place.
        snr_db: Ratio of the utterance's mean power to the noise's, dB.
        engine: TFLite engine for ``model``.

    Returns:
        A row of figures as in DESIGN.md's accuracy rows, with the details of `serkit.train.metrics.score`.

    Raises:
        CorpusError: The model learned from what would be scored, or the corpus is missing.
    """
    source = _run_source(run) if run is not None else _model_source(str(model), engine)
    labels = source["labels"]
    utterances = [u for u in read_corpus(corpus, data) if u.emotion in labels]
    if not utterances:
        raise CorpusError(f"{corpus} has none of the model's emotions: {', '.join(labels)}")
    s = source["split"]
    split = make_split(
        utterances,
        protocol,
        fold=s["fold"] if protocol.startswith("random") else s["fold"] % n_folds(utterances, protocol),
        seed=s["seed"],
        validation_share=s["validation_share"],
        needed=("test",),
    )
    learned = source["learned_from"]
    check_unseen(split, learned["utterances"], learned["voices"])
    noises = None if noise is None else _Noises(noise, source["frontend"].sample_rate)
    scored, frames, refused = _frames(split.test, source["frontend"], noises, snr_db)
    windows = window_utterances(frames, source["frontend"], source["window"])
    probabilities = utterance_probabilities(source["logits"], windows, len(scored), source["temperature"])
    figures = score(scored, probabilities, labels)
    return {
        "system": source["system"],
        "model": source["name"],
        "corpus": corpus,
        "protocol": protocol,
        "fold": s["fold"],
        "seeds": [source["seed"]],
        "format": source["format"],
        "engine": source["engine"],
        "noise": None if noise is None else {"folder": noise.name, "snr_db": snr_db},
        "n_parameters": source["n_parameters"],
        "size_bytes": source["size_bytes"],
        "refused": refused,
        **figures,
    }


def _run_source(run: Path) -> dict[str, Any]:
    import keras

    from serkit.train.runs import learned_from, load_run, load_trained

    recipe, metrics, split = load_run(run)
    model = load_trained(run)
    return {
        "name": recipe.name,
        "system": recipe.system,
        "labels": recipe.labels,
        "frontend": recipe.frontend,
        "window": recipe.window,
        "temperature": metrics["temperature"],
        "split": recipe.to_dict()["split"],
        "learned_from": learned_from(split),
        "seed": metrics["seed"],
        "format": "keras",
        "engine": keras.backend.backend(),
        "n_parameters": metrics["n_parameters"],
        "size_bytes": (run / "model.keras").stat().st_size,
        "logits": keras_logits(model),
    }


def _model_source(model: str, engine: str) -> dict[str, Any]:
    bundle = read_bundle(model)
    loaded = Engine(bundle.data, engine)
    info = bundle.info
    return {
        "name": bundle.name,
        "system": info["system"],
        "labels": bundle.labels,
        "frontend": bundle.frontend,
        "window": bundle.window,
        "temperature": bundle.temperature,
        "split": info["split"],
        "learned_from": info["learned_from"],
        "seed": info["seed"],
        "format": bundle.format,
        "engine": loaded.name,
        "n_parameters": info["n_parameters"],
        "size_bytes": len(bundle.data),
        "logits": loaded.batch_logits,
    }


def _frames(
    utterances: Sequence[Utterance], frontend: FrontendSettings, noises: _Noises | None, snr_db: float | None
) -> tuple[list[Utterance], list[Array], list[str]]:
    """Features of each recording that can be used, those recordings, and a line for each of the others."""
    scored: list[Utterance] = []
    frames: list[Array] = []
    refused: list[str] = []
    console = Console(stderr=True)
    for u in track(utterances, "scoring", console=console, transient=True):
        try:
            samples = read_utterance(u, frontend.sample_rate)
        except AudioError as error:
            refused.append(str(error))
            console.print(f"left out: {error}", highlight=False, soft_wrap=True)
            continue
        if noises is not None and snr_db is not None:
            samples = noises.add(samples, snr_db, u.name)
        scored.append(u)
        frames.append(features(samples, frontend))
    if not scored:
        raise CorpusError(f"none of {len(utterances)} recordings can be used; see the lines above")
    return scored, frames, refused


class _Noises:
    """Noise recordings, each utterance always meeting the same one at the same place."""

    def __init__(self, folder: Path, sample_rate: int) -> None:
        files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
        if not files:
            raise SettingsError(f"{folder}: no noise recordings; give a folder of audio files with --noise")
        self._recordings = [read_audio(p, sample_rate) for p in files]

    def add(self, samples: Array, snr_db: float, name: str) -> Array:
        rng = np.random.default_rng(list(name.encode()))
        noise = self._recordings[rng.integers(len(self._recordings))]
        start = int(rng.integers(len(noise)))
        noise = np.resize(np.roll(noise, -start), len(samples))
        power = float(np.mean(np.square(noise)))
        gain = np.sqrt(float(np.mean(np.square(samples))) / max(power, 1e-12) / 10 ** (snr_db / 10))
        return np.asarray(samples + np.float32(gain) * noise, np.float32)
