"""Score a run or a model file on the test side of a protocol, and refuse figures that would not be honest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from serkit.edge.bundle import read_bundle
from serkit.edge.engine import Engine
from serkit.edge.errors import AudioError, CorpusError, SettingsError
from serkit.edge.frontend import features
from serkit.train import conditions
from serkit.train.corpora import Utterance, read_corpus, read_utterance
from serkit.train.enrolment import Heard
from serkit.train.metrics import score
from serkit.train.scoring import keras_logits, utterance_probabilities, window_utterances
from serkit.train.splits import Split, check_unseen, make_split, n_folds

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
    scorer = Scorer(run=run, model=model, corpus=corpus, data=data, protocol=protocol, engine=engine)
    if noise is None or snr_db is None:
        return scorer.row()
    condition = conditions.noise(noise.name, conditions.noises(noise, scorer.sample_rate), snr_db)
    return scorer.row(condition) | {"noise": {"folder": noise.name, "snr_db": snr_db}}


class Scorer:
    """One side of a protocol, ready to be scored under one condition after the other.

    Args:
        run, model, corpus, data, protocol, engine: As for `evaluate`.
        side: ``test``, or of a run ``validation``, for choosing between recipes.

    Attributes:
        side: As given.
        sample_rate: Hz.
        samples: Of each utterance, in the order of `heard`.
        trained_under: What noise and the like the model heard in training; None where it does not say.

    Raises:
        CorpusError: The model learned from what would be scored, or no recording can be used.
        SettingsError: An engine for a run, or the validation side of a model or of another protocol than the run's.
    """

    def __init__(
        self,
        *,
        run: Path | None,
        model: str | None,
        corpus: str,
        data: Path,
        protocol: str,
        engine: str = "auto",
        side: Literal["test", "validation"] = "test",
    ) -> None:
        if run is not None and engine != "auto":
            raise SettingsError(f"{run}: Keras scores a run, not {engine}; leave --engine out, or give --model")
        self._source = source = _run_source(run) if run is not None else _model_source(str(model), engine)
        self.side = side
        self._about = {"corpus": corpus, "protocol": protocol, "side": side}
        self.sample_rate = source["frontend"].sample_rate
        self.trained_under: list[str] | None = source["trained_under"]
        if side == "test":
            split = protocol_split(corpus, data, protocol, source["labels"], source["split"])
            learned = source["learned_from"]
            check_unseen(split, learned["utterances"], learned["voices"])
            scored = split.test
        else:
            scored = _validators(run, corpus, data, protocol)
        self._utterances, self.samples, self._refused = _recordings(scored, self.sample_rate)

    def row(self, condition: conditions.Condition | None = None) -> dict[str, Any]:
        """Figures under one condition, clean by default."""
        source = self._source
        frames = [
            features(samples if condition is None else condition.apply(samples, u.name), source["frontend"])
            for u, samples in zip(self._utterances, self.samples, strict=True)
        ]
        windows = window_utterances(frames, source["frontend"], source["window"])
        probabilities = utterance_probabilities(source["logits"], windows, len(frames), source["temperature"])
        return {**self.about(), **score(self._utterances, probabilities, source["labels"])}

    def heard(self) -> Heard:
        """The logits of all windows, for what is decided on them afterwards."""
        source = self._source
        frames = [features(samples, source["frontend"]) for samples in self.samples]
        windows = window_utterances(frames, source["frontend"], source["window"])
        return Heard(
            logits=source["logits"](windows.inputs),
            windows=windows,
            voices=[u.voice for u in self._utterances],
            emotions=[u.emotion for u in self._utterances],
            labels=source["labels"],
            temperature=source["temperature"],
        )

    def about(self) -> dict[str, Any]:
        """What is scored, and on what."""
        source = self._source
        return {
            "system": source["system"],
            "model": source["name"],
            **self._about,
            "fold": source["split"]["fold"],
            "seeds": [source["seed"]],
            "format": source["format"],
            "engine": source["engine"],
            "noise": None,
            "n_parameters": source["n_parameters"],
            "size_bytes": source["size_bytes"],
            "refused": self._refused,
        }


def _validators(run: Path | None, corpus: str, data: Path, protocol: str) -> tuple[Utterance, ...]:
    """The utterances of a corpus that chose a run's epoch; none that trained it, nor another of the same voice."""
    from serkit.train.runs import load_run

    if run is None:
        raise SettingsError("a model file does not say who validated it; give the run folder instead of --model")
    recipe, _, listed = load_run(run)
    if recipe.split.protocol != protocol:
        raise SettingsError(f"{run} chose its epoch under {recipe.split.protocol}; give that as --protocol")
    keys = set(listed["validation"]["utterances"])
    chosen = tuple(u for u in read_corpus(corpus, data) if u.key in keys)
    if not chosen:
        raise CorpusError(f"{run}: nothing of {corpus} validated it")
    side = Split(protocol=protocol, fold=recipe.split.fold, train=(), validation=(), test=chosen)
    began = listed.get("start", {"utterances": [], "trained_voices": []})
    trained = listed["train"]["utterances"] + ([] if side.speaker_independent else began["utterances"])
    check_unseen(side, trained, {*listed["train"]["voices"], *began["trained_voices"]})
    return chosen


def protocol_split(corpus: str, data: Path, protocol: str, labels: Sequence[str], split: dict[str, Any]) -> Split:
    """What a protocol tests in a corpus, as far as a model knows its emotions; others are counted on stderr.

    Args:
        corpus, data, protocol: As for `evaluate`.
        labels: The emotions that the model knows.
        split: The model's own: ``fold, seed, validation_share``.

    Raises:
        CorpusError: The corpus is missing, or has none of the emotions.
    """
    known = read_corpus(corpus, data)
    utterances = [u for u in known if u.emotion in labels]
    if not utterances:
        raise CorpusError(f"{corpus} has none of the model's emotions: {', '.join(labels)}")
    made = make_split(
        utterances,
        protocol,
        fold=split["fold"] if protocol.startswith("random") else split["fold"] % n_folds(utterances, protocol),
        seed=split["seed"],
        validation_share=split["validation_share"],
        needed=("test",),
    )
    tested = {u.voice for u in made.test}
    unknown = sorted({u.emotion for u in known if u.emotion not in labels and u.voice in tested})
    if unknown:
        missing = sum(u.emotion in unknown and u.voice in tested for u in known)
        Console(stderr=True).print(
            f"left out: {missing} recordings ({', '.join(unknown)}), emotions that this model does not know",
            highlight=False,
            soft_wrap=True,
        )
    return made


def _run_source(run: Path) -> dict[str, Any]:
    import keras

    from serkit.train.runs import learned_from, load_run, load_trained

    recipe, metrics, split = load_run(run)
    if recipe.split.leak:
        raise SettingsError(
            f"{run} is a control ({recipe.control}), so nothing is left to score it on; see metrics.json"
        )
    model = load_trained(run)
    return {
        "name": recipe.name,
        "system": recipe.system,
        "labels": recipe.labels,
        "frontend": recipe.frontend,
        "window": recipe.window,
        "temperature": metrics["temperature"],
        "split": recipe.to_dict()["split"],
        "learned_from": learned_from(recipe, split),
        "trained_under": recipe.augment.conditions,
        "seed": metrics["seed"],
        "format": "keras",
        "engine": keras.backend.backend(),
        "n_parameters": metrics["n_parameters"],
        "size_bytes": (run / "model.keras").stat().st_size,
        "logits": keras_logits(model),
    }


def _model_source(model: str, engine: str) -> dict[str, Any]:
    bundle = read_bundle(model)
    loaded = Engine(bundle.data, bundle.window.hop_frames, engine)
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
        "trained_under": info.get("trained_under", info.get("noise_kinds")),  # as earlier bundles call it
        "seed": info["seed"],
        "format": bundle.format,
        "engine": loaded.name,
        "n_parameters": info["n_parameters"],
        "size_bytes": len(bundle.data),
        "logits": loaded.batch_logits,
    }


def _recordings(utterances: Sequence[Utterance], sample_rate: int) -> tuple[list[Utterance], list[Array], list[str]]:
    """Each recording that can be used, its samples, and a line for each of the others."""
    usable: list[Utterance] = []
    samples: list[Array] = []
    refused: list[str] = []
    console = Console(stderr=True)
    for u in track(utterances, "reading", console=console, transient=True):
        try:
            samples.append(read_utterance(u, sample_rate))
        except AudioError as error:
            refused.append(str(error))
            console.print(f"left out: {error}", highlight=False, soft_wrap=True)
            continue
        usable.append(u)
    if not usable:
        raise CorpusError(f"none of {len(utterances)} recordings can be used; see the lines above")
    return usable, samples, refused
