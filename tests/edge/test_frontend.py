from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.edge.errors import AudioError, SettingsError
from serkit.edge.frontend import Frontend, FrontendSettings, delta, features
from serkit.edge.mel import BandedMel, hz_to_mel, mel_filterbank, mel_to_hz
from serkit.edge.settings import build

RATE = 16000
PSF = {
    "pre_emphasis": 0.97,
    "padding": "end",
    "mel_edges": "binned",
    "power_scale": "n_fft",
    "n_mels": 26,
    "log_floor": float(np.finfo(float).eps),
}


@pytest.fixture
def librosa() -> ModuleType:
    return pytest.importorskip("librosa", reason="needs librosa: pip install 'serkit[reference]'")


@pytest.fixture
def python_speech_features() -> ModuleType:
    reason = "needs python_speech_features: pip install 'serkit[reference]'"
    return pytest.importorskip("python_speech_features", reason=reason)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


@pytest.mark.parametrize("n_samples", [16000, 16001, 16159, 399, 12345])
@pytest.mark.parametrize("n_mels", [26, 40])
def test_log_mel_equals_python_speech_features(python_speech_features: ModuleType, n_samples: int, n_mels: int) -> None:
    x = noise(1.1)[:n_samples]
    ours = features(x, FrontendSettings(**{**PSF, "n_mels": n_mels}, window="rectangular"))
    theirs = python_speech_features.logfbank(x, RATE, nfilt=n_mels)
    assert ours.shape == theirs.shape
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize("energy", [True, False])
def test_mfcc_and_deltas_equal_python_speech_features(python_speech_features: ModuleType, energy: bool) -> None:
    x = noise(1.3)
    settings_ = FrontendSettings(**PSF, kind="mfcc", window="hamming", energy=energy, deltas=2)
    ours = features(x, settings_)
    static = python_speech_features.mfcc(x, RATE, winfunc=np.hamming, appendEnergy=energy)
    first = python_speech_features.delta(static, 2)
    second = python_speech_features.delta(first, 2)
    for column, theirs in zip(np.split(ours, 3, axis=1), (static, first, second), strict=True):
        assert column.shape == theirs.shape
        assert relative(column, theirs) < 1e-4
    assert np.max(np.abs(delta(static) - first)) < 1e-4 * np.max(np.abs(first))


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", ["none", "slaney"])
@pytest.mark.parametrize("window", ["hann", "hamming"])
@pytest.mark.parametrize("center", [True, False])
def test_log_mel_equals_librosa(librosa: ModuleType, scale: str, norm: str, window: str, center: bool) -> None:
    x = noise(1.0)
    # librosa centres the 400-sample window in a 512-sample frame; uncentred, its first frame starts 56 samples late.
    ours = features(
        x if center else x[56:],
        FrontendSettings(
            n_mels=64,
            window=window,
            periodic=True,
            padding="center" if center else "none",
            mel_scale=scale,
            mel_norm=norm,
        ),
    )
    power = librosa.feature.melspectrogram(
        y=x, sr=RATE, n_fft=512, win_length=400, hop_length=160, window=window, n_mels=64, htk=scale == "htk",
        norm=None if norm == "none" else norm, center=center,
    )  # fmt: skip
    theirs = np.log(np.maximum(power.T, 1e-8))
    assert relative(ours[: len(theirs)], theirs) < 1e-4
    assert len(ours) == len(theirs) if center else len(ours) - len(theirs) in (0, 1)


def test_mel_filterbank_equals_librosa(librosa: ModuleType) -> None:
    ours = mel_filterbank(FrontendSettings(n_mels=40, mel_scale="slaney", mel_norm="slaney", fmin=50, fmax=7000))
    theirs = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=40, fmin=50, fmax=7000, dtype=np.float64)
    assert np.max(np.abs(ours - theirs)) < 1e-12


@given(hz=st.floats(0, 24000), scale=st.sampled_from(["htk", "slaney"]))
def test_mel_scales_round_trip(hz: float, scale: str) -> None:
    assert mel_to_hz(hz_to_mel(hz, scale), scale) == pytest.approx(hz, abs=1e-6)


KINDS = [
    FrontendSettings(),
    FrontendSettings(kind="mfcc", deltas=2, padding="center", energy=True, pre_emphasis=0.97),
    FrontendSettings(n_mels=40, deltas=1, padding="end", window="hann"),
    FrontendSettings(n_mels=20, win_length=100, hop_length=250, padding="end"),  # hop longer than the window
    FrontendSettings(n_mels=64, n_fft=1024, win_length=1024, hop_length=37, mel_norm="slaney", mel_scale="slaney"),
]


@pytest.mark.parametrize("kind", KINDS, ids=range(len(KINDS)))
@given(cuts=st.lists(st.integers(0, 9000), max_size=12), n_samples=st.integers(0, 20000))
@settings(max_examples=40)
def test_any_cut_gives_the_same_bits(kind: FrontendSettings, cuts: list[int], n_samples: int) -> None:
    x = noise(1.25)[:n_samples]
    frontend = Frontend(kind)
    frontend.push(noise(0.3, seed=1))  # another stream before it must not matter
    frontend.reset()
    parts = [frontend.push(block) for block in np.split(x, np.clip(np.sort(cuts), 0, len(x)))]
    assert np.array_equal(np.concatenate([*parts, frontend.flush()]), features(x, kind))


@pytest.mark.parametrize("n_mels", [128, 64, 26, 17, 1])
@pytest.mark.parametrize("block", [1, 80, 160, 512, 16000])
def test_blocks_of_a_microphone_give_the_same_bits(block: int, n_mels: int) -> None:
    settings_ = FrontendSettings(n_mels=n_mels)
    x = noise(1.0)
    frontend = Frontend(settings_)
    frontend.push(1e3 * noise(1.0, seed=1))  # nor does it matter what else stands in the matrix products
    frontend.reset()
    parts = [frontend.push(x[i : i + block]) for i in range(0, len(x), block)]
    assert np.array_equal(np.concatenate(parts), features(x, settings_))


@pytest.mark.parametrize("edges", ["exact", "binned"])
@pytest.mark.parametrize("scale", ["htk", "linear"])
@pytest.mark.parametrize(("first", "n"), [(0, 64), (7, 1), (31, 33)])
def test_banded_mel_equals_the_dense_filterbank(edges: str, scale: str, first: int, n: int) -> None:
    settings_ = FrontendSettings(n_mels=100, mel_edges=edges, mel_scale=scale, fmin=300, fmax=6000)
    mel = BandedMel(settings_, 64)
    power = np.random.default_rng(0).random((n, 257))
    mel.power(first, n)[:] = power
    assert np.allclose(mel(first, n), power @ mel_filterbank(settings_).T, rtol=1e-6)


def test_a_tone_lies_in_its_band() -> None:
    settings_ = FrontendSettings()
    x = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    centres = mel_to_hz(np.linspace(*hz_to_mel([0, 8000]), 130)[1:-1])
    assert abs(centres[features(x, settings_).mean(axis=0).argmax()] - 1000) < 40


def test_silence_is_the_floor_and_an_impulse_is_flat() -> None:
    settings_ = FrontendSettings(n_mels=26, window="rectangular")
    assert np.all(features(np.zeros(1000), settings_) == np.float32(np.log(1e-8)))
    impulse = np.zeros(400)
    impulse[7] = 1.0
    weights = mel_filterbank(settings_).sum(axis=1)
    assert np.allclose(features(impulse, settings_)[0], np.log(weights), atol=1e-5)


@pytest.mark.parametrize(
    ("padding", "n_samples", "n_frames"),
    [("none", 399, 0), ("none", 400, 1), ("none", 559, 1), ("none", 560, 2),
     ("end", 0, 0), ("end", 1, 1), ("end", 400, 1), ("end", 401, 2),
     ("center", 1, 1), ("center", 159, 1), ("center", 160, 2)],
)  # fmt: skip
def test_frame_counts(padding: str, n_samples: int, n_frames: int) -> None:
    assert len(features(np.ones(n_samples), FrontendSettings(padding=padding))) == n_frames


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(SettingsError, match=r"win_length 600 is longer than n_fft 512; raise n_fft"):
        FrontendSettings(win_length=600)
    with pytest.raises(SettingsError, match="needs 0 <= fmin < fmax <= 4000 Hz"):
        FrontendSettings(sample_rate=8000)
    with pytest.raises(SettingsError, match="mel_scale is 'bark'"):
        FrontendSettings(mel_scale="bark")
    with pytest.raises(SettingsError, match="unknown setting 'n_mel'"):
        build(FrontendSettings, {"n_mel": 40}, "test")
    with pytest.raises(AudioError, match=r"shape \(2, 100\)"):
        Frontend(FrontendSettings()).push(np.zeros((2, 100)))
