"""Features of whole corpora, computed once and kept on disk.

A cache file holds one corpus under one set of settings; its name carries a hash of both, so a changed
setting or recording never meets stale features. It is written atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from serkit.edge.errors import AudioError, CorpusError
from serkit.edge.frontend import FrontendSettings, features
from serkit.train.corpora import Utterance, read_utterance

_CACHE_VERSION = 1


def default_cache() -> Path:
    """``$SERKIT_CACHE``, else ``~/.cache/serkit``."""
    return Path(os.environ.get("SERKIT_CACHE") or Path.home() / ".cache" / "serkit").expanduser()


@dataclass(frozen=True)
class FeatureSet:
    """Features of many utterances.

    Attributes:
        utterances: Those that could be read, in the order asked for.
        frames: One array ``(n_frames, n_features)`` float16 per utterance.
        refused: One line for each recording that could not be used.
    """

    utterances: tuple[Utterance, ...]
    frames: tuple[npt.NDArray[np.float16], ...]
    refused: tuple[str, ...]

    def select(self, chosen: Iterable[Utterance]) -> FeatureSet:
        """The subset for one side of a split, in its order; refused recordings are left out."""
        index = {u.key: i for i, u in enumerate(self.utterances)}
        rows = [index[u.key] for u in chosen if u.key in index]
        return FeatureSet(tuple(self.utterances[i] for i in rows), tuple(self.frames[i] for i in rows), self.refused)


def load_features(utterances: Sequence[Utterance], settings: FrontendSettings, cache: Path | None = None) -> FeatureSet:
    """Log-mel features of ``utterances``, from the cache where it has them.

    Recordings that cannot be used are named on stderr, left out, and listed in the result.

    Raises:
        CorpusError: None of a corpus can be used.
    """
    found = load_frames(
        utterances, asdict(settings), settings.sample_rate, lambda samples: features(samples, settings), cache
    )
    for line in found.refused:
        Console(stderr=True).print(f"left out: {line}", highlight=False, soft_wrap=True)
    return found


def load_frames(
    utterances: Sequence[Utterance],
    what: dict[str, Any],
    sample_rate: int,
    listen: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating[Any]]],
    cache: Path | None = None,
) -> FeatureSet:
    """What ``listen`` makes of each recording, from the cache where it has it.

    Args:
        utterances: Of any corpora; the cache holds a file for each corpus and list of its recordings.
        what: Everything that ``listen`` depends on.
        sample_rate: At which ``listen`` takes samples, Hz.
        listen: Samples ``(n,)`` to frames ``(n_frames, n_features)``.
        cache: `default_cache` by default.

    Raises:
        CorpusError: None of a corpus can be used.
    """
    cache = cache or default_cache()
    kept: list[Utterance] = []
    frames: list[npt.NDArray[np.float16]] = []
    refused: list[str] = []
    for name in dict.fromkeys(u.corpus for u in utterances):
        corpus = sorted((u for u in utterances if u.corpus == name), key=lambda u: u.name)
        path = cache / "features" / f"{name}-{_fingerprint(corpus, what)}.npz"
        if not path.exists():
            _compute(corpus, sample_rate, listen, path)
        with np.load(path) as stored:
            refused += stored["refused"].tolist()
            if not len(stored["names"]):
                raise CorpusError(f"{name}: none of {len(corpus)} recordings can be used: {refused[-1]}")
            ends, joined = np.cumsum(stored["lengths"]), stored["frames"]
            parts = dict(zip(stored["names"].tolist(), np.split(joined, ends[:-1]), strict=True))
        for u in corpus:
            if u.name in parts:
                kept.append(u)
                frames.append(parts[u.name])
    return FeatureSet(tuple(kept), tuple(frames), tuple(refused))


def _fingerprint(corpus: Sequence[Utterance], what: dict[str, Any]) -> str:
    files = [(u.name, (s := u.path.stat()).st_size, s.st_mtime_ns) for u in corpus]
    text = json.dumps([_CACHE_VERSION, what, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _compute(
    corpus: Sequence[Utterance],
    sample_rate: int,
    listen: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating[Any]]],
    path: Path,
) -> None:
    names: list[str] = []
    frames: list[npt.NDArray[np.float16]] = []
    refused: list[str] = []
    console = Console(stderr=True)
    for u in track(corpus, f"features of {corpus[0].corpus}", console=console, transient=True):
        try:
            samples = read_utterance(u, sample_rate)
        except AudioError as error:
            refused.append(str(error))
            continue
        names.append(u.name)
        frames.append(listen(samples).astype(np.float16))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(
        temporary,
        names=np.array(names, dtype=str),
        lengths=np.array([len(f) for f in frames], dtype=np.int64),
        frames=np.concatenate(frames) if frames else np.empty((0, 0), np.float16),
        refused=np.array(refused, dtype=str),
    )
    temporary.replace(path)
