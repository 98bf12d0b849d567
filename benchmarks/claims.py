"""What the four papers claim, in their own split, and why an honest figure differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serkit.train.recipe import LEAK


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One figure of one paper.

    Attributes:
        system: Short name of the published system.
        recipes: Recipes that stand for it, controls included.
        corpus: Corpus whose test utterances are scored.
        trained_on: Corpora it trains on.
        protocol: The random split nearest to the paper's.
        metric: ``accuracy`` or ``uar``.
        value: The claim, a fraction.
        why: Why the honest figure differs.
    """

    system: str
    recipes: tuple[str, ...]
    corpus: str
    trained_on: tuple[str, ...]
    protocol: str
    metric: str
    value: float
    why: str


CLAIMS = (
    Claim(
        system="R1", recipes=("r1", "r1-leak"), corpus="ravdess", trained_on=("ravdess",), protocol="random",
        metric="accuracy", value=0.932,
        why="The paper says that speakers are disjoint; frozen models of 1.5 billion parameters reach 75 % that way. "
        "Filters, kernels, ranges of augmentation and the use of a 1.28 s patch are not given, nor whether "
        "augmentation came before the split, which the control shows the worth of.",
    ),
    Claim(
        system="R1", recipes=("r1", "r1-leak"), corpus="emodb", trained_on=("emodb",), protocol="random",
        metric="accuracy", value=0.914,
        why="As for RAVDESS; 535 utterances of ten speakers, so one of the 54 of a random test side is 1.9 points.",
    ),
    Claim(
        system="R2", recipes=("r2", "r2-ensemble"), corpus="ravdess",
        trained_on=("ravdess", "ravdess-song", "tess"), protocol="random", metric="accuracy", value=0.898,
        why="Random split over RAVDESS speech and song and TESS: the same speakers and sentences are on both sides.",
    ),
    Claim(
        system="R3", recipes=("r3-lstm", "r3-lstm-traditional", "r3-multiscale", "r3-densenet"), corpus="tess",
        trained_on=("tess",), protocol="random", metric="accuracy", value=1.0,
        why="100 % is training accuracy from epoch 63 on; the paper's own table gives a mean recall of about 85 %. Two "
        "actresses, 200 words each said once per emotion: a random split tests words, not voices.",
    ),
    Claim(
        system="R4", recipes=("r4",), corpus="ravdess", trained_on=("ravdess",), protocol="random-75-25",
        metric="accuracy", value=0.72,
        why="Random 75/25 split of 24 actors who all train; every one of them says the same two sentences.",
    ),
)  # fmt: skip

#: Columns of `claims_table`.
CLAIMS_HEAD = (
    "system", "corpus", "claimed", "reproduced, random split", "a control: copies of the test side train",
    "UAR, unseen speakers", "why they differ",
)  # fmt: skip


def recipe_words(row: dict[str, Any]) -> str:
    """A row's recipe with what its name does not say: where its weights began, or that it is a control."""
    words = [row["recipe"]]
    if row["system"] == "r3-densenet-lstm":
        words.append("from ImageNet weights" if row["options"].get("pretrained") else "from scratch")
    if row["control"]:
        words.append(row["control"])
    return ", ".join(words)


def claims_table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For each claim: system, corpus, claimed, reproduced under a random split, with a leak, honest figure, why they
    differ.

    Every recipe that stands for the system is listed: to show the best of them would be to choose it by its test side.
    """
    made: list[tuple[str, ...]] = []
    for claim in CLAIMS:

        def figures(protocol: str, metric: str, *, leak: bool = False, claim: Claim = claim) -> str:
            found = [
                f"{r['recipe']} {r[metric]:.3f} ({r['epochs']} epochs, "
                f"{len(r['seeds'])} {'seed' if len(r['seeds']) == 1 else 'seeds'})"
                for r in rows
                if (r["corpus"], r["protocol"]) == (claim.corpus, protocol)
                and r["recipe"] in claim.recipes
                and tuple(r["trained_on"]) == claim.trained_on
                and r["complete"]
                and r["control"] == (LEAK if leak else None)
            ]
            return "; ".join(sorted(found))

        made.append(
            (
                claim.system, claim.corpus, f"{claim.value:.3f} {claim.metric}",
                figures(claim.protocol, claim.metric) or "not measured yet",
                figures(claim.protocol, claim.metric, leak=True),
                figures("speaker-independent", "uar") or "not measured yet", claim.why,
            )
        )  # fmt: skip
    return made
