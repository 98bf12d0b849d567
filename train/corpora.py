"""Readers for RAVDESS speech and song, EMO-DB, TESS and nEMO: which recordings, who speaks, with what emotion.

A corpus is found by its file names, so any folder works: the official download, a copy of it, or a folder that holds
several corpora. The suffix is free (WAV, FLAC, Opus, ...): libsndfile looks at the content. A name found twice (some
downloads hold everything twice) counts once.

======== ========================================================== ======================= ==========================
corpus   file name                                                  speaker                 emotion
======== ========================================================== ======================= ==========================
ravdess  ``03-01-05-02-01-01-12``, speech                           7th field, odd = male   3rd field
ravdess- ``03-02-...``, song                                        7th field               3rd field
song
emodb    ``03a01Wa``                                                first two digits        6th character
tess     ``OAF_back_angry``                                         first part; OA is OAF   last part
nemo     ``SM0_anger_77`` listed in ``data.tsv``                    ``data.tsv``            ``data.tsv``
======== ========================================================== ======================= ==========================
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serkit.edge.audio import describe_audio, read_audio
from serkit.edge.errors import AudioError, CorpusError
from serkit.train.labels import CODES


@dataclass(frozen=True, kw_only=True, order=True)
class Utterance:
    """One labelled recording.

    Attributes:
        corpus: Key of `CORPORA`.
        name: File name without suffix, unique within the corpus.
        speaker: The corpus's own name for the speaker; unique within the corpus.
        emotion: One of `serkit.train.labels.EMOTIONS`.
        sex: ``male`` or ``female``.
        path: Where the recording is.
    """

    corpus: str
    name: str
    speaker: str
    emotion: str
    sex: str
    path: Path

    @property
    def key(self) -> str:
        """The same recording's name on any machine, ``corpus/name``."""
        return f"{self.corpus}/{self.name}"

    @property
    def voice(self) -> str:
        """The person, named across corpora: RAVDESS speech and song share their actors."""
        return f"{CORPORA[self.corpus].voices}/{self.speaker}"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is known of a corpus.

    Attributes:
        title: Its name in print.
        n_files: Recordings in the complete corpus.
        licence: Terms of the recordings, which weights trained on them carry.
        folders: Usual folder names, looked into first.
        voices: Corpora with the same value share their speakers.
        read: Yields the utterances below a folder, in any order, duplicates included.
    """

    title: str
    n_files: int
    licence: str
    folders: tuple[str, ...]
    voices: str
    read: Callable[[str, Path], Iterator[Utterance]]


#: What counts as a recording in a folder.
AUDIO_SUFFIXES = {".wav", ".flac", ".opus", ".ogg", ".mp3", ".aif", ".aiff", ".w64"}
_EMODB_MALE = {"03", "10", "11", "12", "15"}


def recordings(folder: Path) -> Iterator[Path]:
    """Audio files below a folder, sorted; by suffix."""
    return (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES)


def _read_ravdess(channel: str) -> Callable[[str, Path], Iterator[Utterance]]:
    pattern = re.compile(rf"0[13]-{channel}-(0[1-8])-0[12]-0[12]-0[12]-(\d\d)")

    def read(corpus: str, folder: Path) -> Iterator[Utterance]:
        for path in recordings(folder):
            if (match := pattern.fullmatch(path.stem)) and path.stem.startswith("03"):  # 01 is the video's sound
                emotion, actor = match.groups()
                yield Utterance(
                    corpus=corpus,
                    name=path.stem,
                    speaker=str(int(actor)),
                    emotion=CODES["ravdess"][emotion],
                    sex="male" if int(actor) % 2 else "female",
                    path=path,
                )

    return read


def _read_emodb(corpus: str, folder: Path) -> Iterator[Utterance]:
    for path in recordings(folder):
        if match := re.fullmatch(r"(\d\d)[ab]\d\d([WLEAFTN])[a-z]?", path.stem):
            speaker, emotion = match.groups()
            yield Utterance(
                corpus=corpus,
                name=path.stem,
                speaker=speaker,
                emotion=CODES["emodb"][emotion],
                sex="male" if speaker in _EMODB_MALE else "female",
                path=path,
            )


def _read_tess(corpus: str, folder: Path) -> Iterator[Utterance]:
    for path in recordings(folder):
        if match := re.fullmatch(r"(OAF|YAF|OA)_([a-z]+)_([a-z]+)", path.stem):
            speaker, _, emotion = match.groups()
            if emotion in CODES["tess"]:
                yield Utterance(
                    corpus=corpus,
                    name=path.stem,
                    speaker="OAF" if speaker == "OA" else speaker,
                    emotion=CODES["tess"][emotion],
                    sex="female",
                    path=path,
                )


def _read_nemo(corpus: str, folder: Path) -> Iterator[Utterance]:
    tables = sorted(folder.rglob("data.tsv"))
    if not tables:
        return
    found = {p.stem: p for p in reversed(list(recordings(tables[0].parent)))}
    with tables[0].open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), start=2):
            try:
                name = Path(row["file_id"].strip()).stem
                speaker, sex, emotion = (
                    row["speaker_id"].strip(),
                    row["gender"].strip(),
                    row["emotion"].strip(),
                )
                emotion = CODES["nemo"][emotion]
            except (KeyError, AttributeError) as error:
                raise CorpusError(
                    f"{tables[0]}, line {number}: not a row of nEMO ({error}); it needs file_id, emotion, speaker_id "
                    "and gender; download the corpus again"
                ) from None
            if name in found:
                yield Utterance(corpus=corpus, name=name, speaker=speaker, emotion=emotion, sex=sex, path=found[name])


CORPORA = {
    "ravdess": Corpus(
        title="RAVDESS speech",
        n_files=1440,
        licence="CC BY-NC-SA 4.0",
        folders=("ravdess_speech", "Audio_Speech_Actors_01-24"),
        voices="ravdess",
        read=_read_ravdess("01"),
    ),
    "ravdess-song": Corpus(
        title="RAVDESS song",
        n_files=1012,
        licence="CC BY-NC-SA 4.0",
        folders=("ravdess_song", "Audio_Song_Actors_01-24"),
        voices="ravdess",
        read=_read_ravdess("02"),
    ),
    "emodb": Corpus(
        title="EMO-DB",
        n_files=535,
        licence="free to use, citation requested",
        folders=("emodb", "EMO-DB", "emo-db"),
        voices="emodb",
        read=_read_emodb,
    ),
    "tess": Corpus(
        title="TESS",
        n_files=2800,
        licence="CC BY-NC-ND 4.0",
        folders=("tess", "TESS"),
        voices="tess",
        read=_read_tess,
    ),
    "nemo": Corpus(
        title="nEMO",
        n_files=4481,
        licence="CC BY-NC-SA 4.0",
        folders=("nemo", "nEMO"),
        voices="nemo",
        read=_read_nemo,
    ),
}


def read_corpus(corpus: str, data: Path) -> list[Utterance]:
    """All recordings of a corpus below ``data``, sorted by name, every name once.

    Args:
        corpus: Key of `CORPORA`.
        data: The corpus's own folder, or one that holds it (with others).

    Raises:
        CorpusError: The corpus is unknown, the folder is missing, or holds no recording of it.
    """
    if corpus not in CORPORA:
        raise CorpusError(f"no corpus {corpus!r}; choose one of {', '.join(CORPORA)}")
    if not data.is_dir():
        raise CorpusError(f"no folder {data}; give the folder that holds {CORPORA[corpus].title} with --data")
    spec = CORPORA[corpus]
    folders = [data / name for name in spec.folders if (data / name).is_dir()] or [data]
    found: dict[str, Utterance] = {}
    for folder in folders:
        for utterance in spec.read(corpus, folder):
            found.setdefault(utterance.name, utterance)
    if not found:
        raise CorpusError(
            f"no recording of {spec.title} below {data}; unpack the official download there (file names are kept)"
        )
    return [found[name] for name in sorted(found)]


def read_utterance(utterance: Utterance, sample_rate: int) -> npt.NDArray[np.float32]:
    """The recording, mono, resampled, float32 ``(n_samples,)``.

    Raises:
        AudioError: It is broken, silent from end to end, or not the corpus's recording at all (public copies of TESS
            have two files overwritten by a foreign 32-bit float recording; TESS is 16-bit throughout).
    """
    info = describe_audio(utterance.path)
    if utterance.corpus == "tess" and info.subtype in {"FLOAT", "DOUBLE"}:
        raise AudioError(
            f"{utterance.path}: {info.samplerate} Hz {info.subtype.lower()} samples, but TESS is 16-bit: this is not a "
            "recording of TESS (a known fault of public copies); remove it"
        )
    samples = read_audio(utterance.path, sample_rate)
    if not np.any(samples):
        raise AudioError(f"{utterance.path}: every sample is zero; a recording of speech is needed; copy it again")
    return samples
