"""GPU against embedded: the same models and utterances on every runtime, for accuracy, latency, throughput, energy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.benchmarks.comparison import BATCHES, agreement, is_reference, name_of
from serkit.benchmarks.pack import Pack
from serkit.benchmarks.runtimes import BACKENDS, RUNTIMES, Candidate, Runtime, Worker
from serkit.edge.errors import CorpusError, MissingExtraError, SerkitError, SettingsError
from serkit.train.environment import environment
from serkit.train.labels import EMOTIONS
from serkit.train.metrics import score
from serkit.train.splits import check_unseen

_WINDOWS_PER_ROUND = 10
_LARGE_MS = 10_000.0  # a larger batch is timed until that is spent
_ENERGY_S = 3.0

Progress = Callable[[Iterable[int], str], Iterable[int]]


@dataclass
class _Entry:
    """One candidate on one runtime."""

    worker: Worker
    index: int
    candidate: Candidate
    probabilities: npt.NDArray[np.float64] | None = None
    error: str = ""
    times: dict[int, list[float]] = field(default_factory=dict)  # batch: ms, of one batch
    rounds: list[float] = field(default_factory=list)  # median of each round at batch 1, ms
    streamed: list[float] = field(default_factory=list)  # ms, of one window

    @property
    def batches(self) -> tuple[int, ...]:
        return BATCHES if self.worker.runtime.is_keras else BATCHES[:1]

    def time(self, i: int) -> None:
        """One round, on other windows than the last one's."""
        single = self.worker.call("time_ms", self.index, 1, _WINDOWS_PER_ROUND, i * _WINDOWS_PER_ROUND)
        self.times.setdefault(1, []).extend(single)
        self.rounds.append(statistics.median(single))
        if not self.worker.runtime.is_keras:
            self.streamed += self.worker.call("streamed_ms", self.index, _WINDOWS_PER_ROUND, i * _WINDOWS_PER_ROUND)
        for batch in self.batches[1:]:
            times = self.times.setdefault(batch, [])
            if sum(times) < _LARGE_MS:
                times += self.worker.call("time_ms", self.index, batch, 1, i * batch)

    @property
    def name(self) -> str:
        return name_of(self.candidate.model, self.worker.runtime.engine, self.worker.runtime.threads)


def check_candidates(candidates: Sequence[Candidate], pack: Pack) -> None:
    """Refuse what would not be a fair comparison.

    Raises:
        CorpusError: A model learned from what would be scored, or does not know an emotion of the pack.
        SettingsError: A model needs other frames than the pack's.
    """
    for c in candidates:
        check_unseen(pack.split, c.learned_from["utterances"], c.learned_from["voices"])
        if c.frontend != pack.frontend:
            raise SettingsError(f"{c.source}: its front end did not make these utterances; measure it apart")
        if unknown := sorted({u.emotion for u in pack.utterances} - set(c.labels)):
            raise CorpusError(f"{c.source}: does not know {', '.join(unknown)}, which these utterances hold")


def measure(
    candidates: Sequence[Candidate],
    pack: Pack,
    runtimes: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    left_out: Callable[[str], None],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Score and time every candidate on every runtime that is installed, in turn, round after round.

    Keras back ends that find an accelerator are measured on it and on the CPU.

    Args:
        candidates: Runs and bundles. The first bundle, on LiteRT, is what the others are compared with.
        pack: The utterances.
        runtimes: Of `RUNTIMES`.
        threads: Of the TFLite engines, one row each.
        rounds: Each times ten single windows and one of every larger batch, per row; slow ones in fewer rounds.
        left_out: Called with a line for each runtime that is not there.
        progress: Wraps the rounds, to show how far they are.

    Returns:
        Rows, the reference first, with ``system, model, recipe, trained, format, engine, device, processor`` (``gpu``
        or ``cpu``), ``threads`` (None: what Keras takes), ``utterances`` (`Pack.hash`), ``corpus, protocol,
        n_utterances, n_windows, n_parameters, size_bytes, uar, uar_ci95, accuracy, macro_f1, answers`` (one digit per
        utterance, place in `EMOTIONS`), ``label_agreement, median_ms, p95_ms, p99_ms, ratio_to, ratio`` (of single
        windows), ``streamed_ms`` (median of a further window of a stream), ``windows_per_s`` and ``energy_mj`` (per
        window; None where not readable) by batch. Where a runtime refuses a model, ``error`` instead of figures.

    Raises:
        SerkitError: A runtime died, a comparison would not be fair, or nothing is left to measure.
    """
    if unknown := sorted(set(runtimes) - set(RUNTIMES)):
        raise SettingsError(f"no runtime {unknown[0]!r}; choose of {', '.join(RUNTIMES)}")
    check_candidates(candidates, pack)
    with ExitStack() as stack:
        entries = _entries(stack, candidates, pack, runtimes, threads, left_out)
        able = [e for e in entries if not e.error]
        if not able:
            raise MissingExtraError("nothing to measure: none of these runtimes is installed and takes these models")
        for e in able:
            e.probabilities = e.worker.call("probabilities", e.index)
            for batch in e.batches:
                e.worker.call("time_ms", e.index, batch, 1, 0)
        for i in progress(range(rounds), "rounds"):
            for e in able:
                e.time(i)
        cpu = _cpu_name()
        reference = next((e for e in able if e.worker.runtime.engine == "litert"), None)
        rows = [_row(e, pack, reference, cpu) for e in entries]
    return sorted(rows, key=lambda r: not is_reference(r))


def _entries(
    stack: ExitStack,
    candidates: Sequence[Candidate],
    pack: Pack,
    runtimes: Sequence[str],
    threads: Sequence[int],
    left_out: Callable[[str], None],
) -> list[_Entry]:
    """Start the workers and load what they are to run."""
    entries = []
    waiting = [Runtime(engine=r, threads=n) for r in runtimes for n in ((None,) if r in BACKENDS else threads)]
    while waiting:
        runtime = waiting.pop(0)
        mine = [c for c in candidates if (c.format == "keras") == runtime.is_keras]
        if not mine:
            continue
        try:
            worker = stack.enter_context(Worker(runtime, mine, pack))
        except MissingExtraError as error:
            left_out(str(error))
            continue
        if worker.device is not None and not runtime.cpu_only:
            waiting.insert(0, Runtime(engine=runtime.engine, cpu_only=True))
        for index, candidate in enumerate(mine):
            entry = _Entry(worker, index, candidate)
            try:
                worker.call("load", index)
            except MissingExtraError as error:  # tflite-runtime beside numpy 2
                left_out(str(error))
                break
            except SerkitError as error:
                entry.error = str(error)
            entries.append(entry)
    return entries


def _cpu_name() -> str:
    machine = environment()["machine"]
    return str(machine["board"] or machine["cpu"] or machine["architecture"])


def _row(e: _Entry, pack: Pack, reference: _Entry | None, cpu: str) -> dict[str, Any]:
    c, runtime, device = e.candidate, e.worker.runtime, e.worker.device
    row: dict[str, Any] = {
        "system": c.system,
        "model": c.model,
        "recipe": c.recipe,
        "trained": c.trained,
        "format": c.format,
        "engine": runtime.engine,
        "device": device or cpu,
        "processor": "cpu" if device is None else "gpu",
        "threads": runtime.threads,
        "utterances": pack.hash,
        "corpus": pack.corpus,
        "protocol": pack.protocol,
        "n_parameters": c.n_parameters,
        "size_bytes": c.size_bytes,
        "ratio_to": None if reference is None else reference.name,
    }
    if e.error or e.probabilities is None:
        return row | {"error": e.error}
    figures = score(pack.utterances, e.probabilities, c.labels)
    energy = {str(b): e.worker.call("energy_mj", e.index, b, _ENERGY_S) for b in (e.batches[0], e.batches[-1])}
    answers = _answers(e)
    single = np.array(e.times[1])
    return row | {
        "n_utterances": figures["n_utterances"],
        "n_windows": e.worker.call("n_windows", e.index),
        **{k: figures[k] for k in ("uar", "uar_ci95", "accuracy", "macro_f1")},
        "label_agreement": None if reference is None else agreement(answers, _answers(reference)),
        "answers": answers,
        "median_ms": _rounded(np.median(single)),
        "p95_ms": _rounded(np.percentile(single, 95)),
        "p99_ms": _rounded(np.percentile(single, 99)),
        "ratio": None
        if reference is None
        else _rounded(statistics.median(a / b for a, b in zip(e.rounds, reference.rounds, strict=True))),
        "streamed_ms": _rounded(statistics.median(e.streamed)) if e.streamed else None,
        "windows_per_s": {str(b): _rounded(b * 1e3 / statistics.median(ms)) for b, ms in e.times.items()},
        "energy_mj": None if None in energy.values() else {b: _rounded(mj) for b, mj in energy.items()},
    }


def _answers(e: _Entry) -> str:
    assert e.probabilities is not None
    return "".join(str(EMOTIONS.index(e.candidate.labels[i])) for i in e.probabilities.argmax(axis=1))


def _rounded(value: Any) -> float:
    return float(f"{value:.4g}")


def line(row: dict[str, Any]) -> str:
    """A row for the screen."""
    about = f"{row['model']:<18} {row['format']:<8} {row['engine']:<15}{row['device']:<22}"
    if "error" in row:
        return f"{about} {row['error']}"
    rates = ", ".join(f"{rate:.0f} at {batch}" for batch, rate in row["windows_per_s"].items())
    ratio = "" if row["ratio"] is None else f" ({row['ratio']:.2f} x)"
    return f"{about} UAR {row['uar']:.3f}  {row['median_ms']:8.2f} ms{ratio}  windows per s: {rates}"
