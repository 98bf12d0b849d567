from __future__ import annotations

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
from scipy.signal import butter, oaconvolve, sosfilt

from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings, features
from serkit.edge.window import WindowSettings, silence
from serkit.train.acoustics import (
    BAND_ORDER,
    add_noise,
    colour,
    limit_band,
    mel_centres_hz,
    of_power_1,
    reverberate,
    room_tail,
    shift_pitch,
    stretch_time,
)  # fmt: skip
from serkit.train.augment import AugmentSettings, Cut, augmented_window, random_cut, speech_span
from serkit.train.noises import N_CROWDS, crowd, noise_library
from serkit.train.recipe import read_recipe

S = FrontendSettings()
NOISES = noise_library(("white",), S, Path(), 128)
FILL = silence(S)
W = WindowSettings()


@pytest.fixture
def glides(rng: np.random.Generator) -> np.ndarray:
    """A voice whose pitch never rests, so that reverberation meets the next pitch: 6 s, two syllables a second."""
    t = np.arange(6 * S.sample_rate) / S.sample_rate
    pitch_hz = 160 * 2 ** (0.5 * np.sin(2 * np.pi * 0.7 * t) + 0.2 * np.sin(2 * np.pi * 2.3 * t))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / S.sample_rate
    voiced = sum(np.sin(k * phase) / k for k in range(1, 30))
    return np.asarray((0.5 - 0.5 * np.cos(2 * np.pi * 2 * t)) * 0.1 * voiced + 0.003 * rng.standard_normal(len(t)))


def random_window(
    frames: np.ndarray, window: WindowSettings, settings: AugmentSettings, rng: np.random.Generator
) -> np.ndarray:
    cut = random_cut(frames, window, settings, S, rng)
    return augmented_window(frames, cut, window, settings, S, NOISES, rng)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("semitones", [-4.0, 3.0])
def test_pitch_shift_does_what_the_waveform_would(speech: np.ndarray, semitones: float) -> None:
    shifted = librosa.effects.pitch_shift(y=speech, sr=16000, n_steps=semitones)
    theirs, plain = features(shifted, S), features(speech, S)
    ours = shift_pitch(plain, semitones, S, FILL)
    low = slice(5, 90)  # above, one of the two has nothing to show
    assert correlation(ours[:, low], theirs[:, low]) > 0.85
    assert correlation(ours[:, low], theirs[:, low]) > correlation(plain[:, low], theirs[:, low]) + 0.1


@pytest.mark.parametrize("rate", [0.8, 1.25])
def test_time_stretch_does_what_the_waveform_would(speech: np.ndarray, rate: float) -> None:
    theirs = features(librosa.effects.time_stretch(y=speech, rate=rate), S)
    ours = stretch_time(features(speech, S), rate, 0.0, len(theirs), FILL)
    plain = stretch_time(features(speech, S), 1.0, 0.0, len(theirs), FILL)
    level = slice(20, -20)
    assert correlation(ours[level].mean(axis=1), theirs[level].mean(axis=1)) > 0.7
    assert correlation(plain[level].mean(axis=1), theirs[level].mean(axis=1)) < 0.5


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 25.0])
def test_noise_does_what_the_waveform_would(rng: np.random.Generator, snr_db: float) -> None:
    t = np.arange(32000) / 16000
    steady = 0.1 * np.sin(2 * np.pi * 500 * t) + 0.05 * np.sin(2 * np.pi * 1500 * t)
    noise = rng.standard_normal(len(steady))
    gain = np.sqrt(np.mean(steady**2) / 10 ** (snr_db / 10))
    theirs = features(steady + gain * noise, S)
    clean = features(steady, S)
    ours = add_noise(clean, NOISES[0][: len(clean)], snr_db, S)
    assert np.max(np.abs(ours[:, 8:].mean(axis=0) - theirs[:, 8:].mean(axis=0))) < 0.5


def test_noise_in_random_phase_spreads_as_the_waveform_does(rng: np.random.Generator) -> None:
    settings = FrontendSettings(n_mels=64)
    t = np.arange(64000) / 16000
    partial = 0.1 * np.sin(2 * np.pi * 700 * t)
    band = int(np.argmin(np.abs(mel_centres_hz(settings) - 700)))
    hiss = 0.02 * rng.standard_normal(len(t))
    clean, noise = features(partial, settings)[5:], features(hiss, settings)[5:]
    theirs = features(partial + hiss, settings)[5:]
    snr_db = 10 * np.log10(np.quantile(np.exp(clean).sum(axis=1), 0.9) / np.mean(np.exp(noise).sum(axis=1)))
    ours = add_noise(clean, of_power_1(noise), snr_db, settings, rng)
    powers = add_noise(clean, of_power_1(noise), snr_db, settings)
    near = slice(band - 1, band + 2)
    spread = [float(x[:, near].std(axis=0).mean()) for x in (theirs, ours, powers)]
    assert 0.6 * spread[0] < spread[1] < 1.6 * spread[0]
    assert spread[2] < 0.5 * spread[0]
    assert np.allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.6)


def waveform_room(samples: np.ndarray, rt60_s: float, rng: np.random.Generator) -> np.ndarray:
    """In a room of white noise that decays, as loud as the direct sound."""
    t = np.arange(int(rt60_s * S.sample_rate)) / S.sample_rate
    response = rng.standard_normal(len(t)) * np.exp(-np.log(1e3) * t / rt60_s)
    response /= np.sqrt(np.sum(response**2))
    response[0] += 1.0
    return np.asarray(oaconvolve(samples, response)[: len(samples)])


@pytest.mark.parametrize("n_mels", [64, 128])
def test_rooms_do_what_rooms_made_of_samples_do(n_mels: int, glides: np.ndarray, rng: np.random.Generator) -> None:
    settings, rt60_s = FrontendSettings(n_mels=n_mels), 0.6
    plain = features(glides, settings)
    theirs = np.stack([features(waveform_room(glides, rt60_s, rng), settings) for _ in range(20)])
    tails = [room_tail(np.full(n_mels, rt60_s), 0.0, settings, rng) for _ in range(20)]
    ours = np.stack([reverberate(plain, tail, settings, rng) for tail in tails])
    plain, theirs, ours = plain[40:], theirs[:, 40:], ours[:, 40:]  # the first frames are silence
    changed = theirs.mean(axis=0) - plain
    assert correlation(ours.mean(axis=0) - plain, changed) > 0.8
    assert abs((ours - theirs).mean()) < 0.15 * abs(changed.mean())
    for quarter in np.array_split(np.arange(n_mels), 4):  # how unlike rooms are: more in low bands, which are narrow
        mine, its = (float(x[..., quarter].std(axis=0).mean()) for x in (ours, theirs))
        assert mine == pytest.approx(its, rel=0.3)
    steps = [float(np.abs(np.diff(x, axis=-2)).mean()) for x in (plain, theirs, ours)]
    assert steps[2] == pytest.approx(steps[1], rel=0.2)


def test_a_click_dies_away_in_the_reverberation_time(rng: np.random.Generator) -> None:
    click = np.full((100, S.n_mels), FILL, np.float32)
    click[10] = 0.0
    rt60_s = np.linspace(0.5, 0.25, S.n_mels)
    rooms = [reverberate(click, room_tail(rt60_s, 3.0, S, rng), S, rng) for _ in range(400)]
    heard = np.mean([np.exp(room.astype(float)) for room in rooms], axis=0)
    assert np.allclose(heard[:10], np.exp(FILL), rtol=1e-3)
    assert heard[10:].sum(axis=0).mean() == pytest.approx(1 + 10**-0.3, rel=0.02)
    hops = round(0.1 * S.sample_rate / S.hop_length)
    fallen_db = 10 * np.log10(heard[11:21].sum(axis=0) / heard[11 + hops : 21 + hops].sum(axis=0))
    assert fallen_db == pytest.approx(60 * 0.1 / rt60_s, rel=0.1)


def test_the_shortest_room_is_heard_at_once(rng: np.random.Generator) -> None:
    tails = [room_tail(np.full(S.n_mels, 0.05), 0.0, S, rng).mean(axis=1) for _ in range(50)]
    share = np.mean(tails, axis=0)
    assert np.isfinite(share).all()
    assert share.sum() == pytest.approx(1, rel=0.05)
    assert share[0] > share[1] / 2


@pytest.mark.parametrize("corners", [(300.0, 3400.0), (100.0, 6000.0)])
def test_a_band_limit_does_what_a_filter_would(
    glides: np.ndarray, corners: tuple[float, float], rng: np.random.Generator
) -> None:
    loud = glides + 0.01 * rng.standard_normal(len(glides))
    band = butter(BAND_ORDER, corners, "bandpass", fs=S.sample_rate, output="sos")
    plain, theirs = features(loud, S), features(sosfilt(band, loud), S)
    ours = limit_band(plain, *corners, S, FILL)
    slope = (mel_centres_hz(S) > corners[0]) & (mel_centres_hz(S) < 1.1 * corners[1])
    assert np.abs((ours - theirs).mean(axis=0))[slope].max() < 0.7
    assert np.abs((plain - theirs).mean(axis=0))[slope].max() > 1.0
    beyond = ~slope & (mel_centres_hz(S) < 7500)  # about what leaks from other bands
    assert (
        np.abs((ours - theirs).mean(axis=0))[beyond].mean() < 0.3 * np.abs((plain - theirs).mean(axis=0))[beyond].mean()
    )


def test_colour_is_smooth_and_as_deep_as_asked(rng: np.random.Generator) -> None:
    drawn = np.stack([colour(10.0, 64, rng) for _ in range(500)]) * 10 / np.log(10)  # dB
    peaks = np.abs(drawn).max(axis=1)
    assert 9.5 < peaks.max() <= 10.0
    assert peaks.mean() == pytest.approx(5.0, abs=0.5)
    assert np.abs(np.diff(drawn, axis=1)).max() < 3.0


@pytest.mark.parametrize(("recipe", "mean", "drawn"), [("r1", -3.62118, 0.934044), ("serkit-cnn", -5.52803, 0.995097)])
def test_recipes_with_results_draw_what_they_drew(recipe: str, mean: float, drawn: float, speech: np.ndarray) -> None:
    r, rng = read_recipe(recipe), np.random.default_rng(0)
    frames = features(speech, r.frontend)
    white = noise_library(("white",), r.frontend, Path(), r.window.input_frames)
    windows = []
    for _ in range(8):
        cut = random_cut(frames, r.window, r.augment, r.frontend, rng)
        windows.append(augmented_window(frames, cut, r.window, r.augment, r.frontend, white, rng))
    assert np.mean(windows) == pytest.approx(mean, abs=1e-4)
    assert rng.random() == pytest.approx(drawn, abs=1e-6)


@pytest.mark.parametrize(
    ("setting", "more"),
    [
        ({"reverb_probability": 1.0}, {"reverb_direct_db": (-12.0, -12.0)}),
        ({"reverb_probability": 1.0}, {"reverb_s": (2.0, 2.0)}),
        ({"band_probability": 1.0}, {"band_low_hz": (900.0, 900.0)}),
        ({"band_probability": 1.0}, {"band_high_hz": (1500.0, 1500.0)}),
        ({"colour_db": 5.0}, {"colour_db": 15.0}),
        ({"noise_probability": 1.0, "noise_snr_db": (20.0, 20.0)}, {"noise_phase": True}),
    ],
)
def test_every_setting_changes_a_window(setting: dict[str, Any], more: dict[str, Any], speech: np.ndarray) -> None:
    frames = features(speech, S)
    plain, drawn, further = (
        random_window(frames, W, AugmentSettings(**chosen), np.random.default_rng(1))
        for chosen in ({}, setting, setting | more)
    )
    assert np.abs(drawn - plain).mean() > 0.05
    assert np.abs(further - drawn).mean() > 0.02


def test_what_was_said_before_a_window_still_sounds_in_it(speech: np.ndarray) -> None:
    frames = np.concatenate([features(speech, S), np.full((300, S.n_mels), FILL, np.float32)])
    room = AugmentSettings(reverb_probability=1.0, reverb_s=(1.0, 1.0), reverb_direct_db=(0.0, 0.0))
    cut = Cut(float(len(frames) - 300), 1.0)  # nobody speaks in it
    dry, wet = (
        augmented_window(frames, cut, W, a, S, NOISES, np.random.default_rng(0)) for a in (AugmentSettings(), room)
    )
    assert np.all(dry == FILL)
    assert np.mean(wet[:10]) > FILL + 5
    assert np.mean(wet[:10]) > np.mean(wet[-10:]) + 3


def test_silence_has_no_colour() -> None:
    frames = np.full((300, S.n_mels), FILL, np.float32)
    assert np.all(random_window(frames, W, AugmentSettings(colour_db=10.0), np.random.default_rng(0)) == FILL)


def test_nothing_switched_on_changes_nothing(speech: np.ndarray, rng: np.random.Generator) -> None:
    plain = features(speech, S)
    assert np.array_equal(random_window(plain, WindowSettings(n_frames=len(plain)), AugmentSettings(), rng), plain)


def test_a_short_utterance_lies_in_silence_and_a_long_one_is_cropped(speech: np.ndarray) -> None:
    plain = features(speech, S)
    starts = set()
    for seed in range(20):
        window = random_window(plain[:50], W, AugmentSettings(), np.random.default_rng(seed))
        heard = np.flatnonzero((window != FILL).any(axis=1))
        assert 48 <= len(heard) <= 51
        starts.add(int(heard[0]))
        assert random_window(plain, WindowSettings(), AugmentSettings(), np.random.default_rng(seed)).shape == (
            128,
            128,
        )
    assert len(starts) > 5


def test_windows_are_drawn_by_seed_and_stay_finite(speech: np.ndarray) -> None:
    settings = AugmentSettings(
        time_stretch=0.3, pitch_shift=4, noise_probability=1, tilt_db=6, time_masks=2, mel_masks=2,
        reverb_probability=1, band_probability=1, colour_db=10,
    )  # fmt: skip
    plain = features(speech, S)
    draws = [random_window(plain, W, settings, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert all(np.isfinite(d).all() and d.dtype == np.float32 for d in draws)
    assert np.array_equal(plain, features(speech, S))


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(SettingsError, match="noise_snr_db runs from 30 to 5"):
        AugmentSettings(noise_snr_db=(30, 5))
    with pytest.raises(SettingsError, match="noise_probability is 2"):
        AugmentSettings(noise_probability=2)
    with pytest.raises(SettingsError, match="reverb_s runs from 0 to 1; give two numbers above 0"):
        AugmentSettings(reverb_s=(0, 1))
    with pytest.raises(SettingsError, match="band_probability is -1"):
        AugmentSettings(band_probability=-1)
    with pytest.raises(SettingsError, match=r"reverb_s runs from 200 to 1000; rooms have 0\.05 to 10\.0"):
        AugmentSettings(reverb_s=(200, 1000))
    overlapping = {"band_low_hz": (50, 5000), "band_high_hz": (3000, 7000)}
    with pytest.raises(SettingsError, match="band_low_hz reaches 5000 and band_high_hz begins at 3000"):
        AugmentSettings(band_probability=0.5, **overlapping)
    AugmentSettings(**overlapping)  # off


def test_a_recipe_says_what_it_trains_under() -> None:
    assert AugmentSettings(noise_kinds=("white", "household")).conditions == []
    everything = AugmentSettings(
        noise_probability=0.5, noise_kinds=("voices", "white"), band_probability=0.5, reverb_probability=0.5
    )
    assert everything.conditions == ["voices", "white", "telephone", "simulated rooms"]
    assert AugmentSettings(band_probability=0.1, band_high_hz=(6000, 7000)).conditions == ["band-pass"]


def test_noise_kinds_come_from_folders_and_some_are_for_tests_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "noise" / "kettle"
    folder.mkdir(parents=True)
    soundfile.write(folder / "a.wav", 0.1 * rng.standard_normal(8000), 16000)
    library = noise_library(("white", "kettle"), S, tmp_path, 128)
    assert len(library) == 2
    for frames in library:
        assert len(frames) > 128
        assert np.mean(np.exp(frames).sum(axis=1)) == pytest.approx(1, rel=1e-3)
    with pytest.raises(SettingsError, match=r"no noise recordings in .*noise/rain; put some there, or drop 'rain'"):
        noise_library(("rain",), S, tmp_path, 128)
    with pytest.raises(SettingsError, match="not car, which only tests may hear"):
        AugmentSettings(noise_kinds=("white", "car"))


def test_voices_are_those_who_train_all_at_once(speech: np.ndarray, rng: np.random.Generator) -> None:
    spoken = features(speech, S).astype(np.float16)
    many = crowd([spoken, spoken[20:]], rng)
    assert np.mean(np.exp(many).sum(axis=1)) == pytest.approx(1, rel=1e-3)

    def sound(frames: np.ndarray) -> np.ndarray:
        return np.log(np.exp(frames.astype(float)).mean(axis=0))

    def unrest(frames: np.ndarray) -> float:
        return float(np.exp(frames.astype(float)).sum(axis=1).std() / np.exp(frames.astype(float)).sum(axis=1).mean())

    assert correlation(sound(many), sound(spoken)) > 0.99
    assert unrest(many) < 0.7 * unrest(spoken)
    library = noise_library(("voices",), S, Path(), 4000, [spoken])
    assert len(library) == N_CROWDS
    with pytest.raises(SettingsError, match="'voices' is made of utterances that train, and there are none"):
        noise_library(("voices",), S, Path(), 4000)
    assert all(len(frames) > 4000 for frames in library)


def test_noise_is_tilted_and_stays_as_loud(speech: np.ndarray) -> None:
    quiet = np.full((200, S.n_mels), silence(S), np.float32)
    quiet[:, 5] = 0.0  # what the noise is measured against
    flat, tilted = (
        [
            random_window(quiet, W, AugmentSettings(noise_probability=1.0, noise_snr_db=(0, 0), noise_tilt_db=db),
                          np.random.default_rng(seed))
            for seed in range(8)
        ]
        for db in (0.0, 30.0)
    )  # fmt: skip
    loud = [np.mean(np.exp(w[:, 6:]).sum(axis=1)) for w in (*flat, *tilted)]
    assert min(loud) > 0.3 * max(loud)
    slopes = [np.ptp([w[:, 6:30].mean(), w[:, -24:].mean()]) for w in tilted]
    assert max(slopes) > 3 + max(np.ptp([w[:, 6:30].mean(), w[:, -24:].mean()]) for w in flat)


def test_windows_cut_from_speech_hold_it_behind_their_context(speech: np.ndarray) -> None:
    quiet = np.zeros(48000, np.float32)
    frames = features(np.concatenate([quiet, speech[:16000], quiet]), S)
    low, high = speech_span(frames, S)
    assert (low, high) == pytest.approx((300, 398), abs=8)
    window = WindowSettings(n_frames=128, context_frames=40)
    for seed in range(20):
        x = random_window(frames, window, AugmentSettings(crop="speech"), np.random.default_rng(seed))
        assert x.shape == (168, 128)
        assert np.sum(x[40:].max(axis=1) > -5) == pytest.approx(high - low, abs=4)
    with pytest.raises(SettingsError, match="crop is 'middle'; choose 'anywhere' or 'speech'"):
        AugmentSettings(crop="middle")  # type: ignore[arg-type]
