"""The pages that show the results: tables for people, made from the results files and never typed."""

from __future__ import annotations

import re
from pathlib import Path

from serkit.benchmarks import accuracy_report, listening_report
from serkit.benchmarks.choices import matrix_tables
from serkit.benchmarks.comparison import merged, plot
from serkit.benchmarks.cost_report import boards, cost_tables
from serkit.edge.errors import SettingsError
from serkit.train.results import read_results

_BEGIN, _END = "<!-- results: made by `serkit report --readme` -->", "<!-- end of results -->"
_BOARDS_BEGIN, _BOARDS_END = "<!-- boards: made by `serkit report --readme` -->", "<!-- end of boards -->"


def tables() -> str:
    """What the README shows, as Markdown: how good the shipped models and the published systems are."""
    results = read_results()
    return "\n".join([
        "Accuracy, as fractions; the last column is that speaker's UAR, over the emotions they have. `random` splits",
        "have the same speakers in training and test and come out far too high; `ship-test` speakers were never seen",
        "(those of EMO-DB have a single utterance of disgust, which alone is worth 17 points of UAR; nEMO is Polish,",
        "and no emotion in it was told to the models that ship). 95 % by drawing these speakers' utterances anew: it",
        "says nothing of other speakers, nor of an emotion with a single utterance.",
        "",
        *accuracy_report.accuracy(results),
        "",
        "The same model on every runtime, on the same utterances (`serkit bench accuracy`): the network alone, from a",
        "window in numpy to logits in numpy, measured in turn. `x reference` (of the same machine) and `same answer`",
        f"compare with the shipped model on LiteRT. {accuracy_report.machines(results)}",
        "",
        *accuracy_report.runtimes(results),
        "",
        "![UAR against latency and size](benchmarks/results/accuracy.png)",
        "",
        "The published systems, their baselines and a peer, trained by the command in each row. `speaker-independent`:",
        "nobody tested was heard in training; folds pooled, seeds averaged, 95 % by drawing speakers anew. Few epochs",
        "and seeds mean a smaller schedule than the recipe's, on two cores; a low accuracy `in training` (augmented",
        "windows) says that it was too small. Two speakers make no interval; size is in parameters:",
        "",
        *accuracy_report.systems(results),
        "",
        "What the papers claim:",
        "",
        *accuracy_report.claims(results),
    ])  # fmt: skip


def more_tables() -> str:
    """The other measurements, as Markdown."""
    results = read_results()
    return "\n".join([
        "# More results",
        "",
        "Made by `serkit report --readme` from the JSON files here; accuracy is in the README.",
        "",
        "## Noise, rooms, level, telephone, clipping",
        "",
        "UAR that is left. No recipe may train on recordings of babble, car, street and transport; whether one trained",
        "on another kind, its rows say. The default model trained beside many voices at once, which is babble too, but",
        "made of its own speakers.",
        "",
        *accuracy_report.robustness(results),
        "## Hours of listening",
        "",
        "Composed sessions of people the model never heard (`serkit bench sessions`): is the answer right in every",
        "tenth of a second of speech, beside the same utterances one by one; are episodes found, and how soon; how",
        "often does the answer change without reason; and what if nobody feels anything, or nobody speaks. Neutral",
        "sessions are of many people in turn; with `--enroll` every session with speech is of one person, before and",
        "after half of their neutral utterances (up to 30 s; of RAVDESS 3 s), which are in no session, were enrolled.",
        "These sessions last four to nine minutes, and each begins with a stranger.",
        "",
        *listening_report.sessions(results),
        "## One person",
        "",
        "Test speakers after `serkit enroll` with half of their neutral utterances, which are not scored, then with",
        "the other half; RAVDESS has only a few seconds, not the 30 s of ordinary speech that it asks for.",
        "Everybody's neutral point and the strength were fitted on validation speakers alone.",
        "",
        *accuracy_report.enrolment(results),
        "## Who speaks",
        "",
        "Share of half seconds of speech that ask for no window (`in no window`: that are in no later one either), and",
        "of others taken for speech; compute beside a model asked always.",
        "Tuned on other people and other noises; `window-level` is the gate of training and of `predict`.",
        "",
        *listening_report.vad(results),
        "## A sound server that dies",
        "",
        *listening_report.reconnect(results),
        "",
        "## Conversion",
        "",
        "Each run in every format, LSTM form and engine, one thread; dp, labels and UAR beside Keras on 40 validation",
        "utterances of that run.",
        "",
        *matrix_tables(results),
        "## What a model hears",
        "",
        "Whether R1's claims hold (`serkit explain`, validation side; Spearman correlations with 95 %).",
        "",
        *accuracy_report.explain(results),
        "",
        *cost_tables(results),
    ])  # fmt: skip


def update_readme(path: Path) -> None:
    """Replace what stands between the markers of the results, and of the boards where there are some, and write the
    other tables beside the results files.

    Raises:
        SettingsError: There is no README.md with the markers of the results here.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if _between(_BEGIN, _END).search(text) is None:
        raise SettingsError(f"{path}: no results markers; run this in the folder of serkit's README.md")
    folder = path.parent / "benchmarks" / "results"
    if rows := merged(read_results()):
        plot(rows, folder / "accuracy.png")
    parts = {(_BEGIN, _END): tables(), (_BOARDS_BEGIN, _BOARDS_END): "\n".join(boards(read_results()))}
    for (begin, end), part in parts.items():
        whole = f"{begin}\n{part}\n{end}"
        text = _between(begin, end).sub(lambda _, whole=whole: whole, text)  # type: ignore[misc]
    path.write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(more_tables(), encoding="utf-8")


def _between(begin: str, end: str) -> re.Pattern[str]:
    return re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
