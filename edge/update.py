"""Updates: a signed file becomes the model that answers, or nothing changes.

In this order: size, signature, version and runtime, labels, and then a trial in a child process (`serkit.edge.probe`).
Only a model that passed is installed, and it stays on trial until the service accepts it (`serkit.edge.store`).

Keys change in the same way. A public key is trusted where a trusted key signed it with the comment "serkit trusts key",
and no longer where one signed "serkit revokes key"; which of the two is part of what was signed.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from serkit.edge.bundle import parse_bundle, read_bundle, read_signed
from serkit.edge.disk import opened_folder, read_file, sync_folder, unusable, write_whole
from serkit.edge.errors import ModelError, SerkitError
from serkit.edge.probe import Health, probe
from serkit.edge.signature import REVOKES, VOUCHES, PublicKey, read_public_key, trusted_keys, verify
from serkit.edge.store import Installed, ModelStore, State, digest


def install_model(
    path: Path,
    store: ModelStore,
    configured: str = "default",
    *,
    engine: str = "auto",
    allow_downgrade: bool = False,
    allow_labels: bool = False,
    retry: bool = False,
) -> tuple[Installed, Health]:
    """Check a model file, try it, and make it the active one.

    Args:
        path: The ``.tflite`` file, with its ``.minisig`` beside it.
        store: Where it goes.
        configured: The model that answers while none is installed.
        engine: The service's, which tries it.
        allow_downgrade: Take a version that is not newer.
        allow_labels: Take other labels than those of the model that answers.
        retry: Take a file that failed here before.

    Raises:
        ModelError: Why the old model stays.
    """
    with store.updating():
        data, signature = read_signed(path)
        key, comment = verify(data, signature, trusted_keys(store.folder.parent), path.name)
        state = store.state()
        if state.active is not None and state.active.digest == digest(data):
            raise ModelError(f"{path.name}: {state.active} is installed already")
        if not retry and (reason := state.refused.get(digest(data))):
            raise ModelError(f"{path.name}: failed here before ({reason}); --retry tries it again")
        bundle = parse_bundle(data, path, key.name)
        if not bundle.version or "golden" not in bundle.info:
            raise ModelError(f"{path.name}: no version or no golden windows, so it is no update; convert it again")
        if f" version {bundle.version} " not in f"{comment} ":
            raise ModelError(f"{path.name}: its signature speaks of another version ({comment}); convert it again")
        version, labels = _answering(store, state, configured)
        if bundle.version <= version and not allow_downgrade:
            raise ModelError(
                f"{path.name}: version {bundle.version} is not newer than version {version}, which is in use; "
                "--allow-downgrade takes it all the same"
            )
        if set(bundle.labels) != set(labels) and not allow_labels:
            raise ModelError(
                f"{path.name}: its labels are {', '.join(bundle.labels)}, those in use "
                f"{', '.join(labels) or 'cannot be read'}; --allow-labels takes it all the same"
            )
        try:
            store.refuse(digest(data), "its test did not end")  # stays if we do not survive it; installing forgets it
            health = probe(bundle, engine=engine)
        except ModelError as error:
            store.refuse(digest(data), str(error))
            raise
        return store.install(bundle, signature), health


def _answering(store: ModelStore, state: State, configured: str) -> tuple[int, tuple[str, ...]]:
    """Version and labels of the model in use: those of a file that cannot be read are as the store says, and none."""
    version = 0 if state.active is None else state.active.version
    with suppress(ModelError):
        if state.active is None:
            bundle = read_bundle(configured)
        else:
            bundle = read_bundle(store.folder / state.active.file, trusted_keys(store.folder.parent))
        return max(version, bundle.version), bundle.labels
    return version, ()


def install_key(path: Path, store: ModelStore) -> tuple[PublicKey, bool]:
    """Trust or revoke a key, as a trusted one asks.

    Returns:
        The key, and whether it is trusted now.

    Raises:
        ModelError: Why nothing changes.
    """
    with store.updating():
        data, signature = read_signed(path)
        signer, comment = verify(data, signature, trusted_keys(store.folder.parent), path.name)
        key = read_public_key(path)
        if comment not in (VOUCHES + key.name, REVOKES + key.name):
            raise ModelError(f"{path.name}: its signature says {comment!r}; sign it with `serkit model sign`")
        revoked = comment.startswith(REVOKES)
        if revoked and signer.key_id == key.key_id:
            raise ModelError(f"{path.name}: a key does not revoke itself; sign it with the key that takes its place")
        keys = trusted_keys(store.folder.parent, [(key, data, signature)])
        if not revoked and key.key_id not in {k.key_id for k in keys}:
            raise ModelError(f"{path.name}: key {key.name} was revoked here and does not come back; make a new one")
        if (active := store.active()) is not None and revoked:
            try:
                read_bundle(active, keys)
            except ModelError:
                raise ModelError(
                    f"{path.name}: {store.state().active}, which is in use, is signed by this key or one it vouched "
                    "for; install a model signed by another one first"
                ) from None
        folder = store.folder.parent / "keys"
        try:
            folder.mkdir(exist_ok=True)
            with opened_folder(folder) as opened:
                os.fchmod(opened, 0o755)  # whatever root's umask is, the service reads them
            name = _next_name(folder, digest(data + signature.encode()))
            write_whole(folder / f"{name}.minisig", signature.encode())
            write_whole(folder / name, data)
            sync_folder(folder)
            sync_folder(folder.parent)
        except OSError as error:
            raise unusable(folder, "written", error) from None
    return key, not revoked


def _next_name(folder: Path, digest: str) -> str:
    """Of a key file: names are in the order of installation, and nothing is ever overwritten by something else."""
    names = sorted(path.name for path in folder.glob("*.pub"))
    known = next((name for name in names if name.endswith(f"-{digest}.pub")), None)
    numbers = [int(name[:4]) for name in names if name[:4].isdecimal()]
    return known or f"{max(numbers, default=0) + 1:04d}-{digest}.pub"


def service_pid() -> int | None:
    """The process of the running `serkit serve`; None: none runs."""
    path = Path(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or "/run/serkit") / "pid"
    try:
        pid = int(read_file(path))
        if Path("/proc/self").exists() and b"serkit" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return None  # a pid that was given to another program since
    except (OSError, ValueError):
        return None
    return pid


def reload_service() -> bool:
    """Ask a running `serkit serve` to load its model again; whether one runs.

    Raises:
        SerkitError: It runs, and belongs to somebody else.
    """
    if (pid := service_pid()) is None:
        return False
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        raise SerkitError("the service cannot be told to reload; run this with sudo, or restart it") from None
    except OSError:  # gone meanwhile
        return False
    return True


def await_verdict(store: ModelStore, installed: Installed, patience_s: float) -> str | None:
    """Wait until the service has judged a new model.

    Returns:
        Why it was rolled back, empty where it was accepted; None: it is still on trial.
    """
    until = time.monotonic() + patience_s
    while True:
        state = store.state()
        if state.active != installed:
            return state.refused.get(installed.digest, "another model was installed")
        if state.trial_starts is None:
            return ""
        if time.monotonic() >= until:
            return None
        time.sleep(0.1)
