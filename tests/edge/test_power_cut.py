"""The power goes at any instant of what a store does."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serkit.edge import store as store_module
from serkit.edge.bundle import Bundle
from serkit.edge.errors import ModelError
from serkit.edge.store import TRIAL_STARTS, ModelStore


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
    store: ModelStore, bundles: list[tuple[Bundle, str]], install: Any, active: Any, change: str
) -> None:
    """Whatever a cut before any operation may leave comes up, also where an earlier operation failed."""
    apply, allowed = CHANGES[change]
    install(store, 1, accepted=True)
    install(store, 2)
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
        install(booted, 3, accepted=True)
        assert active(booted) == 3
        assert len(list(booted.folder.iterdir())) <= 5  # two models, their signatures, the state


@pytest.mark.parametrize("forgotten", ["bytes", "names"])
def test_the_disk_shows_what_is_not_synced(
    store: ModelStore, bundles: list[tuple[Bundle, str]], install: Any, forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is worth something: without a sync, a cut leaves a model that is named and not there."""
    install(store, 1, accepted=True)
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
