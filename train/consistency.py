"""Consistency training: a network that is good in quiet learns to answer beside noise as it answers without.

What is fitted at once to windows as they are recorded is at a loss beside noise, and a linear classifier cannot help
it. So the whole network, encoder and all, goes on from there: it hears the windows that the recipe's ``[augment]``
makes, and its targets are the answers of itself, as it was fitted, to the same windows unchanged (Li et al. 2017,
*Large-Scale Domain Adaptation via Teacher-Student Learning*; Xie et al. 2020, *Unsupervised Data Augmentation for
Consistency Training*). No label is looked at, so the speech that its encoder learned from takes part as well.

What the network answers about those who trained it is surer than it should be, and no better than it is. So
`TeacherAnswers`, which need labels, may take part: by what the teacher of `serkit.train.teacher` hears in the same
window, where each voice is left out of what is fitted to name its emotions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from serkit.edge.window import normalise, softmax
from serkit.train.augment import AugmentSettings, Cut, augmented_window, random_cut
from serkit.train.discriminant import analysis, leaving_voices_out
from serkit.train.epochs import Array, Epochs
from serkit.train.features import FeatureSet
from serkit.train.metrics import fit_temperature
from serkit.train.recipe import Recipe
from serkit.train.student import Scores
from serkit.train.teacher import Lessons

#: Divides the logits, so that the targets say more than which emotion is first.
TEMPERATURE = 2.0

#: Of 0.3 to 0.9 the one that names windows of RAVDESS's training voices best when they are left out.
_SHRINKAGE = 0.3
_N_DRAWS = 5  # windows of each recording that it is fitted to
_NEVER = -30.0  # logit of a label that nobody in training has


def learner_of(model: Any) -> Any:
    """What is trained: the network, ``(batch, ...)`` to logits divided by `TEMPERATURE`; it shares all weights.

    Its batch normalisations follow what it hears now: with the statistics of quiet speech features leave the range that
    is listened to, and the BiLSTM dies (``train/EXPERIMENTS.md``, "What the statistics did").
    """
    inputs = keras.Input(model.input_shape[1:])
    return keras.Model(inputs, layers.Rescaling(1 / TEMPERATURE)(model(inputs)), name="consistent")


def _answers(kept: Any, windows: Array) -> Array:
    return softmax(np.asarray(kept.predict_on_batch(windows)), TEMPERATURE).astype(np.float32)


class TeacherAnswers:
    """What a discriminant analysis of the teacher's functionals answers to windows of some speech.

    It is fitted to windows drawn from the recipe's corpora, from each its share. Voices it is fitted to are left out in
    turn and answered without themselves; others are answered by the mean of all that were so fitted.

    Args:
        recipe: Its labels, corpora and windows.
        data: The speech, at least two voices of it in the recipe's corpora.
        lessons: What the teacher hears in it.
    """

    def __init__(self, recipe: Recipe, data: FeatureSet, lessons: Lessons) -> None:
        self._n_labels, self._lessons = len(recipe.labels), lessons
        x, rows = self._windows(recipe, data)
        truth = np.array([recipe.labels.index(data.utterances[row].emotion) for row in rows])
        voices = np.array([u.voice for u in data.utterances])
        machines: list[Any] = []
        left_out: dict[str, list[Any]] = {}
        logits = np.zeros((len(x), self._n_labels))
        for fitted, others in leaving_voices_out(x, voices[rows]):
            machines.append(analysis(_SHRINKAGE, x[fitted], truth[fitted]))
            left_out |= dict.fromkeys(voices[rows[others]].tolist(), machines[-1:])
            logits[others] = self._logits(machines[-1:], x[others])
        self._machines = [left_out.get(voice, machines) for voice in voices]
        self.temperature = fit_temperature(logits, truth)

    def _windows(self, recipe: Recipe, data: FeatureSet) -> tuple[Array, npt.NDArray[np.intp]]:
        """Functionals of windows ``(n, d)`` that a label is known of, and the rows of their recordings ``(n,)``."""
        known = [u.corpus in recipe.corpora and u.emotion in recipe.labels for u in data.utterances]
        labelled = np.flatnonzero(known)
        chosen = Epochs(recipe, data.select([data.utterances[row] for row in labelled]), ()).order(0)
        x, rows = [], []
        for row in np.sort(labelled[chosen]):
            frames = data.frames[row].astype(np.float32)
            for draw in range(_N_DRAWS):
                rng = np.random.default_rng([recipe.training.seed, row, draw])
                cut = random_cut(frames, recipe.window, recipe.augment, recipe.frontend, rng)
                heard = self._lessons.functionals(row, cut)
                if np.isfinite(heard).all():
                    x.append(heard)
                    rows.append(row)
        return np.stack(x), np.array(rows)

    def _logits(self, machines: Sequence[Any], x: Array) -> npt.NDArray[np.float64]:
        said = np.full((len(machines), len(x), self._n_labels), _NEVER)
        for mine, machine in zip(said, machines, strict=True):
            mine[:, machine.classes_] = np.maximum(machine.predict_log_proba(x), _NEVER)
        return np.asarray(said.mean(axis=0))

    def __call__(self, row: int, cut: Cut) -> Array:
        """Probabilities ``(n_labels,)``, honest of voices left out and then softened by `TEMPERATURE`.

        NaN where the teacher hears too little of the recording in the window to say.
        """
        heard = self._lessons.functionals(row, cut)[None]
        if not np.isfinite(heard).all():
            return np.full(self._n_labels, np.nan, np.float32)
        logits = self._logits(self._machines[row], heard)[0]
        return softmax(logits, TEMPERATURE * self.temperature).astype(np.float32)


class Pairs(Epochs):
    """Batches of one epoch: augmented windows, and what ``kept`` answers to the same windows unchanged.

    Args:
        recipe: Its windows, augmentation and training.
        data: Speech, of whatever labels: each epoch hears all of it, in another order.
        noises: To be added.
        kept: The network as it was fitted.
        taught: The teacher's answers, which the recipe's ``[teacher] answers`` makes a share of the targets.
    """

    def __init__(
        self, recipe: Recipe, data: FeatureSet, noises: Sequence[Array], kept: Any, taught: TeacherAnswers | None = None
    ) -> None:
        self.recipe, self.data, self.noises, self.kept, self.taught = recipe, data, noises, kept, taught

    def order(self, epoch: int) -> npt.NDArray[np.intp]:
        """Rows of this epoch, shuffled."""
        return np.random.default_rng([self.recipe.training.seed, epoch]).permutation(len(self.data.utterances))

    def batches(self, epoch: int) -> Iterator[tuple[Array, Array]]:
        """Inputs ``(n, input_frames, n_features)`` and probabilities ``(n, n_labels)``."""
        share = self.recipe.teacher.answers
        for heard, of in super().batches(epoch):
            assert isinstance(of, dict)
            targets = _answers(self.kept, of["unchanged"])
            if "taught" in of:
                mixed = (1 - share) * targets + share * of["taught"]
                targets = np.where(np.isfinite(mixed), mixed, targets)
            yield heard, targets

    def _batch(self, epoch: int, start: int, rows: npt.NDArray[np.intp]) -> tuple[Array, dict[str, Array]]:
        r, heard, unchanged, taught = self.recipe, [], [], []
        for position, row in enumerate(rows, start):
            rng = np.random.default_rng([r.training.seed, epoch, position])
            frames = self.data.frames[row].astype(np.float32)
            cut = random_cut(frames, r.window, r.augment, r.frontend, rng)
            unchanged.append(augmented_window(frames, cut, r.window, AugmentSettings(), r.frontend, (), rng))
            heard.append(augmented_window(frames, cut, r.window, r.augment, r.frontend, self.noises, rng))
            if self.taught:
                taught.append(self.taught(int(row), cut))
        targets = {"unchanged": normalise(np.stack(unchanged), r.window)}
        if self.taught:
            targets["taught"] = np.stack(taught)
        return normalise(np.stack(heard), r.window), targets


def agreement(recipe: Recipe, model: Any, side: FeatureSet, noises: Sequence[Array], kept: Any) -> Scores:
    """How many of a side's augmented windows are named as ``kept`` names them unchanged; drawn once, never trained."""
    drawn = list(Pairs(recipe, side, noises, kept).batches(0))
    heard, answers = (np.concatenate(part) for part in zip(*drawn, strict=True))

    def scores() -> dict[str, float]:
        said = model.predict(heard, batch_size=64, verbose=0)
        return {"agreement": round(float(np.mean(said.argmax(axis=1) == answers.argmax(axis=1))), 4)}

    return scores
