from __future__ import annotations

import errno
import json
import os
from typing import Any

import pytest

from serkit.edge import bundle as bundle_module
from serkit.edge import store as store_module
from serkit.edge.bundle import Bundle
from serkit.edge.errors import ModelError
from serkit.edge.signature import config_folder
from serkit.edge.store import TRIAL_STARTS, ModelStore


def test_an_empty_store_leaves_it_to_the_configuration(store: ModelStore) -> None:
    assert (store.active(), store.begin(), store.roll_back("why not")) == (None, [], False)
    store.accept()
    assert not store.folder.exists()


def test_a_model_is_accepted_and_its_predecessor_kept(store: ModelStore, install: Any, active: Any) -> None:
    for version in (1, 2, 3):
        install(store, version)
        assert store.begin() == [f"toy version {version} is on trial, start 1 of 3"]
        store.accept()
        assert ModelStore(store.folder).begin() == []
    assert active(store) == 3
    assert sorted(p.name.split("-")[0] for p in store.folder.glob("*.tflite")) == ["v2", "v3"]
    assert store.roll_back("it heard nothing")
    assert active(store) == 2
    assert list(store.state().refused.values()) == ["it heard nothing"]


def test_a_model_that_never_proves_itself_is_rolled_back(store: ModelStore, install: Any, active: Any) -> None:
    install(store, 1, accepted=True)
    install(store, 2)
    for _ in range(TRIAL_STARTS):
        service = ModelStore(store.folder)
        assert "on trial" in service.begin()[0]
        assert active(service) == 2
    (line,) = ModelStore(store.folder).begin()
    assert line == ("toy version 2 rolled back: it was started 3 times and never found healthy; toy version 1 answers")
    assert active(store) == 1
    assert ModelStore(store.folder).begin() == []


def test_a_start_that_ends_in_order_does_not_count(store: ModelStore, install: Any) -> None:
    install(store, 1)
    for _ in range(TRIAL_STARTS + 1):
        service = ModelStore(store.folder)
        assert service.begin() == ["toy version 1 is on trial, start 1 of 3"]
        service.uncount()
    service.uncount()
    assert store.state().trial_starts == 0
    service.begin()
    assert service.accept()
    assert not service.accept()
    service.uncount()
    assert store.state().trial_starts is None


def test_a_model_that_began_uncounted_is_not_accepted(
    store: ModelStore, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(store, 1)
    monkeypatch.setattr(store_module, "_PATIENCE_S", 0.0)
    service = ModelStore(store.folder)
    with store._locked():
        assert "another process is writing here" in service.begin()[0]
    assert not service.accept()
    assert store.state().trial_starts == 0


def test_a_first_model_goes_back_to_the_configuration(store: ModelStore, install: Any) -> None:
    install(store, 1)
    store.begin()
    assert store.roll_back("it crashed")
    assert store.active() is None


def test_a_trial_replaced_by_another_keeps_the_accepted_one(store: ModelStore, install: Any) -> None:
    install(store, 1, accepted=True)
    install(store, 2)
    service = ModelStore(store.folder)
    service.begin()
    install(store, 3)
    service.accept()  # speaks of version 2
    assert not service.roll_back("and so does this")
    state = store.state()
    assert state.trial_starts == 0
    assert (state.active and state.active.version, state.previous and state.previous.version) == (3, 1)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_file_falls_back(store: ModelStore, install: Any, active: Any, damage: bytes | None) -> None:
    for version in (1, 2):
        install(store, version, accepted=True)
    path = store.active()
    assert path is not None
    path.unlink() if damage is None else path.write_bytes(damage)
    (line,) = store.begin()
    assert line.startswith("toy version 2 rolled back: ")
    assert line.endswith("toy version 1 answers")
    assert active(store) == 1
    assert store.state().refused == {}  # the disk failed, not the model


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"active": 3}', '{"active": {"file": "../x", "name": "x", "version": 1}}', '{"schema": "x"}'],
)
def test_a_damaged_state_is_begun_anew(store: ModelStore, install: Any, active: Any, text: str) -> None:
    install(store, 1, accepted=True)
    (store.folder / "state.json").write_text(text)
    assert store.active() is None
    (line,) = store.begin()
    assert "state.json: damaged" in line
    assert line.endswith("the model of the configuration answers")
    assert ModelStore(store.folder).begin() == []
    install(store, 2, accepted=True)
    assert active(store) == 2


@pytest.mark.parametrize("name", ["state.json.new", "v2-{digest}.tflite.new", "v2-{digest}.tflite.minisig.new"])
def test_a_planted_link_leads_nowhere(
    store: ModelStore, bundles: list[tuple[Bundle, str]], install: Any, active: Any, name: str
) -> None:
    """The service's user owns the folder in which root writes."""
    install(store, 1, accepted=True)
    victim = store.folder.parent / "victim"
    victim.write_text("root's own")
    victim.chmod(0o600)
    bundle = bundles[1][0]
    (store.folder / name.format(digest=store_module.digest(bundle.data))).symlink_to(victim)
    with store.updating():
        store._sweep = lambda *states: None  # type: ignore[method-assign]  # the link may come after it
        store.install(*bundles[1])
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("root's own", 0o600)
    assert active(store) == 2


def test_a_folder_that_is_a_link_is_refused(store: ModelStore, install: Any) -> None:
    elsewhere = store.folder.parent.parent / "elsewhere"
    elsewhere.mkdir(parents=True)
    (elsewhere / "precious.tflite").write_text("precious")
    store.folder.parent.mkdir()
    store.folder.symlink_to(elsewhere)
    with pytest.raises(ModelError, match="it must be a folder and no link to one: move it away"):
        install(store, 1)
    assert [p.name for p in elsewhere.iterdir()] == ["precious.tflite"]


def test_a_pipe_is_no_state(store: ModelStore, install: Any) -> None:
    install(store, 1, accepted=True)
    (store.folder / "state.json").unlink()
    os.mkfifo(store.folder / "state.json")
    with pytest.raises(ModelError, match=r"state\.json: cannot be read \(not a file\)"):
        install(store, 2)


def test_a_state_by_a_later_serkit(store: ModelStore, install: Any, active: Any) -> None:
    """What it added is left out; what it calls another schema is not touched."""
    install(store, 1, accepted=True)
    path = store.folder / "state.json"
    values = json.loads(path.read_text())
    values["active"]["by"] = "fleet"
    path.write_text(json.dumps(values | {"since": 3}))
    assert store.begin() == []
    assert active(store) == 1
    path.write_text(text := json.dumps(values | {"schema": 2}))
    (line,) = store.begin()
    assert line.endswith("of schema 2, this serkit knows 1; update serkit; the model of the configuration answers")
    assert not store.roll_back("it is unknown")
    with pytest.raises(ModelError, match="update serkit"):
        install(store, 2)
    assert store.active() is None
    assert path.read_text() == text


def test_a_bad_key_file_takes_no_model(store: ModelStore, install: Any, active: Any) -> None:
    for version in (1, 2):
        install(store, version, accepted=True)
    bad = config_folder() / "trusted" / "bad.pub"
    bad.write_text("what is this")
    try:
        assert store.begin() == []
        assert active(store) == 2
    finally:
        bad.unlink()


@pytest.mark.parametrize("why", ["disk", "key"])
def test_an_accepted_model_that_cannot_be_read_now_comes_back(
    store: ModelStore, install: Any, active: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        install(store, version, accepted=True)
    before = store.state()
    with monkeypatch.context() as m:
        if why == "disk":
            m.setattr(bundle_module, "read_file", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "too many")))
        else:
            m.setenv("SERKIT_CONFIG", str(store.folder))
        first, second = store.begin()
        assert first.startswith("toy version 2 passed over: ")
        assert second.startswith("toy version 1 passed over: ")
        assert store.active() is None
        assert not store.roll_back("the configuration's model fails as well")
    assert ModelStore(store.folder).state() == before
    assert store.begin() == []
    assert active(store) == 2


def test_one_update_at_a_time(store: ModelStore) -> None:
    with (
        store.updating(),
        pytest.raises(ModelError, match="another update is running; wait for it to end"),
        ModelStore(store.folder).updating(),
    ):
        pass
    with store.updating():
        pass


def test_a_service_does_not_wait_for_a_stuck_writer(
    store: ModelStore, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_PATIENCE_S", 0.01)
    install(store, 1)
    with store._locked():
        service = ModelStore(store.folder)
        (line,) = service.begin()
        assert "another process is writing here" in line
        service.accept()
        assert "another process is writing here" in service.problem


def refusing(monkeypatch: pytest.MonkeyPatch, code: int, name: str = "write") -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store_module.os, name, refuse)


def test_a_full_disk_loses_nothing(store: ModelStore, install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(store, 1, accepted=True)
    before = {p.name: p.read_bytes() for p in store.folder.iterdir()}
    with monkeypatch.context() as m:
        refusing(m, errno.ENOSPC)
        with pytest.raises(ModelError, match=r"cannot be written \(No space left on device\); free some space"):
            install(store, 2)
    assert {p.name: p.read_bytes() for p in store.folder.iterdir()} == before


def test_a_read_only_disk_begins_no_trial(
    store: ModelStore, install: Any, active: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(store, 1, accepted=True)
    install(store, 2)
    service = ModelStore(store.folder)
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, mode, dir_fd=dir_fd)

    with monkeypatch.context() as m:
        m.setattr(store_module.os, "open", opened)
        first, second = service.begin()
        assert first == "a trial that cannot be counted does not begin; toy version 1 answers"
        assert "the disk is read-only" in second
        assert active(service) == 1
        assert service.roll_back("so does a rollback of what answers")
        assert service.active() is None
    assert active(store) == 2
    assert ModelStore(store.folder).begin() == ["toy version 2 is on trial, start 1 of 3"]
    install(store, 3, accepted=True)
    assert active(service) == 3  # what was held goes once the disk says something new


def test_a_rollback_holds_where_it_cannot_be_written(
    store: ModelStore, install: Any, active: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        install(store, version, accepted=True)
    store.begin()
    with monkeypatch.context() as m:
        refusing(m, errno.ENOSPC)
        assert store.roll_back("NaN")
        assert "free some space" in store.problem
        assert active(store) == 1
        assert "free some space" in store.begin()[0]
        assert active(store) == 1
    assert store.begin() == []
    assert active(ModelStore(store.folder)) == 1
