"""From window probabilities to events: a moving average, a threshold for "unsure", and silence."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import SettingsError
from serkit.edge.events import Event


@dataclass(frozen=True, kw_only=True)
class DecisionSettings:
    """How calm the answer is.

    Attributes:
        average_windows: Windows in the moving average.
        unsure_below: Smoothed probability under which the answer is ``unsure``.
    """

    average_windows: int = 3
    unsure_below: float = 0.3

    def __post_init__(self) -> None:
        if self.average_windows < 1:
            raise SettingsError(f"average_windows is {self.average_windows}; it needs at least 1")
        if not 0 <= self.unsure_below <= 1:
            raise SettingsError(f"unsure_below is {self.unsure_below}; it needs 0 to 1")


class Decision:
    """One stream's decisions; every window gets an answer.

    >>> decision = Decision(("calm", "angry"), "demo", DecisionSettings())
    >>> decision.window(2.5, np.array([0.1, 0.9])).emotion, decision.window(3.0, None).kind
    ('angry', 'silence')
    """

    def __init__(self, labels: Sequence[str], model: str, settings: DecisionSettings) -> None:
        self._labels = tuple(labels)
        self._model = model
        self._settings = settings
        self._recent: deque[npt.NDArray[np.float64]] = deque(maxlen=settings.average_windows)

    def window(self, time_s: float, probabilities: npt.NDArray[np.float64] | None) -> Event:
        """The event of one window: ``probabilities`` (n_labels,), or None where nobody speaks.

        Silence ends the average: what was said before a pause does not colour what comes after it.
        """
        if probabilities is None:
            self._recent.clear()
            return Event(
                time_s=time_s,
                kind="silence",
                emotion=None,
                confidence=None,
                probabilities=None,
                model=self._model,
            )
        self._recent.append(probabilities)
        mean = np.mean(self._recent, axis=0)
        best = int(np.argmax(mean))
        sure = bool(mean[best] >= self._settings.unsure_below)
        return Event(
            time_s=time_s,
            kind="emotion" if sure else "unsure",
            emotion=self._labels[best] if sure else None,
            confidence=float(mean[best]),
            probabilities={label: float(p) for label, p in zip(self._labels, mean, strict=True)},
            model=self._model,
        )
