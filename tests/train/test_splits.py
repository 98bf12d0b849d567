from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.edge.errors import CorpusError
from serkit.train.corpora import Utterance, read_corpus
from serkit.train.splits import (
    FOLDS,
    PROTOCOLS,
    SHIP_TEST,
    check_speakers,
    check_unseen,
    folds_of,
    make_split,
    n_folds,
    voices,
)

EMOTIONS = ("neutral", "happy", "sad", "angry")
SPEAKERS = {
    "ravdess": [str(a) for a in range(1, 25)],
    "emodb": ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"],
    "tess": ["OAF", "YAF"],
    "nemo": ["EB0", "IC0", "KD0", "KS0", "MK0", "MP0", "SM0", "TP0", "WR0"],
}


def made_up(*corpora: str) -> list[Utterance]:
    return [
        Utterance(
            corpus=corpus, name=f"{speaker}-{emotion}-{take}", speaker=speaker, emotion=emotion,
            sex="female" if i % 2 else "male", path=Path("none"),
        )
        for corpus in corpora
        for i, speaker in enumerate(SPEAKERS[corpus])
        for emotion in EMOTIONS
        for take in range(5)
    ]  # fmt: skip


@given(protocol=st.sampled_from(PROTOCOLS), corpus=st.sampled_from(list(SPEAKERS)), fold=st.integers(0, 9),
       seed=st.integers(0, 99), share=st.floats(0.01, 0.5))  # fmt: skip
def test_nobody_is_on_two_sides(protocol: str, corpus: str, fold: int, seed: int, share: float) -> None:
    everyone = made_up(*(SPEAKERS if protocol == "cross-corpus" else [corpus]))
    folds = n_folds(everyone, protocol)
    split = make_split(everyone, protocol, fold=fold % folds, seed=seed, validation_share=share)
    sides = (split.train, split.validation, split.test)
    assert sorted(u.key for side in sides for u in side) == sorted(u.key for u in everyone)
    if split.speaker_independent and voices(split.train) != voices(split.validation):
        heard = [set(voices(side)) for side in sides]
        assert len(heard[0]) + len(heard[1]) + len(heard[2]) == len(set().union(*heard))
    again = make_split(list(reversed(everyone)), protocol, fold=fold % folds, seed=seed, validation_share=share)
    assert again == split


@pytest.mark.parametrize("corpus", list(SPEAKERS))
def test_every_speaker_is_tested_once(corpus: str) -> None:
    everyone = made_up(corpus)
    folds = len(folds_of(everyone, "speaker-independent"))
    assert folds == {"ravdess": 6, "emodb": 10, "tess": 2, "nemo": 9}[corpus]
    tested = [v for f in range(folds) for v in voices(make_split(everyone, "speaker-independent", fold=f).test)]
    assert sorted(tested) == voices(everyone)


def test_folds_are_those_of_emobox() -> None:
    assert sorted(int(a) for fold in FOLDS["ravdess"] for a in fold) == list(range(1, 25))
    assert SHIP_TEST["ravdess"] == FOLDS["ravdess"][0]


def test_ship_test_keeps_its_speakers_from_every_corpus_at_once() -> None:
    split = make_split(made_up("ravdess", "emodb", "tess", "nemo"), "ship-test")
    assert set(voices(split.test)) == {f"{c}/{s}" for c, kept in SHIP_TEST.items() for s in kept}
    assert "tess/OAF" in voices(split.train)
    assert {v for v in voices(split.test) if v.startswith("nemo/")} == {"nemo/MK0", "nemo/MP0", "nemo/SM0"}


def test_speech_and_song_share_their_actors() -> None:
    speech = made_up("ravdess")
    song = [replace(u, corpus="ravdess-song") for u in speech]
    split = make_split(speech + song, "speaker-independent", fold=2)
    assert len(voices(split.test)) == 4
    assert not set(voices(split.test)) & set(voices(split.train))
    with pytest.raises(CorpusError, match=r"ravdess/8 is in train and in test"):
        check_speakers(replace(split, train=(*split.train, song[[u.speaker for u in song].index("8")])))


def test_random_splits_have_the_papers_shares_and_do_not_depend_on_other_corpora() -> None:
    for protocol, shares in (("random", (0.8, 0.1, 0.1)), ("random-75-25", (0.675, 0.075, 0.25))):
        split = make_split(made_up("ravdess"), protocol, seed=3)
        total = 24 * 4 * 5
        assert [len(s) / total for s in (split.train, split.validation, split.test)] == pytest.approx(shares, abs=0.01)
        both = make_split(made_up("ravdess", "emodb"), protocol, seed=3)
        assert set(split.test) == {u for u in both.test if u.corpus == "ravdess"}


def test_a_planted_leak_is_found() -> None:
    split = make_split(made_up("ravdess"), "speaker-independent", fold=1)
    with pytest.raises(CorpusError, match=r"is in train and in test; this split leaks"):
        check_speakers(replace(split, train=(*split.train, split.test[0])))
    random = make_split(made_up("ravdess"), "random")
    with pytest.raises(CorpusError, match="is in validation and in test"):
        check_speakers(replace(random, validation=(random.test[0],)))


def test_the_last_voices_of_two_corpora_validate_themselves_on_other_utterances() -> None:
    """Told that the split leaks, one would look for a mistake where there are only too few voices."""
    speakers = {("ravdess", "1"), ("ravdess", "2"), ("tess", "OAF"), ("tess", "YAF")}
    few = [u for u in made_up("ravdess", "tess") if (u.corpus, u.speaker) in speakers]
    split = make_split(few, "ship-test")
    assert voices(split.train) == voices(split.validation) == ["ravdess/2", "tess/OAF"]
    assert not {u.key for u in split.train} & {u.key for u in split.validation}
    assert voices(split.test) == ["ravdess/1", "tess/YAF"]


def test_a_model_is_never_scored_on_what_it_knows() -> None:
    split = make_split(made_up("ravdess"), "ship-test")
    check_unseen(split, [u.key for u in split.train], voices(split.train))
    with pytest.raises(CorpusError, match="the model learned from ravdess/11"):
        check_unseen(split, [], ["ravdess/11"])
    with pytest.raises(CorpusError, match="the figure would not be honest"):
        check_unseen(split, [split.test[0].key], [])
    random = make_split(made_up("ravdess"), "random")
    check_unseen(random, [u.key for u in random.train], voices(random.train))
    with pytest.raises(CorpusError, match="the model learned from"):
        check_unseen(random, None, voices(random.train))


def test_tess_alone_validates_on_other_words_of_its_one_voice() -> None:
    split = make_split(made_up("tess"), "speaker-independent", fold=1, validation_share=0.2)
    sides = (split.train, split.validation, split.test)
    assert [voices(side) for side in sides] == [["tess/OAF"], ["tess/OAF"], ["tess/YAF"]]
    assert len(split.validation) == 4


@pytest.mark.parametrize("seed", range(12))
def test_a_copy_is_where_its_original_is(seed: int) -> None:
    names = [f"03-01-03-01-02-{take}-07" for take in ("01", "02")]
    everyone = made_up("ravdess")
    everyone += [replace(everyone[0], name=name) for name in names]
    split = make_split(everyone, "random", seed=seed)
    homes = {side for side in ("train", "validation", "test") for u in getattr(split, side) if u.name in names}
    assert len(homes) == 1


def test_what_makes_no_split_says_why() -> None:
    with pytest.raises(CorpusError, match="no protocol 'loso'"):
        make_split(made_up("tess"), "loso")
    with pytest.raises(CorpusError, match="fold 6 of ravdess under speaker-independent: there are folds 0 to 5"):
        make_split(made_up("ravdess"), "speaker-independent", fold=6)
    with pytest.raises(CorpusError, match="no utterance on the test side"):
        make_split([u for u in made_up("tess") if u.speaker == "OAF"], "ship-test")


@pytest.mark.data
def test_the_real_folds_have_240_utterances_each(data: Path) -> None:
    utterances = read_corpus("ravdess", data)
    splits = [make_split(utterances, "speaker-independent", fold=f) for f in range(6)]
    assert [len(s.test) for s in splits] == [240] * 6
