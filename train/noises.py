"""The noises that training may hear, as log-mel frames: of folders, white, and of many people at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.audio import read_audio
from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings, features
from serkit.train.acoustics import of_power_1
from serkit.train.corpora import recordings

Array = npt.NDArray[np.float32]

#: Kinds of noise (sub-folders) that only tests ever hear; training may use all others.
TEST_NOISES = ("babble", "car", "street", "transport")

#: Of the noise ``voices``: how many people talk at once, how many such crowds there are, and for how long, frames.
N_TALKERS, N_CROWDS, CROWD_FRAMES = 6, 8, 3000


def noise_frames(samples: Array, settings: FrontendSettings) -> Array:
    """Log-mel frames of a noise recording brought to a mean frame power of 1, ``(n_frames, n_mels)``."""
    return of_power_1(features(samples, settings))


def crowd(spoken: Sequence[npt.NDArray[np.floating[Any]]], rng: np.random.Generator) -> Array:
    """Log-mel frames of many who talk at once, of a mean frame power of 1, ``(CROWD_FRAMES, n_mels)``.

    Args:
        spoken: Log-mel frames of utterances.
        rng: Chooses who talks.
    """
    total = np.zeros((CROWD_FRAMES, spoken[0].shape[1]))
    for _ in range(N_TALKERS):
        said: list[Array] = []
        while sum(map(len, said)) < CROWD_FRAMES:
            power = np.exp(spoken[rng.integers(len(spoken))].astype(np.float32))
            said.append(power / power.sum(axis=1).mean())
        total += np.concatenate(said)[:CROWD_FRAMES]
    return of_power_1(np.log(total).astype(np.float32))


def noise_library(
    kinds: Sequence[str],
    frontend: FrontendSettings,
    data: Path,
    longest: int,
    spoken: Sequence[npt.NDArray[np.floating[Any]]] = (),
) -> list[Array]:
    """Frames of the noises that training may hear, each at least ``longest`` frames (short ones are repeated).

    Args:
        kinds: ``white`` and ``voices``, which are made here, and sub-folders of ``data / "noise"``.
        frontend: Of the frames.
        data: Folder of the corpora and the noise.
        longest: Frames.
        spoken: Log-mel frames of the utterances that train, of which ``voices`` is made.

    Raises:
        SettingsError: A kind has no folder of recordings below ``data / "noise"``, or nobody speaks for ``voices``.
    """
    if "voices" in kinds and not spoken:
        raise SettingsError("the noise 'voices' is made of utterances that train, and there are none; drop it")
    library: list[Array] = []
    rng = np.random.default_rng(0)
    for kind in kinds:
        if kind == "voices":
            sounds = [crowd(spoken, rng) for _ in range(N_CROWDS)]
        elif kind == "white":
            white = np.random.default_rng(0).standard_normal(20 * frontend.sample_rate).astype(np.float32)
            sounds = [noise_frames(white, frontend)]
        else:
            files = list(recordings(data / "noise" / kind))
            if not files:
                raise SettingsError(f"no noise recordings in {data / 'noise' / kind}; put some there, or drop {kind!r}")
            sounds = [noise_frames(read_audio(p, frontend.sample_rate), frontend) for p in files]
        library += [np.tile(frames, (-(-(longest + 1) // len(frames)), 1)) for frames in sounds]
    return library
