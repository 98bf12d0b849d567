"""Files that survive a power cut, in folders where somebody with fewer rights may write as well.

What is written is whole or not there. Root and a service share these folders: no link in them leads root elsewhere, and
no pipe makes it wait.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serkit.edge.errors import ModelError

_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "the disk is read-only: remount it, and check the card",
    errno.EACCES: "run this with sudo",
    errno.EPERM: "run this with sudo",
    errno.ENOTDIR: "it must be a folder and no link to one: move it away",
}


def unusable(path: Path, done: str, error: OSError) -> ModelError:
    """What a file or folder that cannot be ``done`` is called, and what to do."""
    advice = _ADVICE.get(error.errno or 0, "check the disk")
    return ModelError(f"{path}: cannot be {done} ({error.strerror}); {advice}")


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """A folder's descriptor; what is done by it is done in this folder, whatever gets its name meanwhile.

    Raises:
        OSError: It cannot be opened; ``ENOTDIR`` where it is a link.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder
    finally:
        os.close(folder)


def read_file(path: Path, size: int = -1, flags: int = 0) -> bytes:
    """A regular file's bytes, at most ``size`` of them.

    Args:
        path: The file.
        size: -1: all.
        flags: For `os.open`; ``O_NOFOLLOW`` where it may be no link.

    Raises:
        OSError: It cannot be read, or is something else, say a pipe.
    """
    with open(path, "rb", opener=lambda name, mode: os.open(name, mode | os.O_NONBLOCK | flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return file.read(size)


def write_whole(path: Path, data: bytes) -> None:
    """A file that is whole or not there; its name lasts once its folder was synced.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    temporary = f"{path.name}.new"
    with opened_folder(path.parent) as folder:
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=folder)
            try:
                os.fchmod(file, 0o644)  # the service reads what root wrote
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise


def sync_folder(path: Path) -> None:
    """Make the names in a folder last."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path, patience_s: float, busy: str) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process at the latest.

    Raises:
        ModelError: Another process holds it for longer than ``patience_s``, or it cannot be had.
    """
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unusable(path, "read", error) from None
    try:
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise ModelError(f"{path}: {busy}") from None
                time.sleep(0.01)
            except OSError as error:
                raise unusable(path, "locked", error) from None
        yield
    finally:
        os.close(folder)
