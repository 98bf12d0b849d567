"""Who trains, who validates, who tests: every protocol by name, each one fixed.

Speaker-independent protocols never have one voice on two sides (`check_speakers`). Random splits are the papers' own:
the same speakers are on both sides, figures come out 15 to 35 points too high, and every result says so by its name.

================== =========================================================================================
protocol           meaning
================== =========================================================================================
ship-test          test RAVDESS {1, 11, 20, 21}, EMO-DB {03, 08}, TESS YAF, nEMO {MK0, MP0, SM0}: unknown to what ships
speaker-independent folds: RAVDESS the six of EmoBox, EMO-DB, nEMO leave one speaker out, TESS actress against actress
random             80 / 10 / 10 of the utterances, stratified by emotion (R1 names these shares)
random-75-25       75 / 25, the tenth of the training part validates (R4)
================== =========================================================================================
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from serkit.edge.errors import CorpusError
from serkit.train.corpora import CORPORA, Utterance

#: Voices no shipped model may learn from or be tuned on.
SHIP_TEST: dict[str, frozenset[str]] = {
    "ravdess": frozenset({"1", "11", "20", "21"}),
    "emodb": frozenset({"03", "08"}),
    "tess": frozenset({"YAF"}),
    "nemo": frozenset({"MK0", "MP0", "SM0"}),
}

#: Test speakers of each speaker-independent fold; corpora without an entry leave one speaker out.
FOLDS: dict[str, tuple[frozenset[str], ...]] = {
    "ravdess": tuple(
        frozenset(map(str, actors))
        for actors in (
            (1, 11, 20, 21),
            (4, 10, 12, 14),
            (8, 9, 19, 23),
            (3, 5, 7, 24),
            (2, 15, 16, 18),
            (6, 13, 17, 22),
        )
    ),
}

#: Recordings that are byte for byte another one: in a random split both are on one side.
COPIES = {"ravdess/03-01-03-01-02-02-07": "ravdess/03-01-03-01-02-01-07"}

PROTOCOLS = ("ship-test", "speaker-independent", "cross-corpus", "random", "random-75-25")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Three disjoint lists of utterances; ``validation`` picks the epoch, ``test`` is only ever scored."""

    protocol: str
    fold: int
    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]

    @property
    def everyone(self) -> list[Utterance]:
        """Of all three, each once."""
        return list(dict.fromkeys([*self.train, *self.validation, *self.test]))

    @property
    def speaker_independent(self) -> bool:
        return not self.protocol.startswith("random")


def ships_test(utterance: Utterance) -> bool:
    """Whether no shipped model may learn from it."""
    return utterance.speaker in SHIP_TEST.get(CORPORA[utterance.corpus].voices, ())


def voices(utterances: Iterable[Utterance]) -> list[str]:
    """The people who speak, sorted."""
    return sorted({u.voice for u in utterances})


def check_speakers(split: Split) -> None:
    """Assert that the sides are disjoint: by voice for speaker-independent protocols, by utterance for random ones.

    Raises:
        CorpusError: One voice or one utterance is on two sides; names it.
    """
    sides = {"train": split.train, "validation": split.validation, "test": split.test}
    # One training voice of each corpus (TESS) has nobody else to validate it; the test side stays other people's.
    corpora = [voice.split("/", 1)[0] for voice in voices(split.train)]
    alone = len(corpora) == len(set(corpora))
    names = list(sides)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if split.speaker_independent and not (alone and b == "validation"):
                shared = set(voices(sides[a])) & set(voices(sides[b]))
            else:
                shared = {u.key for u in sides[a]} & {u.key for u in sides[b]}
            if shared:
                raise CorpusError(f"{split.protocol}: {sorted(shared)[0]} is in {a} and in {b}; this split leaks")


def check_unseen(split: Split, utterances: Iterable[str] | None, known_voices: Iterable[str]) -> None:
    """Assert that a model may be scored on a split's test side.

    Args:
        split: Whose ``test`` is to be scored.
        utterances: Keys of every utterance the model trained or was tuned on; None for all of those voices'.
        known_voices: Their voices.

    Raises:
        CorpusError: The model knows a test utterance or, unless the protocol is a random split, a test voice.
    """
    known, heard = set(utterances or ()), set(known_voices)
    by_voice = utterances is None or split.speaker_independent
    for u in split.test:
        if u.key in known or (by_voice and u.voice in heard):
            raise CorpusError(
                f"the model learned from {u.voice}, and {split.protocol} would score {u.key}: the figure would not be "
                "honest; choose the protocol it was trained under"
            )


def by_voices(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Utterances by group of voices: speech and song of RAVDESS share actors, so they are split as one."""
    groups: dict[str, list[Utterance]] = defaultdict(list)
    for u in utterances:
        groups[CORPORA[u.corpus].voices].append(u)
    return dict(sorted(groups.items()))


def n_folds(utterances: Sequence[Utterance], protocol: str) -> int:
    """How many folds test every speaker, or corpus, once; 1 for the random draws, of which there is no end."""
    return n_folds_of(voices(utterances), protocol)


def n_folds_of(speakers: Iterable[str], protocol: str) -> int:
    """The same for voices, such as ``ravdess/12``."""
    groups: dict[str, set[str]] = defaultdict(set)
    for corpus, speaker in (voice.split("/", 1) for voice in speakers):
        groups[corpus].add(speaker)
    if protocol == "cross-corpus":
        return len(groups)
    return 1 if protocol.startswith("random") else max(len(_folds(g, s, protocol)) for g, s in groups.items())


def folds_of(utterances: Sequence[Utterance], protocol: str) -> tuple[frozenset[str], ...]:
    """The test speakers of each fold of a speaker-independent protocol, for utterances of one group of voices."""
    return _folds(CORPORA[utterances[0].corpus].voices, {u.speaker for u in utterances}, protocol)


def _folds(corpus: str, speakers: Iterable[str], protocol: str) -> tuple[frozenset[str], ...]:
    if protocol == "ship-test":
        return (SHIP_TEST.get(corpus, frozenset()),)
    return FOLDS.get(corpus) or tuple(frozenset({s}) for s in sorted(speakers))


def _validation_speakers(candidates: Sequence[Utterance], count: int, seed: int) -> set[str]:
    """``count`` speakers of one corpus, as evenly split between the sexes as they come, by seed."""
    by_sex: dict[str, list[str]] = defaultdict(list)
    for u in candidates:
        if u.speaker not in by_sex[u.sex]:
            by_sex[u.sex].append(u.speaker)
    rng = np.random.default_rng(seed)
    pools = [list(rng.permutation(sorted(pool))) for _, pool in sorted(by_sex.items())]
    chosen: set[str] = set()
    while len(chosen) < count and any(pools):
        for pool in pools:
            if pool and len(chosen) < count:
                chosen.add(str(pool.pop()))
    return chosen


def make_split(
    utterances: Sequence[Utterance],
    protocol: str,
    *,
    fold: int = 0,
    seed: int = 0,
    validation_share: float = 0.15,
    needed: Sequence[str] = ("train", "test"),
) -> Split:
    """Split the utterances of one or several corpora.

    Args:
        utterances: From `read_corpus`, labels already restricted to those of the model.
        protocol: One of `PROTOCOLS`.
        fold: Which fold, from 0. Where several corpora have different numbers of folds, the shorter ones start again.
        seed: Draws validation speakers, or the whole of a random split.
        validation_share: Share of the remaining speakers of each corpus that validate, at least one where two or more
            remain. Where no corpus has two left (TESS alone), that share of the utterances validates.
        needed: Sides that may not be empty; who only scores needs no ``train``.

    Raises:
        CorpusError: Unknown protocol, fold out of range, or an empty side.
    """
    if protocol not in PROTOCOLS:
        raise CorpusError(f"no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    ordered = sorted(utterances, key=lambda u: u.key)
    if protocol.startswith("random"):
        train, validation, test = _random(ordered, protocol, seed, fold)
    else:
        train, validation, test = _by_speaker(ordered, protocol, fold, seed, validation_share)
    split = Split(protocol=protocol, fold=fold, train=tuple(train), validation=tuple(validation), test=tuple(test))
    check_speakers(split)
    for side in needed:
        if not getattr(split, side):
            raise CorpusError(
                f"{protocol}, fold {fold}: no utterance on the {side} side of "
                f"{', '.join(sorted({u.corpus for u in ordered}))}; "
                "choose a protocol that has speakers for both, or complete the corpus"
            )
    return split


def _by_speaker(
    ordered: Sequence[Utterance], protocol: str, fold: int, seed: int, validation_share: float
) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    groups = by_voices(ordered)
    available = n_folds(ordered, protocol)
    if not 0 <= fold < available:
        raise CorpusError(f"fold {fold} of {', '.join(groups)} under {protocol}: there are folds 0 to {available - 1}")
    train: list[Utterance] = []
    validation: list[Utterance] = []
    test: list[Utterance] = []
    for i, members in enumerate(groups.values()):
        if protocol == "cross-corpus":
            kept = {u.speaker for u in members} if i == fold else frozenset()
        else:
            folds = folds_of(members, protocol)
            kept = folds[fold % len(folds)]
        rest = [u for u in members if u.speaker not in kept]
        n_rest = len({u.speaker for u in rest})
        count = max(1, round(validation_share * n_rest)) if n_rest > 1 and validation_share > 0 else 0
        validators = _validation_speakers(rest, count, seed)
        test += [u for u in members if u.speaker in kept]
        validation += [u for u in rest if u.speaker in validators]
        train += [u for u in rest if u.speaker not in validators]
    if not validation:  # no corpus has two voices left: each validates itself, on other utterances
        train, validation, _ = _stratified(train, (1 - validation_share, 1.0), (seed,))
    return train, validation, test


def _random(
    ordered: Sequence[Utterance], protocol: str, seed: int, draw: int
) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    sides = _stratified(
        ordered, (0.8, 0.9) if protocol == "random" else (0.675, 0.75), (seed, draw) if draw else (seed,)
    )
    for side in sides:  # a copy goes where its original is
        for copy in [u for u in side if u.key in COPIES]:
            home = next((s for s in sides if any(u.key == COPIES[copy.key] for u in s)), side)
            side.remove(copy)
            home.append(copy)
    return sides


def _stratified(
    utterances: Sequence[Utterance], ends: tuple[float, float], seed: tuple[int, ...]
) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    """Three random sides with the same mix of emotions; ``ends`` are the shares at which train and validation end."""
    sides: tuple[list[Utterance], list[Utterance], list[Utterance]] = ([], [], [])
    by_class: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for u in utterances:
        by_class[u.corpus, u.emotion].append(u)
    for (corpus, emotion), members in sorted(by_class.items()):
        # Seeded per class, so that a corpus splits the same way alone and among others.
        rng = np.random.default_rng([*seed, zlib.crc32(f"{corpus}/{emotion}".encode())])
        order = rng.permutation(len(members))
        cuts = [0, *(round(end * len(members)) for end in ends), len(members)]
        for side, (start, stop) in zip(sides, pairwise(cuts), strict=True):
            side += [members[i] for i in order[start:stop]]
    return sides
