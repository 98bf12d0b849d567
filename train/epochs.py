"""What one epoch shows the model, and at what learning rate: decided by recipe, seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import SettingsError
from serkit.edge.window import normalise
from serkit.train.augment import augmented_window, random_cut
from serkit.train.features import FeatureSet
from serkit.train.parallel import n_devices
from serkit.train.recipe import Recipe, TrainingSettings
from serkit.train.teacher import Lessons

Array = npt.NDArray[np.float32]
Targets = Array | dict[str, Array]


class Epochs:
    """Batches of one epoch: which utterances, in what order, cut and augmented how, all decided by seed and epoch."""

    def __init__(
        self, recipe: Recipe, data: FeatureSet, noises: Sequence[Array], lessons: Lessons | None = None
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.noises = noises
        self.lessons = lessons
        if recipe.training.batch_size % n_devices():
            raise SettingsError(
                f"batch_size {recipe.training.batch_size} cannot be shared by {n_devices()} devices; choose a multiple"
            )
        self._label = np.array([recipe.class_of(u.corpus, u.emotion) for u in data.utterances])
        self._shares = dict.fromkeys(recipe.scatter, 1.0) | recipe.corpora
        self._rows = {corpus: np.flatnonzero([u.corpus == corpus for u in data.utterances]) for corpus in self._shares}

    def order(self, epoch: int) -> npt.NDArray[np.intp]:
        """Rows of this epoch, shuffled: of each corpus its share, at least one; over the epochs each equally often."""
        chosen = []
        for corpus, rows in self._rows.items():
            n = max(1, round(len(rows) * self._shares[corpus]))
            rounds, start = divmod(epoch * n, max(1, len(rows)))
            seed = self.recipe.training.seed
            cycle = np.concatenate([np.random.default_rng([seed, rounds + k]).permutation(rows) for k in range(2)])
            chosen.append(cycle[start : start + n])
        order = np.random.default_rng([self.recipe.training.seed, epoch]).permutation(np.concatenate(chosen))
        return order[: len(order) - len(order) % n_devices()]

    def batches(self, epoch: int) -> Iterator[tuple[Array, Targets]]:
        """Inputs ``(n, input_frames, n_features)`` and smoothed one-hot targets ``(n, n_classes)``.

        With lessons the targets are ``logits``, these, and what `serkit.train.teacher.Lessons.targets` says of each
        window; from a teacher alone the latter only.
        """
        t, order = self.recipe.training, self.order(epoch)
        starts = range(0, len(order), t.batch_size)
        with ThreadPoolExecutor(1) as ahead:  # the next batch is cut while this one trains
            waiting = ahead.submit(self._batch, epoch, 0, order[: t.batch_size])
            for start in starts:
                ready = waiting.result()
                if start + t.batch_size < len(order):
                    rows = order[start + t.batch_size : start + 2 * t.batch_size]
                    waiting = ahead.submit(self._batch, epoch, start + t.batch_size, rows)
                yield ready

    def _batch(self, epoch: int, start: int, rows: npt.NDArray[np.intp]) -> tuple[Array, Targets]:
        r, windows, heard = self.recipe, [], []
        for position, row in enumerate(rows, start):
            rng = np.random.default_rng([r.training.seed, epoch, position])
            frames = self.data.frames[row].astype(np.float32)
            cut = random_cut(frames, r.window, r.augment, r.frontend, rng)
            windows.append(augmented_window(frames, cut, r.window, r.augment, r.frontend, self.noises, rng))
            if self.lessons:
                heard.append(self.lessons.targets(int(row), cut))
        n_classes, smoothing = len(r.classes), r.training.label_smoothing
        one_hot = np.eye(n_classes, dtype=np.float32)[self._label[rows]]
        smoothed = one_hot * (1 - smoothing) + np.float32(smoothing / n_classes)
        targets: Targets = smoothed
        if self.lessons:
            targets = {} if r.teacher.alone else {"logits": smoothed}
            targets |= {what: np.stack([said[what] for said in heard]) for what in heard[0]}
        return normalise(np.stack(windows), r.window), targets


def learning_rate(settings: TrainingSettings, epoch: int) -> float:
    """Of one epoch, from 0."""
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = epoch / max(1, settings.epochs - 1)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * progress))))
