from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.edge.errors import SettingsError
from serkit.train.conditions import (
    SNRS_DB,
    clipped,
    conditions,
    gain,
    noise,
    noises,
    room,
    simulated_room,
    telephone,
)


@pytest.fixture
def hiss(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "noise" / "car"
    folder.mkdir(parents=True)
    soundfile.write(folder / "hiss.wav", 0.1 * rng.standard_normal(16000), 16000)
    return folder


@pytest.mark.parametrize("snr_db", SNRS_DB)
def test_noise_stands_at_its_ratio_and_in_the_same_place_each_time(
    hiss: Path, speech: np.ndarray, snr_db: float
) -> None:
    condition = noise("car", noises(hiss, 16000), snr_db)
    noisy = condition.apply(speech, "a")
    added = noisy - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.01)
    assert np.array_equal(noisy, condition.apply(speech, "a"))
    assert not np.array_equal(noisy, condition.apply(speech, "b"))


def test_a_room_of_one_impulse_changes_nothing_and_an_echo_comes_late(tmp_path: Path, speech: np.ndarray) -> None:
    response = np.zeros(8000)
    response[100] = 0.5  # the direct sound; the delay before it does not count
    soundfile.write(tmp_path / "dry.wav", response, 16000, subtype="FLOAT")
    assert np.max(np.abs(room(tmp_path / "dry.wav", 16000).apply(speech, "a") - speech)) < 1e-4
    response[4100] = 0.5
    soundfile.write(tmp_path / "echo.wav", response, 16000, subtype="FLOAT")
    click = np.zeros(16000, np.float32)
    click[1000] = 1
    wet = room(tmp_path / "echo.wav", 16000).apply(click, "a")
    assert np.flatnonzero(np.abs(wet) > 0.1).tolist() == [1000, 5000]
    assert np.mean(wet**2) == pytest.approx(np.mean(click**2), rel=1e-3)


@pytest.mark.parametrize(("rt60_s", "direct_db"), [(0.3, 3.0), (1.0, -3.0)])
def test_a_simulated_room_decays_by_60_db_in_its_time(rt60_s: float, direct_db: float) -> None:
    impulse = np.zeros(32000, np.float32)
    impulse[0] = 1
    heard = simulated_room(rt60_s, direct_db, 16000).apply(impulse, "a").astype(np.float64)
    assert 10 * np.log10(heard[0] ** 2 / np.sum(heard[1:] ** 2)) == pytest.approx(direct_db, abs=0.01)
    tail = heard[1 : int(0.5 * rt60_s * 16000)].reshape(-1)
    level_db = 10 * np.log10(np.mean(tail[: len(tail) // 160 * 160].reshape(-1, 160) ** 2, axis=1))
    slope = np.polyfit(0.01 * np.arange(len(level_db)), level_db, 1)[0]
    assert slope == pytest.approx(-60 / rt60_s, rel=0.05)


def test_gain_clips_at_full_scale_and_the_telephone_has_its_band() -> None:
    t = np.arange(16000) / 16000
    tone = (0.5 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)
    assert np.max(np.abs(gain(-6.0206).apply(tone, "a"))) == pytest.approx(0.25, rel=1e-3)
    assert np.max(gain(20).apply(tone, "a")) == 1
    for hz, passes in ((100, False), (1000, True), (6000, False)):
        heard = telephone(16000).apply(np.sin(2 * np.pi * hz * t).astype(np.float32), "a")[4000:]
        assert (np.sqrt(np.mean(heard**2)) > 0.6) == passes


def test_clipping_cuts_its_share(rng: np.random.Generator) -> None:
    samples = rng.standard_normal(10000).astype(np.float32)
    cut = clipped(0.05).apply(samples, "a")
    assert np.mean(np.abs(samples) > np.max(cut) * 0.9999) == pytest.approx(0.05, abs=0.002)


def test_the_set_holds_every_kind_once_per_ratio(hiss: Path, tmp_path: Path) -> None:
    (tmp_path / "rir").mkdir()
    soundfile.write(tmp_path / "rir" / "hall.wav", np.eye(1, 50)[0], 16000)
    made = conditions(tmp_path / "noise", tmp_path / "rir", 16000)
    kinds = [c.kind for c in made]
    assert kinds == ["clean", *["noise"] * 4, "room", "gain", "gain", "gain", "telephone", "clipped"]
    assert [c.kind for c in conditions(None, None, 16000)] == ["clean", "gain", "gain", "gain", "telephone", "clipped"]
    with pytest.raises(SettingsError, match="no noise recordings; give a folder of audio files"):
        conditions(tmp_path / "none", None, 16000)
