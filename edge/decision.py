"""From window probabilities to a calm answer: smoothing, hysteresis, patience, and the courage to say "unsure".

A pure state machine over time. Probabilities of the model's labels are first added up to the classes of the preset
(``driver`` tells four apart). What they say from window to window is put together by the forward algorithm of a hidden
Markov model (Rabiner, "A tutorial on hidden Markov models", 1989) whose states are the classes: one lasts ``stay_s`` on
average and gives way to any class by its ``prior``; a window speaks for a class by its probability over that prior, to
the power of ``evidence``, since overlapping windows say much the same. With the probabilities that come out, an answer

- *starts* when its class leads with at least ``enter`` for ``patience_s``,
- *holds* while its class keeps at least ``leave`` and no other starts, but for ``min_duration_s`` in any case (unless
  nobody speaks any more),
- does not start again before ``refractory_s`` are over, once it has given way to another or to silence.

A ``resting`` class neither leads nor starts: it is the answer while no other is, as long as it has its own ``leave``.
Everything else is ``unsure``. In a pause the last answer stands until ``memory_s`` are over; then there is silence, and
what was said before it does not colour what comes after.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.adaptation import RunningVoice
from serkit.edge.affect import expected_affect
from serkit.edge.errors import SettingsError
from serkit.edge.events import Event
from serkit.edge.settings import build, read_toml

Probabilities = npt.NDArray[np.float64]

_LEAST = 1e-6  # no model is surer than this that something is not so
_PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, kw_only=True)
class ClassSettings:
    """One answer; what is not given is taken from `DecisionSettings`.

    Attributes:
        labels: The model's labels whose probabilities it adds up; those that a model does not have are left out.
        prior: Share of the time it is shown; classes that say nothing share what is left alike.
        enter: Smoothed probability with which it may start.
        leave: Smoothed probability under which it ends.
        patience_s: How long it has to lead before it starts, s.
        min_duration_s: How long it stays at least, s.
        refractory_s: How long it cannot start again after it has ended, s.
    """

    labels: tuple[str, ...] = ()
    prior: float | None = None
    enter: float | None = None
    leave: float | None = None
    patience_s: float | None = None
    min_duration_s: float | None = None
    refractory_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class DecisionSettings:
    """How calm, quick and careful the answer is.

    Attributes:
        stay_s: How long an emotion lasts on average, s of speech; 0 lets every window stand alone.
        evidence: Weight of a window, one hop after the one before it, 0 to 1.
        memory_s: How long an answer outlives speech, s.
        per_utterance: One event per utterance, when the speaker pauses for ``memory_s`` (or has spoken for
            ``max_utterance_s``), about the mean of its windows, instead of one per window.
        max_utterance_s: Longest utterance, s.
        adapt_s: Calm speech after which a voice is forgotten to a third, s; 0 hears everybody alike. `Decision` is
            given the `serkit.edge.adaptation.RunningVoice` that this asks for.
        enter: See `ClassSettings`; these five stand for every class that says nothing else.
        leave: As above.
        patience_s: As above.
        min_duration_s: As above.
        refractory_s: As above.
        resting: The class that is the answer while no other is.
        classes: Answers by name. None at all: the model's own labels.
    """

    stay_s: float = 5.0
    evidence: float = 0.5
    memory_s: float = 1.0
    per_utterance: bool = False
    max_utterance_s: float = 15.0
    adapt_s: float = 0.0
    enter: float = 0.35
    leave: float = 0.25
    patience_s: float = 0.0
    min_duration_s: float = 0.0
    refractory_s: float = 0.0
    resting: str | None = None
    classes: dict[str, ClassSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("stay_s", "memory_s", "max_utterance_s", "adapt_s"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; it needs 0 s or more")
        if not 0 < self.evidence <= 1:
            raise SettingsError(f"evidence is {self.evidence}; more than 0 and at most 1 is needed")
        self._check_priors()
        for name, c in self.resolved().items():
            where = f"classes.{name}: " if self.classes else ""
            if not 0 <= c.leave <= c.enter <= 1:  # type: ignore[operator]
                raise SettingsError(f"{where}enter {c.enter}, leave {c.leave}: 0 <= leave <= enter <= 1 is needed")
            if not all(s >= 0 for s in (c.patience_s, c.min_duration_s, c.refractory_s)):  # type: ignore[operator]
                raise SettingsError(f"{where}patience_s, min_duration_s and refractory_s need 0 s or more")
        if self.resting is not None and self.classes and self.resting not in self.classes:
            raise SettingsError(f"resting is {self.resting!r}; choose one of {', '.join(self.classes)}")
        seen: dict[str, str] = {}
        for name, c in self.classes.items():
            for label in c.labels or (name,):
                if label in seen:
                    raise SettingsError(f"label {label!r} is in classes {seen[label]!r} and {name!r}; name it once")
                seen[label] = name

    def _check_priors(self) -> None:
        given = [c.prior for c in self.classes.values() if c.prior is not None]
        left = 1.0 - sum(given)
        all_given = len(given) == len(self.classes)
        if given and not (all(p > 0 for p in given) and (abs(left) < 1e-6 if all_given else left > 0)):
            raise SettingsError(f"priors of the classes add up to {1 - left:g}; each needs more than 0, all of them 1")

    def resolved(self, labels: Sequence[str] = ("",)) -> dict[str, ClassSettings]:
        """Every class with all its settings filled in; for a model's own labels where no class is named."""
        own = {label: ClassSettings(labels=(label,)) for label in labels}
        names = ("enter", "leave", "patience_s", "min_duration_s", "refractory_s")
        given = [c.prior for c in (self.classes or own).values() if c.prior is not None]
        others = (1 - sum(given)) / max(1, len(self.classes or own) - len(given))
        return {
            name: replace(
                c,
                labels=c.labels or (name,),
                prior=others if c.prior is None else c.prior,
                **{n: getattr(self, n) if getattr(c, n) is None else getattr(c, n) for n in names},
            )
            for name, c in (self.classes or own).items()
        }


def presets() -> tuple[str, ...]:
    """Names of the presets that come with serkit."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def preset_values(name: str) -> dict[str, Any]:
    """What a preset sets, as its TOML says it.

    Raises:
        SettingsError: There is no such preset.
    """
    if name not in presets():
        raise SettingsError(f"no preset {name!r}; choose one of {', '.join(presets())}")
    return read_toml(_PRESETS / f"{name}.toml", "preset")


def read_preset(name: str) -> DecisionSettings:
    """The settings of a preset.

    Raises:
        SettingsError: There is no such preset.
    """
    return build(DecisionSettings, preset_values(name), f"preset {name}")


def to_toml(settings: DecisionSettings) -> str:
    """Settings as a preset's file says them, without what is as by default."""

    def lines(values: Any, defaults: Any) -> list[str]:
        changed = [f for f in fields(values) if getattr(values, f.name) != getattr(defaults, f.name)]
        simple = {f.name: getattr(values, f.name) for f in changed if f.name != "classes"}
        # JSON writes numbers, texts, truths and lists as TOML does
        return [f"{name} = {json.dumps(value)}" for name, value in simple.items()]

    tables = [
        line for name, c in settings.classes.items() for line in ("", f"[classes.{name}]", *lines(c, ClassSettings()))
    ]
    return "\n".join([*lines(settings, DecisionSettings()), *tables]) + "\n"


class Decision:
    """One stream's decisions.

    Args:
        labels: Of the model.
        model: Its name.
        settings: How to decide.
        hop_s: From one window to the next, s. After a longer step than that, for windows may be left out, a window
            weighs as much as those in whose place it is, up to 1. None: all weigh alike.
        voice: Learns how whoever speaks sounds, as ``settings.adapt_s`` asks for; None hears everybody alike.

    Attributes:
        answers: What an event's ``emotion`` can be.

    Raises:
        SettingsError: The model's labels and the settings' classes do not fit together.

    >>> decision = Decision(("calm", "angry"), "demo", DecisionSettings())
    >>> [e.answer for e in decision.window(2.5, np.array([0.1, 0.9])) + decision.window(9.0, None)]
    ['angry', 'silence']
    """

    def __init__(
        self,
        labels: Sequence[str],
        model: str,
        settings: DecisionSettings,
        hop_s: float | None = None,
        voice: RunningVoice | None = None,
    ) -> None:
        self._labels = tuple(labels)
        self._model = model
        self._settings = settings
        self._hop_s = hop_s
        self._voice = voice
        classes = settings.resolved(labels)
        self.answers = tuple(classes)
        self.per_utterance = settings.per_utterance
        self._classes = list(classes.values())
        # (n_answers, n_labels): which labels each answer adds up
        self._members = np.array([[label in c.labels for label in labels] for c in self._classes], float)
        for name, members in zip(self.answers, self._members, strict=True):
            if not members.any():
                raise SettingsError(
                    f"class {name!r} needs one of the labels {', '.join(classes[name].labels)}; "
                    f"{model} knows {', '.join(labels)}"
                )
        if lost := [label for label, members in zip(labels, self._members.T, strict=True) if not members.any()]:
            raise SettingsError(f"label {lost[0]!r} of {model} is in no class; add it to one")
        if settings.resting is not None and settings.resting not in self.answers:
            raise SettingsError(f"resting is {settings.resting!r}; choose one of {', '.join(self.answers)}")
        self._prior = np.array([c.prior for c in self._classes])
        self._resting = None if settings.resting is None else self.answers.index(settings.resting)
        self._gave_way_s = [-math.inf] * len(self.answers)
        self._previous_s: float | None = None  # time of the last window
        self.forget()

    def forget(self) -> None:
        """End what is on, as a long pause does."""
        self._spoke_s = -math.inf  # time of the last window with speech
        self._posterior: Probabilities | None = None  # of each answer, (n_answers,)
        self._latest: Probabilities = np.zeros(len(self._labels))  # of the labels, in the newest window
        self._n = 0  # windows of the utterance
        self._began_s = math.nan  # of the utterance
        self._current: int | None = None
        self._since_s = 0.0
        self._leader: int | None = None
        self._leads_since_s = 0.0

    def window(self, time_s: float, probabilities: Probabilities | None) -> list[Event]:
        """The events of one window: one, but for ``per_utterance``, where there may be none or two.

        Args:
            time_s: Its end; later than the one before.
            probabilities: ``(n_labels,)``, or None where nobody speaks.
        """
        step_s = 0.0 if self._previous_s is None else time_s - self._previous_s
        self._previous_s = time_s
        if probabilities is None:
            return self._silence(time_s)
        if self._voice is not None:
            probabilities = self._voice.window(step_s, probabilities)
        if math.isnan(self._began_s):
            self._began_s = time_s
        self._spoke_s = time_s
        self._take(probabilities, step_s)
        if not self._settings.per_utterance:
            return [self._event(time_s, self._step(time_s))]
        return self.end() if time_s - self._began_s >= self._settings.max_utterance_s else []

    def end(self) -> list[Event]:
        """What is left to say when the stream ends: the answer to an utterance that was going on."""
        if not (self._settings.per_utterance and self._n):
            return []
        event = self._event(self._spoke_s, self._utterance())
        self.forget()
        return [event]

    def _silence(self, time_s: float) -> list[Event]:
        if time_s - self._spoke_s < self._settings.memory_s:
            return [] if self._settings.per_utterance else [self._event(time_s, self._answer())]
        events = self.end()
        if self._current is not None:
            self._gave_way_s[self._current] = time_s
        self.forget()
        return [*events, Event(time_s=time_s, kind="silence", model=self._model)]

    def _take(self, probabilities: Probabilities, step_s: float) -> None:
        """Put a window together with what was heard before it."""
        s = self._settings
        self._n += 1
        if s.per_utterance:
            self._latest = self._latest + (probabilities - self._latest) / self._n
            self._posterior = self._members @ self._latest
            return
        self._latest = probabilities
        change = 1 - math.exp(-step_s / s.stay_s) if s.stay_s and self._posterior is not None else 1.0
        before = self._prior if self._posterior is None else self._posterior
        predicted = (1 - change) * before + change * self._prior
        heard = np.maximum(self._members @ probabilities, _LEAST) / self._prior
        n_hops = 1 if self._hop_s is None else max(1, round(step_s / self._hop_s))
        joint = predicted * heard ** min(1.0, n_hops * s.evidence)
        self._posterior = joint / joint.sum()

    @property
    def _q(self) -> Probabilities:
        assert self._posterior is not None
        return self._posterior

    def _leading(self) -> int | None:
        """The likeliest class that does not rest, if it may start."""
        q = self._q.copy()
        if self._resting is not None:
            q[self._resting] = -1.0
        best = int(np.argmax(q))
        return best if q[best] >= self._limit(best, "enter") else None

    def _limit(self, index: int, name: str) -> float:
        return float(getattr(self._classes[index], name))

    def _step(self, time_s: float) -> int | None:
        """Advance the state machine; the class that is on."""
        leader = self._leading()
        if leader != self._leader:
            self._leader, self._leads_since_s = leader, time_s
        current = self._current
        may_end = current is None or time_s - self._since_s >= self._limit(current, "min_duration_s")
        may_start = (
            leader is not None
            and leader != current
            and time_s - self._leads_since_s >= self._limit(leader, "patience_s")
            and time_s - self._gave_way_s[leader] >= self._limit(leader, "refractory_s")
        )
        fades = current is not None and self._q[current] < self._limit(current, "leave")
        if may_end and (may_start or fades):
            if current is not None:
                self._gave_way_s[current] = time_s
            self._current, self._since_s = (leader if may_start else None), time_s
        return self._answer()

    def _answer(self) -> int | None:
        return self._rest() if self._current is None else self._current

    def _utterance(self) -> int | None:
        """The answer to a whole utterance: what leads, whatever came before it."""
        leader = self._leading()
        return self._rest() if leader is None else leader

    def _rest(self) -> int | None:
        if self._resting is None or self._q[self._resting] < self._limit(self._resting, "leave"):
            return None
        return self._resting

    def _event(self, time_s: float, answer: int | None) -> Event:
        q = self._q
        # what the newest window says within each class, as likely as the class is
        within = self._members.T @ (q / np.maximum(self._members @ self._latest, _LEAST)) * self._latest
        shares = dict(zip(self._labels, (within / max(within.sum(), _LEAST)).tolist(), strict=True))
        arousal, valence = expected_affect(shares) or (None, None)
        return Event(
            time_s=time_s,
            kind="unsure" if answer is None else "emotion",
            emotion=None if answer is None else self.answers[answer],
            confidence=float(q.max() if answer is None else q[answer]),
            probabilities=dict(zip(self.answers, q.tolist(), strict=True)),
            model=self._model,
            arousal=arousal,
            valence=valence,
        )
