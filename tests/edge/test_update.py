from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serkit.convert.bundle import golden_of, write_bundle
from serkit.edge import probe as probe_module
from serkit.edge import store as store_module
from serkit.edge.bundle import bundled_models, parse_bundle, read_bundle, read_signed
from serkit.edge.cli import main
from serkit.edge.engine import Engine, available_engines
from serkit.edge.errors import ModelError
from serkit.edge.probe import probe
from serkit.edge.signature import public_key_file, sign, signing_key, trusted_keys, verify
from serkit.edge.store import ModelStore
from serkit.edge.stream import Recognizer
from serkit.edge.update import install_key, install_model


def shipped(name: str) -> tuple[bytes, dict[str, object]]:
    bundle = read_bundle(name)
    return bundle.data[: bundle.info["size_bytes"]], bundle.info


GRAPH, INFO = shipped("serkit-dynamic")
INFO = INFO | {"name": "toy", "golden": golden_of(GRAPH, INFO)}


def made(path: Path, version: int = 2, graph: bytes = GRAPH, **changes: object) -> Path:
    """A bundle around a shipped graph, signed by the tests' key."""
    write_bundle(path, graph, INFO | {"version": version} | changes, "", signing_key())
    return path


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """With version 1, accepted."""
    store = ModelStore(tmp_path / "state" / "models")
    path = made(tmp_path / "first.tflite", 1)
    with store.updating():
        store.install(read_bundle(path), read_signed(path)[1])
    store.begin()
    store.accept()
    return store


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return made(tmp_path / "new.tflite")


def run(store: ModelStore, *args: object) -> Result:
    return CliRunner().invoke(main, ["update", "--state", str(store.folder.parent), *(str(a) for a in args)])


@pytest.fixture(autouse=True)
def _no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))


@pytest.fixture
def untouched(store: ModelStore) -> Iterator[None]:
    """The model that was installed answers before and after."""
    before = store.active()
    yield
    assert before is not None
    assert store.active() == before
    assert ModelStore(store.folder).begin() == []
    bundle = read_bundle(before)
    window = np.zeros((bundle.window.input_frames, bundle.frontend.n_features), np.float32)
    assert Recognizer(bundle).score(window).sum() == pytest.approx(1)


def test_a_new_model_is_tried_installed_and_on_trial(store: ModelStore, new: Path) -> None:
    result = run(store, new)
    assert result.exit_code == 0
    assert result.stdout.startswith("toy version 2: passed its test (litert, ")
    assert result.stdout.endswith("% of a hop), installed\non trial: the service is not running\n")
    status = json.loads(run(store, "--status", "--json").stdout)
    assert (status["active"]["version"], status["previous"]["version"], status["trial_starts"]) == (2, 1, 0)
    assert run(store, new).stderr == "serkit: new.tflite: toy version 2 is installed already\n"
    assert run(store, "--roll-back").stdout == "toy version 2 rolled back; toy version 1 answers\n"
    assert "failed here before (rolled back by hand); --retry tries it again" in run(store, new).stderr
    assert run(store, new, "--retry", "--json").exit_code == 0


def test_the_command_wants_one_thing(store: ModelStore, new: Path) -> None:
    for args in ([], [new, "--status"], ["--status", "--roll-back"]):
        assert run(store, *args).exit_code == 2


@pytest.mark.usefixtures("untouched")
def test_every_flipped_bit_and_every_length_is_refused(store: ModelStore, new: Path) -> None:
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
        assert "does not fit its signature" in run(store, new).stderr


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


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), "new.tflite: no such file; check its name"),
    "unsigned": (lambda p: p.with_name(p.name + ".minisig").unlink(), "no signature beside it; copy new.tflite.mini"),
    "by a stranger": (
        lambda p: p.with_name(p.name + ".minisig").write_text(
            sign(p.read_bytes(), Ed25519PrivateKey.generate(), "serkit model toy version 2")
        ),
        "which this machine does not trust",
    ),
    "no flatbuffer": (lambda p: made(p, graph=b"\x1c\0\0\0TFL4" + GRAPH[8:]), "no TFLite graph"),
    "the same version": (lambda p: made(p, 1, temperature=2.0), "version 1 is not newer than version 1, which is"),
    "no version": (lambda p: made(p, 0), "no version or no golden windows, so it is no update; convert it again"),
    "another version than signed": (
        lambda p: p.with_name(p.name + ".minisig").write_text(
            sign(p.read_bytes(), signing_key(), "serkit model toy version 3 x")
        ),
        "its signature speaks of another version",
    ),
    "a later runtime": (lambda p: made(p, min_serkit="99.1"), "needs serkit 99.1 or newer, this is 0.1.0; update"),
    "other labels": (
        lambda p: made(p, labels=["tired", *INFO["labels"][1:]]),  # type: ignore[index]
        "its labels are tired, calm, happy, sad, angry, fearful, disgust, surprised, those in use neutral, calm",
    ),
    "fewer labels than outputs": (
        lambda p: made(p, labels=["calm"], enrolment=None),
        "its labels are calm, those in use neutral",
    ),
    "NaN": (lambda p: made(p, graph=nan_graph()), "the model answers with values that are no numbers"),
    "other answers": (
        lambda p: made(p, golden=np.roll(INFO["golden"], 1, 0).tolist()),  # type: ignore[call-overload]
        "answers otherwise than where it was converted (a probability is off by 0.",
    ),
    "golden windows of another shape": (lambda p: made(p, golden=[[1.0]]), "golden logits of shape (1, 1), (4, 8) are"),
    "half a graph": (lambda p: made(p, graph=GRAPH[: len(GRAPH) // 2]), "new.tflite"),
}  # fmt: skip


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused(store: ModelStore, new: Path, why: str) -> None:
    change, message = REFUSED[why]
    change(new)
    result = run(store, new)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    if why in ("NaN", "other answers", "half a graph"):
        assert "failed here before" in run(store, new).stderr


@pytest.mark.usefixtures("untouched")
def test_a_slow_model_is_refused(store: ModelStore, tmp_path: Path) -> None:
    graph, info = shipped("serkit-int8")
    frontend = {**info["frontend"], "sample_rate": 384000, "hop_length": 1, "n_fft": 8192}  # type: ignore[dict-item]
    info = info | {"name": "toy", "frontend": frontend}
    path = made(tmp_path / "slow.tflite", graph=graph, **info | {"golden": golden_of(graph, info)})
    assert "of its hop here, at most 50% is allowed; it is too slow" in run(store, path).stderr


def test_what_may_be_asked_for(store: ModelStore, new: Path) -> None:
    made(new, 1, temperature=2.0)
    assert run(store, new, "--allow-downgrade").exit_code == 0
    made(new, labels=["tired", *INFO["labels"][1:]])  # type: ignore[index]
    assert run(store, new, "--allow-labels").exit_code == 0


def test_the_first_model_is_compared_with_the_configuration(new: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "other" / "models")
    newer = int(str(INFO["version"])) + 1
    made(new, newer, labels=["tired", *INFO["labels"][1:]])  # type: ignore[index]
    assert "those in use neutral" in run(store, new).stderr
    assert f"version 2 is not newer than version {newer - 1}" in run(store, made(new)).stderr
    assert store.active() is None
    assert run(store, made(new, newer)).exit_code == 0


def test_a_model_is_tried_by_the_configured_engine(
    store: ModelStore, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not there is what the service would stumble over as well."""
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    (tmp_path / "serkit.toml").write_text("engine = 'nonesuch'")
    assert "no engine 'nonesuch'; choose auto, litert or tflite-runtime" in run(store, new).stderr
    (engine, *_) = available_engines()
    (tmp_path / "serkit.toml").write_text(f"engine = '{engine}'")
    assert f"passed its test ({engine}, " in run(store, new, "--retry").stdout


@pytest.mark.parametrize("damage", ["file", "signature"])
def test_a_model_in_use_that_cannot_be_read_is_still_compared_with(store: ModelStore, new: Path, damage: str) -> None:
    path = store.active()
    assert path is not None
    path.with_name(path.name + (".minisig" if damage == "signature" else "")).write_text("x")
    made(new, 1, temperature=2.0)
    assert "version 1 is not newer than version 1, which is in use" in run(store, new).stderr
    made(new, 2)
    assert "those in use cannot be read; --allow-labels takes it all the same" in run(store, new).stderr
    assert run(store, new, "--allow-labels").exit_code == 0


def test_a_corrupt_but_signed_file_harms_nobody(new: Path) -> None:
    """A child dies or answers; we live. Half of the places are in the graph's tables, where a crash is likely."""
    data, size = new.read_bytes(), len(GRAPH)
    rng = np.random.default_rng(1)
    places = np.concatenate([rng.integers(*span, 3) for span in ((8, 4000), (4000, size), (size, len(data)))])
    refused = 0
    for position in places:
        flipped = bytearray(data)
        flipped[position] ^= 0x80
        try:
            probe(parse_bundle(bytes(flipped), new, ""))
        except ModelError:
            refused += 1
    assert refused


def test_a_child_that_crashes_hangs_or_says_nothing(new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(new)
    child = tmp_path / "child"
    monkeypatch.setattr(probe_module.sys, "executable", str(child))
    for script, message in (
        ("cat > /dev/null; kill -SEGV $$", r"crashed the engine \(SIGSEGV\) in a test; convert it again"),
        ("cat > /dev/null; echo lost >&2; exit 3", r"ended its test without an answer \(lost\)"),
        ("exec sleep 60", "did not answer within 0.2 s in a test"),
    ):
        child.write_text(f"#!/bin/sh\n{script}\n")
        child.chmod(0o755)
        with pytest.raises(ModelError, match=message):
            probe(bundle, 0.2 if "sleep" in script else 60)


def test_a_child_has_only_so_much_memory() -> None:
    code = "from serkit.edge.probe import _limit; _limit(1 << 30); bytearray(2 << 30)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MemoryError" in child.stderr


def test_a_child_is_not_root() -> None:
    """Not when it reads the model; run by another user, it stays that one."""
    code = "import os; from serkit.edge import probe; probe._give_up_root(); print(*os.getresuid(), *os.getresgid())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ids = [int(text) for text in child.stdout.split()]
    assert ids == ([65534] * 6 if os.geteuid() == 0 else [os.geteuid()] * 3 + [os.getegid()] * 3)


@pytest.mark.usefixtures("untouched")
def test_a_full_or_read_only_disk_is_one_line(store: ModelStore, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serkit.edge.update.probe", lambda *_, **__: probe_module.Health("none", 0.0, 0.0))
    for code, words in ((28, "No space left on device); free some space"), (30, "Read-only file system); the disk is")):
        with monkeypatch.context() as m:

            def refuse(*_: object, code: int = code) -> int:
                raise OSError(code, os.strerror(code))

            m.setattr(store_module.os, "write", refuse)
            result = run(store, new)
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    with monkeypatch.context() as m:
        m.setattr(store_module.os, "access", lambda *_: False)
        with pytest.raises(ModelError, match=r"Permission denied\); run this with sudo"):
            install_model(new, store)
    with store.updating():
        assert "another update is running; wait for it to end" in run(store, new).stderr


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
def test_a_running_service_has_the_last_word(store: ModelStore, new: Path, tmp_path: Path, verdict: str) -> None:
    command = [sys.executable, "-c", SERVICE, "serkit", str(store.folder), verdict]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        (tmp_path / "pid").write_text(str(service.pid))
        result = run(store, new)
        assert service.wait(60) == 0
    if verdict == "accept":
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "accepted by the service")
    else:
        assert (result.exit_code, result.stderr) == (1, "serkit: toy version 2 was rolled back: it hears nothing\n")


def test_another_program_with_the_pid_of_old_is_left_alone(store: ModelStore, new: Path, tmp_path: Path) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "pid").write_text(str(stranger.pid))
        assert run(store, new).stdout.endswith("on trial: the service is not running\n")
        assert stranger.poll() is None
        stranger.terminate()
        assert stranger.wait() == -signal.SIGTERM


def test_keys_are_rotated_and_revoked(
    store: ModelStore, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = store.folder.parent
    old_key = tmp_path / "old.pub"
    old_key.write_text(public_key_file(signing_key()))
    successor = Ed25519PrivateKey.generate()
    new_key = tmp_path / "new.pub"
    new_key.write_text(public_key_file(successor))

    def signed(path: Path, key: Ed25519PrivateKey, words: str) -> Path:
        name = path.read_text().splitlines()[0].split()[-1]
        path.with_name(path.name + ".minisig").write_text(sign(path.read_bytes(), key, f"serkit {words} key {name}"))
        return path

    def names() -> set[str]:
        return {key.name for key in trusted_keys(state)}

    before = names()
    assert "does not trust" in run(store, signed(new_key, successor, "trusts")).stderr
    result = CliRunner().invoke(main, ["model", "sign", str(new_key)])
    assert result.exit_code == 0
    assert "trusts key" in result.stdout
    assert "is trusted from now on" in run(store, new_key).stdout
    assert len(names() - before) == 1
    write_bundle(new, GRAPH, INFO | {"version": 2}, "", successor)
    assert run(store, new).exit_code == 0

    # a revocation is no vouching, whatever its file is called
    assert "version 1" in str(store.state().previous)
    revocation = signed(old_key, successor, "revokes")
    assert "is revoked" in run(store, revocation).stdout
    assert len(before - names()) == 1
    assert "does not trust" in run(store, signed(new_key, signing_key(), "trusts")).stderr
    write_bundle(new, GRAPH, INFO | {"version": 3}, "", signing_key())
    assert "does not trust" in run(store, new).stderr
    assert "a key does not revoke itself" in run(store, signed(new_key, successor, "revokes")).stderr
    assert "its signature says" in run(store, signed(new_key, successor, "likes")).stderr
    assert set(bundled_models()) == {m for m in bundled_models() if read_bundle(m)}  # what came with serkit stays


def test_a_revoked_key_takes_along_what_it_vouched_for(store: ModelStore, tmp_path: Path) -> None:
    state = store.folder.parent
    leaked, new, drawer, evil = keys = [Ed25519PrivateKey.generate() for _ in range(4)]
    names = [public_key_file(key).splitlines()[0].split()[-1] for key in keys]

    def signed(key: Ed25519PrivateKey, signer: Ed25519PrivateKey, words: str, path: Path = tmp_path / "a.pub") -> Path:
        path.write_text(public_key_file(key))
        text = sign(path.read_bytes(), signer, f"serkit {words} key {names[keys.index(key)]}")
        path.with_name(path.name + ".minisig").write_text(text)
        return path

    def trusted() -> list[bool]:
        known = {key.name for key in trusted_keys(state)}
        return [name in known for name in names]

    install_key(signed(leaked, signing_key(), "trusts"), store)
    for key in (new, drawer, evil):
        install_key(signed(key, leaked, "trusts"), store)
    assert trusted() == [True] * 4
    before = {p: p.read_bytes() for p in (state / "keys").iterdir()}
    install_key(signed(drawer, new, "trusts"), store)
    install_key(signed(drawer, new, "trusts"), store)  # once more changes nothing
    install_key(signed(leaked, new, "revokes"), store)
    assert trusted() == [False, True, True, False]
    assert {p: p.read_bytes() for p in before} == before  # nothing was overwritten
    assert len(list((state / "keys").iterdir())) == 2 * 6
    with pytest.raises(ModelError, match="was revoked here and does not come back; make a new one"):
        install_key(signed(leaked, new, "trusts"), store)
    for name, key, words in (("a", evil, "trusts"), ("0007", new, "revokes")):  # by the leaked key, and put there
        signed(key, leaked, words, state / "keys" / f"{name}.pub")
    assert trusted() == [False, True, True, False]
    assert json.loads(run(store, "--status", "--json").stdout)["keys"] == [k.name for k in trusted_keys(state)]
    assert f"trusted:  {names[1]} ({state / 'keys'}" in run(store, "--status").stdout


def test_the_key_of_the_model_in_use_is_not_revoked(store: ModelStore, tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    path = tmp_path / "other.pub"
    path.write_text(public_key_file(other))
    CliRunner().invoke(main, ["model", "sign", str(path)])
    install_key(path, store)
    bundle = tmp_path / "by-other.tflite"
    write_bundle(bundle, GRAPH, INFO | {"version": 2}, "", other)
    install_model(bundle, store)
    CliRunner().invoke(main, ["model", "sign", "--revoke", str(path)])
    with pytest.raises(
        ModelError, match="toy version 2, which is in use, is signed by this key or one it vouched for; install"
    ):
        install_key(path, store)
    assert run(store, "--roll-back").exit_code == 0
    assert install_key(path, store)[1] is False


def test_keys_are_readable_for_the_service_and_stay_in_their_folder(store: ModelStore, tmp_path: Path) -> None:
    path = tmp_path / "other.pub"
    path.write_text(public_key_file(Ed25519PrivateKey.generate()))
    CliRunner().invoke(main, ["model", "sign", str(path)])
    folder, elsewhere = store.folder.parent / "keys", tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    assert "it must be a folder and no link to one" in run(store, path).stderr
    assert list(elsewhere.iterdir()) == []
    folder.unlink()
    umask = os.umask(0o077)
    try:
        assert run(store, path).exit_code == 0
    finally:
        os.umask(umask)
    assert {p.stat().st_mode & 0o777 for p in (folder, *folder.iterdir())} == {0o755, 0o644}


def test_a_planted_key_is_not_trusted(store: ModelStore) -> None:
    folder = store.folder.parent / "keys"
    folder.mkdir()
    before = trusted_keys(store.folder.parent)
    stranger = Ed25519PrivateKey.generate()
    (folder / "stranger.pub").write_text(public_key_file(stranger))
    (folder / "damaged.pub").write_text("x")
    assert trusted_keys(store.folder.parent) == before
    name = public_key_file(stranger).splitlines()[0].split()[-1]
    text = sign((folder / "stranger.pub").read_bytes(), stranger, f"serkit trusts key {name}")
    (folder / "stranger.pub.minisig").write_text(text)
    assert trusted_keys(store.folder.parent) == before
