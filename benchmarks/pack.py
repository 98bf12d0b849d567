"""The test side of a protocol as one file of log-mel frames: the same utterances on a machine without the corpora."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import CorpusError, SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.settings import build
from serkit.train.corpora import CORPORA, Utterance
from serkit.train.evaluate import protocol_split
from serkit.train.features import load_features
from serkit.train.splits import Split

_COLUMNS = ("corpus", "name", "speaker", "emotion", "sex")


@dataclass(frozen=True)
class Pack:
    """Utterances ready to be cut into windows.

    Attributes:
        corpus: Key of `serkit.train.corpora.CORPORA`.
        protocol: Whose test side this is.
        frontend: Made the frames.
        utterances: The truth; their paths mean nothing.
        frames: One array ``(n_frames, n_features)`` float16 per utterance, not normalised.
    """

    corpus: str
    protocol: str
    frontend: FrontendSettings
    utterances: tuple[Utterance, ...]
    frames: tuple[npt.NDArray[np.float16], ...]

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the utterances, their labels, the front end and every frame."""
        truth = [[getattr(u, c) for c in _COLUMNS] for u in self.utterances]
        about = [self.corpus, self.protocol, asdict(self.frontend), truth, [len(f) for f in self.frames]]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for f in self.frames:
            digest.update(f.astype("<f2").tobytes())
        return digest.hexdigest()[:16]

    @property
    def split(self) -> Split:
        """What `serkit.train.splits.check_unseen` asks for."""
        return Split(protocol=self.protocol, fold=0, train=(), validation=(), test=self.utterances)


def make_pack(
    corpus: str, data: Path, protocol: str, labels: Sequence[str], split: dict[str, Any], frontend: FrontendSettings
) -> Pack:
    """The test utterances of a protocol, by a model's labels, split and front end.

    Raises:
        CorpusError: The corpus is missing or none of its recordings can be used.
    """
    features = load_features(protocol_split(corpus, data, protocol, labels, split).test, frontend)
    return Pack(corpus, protocol, frontend, features.utterances, features.frames)


def write_pack(path: Path, pack: Pack) -> None:
    """Write a pack, atomically.

    Raises:
        SettingsError: It cannot be written.
    """
    about = {"corpus": pack.corpus, "protocol": pack.protocol, "frontend": asdict(pack.frontend)}
    columns = {c: np.array([getattr(u, c) for u in pack.utterances], dtype=str) for c in _COLUMNS}
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(
            temporary,
            about=np.array(json.dumps(about)),
            lengths=np.array([len(f) for f in pack.frames], np.int64),
            frames=np.concatenate(pack.frames),
            **columns,
        )
        temporary.replace(path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error.strerror}); choose another --pack") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_pack(path: Path) -> Pack:
    """Read a pack that `write_pack` wrote.

    Raises:
        CorpusError: Missing, or not such a file.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:
            about = json.loads(str(stored["about"]))
            frontend = build(FrontendSettings, about["frontend"], "frontend")
            columns = [stored[c].tolist() for c in _COLUMNS]
            lengths, joined = stored["lengths"], stored["frames"]
        utterances = tuple(
            Utterance(**dict(zip(_COLUMNS, values, strict=True)), path=Path()) for values in zip(*columns, strict=True)
        )
        shape = (int(lengths.sum()), frontend.n_features)
        whole = joined.dtype == np.float16 and joined.shape == shape and np.isfinite(joined).all()
        if not utterances or len(lengths) != len(utterances) or lengths.min() < 1 or not whole:
            raise ValueError("its parts do not fit together")
        if strange := {u.corpus for u in utterances} - set(CORPORA):
            raise ValueError(f"unknown corpus {min(strange)!r}")
        frames = tuple(np.split(joined, np.cumsum(lengths)[:-1]))
        return Pack(str(about["corpus"]), str(about["protocol"]), frontend, utterances, frames)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such pack; `serkit bench accuracy --pack {path.name}` writes one") from None
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorpusError(
            f"{path}: not a pack of utterances ({reason}); write it again with `serkit bench accuracy --pack`"
        ) from None
