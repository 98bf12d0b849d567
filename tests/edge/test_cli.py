"""Exit codes and the very words, command by command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from serkit.edge.bundle import bundled_models
from serkit.edge.cli import main

COMMANDS = [
    "predict",
    "listen",
    "demo",
    "models",
    "model",
    "update",
    "devices",
    "train",
    "sweep",
    "ensemble",
    "evaluate",
    "explain",
    "convert",
    "bench",
    "report",
]
RATE = 16000


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def wav(tmp_path: Path, speech: np.ndarray) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech, RATE)
    return path


def test_the_edge_loads_no_training_library() -> None:
    heavy = [
        "tensorflow",
        "keras",
        "scipy",
        "sklearn",
        "librosa",
        "matplotlib",
        "jax",
        "torch",
        "python_speech_features",
    ]
    code = f"import sys, serkit.edge.cli; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    code = f"""
import sys
from click.testing import CliRunner
from serkit.edge.cli import main
result = CliRunner().invoke(main, ["demo", "--speed", "max", "--json"])
assert result.exit_code == 0, result.output
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
print([m for m in {heavy} if m in sys.modules])"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [*COMMANDS, "model info", "model verify", "bench frontend"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    if command not in ("model", "bench"):
        assert "Example" in result.output
        assert f"serkit {command}" in result.output


def test_usage_errors_exit_2() -> None:
    for args in (["predict"], ["listen", "--block-size", "0"], ["nonesuch"], ["evaluate", "--corpus", "x"]):
        assert run(*args).exit_code == 2


def test_predict_says_the_emotion(wav: Path) -> None:
    result = run("predict", wav)
    assert result.exit_code == 0
    assert f"{wav}: " in result.stdout.splitlines()[0]
    (prediction,) = lines(run("predict", wav, "--json"))
    assert prediction["schema"] == 1
    assert prediction["duration_s"] == 5.0
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-3)  # type: ignore[attr-defined]
    assert prediction["confidence"] == max(prediction["probabilities"].values())  # type: ignore[attr-defined]


def test_predict_goes_on_after_a_bad_file(wav: Path, tmp_path: Path) -> None:
    result = run("predict", tmp_path / "gone.wav", wav, "--json")
    assert result.exit_code == 1
    assert len(lines(result)) == 1
    assert result.stderr == f"serkit: {tmp_path / 'gone.wav'}: no such file; check the name\n"


def test_listen_gives_the_same_events_however_the_audio_comes(wav: Path) -> None:
    outputs = [run("listen", "--input", wav, "--json", "--block-size", n).stdout for n in (80, 512, 16000)]
    command = [sys.executable, "-m", "serkit.edge", "listen", "--input", "-", "--json"]
    for n in ("80", "16000"):
        with wav.open("rb") as stdin:
            piped = subprocess.run(
                [*command, "--block-size", n], stdin=stdin, capture_output=True, check=True, text=True
            )
        outputs.append(piped.stdout)
    assert len(outputs[0].splitlines()) >= 6
    assert all(o == outputs[0] for o in outputs[1:])


def test_listen_to_raw_samples_on_stdin(wav: Path, speech: np.ndarray) -> None:
    command = [sys.executable, "-m", "serkit.edge", "listen", "--input", "-", "--json"]
    samples, _ = soundfile.read(wav, dtype="int16")
    piped = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=True)
    assert piped.stdout.decode() == run("listen", "--input", wav, "--json").stdout


def test_demo_ends_with_emotions_on_the_screen() -> None:
    result = run("demo", "--speed", "max")
    assert result.exit_code == 0
    assert any(label in result.stdout for label in ("angry", "happy", "neutral", "sad", "fearful", "surprised"))
    events = lines(run("demo", "--speed", "max", "--json"))
    assert {"emotion", "silence"} <= {e["kind"] for e in events}
    assert all(
        list(e)[:7] == ["schema", "time_s", "kind", "emotion", "confidence", "probabilities", "model"] for e in events
    )


def test_models_are_listed_described_and_verified() -> None:
    listed = lines(run("models", "--json"))
    assert {m["name"] for m in listed} == set(bundled_models())
    assert [m["default"] for m in listed].count(True) == 1
    card = run("model", "info", "default").stdout
    assert "## Limits" in card
    assert lines(run("model", "info", "default", "--json"))[0]["format"] in ("dynamic", "int8")
    assert lines(run("model", "verify", "default", "--json"))[0]["valid"] is True
    assert "holds" in run("model", "verify", "default").stdout


def test_a_stream_too_short_to_hear_says_so() -> None:
    command = [sys.executable, "-m", "serkit.edge", "listen", "--input", "-", "--json"]
    short = subprocess.run(command, input=b"hello\n", capture_output=True, text=False)
    assert short.returncode == 1
    assert short.stderr.decode() == "serkit: the stream ended before 0.025 s of audio; nothing could be heard\n"
    packed = subprocess.run(command, input=b"fLaC" + b"\0" * 4000, capture_output=True)
    assert packed.returncode == 1
    assert b"serkit: standard input: a compressed or AIFF file; give it by name" in packed.stderr


def test_an_interrupt_on_an_idle_pipe_ends_at_once_and_in_silence(wav: Path) -> None:
    command = [sys.executable, "-u", "-m", "serkit.edge", "listen", "--input", "-", "--json", "--raw-rate", "48000"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, **pipes, preexec_fn=heeded(signal.SIGINT))
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(soundfile.read(wav, dtype="int16")[0].tobytes() * 4)
    child.stdin.flush()
    assert child.stdout.readline()  # it hears; now the pipe falls idle
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) == 130  # the pipe stays open: closed at once, it would be a race with its end
    assert child.communicate()[1] == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_the_output_is_one_line(wav: Path) -> None:
    command = [sys.executable, "-m", "serkit.edge", "listen", "--input", str(wav), "--json"]
    with Path("/dev/full").open("w") as full:
        child = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert child.returncode == 1
    assert child.stderr == "serkit: the output cannot be written (No space left on device); free some space\n"


def test_a_terminal_without_bars_shows_question_marks(wav: Path) -> None:
    command = [sys.executable, "-m", "serkit.edge", "predict", str(wav)]
    child = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True)
    assert (child.returncode, child.stderr) == (0, b"")


def test_options_that_do_not_apply_are_refused(wav: Path) -> None:
    for options in (["--device", "1"], ["--raw-rate", "8000"], ["--raw-channels", "2"]):
        result = run("listen", "--input", wav, *options)
        assert result.exit_code == 2
        assert "go with --input" in result.stderr or "goes with --input" in result.stderr


def test_configuration_changes_the_decision(wav: Path, tmp_path: Path) -> None:
    config = tmp_path / "serkit.toml"
    config.write_text("[decision]\nenter = 1.0\n")
    kinds = {e["kind"] for e in lines(run("listen", "-i", wav, "--json", "--config", config))}
    assert kinds <= {"unsure", "silence"}
    for text, message in (
        ("[decision]\nspeed = 1\n", "unknown setting 'speed'"),
        ("decision = 3", "a table of settings is needed"),
        ("[decision]\nstay_s = true", "a number is needed"),
        ('preset = "pilot"', "no preset 'pilot'; choose one of assistant, driver, research"),
        ("[mqtt]\nport = 0\n", "port is 0; it needs 1 to 65535"),
        ("x", "not TOML"),
    ):
        config.write_text(text)
        result = run("listen", "-i", wav, "--config", config)
        assert result.exit_code == 1
        assert message in result.stderr


def test_a_longer_hop_gives_fewer_windows(wav: Path, tmp_path: Path) -> None:
    every, fewer = ([e["time_s"] for e in lines(run("listen", "-i", wav, "--json", *o))] for o in ([], ["--hop", 0.6]))
    assert fewer[:-1] == every[:-1:2]
    result = run("listen", "-i", wav, "--hop", 3, "--threads", 2)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "serkit: a window every 3.36 s leaves audio out: the model's are 2.4 s long; choose a hop of at most 2.4 s "
        "(hops = 5)\n"
    )
    assert run("listen", "-i", wav, "--hop", 0).exit_code == 2
    config = tmp_path / "serkit.toml"
    config.write_text("[pace]\nhops = 2\nthreads = 2\n")
    assert [e["time_s"] for e in lines(run("listen", "-i", wav, "--json", "--config", config))] == fewer


BAD = {
    "missing": (["predict", "{tmp}/gone.wav"], "no such file"),
    "folder": (["predict", "{tmp}"], "a folder"),
    "text": (["predict", "{tmp}/text.wav"], "not an audio file"),
    "empty": (["listen", "--input", "{tmp}/empty.wav"], "an empty file"),
    "silent": (["predict", "{tmp}/silent.wav"], "no speech in 3.0 s"),
    "unknown model": (["predict", "x.wav", "--model", "nonesuch"], "no model 'nonesuch'"),
    "corrupted model": (["demo", "--model", "{tmp}/broken.tflite"], "does not fit its signature"),
    "truncated model": (["model", "verify", "{tmp}/short.tflite"], "does not fit its signature"),
    "unsigned model": (["model", "info", "{tmp}/unsigned.tflite"], "no signature beside it"),
    "no corpus": (["evaluate", "--model", "default", "--corpus", "tess", "--protocol", "ship-test", "--data", "{tmp}"],
                  "no recording of TESS"),
    "no recipe": (["train", "nonesuch", "--data", "{tmp}"], "no recipe nonesuch"),
    "no run": (["convert", "{tmp}", "--format", "int8", "-o", "{tmp}/m.tflite"], "not a finished run"),
    "no configuration": (["listen", "--config", "{tmp}/gone.toml"], "no such configuration file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_exit_1(case: str, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello\n" * 50)
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(3 * RATE), RATE)
    shipped = bundled_models()["serkit-dynamic"]
    data, signature = shipped.read_bytes(), shipped.with_name(shipped.name + ".minisig").read_bytes()
    middle = len(data) // 2
    for name, changed in (
        ("broken", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]),
        ("short", data[:middle]),
        ("unsigned", data),
    ):
        (tmp_path / f"{name}.tflite").write_bytes(changed)
        if name != "unsigned":
            (tmp_path / f"{name}.tflite.minisig").write_bytes(signature)
    args, message = BAD[case]
    result = run(*(a.format(tmp=tmp_path) for a in args))
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("serkit: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("library", ["", "broken"])
def test_no_microphone_and_no_portaudio(library: str, tmp_path: Path) -> None:
    """A machine without microphones, and one where `import sounddevice` finds no library."""
    env = os.environ | {"PULSE_SERVER": "none"}
    if not library and run("devices").stdout:
        pytest.skip("this machine has a microphone")
    if library == "broken":
        (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
        env["PYTHONPATH"] = str(tmp_path)
    command = [sys.executable, "-m", "serkit.edge", "listen"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("serkit: ")
    assert result.stderr.count("\n") == 1
    if library == "broken":
        assert result.stderr == (
            "serkit: PortAudio is not installed; `sudo apt install libportaudio2`, or give a file with --input\n"
        )


@pytest.mark.slow
def test_two_silent_hours_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "night.wav"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        file.write(np.zeros(RATE))
    samples = 2 * 3600 * RATE
    with path.open("r+b") as file:  # a sparse file: two hours of zeros that take no disk
        file.truncate(44 + 2 * samples)
        for offset, value in ((4, 36 + 2 * samples), (40, 2 * samples)):
            file.seek(offset)
            file.write(value.to_bytes(4, "little"))
    code = f"""
import resource, sys
from click.testing import CliRunner
from serkit.edge.cli import main
CliRunner().invoke(main, ["demo", "--speed", "max", "--json"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = CliRunner().invoke(main, ["predict", {str(path)!r}])
print(result.exit_code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(result.stderr)"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, *_ = child.stdout.splitlines()
    code_, grown_kib = map(int, first.split())
    assert code_ == 1
    assert second == f"serkit: {path}: no speech in 7200.0 s of audio; record closer to the microphone, or louder"
    assert grown_kib < 20_000


def heeded(number: int) -> Callable[[], object]:
    """For a child: the signal does what it does by itself, whatever whoever started the tests ignores."""
    return lambda: signal.signal(number, signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_in_order(number: int, code: int, tmp_path: Path) -> None:
    clip, record = Path("edge/demo/clip.flac").resolve(), tmp_path / "heard.flac"
    command = ["listen", "-i", str(clip), "--speed", "realtime", "--record", str(record), "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "serkit.edge", *command], stdout=subprocess.PIPE, preexec_fn=heeded(number)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(30) == code
    assert 2 < soundfile.info(record).duration < 15


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_a_hang_up_that_nohup_ignores_ends_nothing() -> None:
    command = ["nohup", sys.executable, "-m", "serkit.edge", "demo", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=heeded(signal.SIGTERM)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.stdout.readline()  # goes on
        assert process.poll() is None
        process.terminate()
        assert process.wait(30) == 143


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 here")
def test_a_signal_mutes_and_another_one_hears_again() -> None:
    command = ["demo", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "serkit.edge", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for message in ("muted", "no longer muted"):
            process.send_signal(signal.SIGUSR1)
            assert any(json.loads(line).get("message") == message for line in process.stdout)
        process.terminate()
        process.stdout.read()


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = tmp_path / "gone"
    monkeypatch.setattr("serkit.edge.microphone.list_devices", missing.read_bytes)
    result = CliRunner().invoke(main, ["devices"])
    assert result.exit_code == 1
    assert result.output.startswith(f"serkit: {missing}: No such file or directory; check that it is there")
