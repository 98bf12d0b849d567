"""Linear discriminant analysis of functionals, shrunk as far as serves voices that it was not fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

#: How far the covariance within emotions, that of a few thousand rows, is drawn towards a multiple of the identity.
SHRINKAGES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)

#: Groups of voices that are left out in turn to choose it.
N_GROUPS = 5

Array = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.intp]


def analysis(shrinkage: float, x: Array, truth: Rows) -> Any:
    """Fit scikit-learn's to rows ``(n, d)`` of classes ``(n,)``, each as likely as any other, as UAR has it."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    n = len(np.unique(truth))
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[1 / n] * n).fit(x, truth)


def leaving_voices_out(x: Array, voices: npt.NDArray[np.str_]) -> Iterator[tuple[Rows, Rows]]:
    """Rows of all voices but a group, and that group's; at most `N_GROUPS` times, each voice once."""
    from sklearn.model_selection import GroupKFold

    yield from GroupKFold(min(N_GROUPS, len(set(voices)))).split(x, groups=voices)


def best_shrinkage(x: Array, truth: Rows, voices: npt.NDArray[np.str_]) -> float:
    """Of `SHRINKAGES` the one with the best UAR of voices that are left out; two voices or more are needed."""
    from sklearn.metrics import recall_score

    def left_out(shrinkage: float) -> float:
        figures = []
        for rows, others in leaving_voices_out(x, voices):
            said = analysis(shrinkage, x[rows], truth[rows]).predict(x[others])
            figures.append(recall_score(truth[others], said, average="macro", zero_division=np.nan))
        return float(np.mean(figures))

    return max(SHRINKAGES, key=left_out)
