"""The actual job: long sessions of people nobody trained on, scored along a timeline that is known.

The model hears each session of `serkit.benchmarks.composition` once; every way to decide is then replayed over the same
scored windows, among them the raw argmax over the same classes, so that a preset is compared with what it improves on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from serkit.benchmarks.composition import Session
from serkit.edge.adaptation import RunningVoice
from serkit.edge.affect import AFFECT
from serkit.edge.bundle import Bundle
from serkit.edge.decision import ClassSettings, Decision, DecisionSettings
from serkit.edge.events import Event
from serkit.edge.frontend import features
from serkit.edge.stream import Recognizer, ScoredWindow
from serkit.edge.vad import VoiceGate
from serkit.edge.window import log_probabilities, softmax
from serkit.train.noises import TEST_NOISES
from serkit.train.scoring import utterance_probabilities, window_utterances

Array = npt.NDArray[np.float32]

GRID_S = 0.1  # of the frame-level score
EARLY_S = 0.5  # a detection may start so long before its episode: one hop
SAME_S = 3.0  # an answer that comes again within this time has not been away; longer than PAUSE_S, shorter than GAP_S
N_STRANGERS = 2  # voices besides its own in which a session is heard for tuning
AFTER_S = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)  # how long after an episode began its answer is looked at


@dataclass(frozen=True)
class Heard:
    """What the model made of a session, and what it makes of each utterance alone (``clips``, in order of speech)."""

    session: Session
    duration_s: float
    windows: tuple[ScoredWindow, ...]
    clips: npt.NDArray[np.float64]


def hear(recognizer: Recognizer, session: Session) -> Heard:
    """Run the model over a session, and over each of its utterances alone."""
    bundle = recognizer.bundle
    f = bundle.frontend
    windows = tuple(recognizer.windows([session.samples], VoiceGate(f.sample_rate)))
    spoken = [
        features(session.samples[int(s.start_s * f.sample_rate) : int(s.end_s * f.sample_rate)], f)
        for s in (session.speech if session.kind == "emotion" else ())
    ]
    clips = np.empty((0, len(bundle.labels)))
    if spoken:
        cut = window_utterances(spoken, f, bundle.window)
        offset = np.float32(0) if recognizer.offset is None else recognizer.offset.astype(np.float32)
        clips = utterance_probabilities(
            lambda inputs: recognizer.engine.batch_logits(inputs) - offset, cut, len(spoken), bundle.temperature
        )
    return Heard(
        replace(session, samples=np.empty(0, np.float32)), len(session.samples) / f.sample_rate, windows, clips
    )


def replay(heard: Heard, bundle: Bundle, settings: DecisionSettings) -> list[Event]:
    """The events that these settings make of a session."""
    decision = Decision(bundle.labels, bundle.name, settings, voice=RunningVoice.of(bundle, settings.adapt_s))
    # an answer counts from when it is given, whatever time it is about
    events = [replace(e, time_s=w.time_s) for w in heard.windows for e in decision.window(w.time_s, w.probabilities)]
    return events + decision.end()


def in_the_voice(heard: Heard, bundle: Bundle, offset: Sequence[float]) -> Heard:
    """A session whose voice also has what enrolling takes from another, ``offset``: added to its windows' logits."""
    shift = np.array(offset) / bundle.temperature

    def moved(window: ScoredWindow) -> ScoredWindow:
        if window.probabilities is None:
            return window
        return replace(window, probabilities=softmax(log_probabilities(window.probabilities) + shift))

    return replace(heard, windows=tuple(moved(w) for w in heard.windows))


def strangers(heard: Sequence[Heard], bundle: Bundle, offsets: Mapping[str, Sequence[float]], seed: int) -> list[Heard]:
    """Sessions of more people than there are: each one also in `N_STRANGERS` of the other voices, by seed.

    Five people who validate are few, and what sets a stranger apart is the neutral point. How much of a measured one
    belongs to the voice was found on validation speakers, and is what ``offsets`` are (`serkit.edge.voice`).
    """
    rng = np.random.default_rng([seed, 5])
    found = list(heard)
    for h in heard:
        others = [v for v in sorted(offsets) if v != h.session.voice] if h.session.voice in offsets else []
        found += [in_the_voice(h, bundle, offsets[v]) for v in rng.permutation(others)[:N_STRANGERS]]
    return found


def raw(settings: DecisionSettings) -> DecisionSettings:
    """The argmax of every window over the same classes: no smoothing, no thresholds, no memory."""
    classes = {name: ClassSettings(labels=c.labels) for name, c in settings.classes.items()}
    return DecisionSettings(stay_s=0.0, evidence=1.0, memory_s=0.0, enter=0.0, leave=0.0, classes=classes)


def class_of(settings: DecisionSettings) -> dict[str, str]:
    """Emotion to the answer that stands for it."""
    named = {label: name for name, c in settings.classes.items() for label in c.labels or (name,)}
    return named or {emotion: emotion for emotion in AFFECT}


@dataclass(frozen=True)
class _Run:
    """An answer that stood without a break, or an emotion that was shown without another one between."""

    start_s: float
    end_s: float
    answer: str


def _runs(spans: Iterable[_Run]) -> list[_Run]:
    """Neighbours with the same answer become one, unless there was a long time between them."""
    runs: list[_Run] = []
    for span in spans:
        if runs and runs[-1].answer == span.answer and span.start_s - runs[-1].end_s < SAME_S:
            runs[-1] = _Run(runs[-1].start_s, span.end_s, span.answer)
        else:
            runs.append(span)
    return runs


def _answers(events: Sequence[Event], end_s: float) -> list[_Run]:
    """What stood from when to when; an event holds until the next one."""
    times = [e.time_s for e in events] + [max(end_s, events[-1].time_s)]
    return _runs(_Run(t, u, e.answer) for e, (t, u) in zip(events, pairwise(times), strict=True))


def score_emotion(
    heard: Sequence[Heard], bundle: Bundle, settings: DecisionSettings, resting: str | None
) -> dict[str, Any]:
    """Figures of emotion sessions.

    Args:
        heard: The sessions.
        bundle: The model that heard them.
        settings: The way to decide.
        resting: The answer that is no alarm, the same for every way that is compared.

    Returns:
        ``frame_uar`` (every 0.1 s of speech: does the answer of that moment agree?), ``clip_uar`` (each utterance
        alone, cut from the same audio), ``event_f1`` (an episode, the resting class aside, is found when its answer
        starts within it, or half a second before; every other start is a false one), ``delay_median_s`` of those
        found and ``delay_median_all_s`` of all (None: most are not found), ``right_after`` (seconds to the share of
        episodes, of those that last so long, whose answer is right by then), ``flips_per_minute`` (changes of the
        answer, "unsure" included, but for the first to the right one in each episode) and ``asked_per_minute``
        (changes of emotion).
    """
    to_class = class_of(settings)
    truth: list[str] = []
    answered: list[str] = []
    clip_truth: list[str] = []
    clip_answers: list[str] = []
    delays: list[float] = []
    right: dict[float, list[bool]] = {after: [] for after in AFTER_S}
    found = wanted = started = flips = asked = 0
    minutes = 0.0
    for h in heard:
        speech = [s for s in h.session.speech if s.emotion is not None]
        decision = Decision(bundle.labels, bundle.name, raw(settings))
        clip_truth += [to_class[str(s.emotion)] for s in speech]
        clip_answers += [decision.window(i, p)[0].answer for i, p in enumerate(h.clips)]
        runs = _answers(replay(h, bundle, settings), h.duration_s)
        starts = np.array([r.start_s for r in runs])
        for s in speech:
            times = np.arange(s.start_s, s.end_s, GRID_S)
            index = np.searchsorted(starts, times, side="right") - 1
            truth += [to_class[str(s.emotion)]] * len(times)
            answered += [runs[i].answer if i >= 0 else "silence" for i in index]
        shown = _runs(_Run(s.start_s, s.end_s, to_class[str(s.emotion)]) for s in speech)
        minutes += h.duration_s / 60
        said = _runs(r for r in runs if r.answer != "silence")
        asked += len(shown) - 1
        flips += _needless(said, shown)
        episodes = [e for e in shown if e.answer != resting]
        alarms = [r for r in said if r.answer not in (resting, "unsure")]
        wanted, started = wanted + len(episodes), started + len(alarms)
        for e in episodes:
            for after in AFTER_S:
                if e.start_s + after < e.end_s:
                    i = int(np.searchsorted(starts, e.start_s + after, side="right")) - 1
                    right[after].append(i >= 0 and runs[i].answer == e.answer)
            hits = [r for r in alarms if r.answer == e.answer and e.start_s - EARLY_S <= r.start_s < e.end_s]
            if hits:
                alarms.remove(hits[0])
                found += 1
                delays.append(max(0.0, hits[0].start_s - e.start_s))
    missed = [np.inf] * (wanted - found)
    of_all = float(np.median(delays + missed)) if wanted else np.inf
    precision, recall = found / max(started, 1), found / max(wanted, 1)
    return {
        "minutes": round(minutes, 1),
        "n_utterances": len(clip_truth),
        "clip_uar": _uar(clip_truth, clip_answers),
        "frame_uar": _uar(truth, answered),
        "event_f1": round(2 * precision * recall / max(precision + recall, 1e-9), 4),
        "event_precision": round(precision, 4),
        "event_recall": round(recall, 4),
        "delay_median_s": round(float(np.median(delays)), 2) if delays else None,
        "delay_median_all_s": round(of_all, 2) if np.isfinite(of_all) else None,
        "right_after": {f"{after:g}": round(float(np.mean(r)), 3) for after, r in right.items() if r},
        "flips_per_minute": round(flips / minutes, 2),
        "asked_per_minute": round(asked / minutes, 2),
    }


def _needless(said: Sequence[_Run], shown: Sequence[_Run]) -> int:
    """Changes of the answer, but for the first in each episode that brings the right one."""
    begins = [e.start_s for e in shown]
    right = {i for i, e in enumerate(shown) for r in said if r.answer == e.answer and r.start_s < e.start_s < r.end_s}
    n = 0
    for k, r in enumerate(said):
        i = int(np.searchsorted(begins, r.start_s, side="right")) - 1
        if i >= 0 and i not in right and r.answer == shown[i].answer:
            right.add(i)
        elif k:  # the first answer of all changes nothing
            n += 1
    return n


def _uar(truth: Sequence[str], answers: Sequence[str]) -> float:
    t, a = np.array(truth), np.array(answers)
    return round(float(np.mean([np.mean(a[t == c] == c) for c in sorted(set(truth))])), 4)


def score_alarms(
    heard: Sequence[Heard], bundle: Bundle, settings: DecisionSettings, resting: str | None
) -> dict[str, Any]:
    """False alarms of sessions without emotion: starts of an answer that is not resting, neutral or calm.

    Returns:
        ``alarms`` and, per hour, ``false_alarms_per_hour`` and ``at_most_per_hour`` (the upper end of the
        exact 95 % interval of a Poisson rate); ``scored_share`` of the windows.
    """
    calm = {resting, "silence", "unsure", "neutral", "calm"}
    hours = sum(h.duration_s for h in heard) / 3600
    n = 0
    for h in heard:
        runs = _runs(r for r in _answers(replay(h, bundle, settings), h.duration_s) if r.answer not in calm)
        n += len(runs)
    scored = sum(w.probabilities is not None for h in heard for w in h.windows)
    return {
        "minutes": round(60 * hours, 1),
        "alarms": n,
        "false_alarms_per_hour": round(n / hours, 2),
        "at_most_per_hour": round(float(chi2.ppf(0.975, 2 * n + 2)) / 2 / hours, 1),
        "scored_share": round(scored / sum(len(h.windows) for h in heard), 4),
    }


def figures(
    heard: Sequence[Heard], bundle: Bundle, settings: DecisionSettings, resting: str | None
) -> list[dict[str, Any]]:
    """Rows of one way to decide: for each kind of session that was heard all of them, then by bed.

    ``test_only`` says of a noise whether nothing was tuned on its recordings; "all" noise is of these and of the quiet.
    """
    rows = []
    for kind, measure in (("emotion", score_emotion), ("neutral", score_alarms), ("noise", score_alarms)):
        mine = [h for h in heard if h.session.kind == kind]
        if not mine:
            continue
        unseen = [h for h in mine if kind != "noise" or h.session.bed in ("quiet", *TEST_NOISES)]
        rows.append({"sessions": kind, "bed": None, **measure(unseen or mine, bundle, settings, resting)})
        for bed in dict.fromkeys(h.session.bed for h in mine):
            part = [h for h in mine if h.session.bed == bed]
            test_only = {"test_only": bed in TEST_NOISES} if kind == "noise" else {}
            rows.append({"sessions": kind, "bed": bed, **test_only, **measure(part, bundle, settings, resting)})
    return rows


#: What tuning aims at: figure, limit, and what each unit beyond it costs in frame UAR. Of false alarms four an hour are
#: asked for; those who test raise a few times more than those who tune.
LIMITS = (
    ("emotion", "flips_per_minute", 2.0, 0.05),
    ("emotion", "delay_median_s", 1.5, 0.02),
    ("neutral", "false_alarms_per_hour", 1.0, 0.03),
    ("noise", "false_alarms_per_hour", 1.0, 0.005),
)


def loss(heard: Sequence[Heard], bundle: Bundle, settings: DecisionSettings) -> float:
    """One figure to tune by, small is good: frame UAR missing to 1, and what goes beyond `LIMITS`."""
    overall = {}
    for kind, measure in (("emotion", score_emotion), ("neutral", score_alarms), ("noise", score_alarms)):
        mine = [h for h in heard if h.session.kind == kind]
        overall[kind] = measure(mine, bundle, settings, settings.resting)
    beyond = ((overall[kind][name], limit, cost) for kind, name, limit, cost in LIMITS)
    missing = sum(cost * max(0.0, (60.0 if value is None else value) - limit) for value, limit, cost in beyond)
    return float(1 - overall["emotion"]["frame_uar"] + missing)


def tune(
    heard: Sequence[Heard], bundle: Bundle, settings: DecisionSettings, trials: int, seed: int, progress: Iterable[int]
) -> tuple[DecisionSettings, float]:
    """Search the numbers of a preset: from where it stands and at random first, then around the best.

    Args:
        heard: Sessions of the ``tune`` side.
        bundle: The model that heard them.
        settings: Whose classes and resting class stay as they are; each gets its own prior, those that are not resting
            their own ``enter`` and ``patience_s``.
        trials: Settings tried; after a fifth of them the rest refines, one to three numbers at a time.
        seed: Of the search.
        progress: Counts the trials, such as ``rich.progress.track(range(trials))``.

    Returns:
        The best settings and their `loss`.
    """
    rng = np.random.default_rng([seed, 4])
    choices: dict[str, Sequence[float]] = {
        "stay_s": (5, 10, 20, 40, 80, 160),
        "evidence": (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0),
        "memory_s": (1, 2, 4),
        "leave": (0.1, 0.2, 0.3, 0.5, 0.7),
        "min_duration_s": (0, 4, 8),
        "refractory_s": (0, 5, 10),
    }
    weights = {f"weight, {name}": name for name in settings.classes}
    choices |= dict.fromkeys(weights, (1, 2, 3, 4, 6, 8))
    alarms = {f"enter, {name}": name for name in settings.classes if name != settings.resting}
    waits = {f"patience, {name}": name for name in alarms.values()}
    choices |= dict.fromkeys(waits or ["patience_s"], (0, 0.5, 1, 2, 4))
    choices |= dict.fromkeys(alarms or ["enter"], (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99))

    def made(values: dict[str, float]) -> DecisionSettings:
        classes = dict(settings.classes)
        # the last class is left without: its prior is what the others leave, so that a user can change one of them
        total = sum(values[key] for key in weights)
        for key, name in weights.items():
            last = name == list(classes)[-1]
            classes[name] = replace(classes[name], prior=None if last else round(values[key] / total, 3))
        for key, name in alarms.items():
            classes[name] = replace(classes[name], enter=float(values[key]))
        for key, name in waits.items():
            classes[name] = replace(classes[name], patience_s=float(values[key]))
        numbers = {k: float(v) for k, v in values.items() if ", " not in k}
        lowest = min(values[key] for key in alarms or ["enter"])
        return replace(settings, **numbers | {"leave": min(numbers["leave"], lowest)}, classes=classes)  # type: ignore[arg-type]

    resolved = settings.resolved(bundle.labels)
    first = {n: float(getattr(settings, n)) for n in choices if ", " not in n}
    first |= {key: 10 * float(resolved[name].prior or 0) for key, name in weights.items()}
    first |= {key: float(resolved[name].enter or 0) for key, name in alarms.items()}
    first |= {key: float(resolved[name].patience_s or 0) for key, name in waits.items()}
    best = (loss(heard, bundle, made(first)), first)
    for i in progress:
        far = i < trials // 5
        names = list(choices) if far else rng.choice(list(choices), rng.integers(1, 4), replace=False)
        values = best[1] | {name: float(rng.choice(choices[name])) for name in names}
        if values != best[1]:
            best = min(best, (loss(heard, bundle, made(values)), values), key=lambda pair: pair[0])
    return made(best[1]), best[0]


def plot(bundle: Bundle, ways: dict[str, tuple[Heard, DecisionSettings]], path: Path, minutes: float = 4.0) -> None:
    """The first minutes of one session: what was shown, and what each way to hear it and to decide made of it."""
    from matplotlib.figure import Figure

    heard, settings = next(iter(ways.values()))
    to_class = class_of(settings)
    names = [*dict.fromkeys(to_class.values()), "unsure", "silence"]
    speech = [_Run(s.start_s, s.end_s, to_class[str(s.emotion)]) for s in heard.session.speech]
    rows = {"shown": speech} | {name: _answers(replay(h, bundle, way), h.duration_s) for name, (h, way) in ways.items()}
    figure = Figure(figsize=(11, 1.2 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = [f"C{i}" for i in range(len(names) - 2)] + ["0.6", "0.92"]
    for i, runs in enumerate(rows.values()):
        for run in runs:
            axes.barh(-i, run.end_s - run.start_s, 0.8, run.start_s, color=colours[names.index(run.answer)])
    axes.set(xlim=(0, 60 * minutes), xlabel="s", yticks=[-i for i in range(len(rows))], yticklabels=list(rows))
    handles = [axes.barh(0, 0, color=c, label=n) for n, c in zip(names, colours, strict=True)]
    figure.legend(handles=handles, ncols=len(names), loc="outside upper center", fontsize="small")
    figure.savefig(path, dpi=110)
