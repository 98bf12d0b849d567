from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.edge.errors import AudioError, CorpusError
from serkit.train.corpora import CORPORA, read_corpus, read_utterance
from serkit.train.labels import EMOTIONS

RATE = 16000


def write(path: Path, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(rate) / 10), rate)


@pytest.mark.parametrize("prefix", ["", "Audio_Speech_Actors_01-24/", "archive/deeper/"])
def test_ravdess_speech_is_found_in_any_folder_and_told_from_song_and_video(tmp_path: Path, prefix: str) -> None:
    for name in ("03-01-05-01-02-01-12", "03-02-05-01-02-01-12", "01-01-05-01-02-01-12", "notes"):
        write(tmp_path / prefix / "Actor_12" / f"{name}.wav")
    (u,) = read_corpus("ravdess", tmp_path)
    assert (u.name, u.speaker, u.emotion, u.sex) == ("03-01-05-01-02-01-12", "12", "angry", "female")
    assert u.voice == "ravdess/12"
    (song,) = read_corpus("ravdess-song", tmp_path)
    assert song.voice == u.voice


def test_every_code_of_every_corpus(tmp_path: Path) -> None:
    emotions = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
    for i in range(1, 9):
        write(tmp_path / f"03-01-0{i}-01-01-01-01.wav")
    for code in "WLEAFTN":
        write(tmp_path / f"03a01{code}a.wav")
    for word in ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad"):
        write(tmp_path / f"OAF_back_{word}.wav")
    assert [u.emotion for u in read_corpus("ravdess", tmp_path)] == emotions
    assert {u.name[5]: u.emotion for u in read_corpus("emodb", tmp_path)} == {
        "W": "angry", "L": "boredom", "E": "disgust", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral",
    }  # fmt: skip
    assert {u.name.split("_")[2]: u.emotion for u in read_corpus("tess", tmp_path)} == {
        "angry": "angry", "disgust": "disgust", "fear": "fearful", "happy": "happy", "neutral": "neutral",
        "ps": "surprised", "sad": "sad",
    }  # fmt: skip
    assert {u.emotion for c in ("ravdess", "emodb", "tess") for u in read_corpus(c, tmp_path)} <= set(EMOTIONS)


def test_nemo_reads_its_table_and_strips_its_blanks(tmp_path: Path) -> None:
    write(tmp_path / "samples" / "SM0_anger_77.wav", 24000)
    rows = "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
    rows += 'SM0_anger_77.wav\tanger\t"Tak.\ttak\t        SM0\tmale\t23\n'
    rows += "gone.wav\tanger\tTak.\ttak\t        SM0\tmale\t23\n"
    (tmp_path / "data.tsv").write_text(rows)
    (tmp_path / "samples" / "stray_anger_1.wav").write_bytes(b"")
    (u,) = read_corpus("nemo", tmp_path)
    assert (u.speaker, u.sex, u.emotion) == ("SM0", "male", "angry")
    (tmp_path / "data.tsv").write_text(rows.replace("\tanger\t", "\tjoy\t"))
    with pytest.raises(CorpusError, match=r"data\.tsv, line 2: not a row of nEMO \('joy'\)"):
        read_corpus("nemo", tmp_path)


def test_a_file_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    for folder in ("TESS/OAF_Fear", "TESS/again/OAF_Fear"):
        write(tmp_path / folder / "OAF_back_fear.wav")
    write(tmp_path / "TESS" / "OA_bite_neutral.wav")
    utterances = read_corpus("tess", tmp_path)
    assert [(u.name, u.speaker) for u in utterances] == [("OAF_back_fear", "OAF"), ("OA_bite_neutral", "OAF")]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus 'iemocap'; choose one of ravdess"):
        read_corpus("iemocap", tmp_path)
    with pytest.raises(CorpusError, match=r"no folder .*; give the folder that holds TESS with --data"):
        read_corpus("tess", tmp_path / "gone")
    with pytest.raises(CorpusError, match="no recording of EMO-DB below"):
        read_corpus("emodb", tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("corpus", "n", "speakers", "emotions"),
    [("ravdess", 1440, 24, 8), ("ravdess-song", 1009, 23, 6), ("emodb", 535, 10, 7), ("tess", 2798, 2, 7),
     ("nemo", 4481, 9, 6)],
)  # fmt: skip
def test_the_real_corpora_are_whole(data: Path, corpus: str, n: int, speakers: int, emotions: int) -> None:
    utterances = read_corpus(corpus, data)
    assert len(utterances) == n
    assert len({u.speaker for u in utterances}) == speakers
    assert len({u.emotion for u in utterances}) == emotions
    assert n <= CORPORA[corpus].n_files


@pytest.mark.data
def test_ravdess_classes_have_the_published_sizes(data: Path) -> None:
    counts = Counter(u.emotion for u in read_corpus("ravdess", data))
    assert counts == {e: 96 if e == "neutral" else 192 for e in EMOTIONS[:8]}


@pytest.mark.data
@pytest.mark.parametrize(
    ("oddity", "corpus", "name", "speaker", "seconds"),
    [
        ("ravdess_mono_48k_03-01-05-02-01-01-07.wav", "ravdess", "03-01-05-02-01-01-07.wav", "7", 3.604),
        ("ravdess_stereo_48k_03-01-02-01-02-02-05.wav", "ravdess", "03-01-02-01-02-02-05.wav", "5", 4.238),
        ("tess_96k_header_OAF_food_fear.wav", "tess", "OAF_food_fear.wav", "OAF", 1.512),
        ("tess_aiff_named_wav_YAF_germ_angry.wav", "tess", "YAF_germ_angry.wav", "YAF", 2.206),
        ("tess_misnamed_OA_bite_neutral.wav", "tess", "OA_bite_neutral.wav", "OAF", 2.113),
    ],
)
def test_odd_originals_are_read_rightly(
    data: Path, tmp_path: Path, oddity: str, corpus: str, name: str, speaker: str, seconds: float
) -> None:
    shutil.copyfile(data / "oddities" / oddity, tmp_path / name)
    (u,) = read_corpus(corpus, tmp_path)
    assert u.speaker == speaker
    assert len(read_utterance(u, RATE)) / RATE == pytest.approx(seconds, abs=0.001)


@pytest.mark.data
@pytest.mark.parametrize(
    ("oddity", "message"),
    [
        ("tess_foreign_44k_float_OAF_back_angry.wav", "44100 Hz float samples, but TESS is 16-bit"),
        ("truncated_header_says_more.wav", "truncated"),
        ("empty.wav", "an empty file"),
        ("random_bytes.wav", "not an audio file"),
    ],
)
def test_what_is_no_recording_of_the_corpus_is_refused(data: Path, tmp_path: Path, oddity: str, message: str) -> None:
    shutil.copyfile(data / "oddities" / oddity, tmp_path / "OAF_back_angry.wav")
    (u,) = read_corpus("tess", tmp_path)
    with pytest.raises(AudioError, match=message):
        read_utterance(u, RATE)


def test_a_recording_of_nothing_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "03a01Wa.wav", np.zeros(RATE), RATE)
    (u,) = read_corpus("emodb", tmp_path)
    with pytest.raises(AudioError, match="every sample is zero"):
        read_utterance(u, RATE)
