"""Fixtures: a seeded generator, a synthetic voice, a corpus in RAVDESS's layout, and a tiny model trained on it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import settings

from serkit.edge.signature import signing_key

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SAMPLE_RATE = 16000

settings.register_profile("serkit", deadline=None)  # a busy machine is no error
settings.load_profile("serkit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("SERKIT_DATA"):
        return
    skip = pytest.mark.skip(reason="needs real recordings: set SERKIT_DATA to the folder that holds the corpora")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def data() -> Path:
    return Path(os.environ["SERKIT_DATA"])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def voice(pitch_hz: float, seconds: float, seed: int = 0) -> np.ndarray:
    """A buzz with harmonics, syllables and breath: speech enough for every gate, mono float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    harmonics = sum(np.sin(2 * np.pi * pitch_hz * k * t) / k for k in range(1, 12))
    syllables = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * t)
    return (0.1 * harmonics * syllables + 0.002 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture
def speech() -> np.ndarray:
    return voice(140, 5.0)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of pytest's workers to need it makes, for all of them; nobody changes it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            make(new)
            new.rename(folder)
    return folder


@pytest.fixture(scope="session")
def own_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A worker's own configuration; the key in it is everybody's, for bundles are shared."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("SERKIT_CONFIG", str(folder))
            signing_key()

    return Path(shutil.copytree(made_once(tmp_path_factory, "key", make), tmp_path_factory.mktemp("config") / "serkit"))


@pytest.fixture(autouse=True)
def _own_folders(own_config: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and caches of the tests never touch the user's, and last for the session."""
    monkeypatch.setenv("SERKIT_CONFIG", str(own_config))
    monkeypatch.setenv("SERKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAVDESS speech in its own layout: 24 actors, 4 emotions told apart by pitch, two takes."""
    root = tmp_path_factory.mktemp("corpora")
    for actor in range(1, 25):
        folder = root / "Audio_Speech_Actors_01-24" / f"Actor_{actor:02d}"
        folder.mkdir(parents=True)
        for emotion, pitch in (("01", 100), ("03", 190), ("05", 270), ("06", 400)):
            for take in ("01", "02"):
                samples = voice(pitch * (1 + 0.002 * actor), 1.2, seed=actor)
                name = f"03-01-{emotion}-01-01-{take}-{actor:02d}.wav"
                soundfile.write(folder / name, samples, SAMPLE_RATE)
    return root


TINY_RECIPE = """
system = "causal-cnn-bilstm"
labels = ["neutral", "happy", "angry", "fearful"]
[frontend]
n_mels = 40
[window]
n_frames = 72
hop_frames = 24
context_frames = 37
normalisation = "none"
range_db = 0.0
[model]
level_frames = 32
filters = [6, 8]
kernels = [5, 3]
strides = [2, 2]
features = 16
lstm_units = 16
dropout = 0.0
dense_dropout = 0.1
[split]
protocol = "ship-test"
[training]
epochs = 6
learning_rate = 4e-3
ema = 0.5
"""


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def tiny_run(corpus: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny causal CNN-BiLSTM on the synthetic corpus."""
    pytest.importorskip("tensorflow", reason="trains a model, which needs TensorFlow: pip install 'serkit[train]'")
    from serkit.train.fit import train
    from serkit.train.recipe import read_recipe

    cache = tmp_path_factory.mktemp("cache")
    return made_once(tmp_path_factory, "tiny", lambda out: train(read_recipe(tiny_recipe), corpus, out, cache=cache))


@pytest.fixture(scope="session")
def tiny_bundles(tiny_run: Path, own_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny run in every format, signed with the tests' key."""
    from serkit.convert.bundle import convert_formats
    from serkit.convert.export import FORMATS

    names = {format: f"tiny-{format}.tflite" for format in FORMATS}
    os.environ["SERKIT_CONFIG"] = str(own_config)
    folder = made_once(
        tmp_path_factory, "bundles", lambda new: convert_formats(tiny_run, {f: new / name for f, name in names.items()})
    )
    return {format: folder / name for format, name in names.items()}
