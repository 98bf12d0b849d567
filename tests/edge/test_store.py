from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serkit.convert.bundle import write_bundle
from serkit.edge import bundle as bundle_module
from serkit.edge import store as store_module
from serkit.edge.bundle import Bundle, read_bundle
from serkit.edge.errors import ModelError
from serkit.edge.signature import config_folder, signing_key
from serkit.edge.store import TRIAL_STARTS, ModelStore

GRAPH = b"\x1c\0\0\0TFL3" + bytes(range(256))
INFO = {
    "schema": 1, "name": "toy", "labels": ["calm", "angry"], "frontend": {}, "window": {}, "temperature": 1.0,
    "format": "float32", "created": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module.os, "fsync", lambda file: None)


@pytest.fixture
def bundles(tmp_path: Path) -> list[tuple[Bundle, str]]:
    """Versions 1 to 3 of a model and their signatures."""
    made = []
    for version in (1, 2, 3):
        path = tmp_path / f"toy-{version}.tflite"
        write_bundle(path, GRAPH, INFO | {"version": version}, "", signing_key())
        made.append((read_bundle(path), path.with_name(path.name + ".minisig").read_text()))
    return made


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "state" / "models")


def install(store: ModelStore, bundle: tuple[Bundle, str], accepted: bool = False) -> None:
    with store.updating():
        store.install(*bundle)
    if accepted:
        store.begin()
        store.accept()


def active(store: ModelStore) -> int | None:
    path = store.active()
    return None if path is None else read_bundle(path).version


def test_an_empty_store_leaves_it_to_the_configuration(store: ModelStore) -> None:
    assert (store.active(), store.begin(), store.roll_back("why not")) == (None, [], False)
    store.accept()
    assert not store.folder.exists()


def test_a_model_is_accepted_and_its_predecessor_kept(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    for bundle in bundles:
        install(store, bundle)
        assert store.begin() == [f"toy version {bundle[0].version} is on trial, start 1 of 3"]
        store.accept()
        assert ModelStore(store.folder).begin() == []
    assert active(store) == 3
    assert sorted(p.name.split("-")[0] for p in store.folder.glob("*.tflite")) == ["v2", "v3"]
    assert store.roll_back("it heard nothing")
    assert active(store) == 2
    assert list(store.state().refused.values()) == ["it heard nothing"]


def test_a_model_that_never_proves_itself_is_rolled_back(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    install(store, bundles[0], accepted=True)
    install(store, bundles[1])
    for _ in range(TRIAL_STARTS):
        service = ModelStore(store.folder)
        assert "on trial" in service.begin()[0]
        assert active(service) == 2
    (line,) = ModelStore(store.folder).begin()
    assert line == ("toy version 2 rolled back: it was started 3 times and never found healthy; toy version 1 answers")
    assert active(store) == 1
    assert ModelStore(store.folder).begin() == []


def test_a_start_that_ends_in_order_does_not_count(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    install(store, bundles[0])
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
    store: ModelStore, bundles: list[tuple[Bundle, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(store, bundles[0])
    monkeypatch.setattr(store_module, "_PATIENCE_S", 0.0)
    service = ModelStore(store.folder)
    with store._locked():
        assert "another process is writing here" in service.begin()[0]
    assert not service.accept()
    assert store.state().trial_starts == 0


def test_a_first_model_goes_back_to_the_configuration(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    install(store, bundles[0])
    store.begin()
    assert store.roll_back("it crashed")
    assert store.active() is None


def test_a_trial_replaced_by_another_keeps_the_accepted_one(
    store: ModelStore, bundles: list[tuple[Bundle, str]]
) -> None:
    install(store, bundles[0], accepted=True)
    install(store, bundles[1])
    service = ModelStore(store.folder)
    service.begin()
    install(store, bundles[2])
    service.accept()  # speaks of version 2
    assert not service.roll_back("and so does this")
    state = store.state()
    assert state.trial_starts == 0
    assert (state.active and state.active.version, state.previous and state.previous.version) == (3, 1)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_file_falls_back(store: ModelStore, bundles: list[tuple[Bundle, str]], damage: bytes | None) -> None:
    for bundle in bundles[:2]:
        install(store, bundle, accepted=True)
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
def test_a_damaged_state_is_begun_anew(store: ModelStore, bundles: list[tuple[Bundle, str]], text: str) -> None:
    install(store, bundles[0], accepted=True)
    (store.folder / "state.json").write_text(text)
    assert store.active() is None
    (line,) = store.begin()
    assert "state.json: damaged" in line
    assert line.endswith("the model of the configuration answers")
    assert ModelStore(store.folder).begin() == []
    install(store, bundles[1], accepted=True)
    assert active(store) == 2


@pytest.mark.parametrize("name", ["state.json.new", "v2-{digest}.tflite.new", "v2-{digest}.tflite.minisig.new"])
def test_a_planted_link_leads_nowhere(store: ModelStore, bundles: list[tuple[Bundle, str]], name: str) -> None:
    """The service's user owns the folder in which root writes."""
    install(store, bundles[0], accepted=True)
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


def test_a_folder_that_is_a_link_is_refused(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    elsewhere = store.folder.parent.parent / "elsewhere"
    elsewhere.mkdir(parents=True)
    (elsewhere / "precious.tflite").write_text("precious")
    store.folder.parent.mkdir()
    store.folder.symlink_to(elsewhere)
    with pytest.raises(ModelError, match="it must be a folder and no link to one: move it away"):
        install(store, bundles[0])
    assert [p.name for p in elsewhere.iterdir()] == ["precious.tflite"]


def test_a_pipe_is_no_state(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    install(store, bundles[0], accepted=True)
    (store.folder / "state.json").unlink()
    os.mkfifo(store.folder / "state.json")
    with pytest.raises(ModelError, match=r"state\.json: cannot be read \(not a file\)"):
        install(store, bundles[1])


def test_a_state_by_a_later_serkit(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    """What it added is left out; what it calls another schema is not touched."""
    install(store, bundles[0], accepted=True)
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
        install(store, bundles[1])
    assert store.active() is None
    assert path.read_text() == text


def test_a_bad_key_file_takes_no_model(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    for bundle in bundles[:2]:
        install(store, bundle, accepted=True)
    bad = config_folder() / "trusted" / "bad.pub"
    bad.write_text("what is this")
    try:
        assert store.begin() == []
        assert active(store) == 2
    finally:
        bad.unlink()


@pytest.mark.parametrize("why", ["disk", "key"])
def test_an_accepted_model_that_cannot_be_read_now_comes_back(
    store: ModelStore, bundles: list[tuple[Bundle, str]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bundle in bundles[:2]:
        install(store, bundle, accepted=True)
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


def test_one_update_at_a_time(store: ModelStore, bundles: list[tuple[Bundle, str]]) -> None:
    with (
        store.updating(),
        pytest.raises(ModelError, match="another update is running; wait for it to end"),
        ModelStore(store.folder).updating(),
    ):
        pass
    with store.updating():
        pass


def test_a_service_does_not_wait_for_a_stuck_writer(
    store: ModelStore, bundles: list[tuple[Bundle, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_PATIENCE_S", 0.01)
    install(store, bundles[0])
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


def test_a_full_disk_loses_nothing(
    store: ModelStore, bundles: list[tuple[Bundle, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(store, bundles[0], accepted=True)
    before = {p.name: p.read_bytes() for p in store.folder.iterdir()}
    with monkeypatch.context() as m:
        refusing(m, errno.ENOSPC)
        with pytest.raises(ModelError, match=r"cannot be written \(No space left on device\); free some space"):
            install(store, bundles[1])
    assert {p.name: p.read_bytes() for p in store.folder.iterdir()} == before


def test_a_read_only_disk_begins_no_trial(
    store: ModelStore, bundles: list[tuple[Bundle, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(store, bundles[0], accepted=True)
    install(store, bundles[1])
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
    install(store, bundles[2], accepted=True)
    assert active(service) == 3  # what was held goes once the disk says something new


def test_a_rollback_holds_where_it_cannot_be_written(
    store: ModelStore, bundles: list[tuple[Bundle, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for bundle in bundles[:2]:
        install(store, bundle, accepted=True)
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


class Disk:
    """Watches what a store does to its folder, and knows what of it a power cut may leave.

    Bytes last once their file was synced, names once the folder was. Of what was not, anything may be left: every
    subset of the new, moved and removed names is tried, which is harsher than a journal, and of the bytes none, half
    and all.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> None:
        self.folder, self.fail_at, self.n_operations = folder, fail_at, 0
        self.left: set[tuple[tuple[str, bytes], ...]] = set()
        self._inodes = itertools.count()
        self._names: dict[str, int] = {}  # that last
        self._pending: list[tuple[str, str, int]] = []  # old name, new name, inode; "" is no name
        self._bytes: dict[int, bytes] = {}
        self._synced: dict[int, bytes] = {}
        self.files: dict[int, int] = {}  # descriptor to inode
        for path in folder.iterdir():
            inode = next(self._inodes)
            self._names[path.name], self._bytes[inode], self._synced[inode] = (
                inode,
                path.read_bytes(),
                path.read_bytes(),
            )
        self._now = dict(self._names)
        real = {n: getattr(store_module.os, n) for n in ("open", "write", "fsync", "close", "replace", "unlink")}

        def opened(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            made = bool(flags & os.O_CREAT)
            if made:
                self._operation()
            file: int = real["open"](name, flags, mode, dir_fd=dir_fd)
            if made:
                self.files[file] = inode = next(self._inodes)
                self._bytes[inode] = self._synced[inode] = b""
                self._name("", name, inode)
            return file

        def written(file: int, data: bytes) -> int:
            self._operation()
            n: int = real["write"](file, data)
            self._bytes[self.files[file]] += bytes(data[:n])
            return n

        def synced(file: int) -> None:
            self._operation()
            real["fsync"](file)
            if file in self.files:
                self._synced[self.files[file]] = self._bytes[self.files[file]]
            else:
                self._names, self._pending = dict(self._now), []

        def closed(file: int) -> None:
            real["close"](file)
            self.files.pop(file, None)

        def replaced(old: str, new: str, **folders: int) -> None:
            self._operation()
            real["replace"](old, new, **folders)
            self._name(old, new, self._now[old])

        def unlinked(name: str, *, dir_fd: int) -> None:
            self._operation()
            real["unlink"](name, dir_fd=dir_fd)
            self._name(name, "", self._now[name])

        for name, function in {
            "open": opened, "write": written, "fsync": synced, "close": closed, "replace": replaced, "unlink": unlinked,
        }.items():  # fmt: skip
            monkeypatch.setattr(store_module.os, name, function)

    def _name(self, old: str, new: str, inode: int) -> None:
        self._pending.append((old, new, inode))
        self._apply(self._now, self._pending[-1])

    @staticmethod
    def _apply(names: dict[str, int], change: tuple[str, str, int]) -> None:
        old, new, inode = change
        if names.get(old) == inode:
            del names[old]
        if new:
            names[new] = inode

    def _operation(self) -> None:
        """The power goes just before an operation; or the operation fails."""
        self.cut()
        self.n_operations += 1
        if self.n_operations - 1 == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def cut(self) -> None:
        """Note all that may be left if the power went now."""
        for n in range(len(self._pending) + 1):
            for changes in itertools.combinations(self._pending, n):
                names = dict(self._names)
                for change in changes:
                    self._apply(names, change)
                for share in (0.0, 0.5, 1.0):
                    self.left.add(tuple(sorted((name, self._left(i, share)) for name, i in names.items())))

    def _left(self, inode: int, share: float) -> bytes:
        synced, data = self._synced[inode], self._bytes[inode]
        return data[: len(synced) + int(share * (len(data) - len(synced)))]


Change = Callable[[ModelStore, list[tuple[Bundle, str]]], object]


def begin_until_it_is_rolled_back(store: ModelStore, _: list[tuple[Bundle, str]]) -> None:
    for _ in range(TRIAL_STARTS + 1):
        store.begin()


#: What is done where version 1 was accepted and version 2 is on trial, and the versions that may answer afterwards.
CHANGES: dict[str, tuple[Change, set[int]]] = {
    "install": (lambda store, bundles: store.install(*bundles[2]), {2, 3}),
    "accept": (lambda store, _: store.accept(), {2}),
    "begin": (lambda store, _: store.begin(), {2}),
    "uncount": (lambda store, _: (store.begin(), store.uncount()), {2}),
    "begin too often": (begin_until_it_is_rolled_back, {1, 2}),
    "roll back": (lambda store, _: store.roll_back("it hears nothing"), {1, 2}),
    "refuse": (lambda store, _: store.refuse("0" * 16, "slow"), {2}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_power_cut_at_any_instant_leaves_the_old_or_the_new(
    store: ModelStore, bundles: list[tuple[Bundle, str]], change: str
) -> None:
    """Whatever a cut before any operation may leave comes up, also where an earlier operation failed."""
    apply, allowed = CHANGES[change]
    install(store, bundles[0], accepted=True)
    install(store, bundles[1])
    start = {p.name: p.read_bytes() for p in store.folder.iterdir()}
    left: set[tuple[tuple[str, bytes], ...]] = set()
    cuts: list[int | None] = [None]
    for fail_at in cuts:
        shutil.rmtree(store.folder)
        fill(store.folder, start)
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(store.folder, monkeypatch, fail_at)
            with contextlib.suppress(ModelError):
                apply(ModelStore(store.folder), bundles)
            disk.cut()
        left |= disk.left
        if fail_at is None:
            cuts += range(disk.n_operations)
    assert len(left) >= 3
    for files in left:
        shutil.rmtree(store.folder)
        fill(store.folder, dict(files))
        booted = ModelStore(store.folder)
        assert not any("rolled back" in line and "never found healthy" not in line for line in booted.begin())
        assert active(booted) in allowed
        for _ in range(TRIAL_STARTS):
            ModelStore(store.folder).begin()
        assert active(booted) in {1, *allowed} - {3}  # nobody accepted what was new
        install(booted, bundles[2], accepted=True)
        assert active(booted) == 3
        assert len(list(booted.folder.iterdir())) <= 5  # two models, their signatures, the state


@pytest.mark.parametrize("forgotten", ["bytes", "names"])
def test_the_disk_shows_what_is_not_synced(
    store: ModelStore, bundles: list[tuple[Bundle, str]], forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is worth something: without a sync, a cut leaves a model that is named and not there."""
    install(store, bundles[0], accepted=True)
    with monkeypatch.context() as m:
        disk = Disk(store.folder, m)
        synced = store_module.os.fsync
        m.setattr(
            store_module.os,
            "fsync",
            lambda file: synced(file) if (file in disk.files) == (forgotten == "names") else None,
        )
        store.install(*bundles[1])
        disk.cut()
    bad = 0
    for files in disk.left:
        shutil.rmtree(store.folder)
        fill(store.folder, dict(files))
        bad += any("damaged" in line or "rolled back" in line for line in ModelStore(store.folder).begin())
    assert bad


def fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
