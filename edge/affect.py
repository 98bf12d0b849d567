"""Arousal and valence: what an emotion stands for in Russell's circumplex, and what probabilities add up to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: Arousal and valence that an emotion stands for, -1, 0 or 1: its quadrant or axis in Russell's circumplex (1980).
AFFECT = MappingProxyType(
    {
        "neutral": (0, 0),
        "calm": (-1, 1),
        "happy": (1, 1),
        "sad": (-1, -1),
        "angry": (1, -1),
        "fearful": (1, -1),
        "disgust": (0, -1),
        "surprised": (1, 0),
        "boredom": (-1, -1),
    }
)


def expected_affect(probabilities: Mapping[str, float]) -> tuple[float, float] | None:
    """Expected arousal and valence, each -1 to 1; None where a label has no place in the circumplex.

    >>> expected_affect({"angry": 0.5, "neutral": 0.5})
    (0.5, -0.5)
    """
    if not all(label in AFFECT for label in probabilities):
        return None
    arousal = sum(p * AFFECT[label][0] for label, p in probabilities.items())
    valence = sum(p * AFFECT[label][1] for label, p in probabilities.items())
    return arousal, valence
