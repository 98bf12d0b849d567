"""What the four papers claim, in their own split, and why an honest figure differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One figure of one paper.

    Attributes:
        system: Short name of the published system.
        recipes: Recipes that stand for it, best of which counts.
        corpus: Corpus whose test utterances are scored.
        protocol: The paper's own split.
        metric: ``accuracy`` or ``uar``.
        value: The claim, a fraction.
        why: Why the honest figure differs.
    """

    system: str
    recipes: tuple[str, ...]
    corpus: str
    protocol: str
    metric: str
    value: float
    why: str


CLAIMS = (
    Claim(
        system="R1", recipes=("r1",), corpus="ravdess", protocol="random", metric="accuracy", value=0.932,
        why="The paper says that speakers are disjoint; frozen models of 1.5 billion parameters reach 75 % that way. "
        "Filters, kernels, ranges of augmentation and the use of a 1.28 s patch are not given.",
    ),
    Claim(
        system="R1", recipes=("r1",), corpus="emodb", protocol="random", metric="accuracy", value=0.914,
        why="As for RAVDESS; 535 utterances of ten speakers, so one utterance of the random test side is 1.4 points.",
    ),
    Claim(
        system="R2", recipes=("r2", "r2-ensemble"), corpus="ravdess", protocol="random", metric="accuracy", value=0.898,
        why="Random split over RAVDESS speech and song and TESS: the same speakers and sentences are on both sides.",
    ),
    Claim(
        system="R3", recipes=("r3-lstm", "r3-lstm-traditional", "r3-multiscale", "r3-densenet"), corpus="tess",
        protocol="random", metric="accuracy", value=1.0,
        why="100 % is training accuracy from epoch 63 on; the paper's own table gives a mean recall of about 85 %. Two "
        "actresses, 200 words each said once per emotion: a random split tests words, not voices.",
    ),
    Claim(
        system="R4", recipes=("r4",), corpus="ravdess", protocol="random-75-25", metric="accuracy", value=0.72,
        why="Random 75/25 split of 24 actors who all train; every one of them says the same two sentences.",
    ),
)  # fmt: skip

#: Columns of `claims_table`.
CLAIMS_HEAD = ("system", "corpus", "claimed", "reproduced, its own split", "UAR, unseen speakers", "why they differ")


def claims_table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For each claim: system, corpus, claimed, reproduced under its split, honest figure, why they differ."""
    made: list[tuple[str, ...]] = []
    for claim in CLAIMS:
        mine = [r for r in rows if r["recipe"] in claim.recipes and r["corpus"] == claim.corpus and r["complete"]]

        def best(protocol: str, metric: str, among: list[dict[str, Any]] = mine) -> str:
            found = [r for r in among if r["protocol"] == protocol]
            if not found:
                return "not measured yet"
            r = max(found, key=lambda r: r[metric])
            return f"{r[metric]:.3f} ({r['recipe']}, {r['epochs']} epochs, seeds {','.join(map(str, r['seeds']))})"

        made.append(
            (
                claim.system, claim.corpus, f"{claim.value:.3f} {claim.metric}", best(claim.protocol, claim.metric),
                best("speaker-independent", "uar"), claim.why,
            )
        )  # fmt: skip
    return made
