"""One person's voice: heard, kept, used, forgotten; and every way in which that can fail."""

from __future__ import annotations

import json
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from serkit.edge import voice as module
from serkit.edge.audio import FakeSource, read_audio
from serkit.edge.bundle import Bundle, read_bundle
from serkit.edge.cli import main
from serkit.edge.errors import VoiceError
from serkit.edge.stream import Recognizer, predict
from serkit.edge.voice import Voice, enroll, read_voice, voice_offset, voices, write_voice

RATE = 16000
CLIP = Path(module.__file__).parent / "demo" / "clip.flac"
NOW = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERKIT_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle("default")


def buzz(pitch_hz: float, seconds: float) -> np.ndarray:
    """Harmonics in syllables: speech enough for the level gate."""
    t = np.arange(int(seconds * RATE)) / RATE
    harmonics = sum(np.sin(2 * np.pi * pitch_hz * k * t) / k for k in range(1, 12))
    return (0.1 * harmonics * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * t))).astype(np.float32)


def enrolled(bundle: Bundle, seconds: float = 12.0, name: str = "anna") -> Voice:
    return enroll(Recognizer(bundle), FakeSource(buzz(140, seconds), RATE, 512), name, NOW)


def test_the_shipped_models_take_a_voice_and_know_when_they_are_unsure() -> None:
    for name in ("serkit-dynamic", "serkit-int8"):
        b = read_bundle(name)
        assert 0 < module.strength(b) <= 0.5
        assert b.neutral_logits is not None
        assert len(b.neutral_logits) == len(b.labels)
        assert b.sure_from is not None
        assert 1 / len(b.labels) < b.sure_from < 0.95


def test_the_offset_is_the_mean_logits_less_everybodys_times_the_strength(bundle: Bundle) -> None:
    recognizer = Recognizer(bundle)
    samples = buzz(140, 12.0)
    logits, weights = [], []
    for window in recognizer.windows(FakeSource(samples, RATE, 700)):
        if window.probabilities is not None:
            z = bundle.temperature * np.log(window.probabilities)
            logits.append(z - z.mean())
            weights.append(window.speech_ratio)
    point = np.average(logits, axis=0, weights=weights)
    e = bundle.info["enrolment"]

    kept = enrolled(bundle)

    np.testing.assert_allclose(kept.offset, e["strength"] * (point - np.array(e["logits"])), atol=1e-4)
    assert kept.speech_s == pytest.approx(2.4 * weights[0] + 0.48 * sum(weights[1:]), abs=0.01)
    assert kept.speech_s == pytest.approx(12.0, abs=0.7)  # it was nothing but speech


def test_what_is_heard_of_an_enrolled_voice_moves_by_the_offset_and_nothing_else(
    bundle: Bundle, config: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", buzz(140, 2.3), RATE)  # a single window
    write_voice(enrolled(bundle))
    offset = voice_offset("anna", bundle)
    assert offset is not None

    plain = predict(Recognizer(bundle), tmp_path / "a.wav")
    own = predict(Recognizer(bundle, offset=offset), tmp_path / "a.wav")

    moved = bundle.temperature * (np.log(list(plain.probabilities.values())) - np.log(list(own.probabilities.values())))
    np.testing.assert_allclose(moved - moved.mean(), offset - offset.mean(), atol=1e-6)


def test_a_voice_does_not_depend_on_the_cut_of_the_stream_and_ends_with_the_seconds_asked_for(bundle: Bundle) -> None:
    samples = buzz(140, 40.0)
    seen: list[float] = []
    some = enroll(Recognizer(bundle), FakeSource(samples, RATE, 80), "a", NOW, seconds=15, heard=seen.append)
    same = enroll(Recognizer(bundle), FakeSource(samples, RATE, 16000), "a", NOW, seconds=15)
    assert some == same
    assert seen == sorted(seen)
    assert seen[-1] == 15
    assert 15 <= some.speech_s < 16


@pytest.mark.parametrize(("samples", "found"), [(buzz(140, 5.0), "s of speech"), (np.zeros(480000), "0.0 s")])
def test_too_little_speech_is_not_kept(bundle: Bundle, samples: np.ndarray, found: str) -> None:
    with pytest.raises(VoiceError, match=rf"{found}.*at least 10 s.*Nothing was kept"):
        enroll(Recognizer(bundle), FakeSource(samples, RATE, 512), "a", NOW)


def test_who_never_speaks_is_not_waited_for(bundle: Bundle) -> None:
    source = FakeSource(np.zeros(RATE * 400, np.float32), RATE, RATE)
    with pytest.raises(VoiceError, match=r"heard in the first 30[0-2] s"):
        enroll(Recognizer(bundle), source, "a", NOW, seconds=30)


def test_a_model_that_gains_nothing_says_so(bundle: Bundle) -> None:
    with pytest.raises(VoiceError, match="takes no voice"):
        module.strength(replace(bundle, neutral_logits=None))
    with pytest.raises(VoiceError, match="gains nothing"):
        module.strength(replace(bundle, enrolment=0.0))


def test_nobody_is_enrolled_on_top_of_another_voice(bundle: Bundle) -> None:
    recognizer = Recognizer(bundle, offset=np.ones(len(bundle.labels)))
    with pytest.raises(VoiceError, match="hears an enrolled voice already"):
        enroll(recognizer, FakeSource(buzz(140, 12.0), RATE, 512), "a", NOW)


def test_voices_are_kept_listed_replaced_and_forgotten(bundle: Bundle, config: Path) -> None:
    assert voices() == []
    anna = enrolled(bundle)
    path = write_voice(anna)
    assert path == config / "voices" / "anna.json"
    assert read_voice("anna") == anna == read_voice(str(path))
    write_voice(replace(anna, created="later"))
    write_voice(replace(anna, name="ben"))
    assert voices() == ["anna", "ben"]
    assert read_voice("anna").created == "later"
    module.remove_voice("anna")
    with pytest.raises(VoiceError, match=r"no voice 'anna'; enrolled: ben"):
        read_voice("anna")


def test_a_voice_holds_no_audio(bundle: Bundle) -> None:
    kept = asdict(enrolled(bundle))
    assert set(kept) == {"name", "model", "model_sha256", "speech_s", "offset", "created", "schema"}
    assert len(json.dumps(kept)) < 500


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"name": "anna"}',
        '{"schema": 2}',
        "[" * 100000,
        "\0\0",
        '{"offset": "NaN"}',
        "9" * 70000,
    ],
)
def test_a_damaged_voice_is_one_line_and_can_be_removed(config: Path, content: str) -> None:
    (config / "voices").mkdir(parents=True)
    (config / "voices" / "anna.json").write_text(content)
    with pytest.raises(VoiceError, match=r"anna\.json"):
        read_voice("anna")
    listed = CliRunner().invoke(main, ["enroll", "--list"])
    assert listed.exit_code == 1
    assert len(listed.output.splitlines()) == 1
    module.remove_voice("anna")
    assert voices() == []


@pytest.mark.parametrize(
    "change",
    [
        {"offset": [float("nan")] * 8},
        {"offset": [1e9] * 8},
        {"offset": [10**400]},
        {"name": "ben\x1b[31m"},
        {"schema": 2},
    ],
)
def test_what_is_no_voice_of_its_name_is_refused(bundle: Bundle, config: Path, change: dict[str, Any]) -> None:
    (config / "voices").mkdir(parents=True)
    (config / "voices" / "anna.json").write_text(json.dumps(asdict(enrolled(bundle)) | change))
    with pytest.raises(VoiceError, match=r"anna\.json.*not a voice"):
        read_voice("anna")


@pytest.mark.parametrize("name", ["", "../anna", "a/b", "a b", ".", "x" * 65, "-a", "\u00e4"])
def test_names_cannot_leave_the_folder(bundle: Bundle, config: Path, name: str) -> None:
    for use in (read_voice, module.remove_voice, lambda n: write_voice(replace(enrolled(bundle), name=n))):
        with pytest.raises(VoiceError, match="no name for a voice"):
            use(name)
    with pytest.raises(VoiceError, match="no name for a voice"):
        write_voice(replace(enrolled(bundle), name=f"{name}.json"))


def test_another_models_voice_is_refused_and_what_is_advised_helps(config: Path, tmp_path: Path) -> None:
    write_voice(enrolled(read_bundle("serkit-dynamic")))
    other = read_bundle("serkit-int8")
    with pytest.raises(VoiceError, match=r"another model than the serkit-int8") as refused:
        voice_offset("anna", other)
    advised = re.search(r"`serkit (.*)`", str(refused.value))
    assert advised is not None
    soundfile.write(tmp_path / "anna.wav", np.tile(read_audio(CLIP, RATE), 2), RATE)
    done = CliRunner().invoke(main, [*shlex.split(advised[1]), "--input", str(tmp_path / "anna.wav")])
    assert done.exit_code == 0, done.output
    assert voice_offset("anna", other) is not None


def test_a_folder_that_cannot_be_written_keeps_what_was_there(bundle: Bundle, config: Path) -> None:
    config.mkdir()
    (config / "voices").write_text("in the way")
    with pytest.raises(VoiceError, match="cannot be made"):
        write_voice(enrolled(bundle))
    assert (config / "voices").read_text() == "in the way"


def test_the_command_enrolls_from_a_file_and_listening_uses_it(config: Path, tmp_path: Path) -> None:
    clip = read_audio(CLIP, RATE)  # the voice gate takes a buzz for noise
    soundfile.write(tmp_path / "anna.wav", np.tile(clip, 2), RATE)
    soundfile.write(tmp_path / "later.wav", clip, RATE)
    run = CliRunner().invoke

    done = run(main, ["enroll", "anna", "--input", str(tmp_path / "anna.wav")])
    assert done.exit_code == 0, done.output
    assert "s of speech heard" in done.output
    assert "--voice anna" in done.output
    listed = run(main, ["enroll", "--list", "--json"])
    assert json.loads(listed.output)["name"] == "anna"

    file = str(tmp_path / "later.wav")
    (tmp_path / "serkit.toml").write_text('voice = "anna"\n')
    plain = run(main, ["listen", "--input", file, "--json"]).output
    named = run(main, ["listen", "--input", file, "--json", "--voice", "anna"]).output
    configured = run(main, ["listen", "--input", file, "--json", "--config", str(tmp_path / "serkit.toml")]).output
    assert named == configured != plain
    said = [json.loads(run(main, ["predict", file, "--json", *o]).output) for o in ([], ["--voice", "anna"])]
    assert said[0]["probabilities"] != said[1]["probabilities"]

    assert run(main, ["enroll", "anna", "--remove"]).exit_code == 0
    gone = run(main, ["listen", "--input", file, "--voice", "anna"])
    assert gone.exit_code == 1
    assert gone.output.splitlines() == ["serkit: no voice 'anna'; enrolled: none yet (`serkit enroll NAME` adds one)"]


def test_a_name_is_refused_before_anybody_speaks(config: Path) -> None:
    done = CliRunner().invoke(main, ["enroll", "a b"])  # no microphone was asked for
    assert done.exit_code == 1
    assert "no name for a voice" in done.output


def test_raw_samples_of_another_rate_enroll_and_what_makes_no_sense_is_refused(config: Path) -> None:
    run = CliRunner().invoke
    raw = (32767 * np.repeat(np.tile(read_audio(CLIP, RATE), 2), 2)).astype("<i2").tobytes()  # 32 kHz
    done = run(main, ["enroll", "anna", "--input", "-", "--raw-rate", "32000"], input=raw)
    assert done.exit_code == 0, done.output
    again = run(main, ["enroll", "anna", "--input", "-", "--raw-rate", "32000"], input=raw)
    assert "in the place of the one before it" in again.output
    for arguments in (["--seconds", "nan"], ["--raw-rate", "8000"], ["--remove", "--list"]):
        assert run(main, ["enroll", "anna", *arguments]).exit_code == 2
    assert run(main, ["enroll"]).exit_code == 2


def test_who_is_enrolled_is_heard_as_the_configuration_says(config: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "anna.wav", np.tile(read_audio(CLIP, RATE), 2), RATE)
    file = tmp_path / "serkit.toml"

    def enrolled_with(settings: str) -> Result:
        file.write_text(settings)
        call = ["enroll", "anna", "--input", str(tmp_path / "anna.wav"), "--config", str(file), "--json"]
        return CliRunner().invoke(main, call)

    silero = json.loads(enrolled_with("").output)
    level = json.loads(enrolled_with('[vad]\ndetector = "level"\n').output)
    assert silero["speech_s"] != level["speech_s"]
    assert json.loads(enrolled_with('model = "serkit-int8"\n').output)["model"] == "serkit-int8"
    refused = enrolled_with('modle = "default"\n')
    assert refused.exit_code == 1
    assert "modle" in refused.output


def test_a_folder_that_cannot_be_written_is_found_before_anybody_speaks(config: Path) -> None:
    config.mkdir()
    (config / "voices").write_text("in the way")
    done = CliRunner().invoke(main, ["enroll", "anna"])  # no microphone was asked for
    assert done.exit_code == 1
    assert "voices: cannot be made (File exists)" in done.output


def test_many_at_once_leave_one_whole_voice(bundle: Bundle, config: Path) -> None:
    anna = enrolled(bundle)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_voice(replace(anna, created=str(i))), range(24)))
    assert read_voice("anna").created in map(str, range(24))
    assert [p.name for p in (config / "voices").iterdir()] == ["anna.json"]
