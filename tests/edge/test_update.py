from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serkit.convert.bundle import golden_of
from serkit.edge import probe as probe_module
from serkit.edge import store as store_module
from serkit.edge.bundle import read_bundle, read_signed
from serkit.edge.engine import Engine, available_engines
from serkit.edge.errors import ModelError
from serkit.edge.signature import sign, signing_key, trusted_keys, verify
from serkit.edge.store import ModelStore
from serkit.edge.stream import Recognizer
from serkit.edge.update import install_model


def shipped(name: str) -> tuple[bytes, dict[str, object]]:
    bundle = read_bundle(name)
    return bundle.data[: bundle.info["size_bytes"]], bundle.info


GRAPH, INFO = shipped("serkit-dynamic")


@pytest.fixture
def untouched(stocked: ModelStore) -> Iterator[None]:
    """The model that was installed answers before and after."""
    before = stocked.active()
    yield
    assert before is not None
    assert stocked.active() == before
    assert ModelStore(stocked.folder).begin() == []
    bundle = read_bundle(before)
    window = np.zeros((bundle.window.input_frames, bundle.frontend.n_features), np.float32)
    assert Recognizer(bundle).score(window).sum() == pytest.approx(1)


def test_a_new_model_is_tried_installed_and_on_trial(stocked: ModelStore, new: Path, update: Any) -> None:
    result = update(stocked, new)
    assert result.exit_code == 0
    assert result.stdout.startswith("toy version 2: passed its test (litert, ")
    assert result.stdout.endswith("% of a hop), installed\non trial: the service is not running\n")
    status = json.loads(update(stocked, "--status", "--json").stdout)
    assert (status["active"]["version"], status["previous"]["version"], status["trial_starts"]) == (2, 1, 0)
    assert update(stocked, new).stderr == "serkit: new.tflite: toy version 2 is installed already\n"
    assert update(stocked, "--roll-back").stdout == "toy version 2 rolled back; toy version 1 answers\n"
    assert "failed here before (rolled back by hand); --retry tries it again" in update(stocked, new).stderr
    assert update(stocked, new, "--retry", "--json").exit_code == 0


def test_the_command_wants_one_thing(stocked: ModelStore, new: Path, update: Any) -> None:
    for args in ([], [new, "--status"], ["--status", "--roll-back"]):
        assert update(stocked, *args).exit_code == 2


@pytest.mark.usefixtures("untouched")
def test_every_flipped_bit_and_every_length_is_refused(stocked: ModelStore, new: Path, update: Any) -> None:
    """2,500 places over the whole file, and all of what counts in the signature."""
    data, signature = read_signed(new)
    keys = trusted_keys()
    verify(data, signature, keys, "new")
    rng = np.random.default_rng(0)
    ends = np.r_[0:100, len(data) - 100 : len(data)]
    for position in (*ends, *rng.choice(len(data), 2300, replace=False)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << rng.integers(8)
        with pytest.raises(ModelError, match="does not fit its signature"):
            verify(bytes(flipped), signature, keys, "new")
    first = signature.index("\n")  # minisign's untrusted comment is not signed and means nothing
    for position in range(first, len(signature) - 1):
        for bit in range(8):
            raw = bytearray(signature.encode())
            raw[position] ^= 1 << bit
            with pytest.raises(ModelError, match=r"damaged|does not fit|does not trust"):
                verify(data, raw.decode(errors="replace"), keys, "new")
    for length in (0, 1, 1000, len(data) // 2, len(data) - 1):
        new.write_bytes(data[:length])
        assert "does not fit its signature" in update(stocked, new).stderr


def nan_graph() -> bytes:
    """The shipped graph with biases that are no numbers."""
    graph = GRAPH
    interpreter = Engine(GRAPH, read_bundle("default").window.hop_frames)._interpreter
    for detail in interpreter.get_tensor_details():
        try:
            values = interpreter.get_tensor(detail["index"]).tobytes()
        except ValueError:  # it has no value yet
            continue
        if detail["dtype"] == np.float32 and len(values) >= 32 and GRAPH.count(values) == 1:
            graph = graph.replace(values, np.full(len(values) // 4, np.nan, np.float32).tobytes())
    assert graph != GRAPH
    return graph


REFUSED: dict[str, tuple[Callable[[Path, Any], object], str]] = {
    "missing": (lambda p, _: p.unlink(), "new.tflite: no such file; check its name"),
    "unsigned": (
        lambda p, _: p.with_name(p.name + ".minisig").unlink(),
        "no signature beside it; copy new.tflite.mini",
    ),
    "by a stranger": (
        lambda p, _: p.with_name(p.name + ".minisig").write_text(
            sign(p.read_bytes(), Ed25519PrivateKey.generate(), "serkit model toy version 2")
        ),
        "which this machine does not trust",
    ),
    "no flatbuffer": (lambda p, made: made(p, graph=b"\x1c\0\0\0TFL4" + GRAPH[8:]), "no TFLite graph"),
    "the same version": (
        lambda p, made: made(p, 1, temperature=2.0),
        "version 1 is not newer than version 1, which is",
    ),
    "no version": (lambda p, made: made(p, 0), "no version or no golden windows, so it is no update; convert it again"),
    "another version than signed": (
        lambda p, _: p.with_name(p.name + ".minisig").write_text(
            sign(p.read_bytes(), signing_key(), "serkit model toy version 3 x")
        ),
        "its signature speaks of another version",
    ),
    "a later runtime": (
        lambda p, made: made(p, min_serkit="99.1"),
        "needs serkit 99.1 or newer, this is 0.1.0; update",
    ),
    "other labels": (
        lambda p, made: made(p, labels=["tired", *INFO["labels"][1:]]),  # type: ignore[index]
        "its labels are tired, calm, happy, sad, angry, fearful, disgust, surprised, those in use neutral, calm",
    ),
    "fewer labels than outputs": (
        lambda p, made: made(p, labels=["calm"], enrolment=None),
        "its labels are calm, those in use neutral",
    ),
    "NaN": (lambda p, made: made(p, graph=nan_graph()), "the model answers with values that are no numbers"),
    "other answers": (
        lambda p, made: made(p, golden=np.roll(INFO["golden"], 1, 0).tolist()),  # type: ignore[call-overload]
        "answers otherwise than where it was converted (a probability is off by 0.",
    ),
    "golden windows of another shape": (
        lambda p, made: made(p, golden=[[1.0]]),
        "golden logits of shape (1, 1), (4, 8) are",
    ),
    "half a graph": (lambda p, made: made(p, graph=GRAPH[: len(GRAPH) // 2]), "new.tflite"),
}  # fmt: skip


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused(stocked: ModelStore, new: Path, why: str, update: Any, made: Any) -> None:
    change, message = REFUSED[why]
    change(new, made)
    result = update(stocked, new)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    if why in ("NaN", "other answers", "half a graph"):
        assert "failed here before" in update(stocked, new).stderr


@pytest.mark.usefixtures("untouched")
def test_a_slow_model_is_refused(stocked: ModelStore, update: Any, made: Any, tmp_path: Path) -> None:
    graph, info = shipped("serkit-int8")
    frontend = {**info["frontend"], "sample_rate": 384000, "hop_length": 1, "n_fft": 8192}  # type: ignore[dict-item]
    info = info | {"name": "toy", "frontend": frontend}
    path = made(tmp_path / "slow.tflite", graph=graph, **info | {"golden": golden_of(graph, info)})
    assert "of its hop here, at most 50% is allowed; it is too slow" in update(stocked, path).stderr


def test_what_may_be_asked_for(stocked: ModelStore, new: Path, update: Any, made: Any) -> None:
    made(new, 1, temperature=2.0)
    assert update(stocked, new, "--allow-downgrade").exit_code == 0
    made(new, labels=["tired", *INFO["labels"][1:]])  # type: ignore[index]
    assert update(stocked, new, "--allow-labels").exit_code == 0


def test_the_first_model_is_compared_with_the_configuration(new: Path, update: Any, made: Any, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "other" / "models")
    newer = int(str(INFO["version"])) + 1
    made(new, newer, labels=["tired", *INFO["labels"][1:]])  # type: ignore[index]
    assert "those in use neutral" in update(store, new).stderr
    assert f"version 2 is not newer than version {newer - 1}" in update(store, made(new)).stderr
    assert store.active() is None
    assert update(store, made(new, newer)).exit_code == 0


def test_a_model_is_tried_by_the_configured_engine(
    stocked: ModelStore, new: Path, update: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not there is what the service would stumble over as well."""
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    (tmp_path / "serkit.toml").write_text("engine = 'nonesuch'")
    assert "no engine 'nonesuch'; choose auto, litert or tflite-runtime" in update(stocked, new).stderr
    (engine, *_) = available_engines()
    (tmp_path / "serkit.toml").write_text(f"engine = '{engine}'")
    assert f"passed its test ({engine}, " in update(stocked, new, "--retry").stdout


@pytest.mark.parametrize("damage", ["file", "signature"])
def test_a_model_in_use_that_cannot_be_read_is_still_compared_with(
    stocked: ModelStore, new: Path, damage: str, update: Any, made: Any
) -> None:
    path = stocked.active()
    assert path is not None
    path.with_name(path.name + (".minisig" if damage == "signature" else "")).write_text("x")
    made(new, 1, temperature=2.0)
    assert "version 1 is not newer than version 1, which is in use" in update(stocked, new).stderr
    made(new, 2)
    assert "those in use cannot be read; --allow-labels takes it all the same" in update(stocked, new).stderr
    assert update(stocked, new, "--allow-labels").exit_code == 0


@pytest.mark.usefixtures("untouched")
def test_a_full_or_read_only_disk_is_one_line(
    stocked: ModelStore, new: Path, update: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serkit.edge.update.probe", lambda *_, **__: probe_module.Health("none", 0.0, 0.0))
    for code, words in ((28, "No space left on device); free some space"), (30, "Read-only file system); the disk is")):
        with monkeypatch.context() as m:

            def refuse(*_: object, code: int = code) -> int:
                raise OSError(code, os.strerror(code))

            m.setattr(store_module.os, "write", refuse)
            result = update(stocked, new)
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    with monkeypatch.context() as m:
        m.setattr(store_module.os, "access", lambda *_: False)
        with pytest.raises(ModelError, match=r"Permission denied\); run this with sudo"):
            install_model(new, stocked)
    with stocked.updating():
        assert "another update is running; wait for it to end" in update(stocked, new).stderr


SERVICE = """
import signal, sys
from serkit.edge.store import ModelStore
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
print("ready", flush=True)
signal.sigwait([signal.SIGHUP])
store = ModelStore(sys.argv[2])
store.begin()
store.accept() if sys.argv[3] == "accept" else store.roll_back("it hears nothing")
"""


@pytest.mark.parametrize("verdict", ["accept", "roll back"])
def test_a_running_service_has_the_last_word(
    stocked: ModelStore, new: Path, update: Any, tmp_path: Path, verdict: str
) -> None:
    command = [sys.executable, "-c", SERVICE, "serkit", str(stocked.folder), verdict]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        (tmp_path / "pid").write_text(str(service.pid))
        result = update(stocked, new)
        assert service.wait(60) == 0
    if verdict == "accept":
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "accepted by the service")
    else:
        assert (result.exit_code, result.stderr) == (1, "serkit: toy version 2 was rolled back: it hears nothing\n")


def test_another_program_with_the_pid_of_old_is_left_alone(
    stocked: ModelStore, new: Path, update: Any, tmp_path: Path
) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "pid").write_text(str(stranger.pid))
        assert update(stocked, new).stdout.endswith("on trial: the service is not running\n")
        assert stranger.poll() is None
        stranger.terminate()
        assert stranger.wait() == -signal.SIGTERM
