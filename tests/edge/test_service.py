"""The service in this process: what becomes of installed models, and what systemd and the journal are told."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serkit.edge import service
from serkit.edge.audio import FakeSource
from serkit.edge.bundle import Bundle, read_bundle
from serkit.edge.errors import ModelError, SerkitError, SettingsError
from serkit.edge.listener import Listener
from serkit.edge.service import Service, configuration_file, model_store, self_test
from serkit.edge.store import ModelStore
from serkit.edge.stream import Recognizer
from serkit.edge.systemd import notify, say
from serkit.edge.voice import Voice, write_voice

RATE = 16000
BY_LEVEL = "[vad]\ndetector = 'level'\n"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """The int8 model installed, on trial."""
    return installed(tmp_path)


def installed(folder: Path) -> ModelStore:
    store = ModelStore(folder / "models")
    bundle = read_bundle("serkit-int8")
    with store.updating():
        store.install(bundle, bundle.path.with_name("serkit-int8.tflite.minisig").read_text())
    return store


def spoken(samples: np.ndarray, then: int = signal.SIGTERM) -> Callable[[int], FakeSource]:
    """A source that ends with a signal to this process."""

    class Ending(FakeSource):
        def _blocks(self) -> Iterator[np.ndarray]:
            yield from super()._blocks()
            os.kill(os.getpid(), then)
            yield np.zeros(2 * RATE, np.float32)

    return lambda rate: Ending(samples, rate, 512)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "serkit.toml").write_text(f"{BY_LEVEL}[json_lines]\npath = '{tmp_path / 'events'}'\n")
    return tmp_path / "serkit.toml"


def test_a_model_that_does_well_is_accepted(
    config: Path, store: ModelStore, speech: np.ndarray, capfd: pytest.CaptureFixture
) -> None:
    Service(config, source=spoken(np.tile(speech, 7)), store=store).run()
    assert store.state().active is not None
    assert store.state().trial_starts is None
    out, err = capfd.readouterr()
    lines = err.splitlines()
    version = read_bundle("serkit-int8").info["version"]
    assert lines[0] == f"serkit: serkit-int8 version {version} is on trial, start 1 of 3"
    assert lines[1].startswith("serkit: serkit-int8 (int8, ")
    assert lines[2:] == ["serkit: serkit-int8 has proven itself and is accepted"]
    assert out == ""  # there is a sink
    assert '"model": "serkit-int8"' in config.with_name("events").read_text()


@pytest.mark.parametrize("times", [1, 2])
def test_a_mute_that_comes_while_the_model_loads_is_kept(
    times: int, config: Path, speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))

    def source(rate: int) -> FakeSource:
        os.kill(os.getpid(), signal.SIGUSR1)
        return spoken(np.tile(speech, 2))(rate)

    Service(config, source=source, mutes=[signal.SIGUSR1] * (times - 1)).run()
    events = [json.loads(line) for line in config.with_name("events").read_text().splitlines()]
    assert any(e["kind"] == "emotion" for e in events) == (times == 2)
    assert (tmp_path / "run" / "muted").exists() == (times == 1)


def test_a_mute_at_the_very_end_is_kept(
    config: Path, speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))

    class Muting(FakeSource):
        def _blocks(self) -> Iterator[np.ndarray]:
            yield from super()._blocks()
            for number in (signal.SIGUSR1, signal.SIGTERM):
                os.kill(os.getpid(), number)
            yield np.zeros(512, np.float32)

    Service(config, source=lambda rate: Muting(speech, rate, 512)).run()
    assert (tmp_path / "run" / "muted").exists()


@pytest.mark.parametrize("mistake", [False, True])
def test_a_model_installed_meanwhile_answers_after_a_reload(
    mistake: bool, config: Path, speech: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    opened: list[FakeSource] = []

    class Installing(FakeSource):
        def _blocks(self) -> Iterator[np.ndarray]:
            yield from super()._blocks()
            if len(opened) == 1:
                installed(tmp_path)  # as `serkit update` does, in another process
                if mistake:
                    config.write_text("nonesuch = 1")
            os.kill(os.getpid(), signal.SIGHUP if len(opened) == 1 else signal.SIGTERM)
            yield np.zeros(2 * RATE, np.float32)

    def source(rate: int) -> FakeSource:
        opened.append(Installing(np.tile(speech, 7), rate, 512))
        return opened[-1]

    store = ModelStore(tmp_path / "models")
    Service(config, source=source, store=store).run()
    assert len(opened) == 2
    assert store.state().active is not None
    assert store.state().trial_starts is None
    lines = config.with_name("events").read_text().splitlines()
    assert ['"model": "serkit-int8"' in line for line in (lines[0], lines[-1])] == [False, True]
    assert capfd.readouterr().err.count("the new configuration is refused and the old one stays") == mistake


def anna(bundle: Bundle) -> Voice:
    sha256 = hashlib.sha256(bundle.data).hexdigest()
    return Voice(name="anna", model=bundle.name, model_sha256=sha256, speech_s=30.0, offset=(0.1,) * 8, created="")


def test_a_voice_of_another_model_is_no_reason_not_to_listen(
    config: Path, store: ModelStore, speech: np.ndarray, capfd: pytest.CaptureFixture
) -> None:
    write_voice(anna(read_bundle("serkit-dynamic")))
    config.write_text('voice = "anna"\n' + config.read_text())
    Service(config, source=spoken(speech), store=store).run()  # it has serkit-int8
    err = capfd.readouterr().err
    assert "everybody is heard alike: voice anna was enrolled with another model than the serkit-int8" in err
    first = json.loads(config.with_name("events").read_text().splitlines()[0])
    assert first["kind"] == "status"
    assert first["message"].startswith("everybody is heard alike: voice anna")


def test_a_reload_with_an_unknown_voice_is_refused(
    config: Path, speech: np.ndarray, capfd: pytest.CaptureFixture
) -> None:
    write_voice(anna(read_bundle("default")))
    config.write_text('voice = "anna"\n' + config.read_text())
    opened: list[FakeSource] = []

    class Editing(FakeSource):
        def _blocks(self) -> Iterator[np.ndarray]:
            yield from super()._blocks()
            if len(opened) == 1:
                config.write_text(config.read_text().replace("anna", "ana"))
            os.kill(os.getpid(), signal.SIGHUP if len(opened) == 1 else signal.SIGTERM)
            yield np.zeros(2 * RATE, np.float32)

    def source(rate: int) -> FakeSource:
        opened.append(Editing(speech, rate, 512))
        return opened[-1]

    service = Service(config, source=source)
    service.run()
    err = capfd.readouterr().err
    assert "the new configuration is refused and the old one stays: no voice 'ana'; enrolled: anna" in err
    assert "everybody is heard alike" not in err
    assert len(opened) == 2


def test_after_an_update_a_voice_of_the_old_model_is_no_mistake_in_the_configuration(
    config: Path, speech: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    write_voice(anna(read_bundle("default")))
    config.write_text('voice = "anna"\n' + config.read_text())
    opened: list[FakeSource] = []

    class Updating(FakeSource):
        def _blocks(self) -> Iterator[np.ndarray]:
            yield from super()._blocks()
            if len(opened) == 1:
                installed(tmp_path)
                config.write_text(config.read_text() + "backups = 5\n")
            os.kill(os.getpid(), signal.SIGHUP if len(opened) == 1 else signal.SIGTERM)
            yield np.zeros(2 * RATE, np.float32)

    def source(rate: int) -> FakeSource:
        opened.append(Updating(speech, rate, 512))
        return opened[-1]

    Service(config, source=source, store=ModelStore(tmp_path / "models")).run()
    err = capfd.readouterr().err
    assert "refused" not in err
    assert "the configuration was read again" in err
    assert "everybody is heard alike: voice anna was enrolled with another model than the serkit-int8" in err


@pytest.mark.parametrize("accepted", [False, True])
def test_a_model_that_fails_is_rolled_back(
    accepted: bool,
    config: Path,
    store: ModelStore,
    speech: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    score = Recognizer.score

    def failing(self: Recognizer, window: np.ndarray, hop: int | None = None) -> np.ndarray:
        if self.bundle.name == "serkit-int8" and (hop or 0) >= 4:
            raise ModelError("the model answers with values that are no numbers; convert it again")
        return score(self, window, hop)

    monkeypatch.setattr(Recognizer, "score", failing)
    if accepted:
        store.accept()
    Service(config, source=spoken(speech), store=store).run()
    assert store.state().active is None
    assert list(store.state().refused.values()) == [
        "the model answers with values that are no numbers; convert it again"
    ]
    assert "no numbers; convert it again; the model before it takes over\n" in capfd.readouterr().err
    lines = config.with_name("events").read_text().splitlines()
    assert ['"model": "serkit-int8"' in line for line in (lines[0], lines[-1])] == [True, False]


@pytest.mark.parametrize("why", ["slow", "busy", "labels"])
def test_a_model_that_cannot_be_used_is_rolled_back(
    why: str, config: Path, store: ModelStore, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "slow":
        monkeypatch.setattr(service, "self_test", lambda recognizer: 0.5)
        reason = "serkit-int8 takes 500 ms for a window and is to score one every 480 ms; it is too slow"
    elif why == "busy":
        judge = Service._judge

        def busy(self: Service, listener: Listener) -> None:
            listener.health.load = 1.3
            judge(self, listener)

        monkeypatch.setattr(Service, "_judge", busy)
        speech = np.tile(speech, 4)
        reason = "serkit-int8 cannot keep up here: processing takes 130% of the time"
    else:
        patch_labels(monkeypatch)
        config.write_text("preset = 'driver'\n" + config.read_text())
        reason = "label 'bored' of serkit-int8 is in no class"
    Service(config, source=spoken(speech), store=store).run()
    (refused,) = store.state().refused.values()
    assert refused.startswith(reason)
    assert '"model": "serkit-dynamic"' in config.with_name("events").read_text().splitlines()[-1]


def test_one_busy_interval_is_not_the_models_fault(
    config: Path, store: ModelStore, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Service._judge

    def busy_once(self: Service, listener: Listener) -> None:
        listener.health.load = 1.3 if 10 <= listener.health.audio_s < 20 else 0.1
        judge(self, listener)

    monkeypatch.setattr(Service, "_judge", busy_once)
    Service(config, source=spoken(np.tile(speech, 7)), store=store).run()
    assert store.state().active is not None
    assert store.state().trial_starts is None


def test_silence_proves_little(config: Path, store: ModelStore, capfd: pytest.CaptureFixture) -> None:
    for seconds, starts in ((60, 0), (95, None)):
        Service(config, source=spoken(np.zeros(seconds * RATE)), store=store).run()
        assert store.state().trial_starts == starts
    assert capfd.readouterr().err.count("serkit-int8 is accepted on its self-test alone: nobody spoke\n") == 1


@pytest.mark.parametrize("how", ["stop", "reload", "sink"])
def test_starts_that_end_in_order_do_not_count(
    how: str, config: Path, store: ModelStore, speech: np.ndarray, capfd: pytest.CaptureFixture
) -> None:
    if how == "sink":
        config.write_text("[json_lines]\npath = '/nonesuch/events'\n")
    opened: list[FakeSource] = []

    def source(rate: int) -> FakeSource:
        opened.append(spoken(speech, signal.SIGHUP if how == "reload" and len(opened) < 4 else signal.SIGTERM)(rate))
        return opened[-1]

    for _ in range(1 if how == "reload" else 4):
        with pytest.raises(SerkitError, match="nonesuch") if how == "sink" else nullcontext():
            Service(config, source=source, store=store).run()
    assert len(opened) == (5 if how == "reload" else 4)
    assert store.state().active is not None
    assert store.state().trial_starts == 0
    assert "start 2 of 3" not in capfd.readouterr().err


def test_what_was_not_accepted_is_not_said_to_be(
    config: Path, store: ModelStore, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    begin = store.begin

    def locked() -> list[str]:
        with monkeypatch.context() as patched, ModelStore(store.folder)._locked():
            patched.setattr("serkit.edge.store._PATIENCE_S", 0.0)
            return begin()

    monkeypatch.setattr(store, "begin", locked)
    Service(config, source=spoken(np.tile(speech, 7)), store=store).run()
    err = capfd.readouterr().err
    assert "serkit-int8 is not accepted: this start of it was not counted\n" in err
    assert "has proven itself" not in err


def patch_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: str | Path) -> Bundle:
        bundle = read_bundle(model)
        other = replace(bundle, labels=(*bundle.labels[:-1], "bored"))
        return other if bundle.name == "serkit-int8" else bundle

    monkeypatch.setattr("serkit.edge.listener.read_bundle", other)


def test_an_accepted_model_is_not_what_is_wrong_with_a_preset(
    config: Path, store: ModelStore, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.accept()
    patch_labels(monkeypatch)
    config.write_text("preset = 'driver'\n" + config.read_text())
    with pytest.raises(SettingsError, match="'bored' of serkit-int8 is in no class"):
        Service(config, source=spoken(speech), store=store).run()
    assert store.state().active is not None


def test_installed_models_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert model_store() is None
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    found = model_store()
    assert found is not None
    assert found.folder == tmp_path / "models"


def test_without_another_model_the_error_stands(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(recognizer: Recognizer) -> float:
        raise ModelError("it fails")

    monkeypatch.setattr(service, "self_test", broken)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ModelError, match="it fails"):
        Service(config, source=spoken(np.zeros(RATE))).run()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_silent_room_is_ready(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    config.write_text("")  # no sink
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        Service(config, source=spoken(np.zeros(3 * RATE))).run()
        assert systemd.recv(200) == b"STATUS=loading the model"
        assert systemd.recv(200).startswith(b"READY=1\nSTATUS=serkit-dynamic (dynamic, ")
        assert systemd.recv(200) == b"WATCHDOG=1"
    assert '"kind": "silence"' in capfd.readouterr().out


def test_a_self_test_finds_what_no_window_has() -> None:
    assert 0 < self_test(Recognizer(read_bundle("default"))) < 1


def test_the_configuration_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    assert configuration_file() is None
    (tmp_path / "serkit.toml").write_text("[vad]\nnonesuch = 1")
    assert configuration_file() == tmp_path / "serkit.toml"
    with pytest.raises(SettingsError, match="nonesuch"):
        Service().run()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_systemd_is_told_by_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0serkit-{os.getpid()}")
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@serkit-{os.getpid()}")
        notify("READY=1", "STATUS=two\nlines")
        assert systemd.recv(100) == b"READY=1\nSTATUS=two lines"
    notify("READY=1")  # nobody hears it
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_the_journal_gets_levels(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "stderr", os.fdopen(os.dup(2), "w"))
    say("to a terminal,\nsay", 4)
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    say("to the journal", 4)
    sys.stderr.close()
    assert capfd.readouterr().err == "serkit: to a terminal, say\n<4>to the journal\n"
