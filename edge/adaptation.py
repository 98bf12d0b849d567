"""Running statistics: a voice's own way of sounding, learned while it is heard. For those who did not `serkit enroll`.

Most of what people say is said calmly. So the mean logits of a stream, each window weighted by how calm it is taken to
be, tend to those of this voice's ordinary speech; what they have beyond those of everybody's, times the strength that
was found for enrolment, is taken from every window's (`serkit.edge.voice`). Only that mean is kept, in memory, for as
long as the stream lasts. What it brings: ``serkit bench sessions --enroll``.

Everybody's point is the plain mean of neutral speech. Weighted by calm, the same speech has logits of "neutral" that
are 0.1 to 0.6 higher (five validation voices), so a voice like everybody's is heard up to 0.2 less neutral than it is.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from serkit.edge.bundle import Bundle
from serkit.edge.window import log_probabilities, softmax

Vector = npt.NDArray[np.float64]

#: Calm speech by which a voice counts as much as everybody, s: the least that `serkit enroll` is content with.
FAMILIAR_S = 10.0
_CALM = ("neutral", "calm")


class RunningVoice:
    """The voice of one stream, as it becomes familiar.

    Args:
        everybody: Log-probabilities of everybody's neutral speech, ``(n_labels,)``; a constant beyond does not matter.
        calm: Which labels are ordinary speech, ``(n_labels,)``, 0 or 1.
        strength: How much of what is a voice's own is taken off, 0 to 1.
        memory_s: Calm speech after which a voice is forgotten to a third, s.
    """

    def __init__(self, everybody: Vector, calm: Vector, strength: float, memory_s: float) -> None:
        self._everybody = everybody - everybody.mean()
        self._calm = calm
        self._strength = strength
        self._memory_s = memory_s
        self._total = np.zeros_like(everybody)
        self._heard_s = 0.0

    @classmethod
    def of(cls, bundle: Bundle, memory_s: float) -> RunningVoice | None:
        """A stranger's to begin with; None where ``memory_s`` is 0, or where the model gains nothing from a voice."""
        if not (memory_s and bundle.enrolment and bundle.neutral_logits is not None):
            return None
        everybody = np.array(bundle.neutral_logits) / bundle.temperature
        calm = np.array([label in _CALM for label in bundle.labels], float)
        return cls(everybody, calm, bundle.enrolment, memory_s)

    def window(self, step_s: float, probabilities: Vector) -> Vector:
        """What the probabilities of a window would be if everybody sounded like this voice; it is learned from, too.

        Args:
            step_s: Since the window before it.
            probabilities: ``(n_labels,)``.
        """
        logits = log_probabilities(probabilities)
        logits -= logits.mean()
        own = (self._total + FAMILIAR_S * self._everybody) / (self._heard_s + FAMILIAR_S)
        adapted = softmax(logits - self._strength * (own - self._everybody))
        calm_s = step_s * float(self._calm @ adapted)
        kept = math.exp(-calm_s / self._memory_s)
        self._total = kept * self._total + calm_s * logits
        self._heard_s = kept * self._heard_s + calm_s
        return adapted
