"""From many runs to one honest row: folds pooled, seeds averaged, systems compared.

Folds that test different speakers are pooled: every utterance is answered once per seed, by a model that never heard
its speaker. Figures are then averaged over the seeds. An interval comes from drawing speakers anew, not utterances: the
next speaker is what differs most.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import SerkitError
from serkit.train.build import draws_epochs
from serkit.train.corpora import CORPORA, Utterance
from serkit.train.metrics import calibration_error, score, uar
from serkit.train.recipe import Recipe, bundled_recipes, read_recipe
from serkit.train.runs import RunState, load_run
from serkit.train.splits import n_folds_of


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run whose test side was scored.

    Attributes:
        path: Its folder.
        recipe: What was trained.
        metrics: ``metrics.json``.
        split: ``split.json``.
        test: Utterances of the test side.
        probabilities: Their calibrated probabilities, ``(n_utterances, n_labels)``.
        uncalibrated: The same at temperature 1.
        environment: ``environment.json``.
    """

    path: Path
    recipe: Recipe
    metrics: dict[str, Any]
    split: dict[str, Any]
    test: tuple[Utterance, ...]
    probabilities: npt.NDArray[np.float64]
    uncalibrated: npt.NDArray[np.float64]
    environment: dict[str, Any]

    @property
    def train_accuracy(self) -> float | None:
        """Accuracy on the augmented training windows in the chosen epoch; None where there are no epochs."""
        if not (self.path / "history.jsonl").exists():
            return None
        lines = (self.path / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return float(json.loads(lines[self.metrics["best_epoch"]])["train_accuracy"])

    @property
    def group(self) -> str:
        """The same for runs that differ in fold and seed alone."""
        config = self.recipe.to_dict()
        config["split"] = {k: v for k, v in config["split"].items() if k not in ("fold", "seed")}
        config["training"] = {k: v for k, v in config["training"].items() if k != "seed"}
        return json.dumps(config, sort_keys=True)


def _utterance(row: dict[str, Any]) -> Utterance:
    corpus, name = row["utterance"].split("/", 1)
    speaker = row["voice"].split("/", 1)[1]
    return Utterance(corpus=corpus, name=name, speaker=speaker, emotion=row["emotion"], sex=row["sex"], path=Path(name))


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """The finished runs in ``folders`` or one level below; runs whose test side is kept back (``ship-test``) are not.

    Raises:
        SerkitError: There is none.
    """
    asked = list(folders)
    runs = []
    for folder in sorted({p for f in asked for p in (f, *(f.iterdir() if f.is_dir() else ())) if p.is_dir()}):
        if not RunState(folder).state.get("finished") or not (folder / "predictions.json").exists():
            continue
        recipe, metrics, split = load_run(folder)
        rows = json.loads((folder / "predictions.json").read_text(encoding="utf-8")).get("test")
        if rows:
            runs.append(
                Run(
                    path=folder,
                    recipe=recipe,
                    metrics=metrics,
                    split=split,
                    test=tuple(map(_utterance, rows)),
                    probabilities=np.array([r["probabilities"] for r in rows]),
                    uncalibrated=np.array([r["uncalibrated"] for r in rows]),
                    environment=json.loads((folder / "environment.json").read_text(encoding="utf-8")),
                )
            )
    if not runs:
        raise SerkitError(
            f"no finished run with test figures in {', '.join(map(str, asked))}; `serkit sweep RECIPE` makes them"
        )
    return runs


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """Every test utterance of one corpus answered once: the pooled folds of one seed, or one random draw."""

    utterances: tuple[Utterance, ...]
    probabilities: npt.NDArray[np.float64]
    uncalibrated: npt.NDArray[np.float64]
    complete: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the results: one recipe, trained and tested in one way, on one corpus.

    Attributes:
        runs: All its runs.
        corpus: Whose utterances are scored.
        repetitions: By seed, seed of the split and, for random splits, draw.
        row: The figures, as in DESIGN's accuracy rows.
        confusion: Counts over all repetitions.
    """

    runs: tuple[Run, ...]
    corpus: str
    repetitions: dict[tuple[int, int, int], Repetition]
    row: dict[str, Any]
    confusion: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return self.row["corpus"], self.row["protocol"]


def cells(runs: Sequence[Run]) -> list[Cell]:
    """All rows that ``runs`` hold, ordered by corpus, protocol and system."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.group].append(run)
    made = [
        _cell(group, corpus)
        for group in groups.values()
        for corpus in group[0].recipe.corpora
        if any(u.corpus == corpus for run in group for u in run.test)
    ]
    return sorted(made, key=lambda c: (c.row["corpus"], c.row["protocol"], c.row["recipe"], c.row["command"]))


def _repetitions(group: Sequence[Run], corpus: str) -> dict[tuple[int, int, int], Repetition]:
    parts: dict[tuple[int, int, int], list[Run]] = defaultdict(list)
    for run in sorted(group, key=lambda r: r.recipe.split.fold):
        split = run.recipe.split
        draw = split.fold if split.protocol.startswith("random") else 0
        parts[run.recipe.training.seed, split.seed, draw].append(run)
    everything = {
        u
        for run in group
        for side in ("train", "validation", "test")
        for u in run.split[side]["utterances"]
        if u.startswith(f"{corpus}/")
    }
    repetitions = {}
    for key, runs in parts.items():
        answers: dict[str, tuple[Utterance, Any, Any]] = {}
        for run in runs:
            for i, u in enumerate(run.test):
                if u.corpus == corpus:
                    answers.setdefault(u.key, (u, run.probabilities[i], run.uncalibrated[i]))
        if not answers:
            continue
        utterances, probabilities, uncalibrated = zip(*(answers[k] for k in sorted(answers)), strict=True)
        random = runs[0].recipe.split.protocol.startswith("random")
        repetitions[key] = Repetition(
            utterances=utterances,
            probabilities=np.array(probabilities),
            uncalibrated=np.array(uncalibrated),
            complete=random or answers.keys() == everything,
        )
    complete = {k: r for k, r in repetitions.items() if r.complete}
    return complete or repetitions


#: Fewer speakers than this say nothing about the next one, and get no interval.
MIN_SPEAKERS = 5


def _interval(repetitions: Sequence[Repetition], labels: Sequence[str], random: bool) -> list[float] | None:
    """95 % bootstrap interval of the mean UAR: speakers drawn anew, utterances where speakers are on both sides."""
    tallies: dict[str, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros((2, len(labels))))
    for r in repetitions:
        for u, answer in zip(r.utterances, r.probabilities.argmax(axis=1), strict=True):
            unit = tallies[u.key if random else u.voice]
            unit[0, labels.index(u.emotion)] += 1
            unit[1, labels.index(u.emotion)] += labels[int(answer)] == u.emotion
    if len(tallies) < MIN_SPEAKERS:
        return None
    table = np.array([tallies[k] for k in sorted(tallies)])  # (units, 2, labels)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), 2000)
    sums = np.einsum("du,usl->dsl", counts, table)
    with np.errstate(invalid="ignore"):
        recalls = sums[:, 1] / sums[:, 0]
    low, high = np.nanquantile(np.nanmean(recalls, axis=1), (0.025, 0.975))
    return [round(float(low), 4), round(float(high), 4)]


def _cell(group: Sequence[Run], corpus: str) -> Cell:
    first = group[0]
    labels = list(first.recipe.labels)
    repetitions = _repetitions(group, corpus)
    scored = [score(r.utterances, r.probabilities, labels) for r in repetitions.values()]
    before = [
        calibration_error(r.uncalibrated, np.array([labels.index(u.emotion) for u in r.utterances]))
        for r in repetitions.values()
    ]

    def mean(values: Iterable[float]) -> float:
        return round(float(np.mean(list(values))), 4)

    per_speaker = {
        v: mean(s["per_speaker_uar"][v] for s in scored if v in s["per_speaker_uar"])
        for v in sorted({v for s in scored for v in s["per_speaker_uar"]})
    }
    classes = [label for label in labels if any(label in s["per_class"] for s in scored)]
    worst = min(per_speaker, key=lambda v: per_speaker[v])
    seeds = first.metrics.get("fit", {}).get("seeds") or sorted({seed for seed, *_ in repetitions})
    row = {
        "system": first.recipe.system,
        "recipe": first.recipe.name,
        "corpus": corpus,
        "trained_on": [*first.recipe.corpora, *first.recipe.scatter],
        "protocol": first.recipe.split.protocol,
        "format": "keras",
        "folds": sorted({r.recipe.split.fold for r in group}),
        "seeds": seeds,
        "control": first.recipe.control,
        "options": first.recipe.model if first.recipe.system != "ensemble" else {},
        "complete": all(r.complete for r in repetitions.values()),
        "start": first.recipe.start,
        "epochs": first.recipe.training.epochs if draws_epochs(_member(first.recipe)) else None,
        "n_utterances": len({u.key for r in repetitions.values() for u in r.utterances}),
        "n_parameters": first.metrics["n_parameters"],
        "size_bytes": (first.path / "model.keras").stat().st_size,
        "uar": mean(s["uar"] for s in scored),
        "uar_ci95": _interval(
            list(repetitions.values()), labels, first.recipe.split.protocol.startswith("random")
        ),
        "uar_sd_over_seeds": round(float(np.std([s["uar"] for s in scored], ddof=1)), 4) if len(scored) > 1 else None,
        "accuracy": mean(s["accuracy"] for s in scored),
        "macro_f1": mean(s["macro_f1"] for s in scored),
        "per_class_recall": {
            c: mean(s["per_class"][c]["recall"] for s in scored if c in s["per_class"]) for c in classes
        },
        "per_speaker_uar": per_speaker,
        "worst_speaker": worst,
        "worst_speaker_uar": per_speaker[worst],
        "per_sex_uar": {
            sex: mean(s["per_sex_uar"][sex] for s in scored if sex in s["per_sex_uar"])
            for sex in sorted({x for s in scored for x in s["per_sex_uar"]})
        },
        "sex_gap": mean(gaps) if (gaps := [s["sex_gap"] for s in scored if s["sex_gap"] is not None]) else None,
        "ece": mean(s["ece"] for s in scored),
        "ece_uncalibrated": mean(before),
        "train_accuracy": mean(accuracies) if (accuracies := [a for r in group if (a := r.train_accuracy)]) else None,
        "training_seconds": round(float(np.median([r.environment["seconds"] for r in group])), 1),
        "backend": first.environment["backend"],
        "commits": sorted({str(r.environment["commit"]) for r in group}),
        "command": command(group, seeds),
    }  # fmt: skip
    confusion = np.sum([s["confusion"]["rows"] for s in scored], axis=0).tolist()
    return Cell(
        runs=tuple(group), corpus=corpus, repetitions=repetitions, row=row,
        confusion={"labels": labels, "rows": confusion},
    )  # fmt: skip


def _member(recipe: Recipe) -> Recipe:
    """What is trained: of an ensemble one of its members."""
    members = recipe.model.get("members")
    return replace(recipe, system=members[0]["system"]) if members else recipe


def command(group: Sequence[Run], seeds: Sequence[int]) -> str:
    """The one command line that trains and scores such a row."""
    first = group[0]
    recipe, members = first.recipe, first.metrics.get("fit", {}).get("members")
    name = first.metrics["fit"]["recipe"] if members else recipe.name
    words = ["serkit", "sweep", name if name in bundled_recipes() else f"{name}.toml"]
    original = read_recipe(name) if name in bundled_recipes() else None  # a file of one's own may have changed since
    if len(recipe.corpora) == 1 and (original is None or recipe.corpora != original.corpora):
        words += ["--corpus", *recipe.corpora]
    words += ["--protocol", recipe.split.protocol]
    folds = sorted({r.recipe.split.fold for r in group})
    heard = {v for side in ("train", "validation", "test") for v in first.split[side]["voices"]}
    scored = {CORPORA[corpus].voices for corpus in recipe.corpora}  # voices that only lend their scatter are no folds
    heard = {v for v in heard if v.partition("/")[0] in scored}
    if folds != list(range(n_folds_of(heard, recipe.split.protocol))):
        words += ["--folds", ",".join(map(str, folds))]
    if recipe.start is not None and (original is None or recipe.start != original.start):
        words += ["--start", recipe.start]
    if draws_epochs(_member(recipe)) and (original is None or recipe.training.epochs != original.training.epochs):
        words += ["--epochs", str(recipe.training.epochs)]
    words += ["--seeds", ",".join(map(str, seeds))]
    if members:
        words.append("--ensemble")
    if first.environment["backend"] != "tensorflow":
        words += ["--backend", first.environment["backend"]]
    return " ".join(words)


def compare(a: Cell, b: Cell) -> dict[str, Any]:
    """Two systems on the test utterances that both have.

    Returns:
        ``uar_difference`` on these (``n_utterances``), averaged over seeds.
        ``paired_t_p``: two-sided p of a paired t-test over the UAR of the folds both have (``n_pairs``), each the mean
        over seeds; folds share training speakers, so it is too small (Dietterich 1998). None for random splits, whose
        seeds share one test side. ``mcnemar_p``: exact two-sided McNemar test over utterances, answered by the
        first seed of each, as if utterances of one speaker were independent; ``only_a`` and ``only_b`` count those only
        one got right. None where there is nothing to test.
    """
    from scipy import stats

    right_a, right_b = _right(a), _right(b)
    common = sorted(set(right_a) & set(right_b))
    mine, theirs = _by_fold(a, common), _by_fold(b, common)
    shared = sorted(set(mine) & set(theirs))
    differences = [mine[k] - theirs[k] for k in shared]
    t_p = None
    if len(shared) > 1 and np.ptp(differences) > 0:
        t_p = float(stats.ttest_rel([mine[k] for k in shared], [theirs[k] for k in shared]).pvalue)
    only_a = sum(right_a[k] and not right_b[k] for k in common)
    only_b = sum(right_b[k] and not right_a[k] for k in common)
    mcnemar = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else None
    return {
        "a": a.row["recipe"], "b": b.row["recipe"], "corpus": a.corpus, "protocol": a.row["protocol"],
        "uar_difference": round(_uar_on(a, common) - _uar_on(b, common), 4) if common else None,
        "n_pairs": len(shared),
        "paired_t_p": None if t_p is None else float(f"{t_p:.3g}"),
        "n_utterances": len(common), "only_a": only_a, "only_b": only_b,
        "mcnemar_p": None if mcnemar is None else float(f"{mcnemar:.3g}"),
    }  # fmt: skip


def _by_fold(cell: Cell, common: Collection[str]) -> dict[int, float]:
    """UAR of each fold with a test side of its own, averaged over the seeds that count; none for random splits."""
    if cell.row["protocol"].startswith("random"):
        return {}
    counted = {seed for seed, *_ in cell.repetitions}
    tested: dict[frozenset[str], int] = {}
    values: dict[int, list[float]] = defaultdict(list)
    for run in sorted(cell.runs, key=lambda r: r.recipe.split.fold):
        voices = frozenset(u.voice for u in run.test if u.corpus == cell.corpus)
        fold = tested.setdefault(voices, run.recipe.split.fold)
        value = _uar(run.test, run.probabilities, cell.confusion["labels"], common)
        if value is not None and run.recipe.training.seed in counted and fold == run.recipe.split.fold:
            values[fold].append(value)
    return {fold: float(np.mean(v)) for fold, v in values.items()}


def _uar_on(cell: Cell, common: Collection[str]) -> float:
    """Averaged over the repetitions that have some of the utterances."""
    labels, parts = cell.confusion["labels"], cell.repetitions.values()
    values = [_uar(r.utterances, r.probabilities, labels, common) for r in parts]
    return float(np.mean([v for v in values if v is not None]))


def _uar(
    utterances: Sequence[Utterance],
    probabilities: npt.NDArray[np.float64],
    labels: Sequence[str],
    chosen: Collection[str],
) -> float | None:
    """On the ``chosen`` utterances; None where there is none of them."""
    keys = set(chosen)
    rows = [i for i, u in enumerate(utterances) if u.key in keys]
    answers = [labels[int(i)] for i in probabilities[rows].argmax(axis=1)]
    return uar([utterances[i].emotion for i in rows], answers) if rows else None


def _right(cell: Cell) -> dict[str, bool]:
    """Which utterances the first seed got right, as one device would."""
    labels, first = cell.confusion["labels"], cell.repetitions[min(cell.repetitions)]
    answers = first.probabilities.argmax(axis=1)
    return {u.key: labels[int(i)] == u.emotion for u, i in zip(first.utterances, answers, strict=True)}
