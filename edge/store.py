"""Installed models: which one answers, which one did before, and whether it has proven itself.

The folder holds model files with their signatures, named by version and digest and never changed, and ``state.json``,
which says which of them answers. Files are on the disk before the state names them, the state is replaced by one
rename, and what it no longer names is removed afterwards: a power cut at any instant leaves the old model or the new.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from serkit.edge.bundle import Bundle, read_bundle
from serkit.edge.disk import locked, opened_folder, read_file, sync_folder, unusable, write_whole
from serkit.edge.errors import ModelError
from serkit.edge.settings import build
from serkit.edge.signature import bad_keys, trusted_keys

#: Starts of the service in which a new model has to prove itself; at the next one it is rolled back.
TRIAL_STARTS = 3
_REMEMBERED = 32  # refused models
_PATIENCE_S = 2.0  # for the few milliseconds another process needs to write the state
_STATE = "state.json"
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A model in the store.

    Attributes:
        file: Its name in the folder.
        name: What it is called.
        version: Of the model.
    """

    file: str
    name: str
    version: int

    @property
    def digest(self) -> str:
        """Tells files apart; see `digest`."""
        return Path(self.file).stem.rpartition("-")[2]

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True, kw_only=True)
class State:
    """What ``state.json`` says.

    Attributes:
        active: The model that answers; None: the configuration's.
        previous: The one before it, for a rollback.
        trial_starts: How often the service was started with the active model before it was accepted; None: it was.
        refused: Digest of each model that failed, and why, the latest last.
    """

    active: Installed | None = None
    previous: Installed | None = None
    trial_starts: int | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def refusing(self, digest: str, reason: str) -> State:
        """The state that also remembers a refused model."""
        kept = {d: r for d, r in self.refused.items() if d != digest} | {digest: reason}
        return replace(self, refused=dict(list(kept.items())[-_REMEMBERED:]))

    def stepped_back(self) -> State:
        """The state with the previous model, accepted."""
        return replace(self, active=self.previous, previous=None, trial_starts=None)


def digest(data: bytes) -> str:
    """By which a model file is remembered, 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:16]


def _parsed(data: bytes) -> State:
    """A state as it is written, without what a later serkit added.

    Raises:
        ModelError: A later serkit wrote it, and means something else by it.
    """
    values = json.loads(data)
    if (schema := values.get("schema", _SCHEMA)) > _SCHEMA:
        raise ModelError(f"of schema {schema}, this serkit knows {_SCHEMA}; update serkit")
    values = _known(State, values)
    models = {name: _known(Installed, m) for name in ("active", "previous") if (m := values.get(name)) is not None}
    state = build(State, values | models, _STATE)
    if any(m is not None and Path(m.file).name != m.file for m in (state.active, state.previous)):
        raise ValueError("it names a file outside the folder")
    return state


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    return {f.name: values[f.name] for f in fields(kind) if f.name in values}


class _DamagedError(ModelError):
    """The state is no state."""


class ModelStore:
    """The installed models of a device, shared by the service and `serkit update`.

    Args:
        folder: Where they are; it need not exist. The keys that were installed with them are in ``keys`` beside it.

    Attributes:
        problem: Why the last change could not be written; empty where it was. The change then holds for this process
            alone.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.problem = ""
        self._unwritten: tuple[State, State] | None = None  # the state that is written, and what replaces it
        self._for_now = False  # it does because a model could not be read, and not because it could not be written
        self._begun = False
        self._answering: Installed | None = None  # in this process, since `begin`

    def state(self) -> State:
        """What is installed.

        Raises:
            ModelError: The state is damaged or cannot be read.
        """
        written = self._read()
        if self._unwritten is not None and self._unwritten[0] == written:
            return self._unwritten[1]
        return written

    def _read(self) -> State:
        path = self.folder / _STATE
        try:
            return _parsed(read_file(path, flags=os.O_NOFOLLOW))
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise unusable(path, "read", error) from None
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise _DamagedError(f"{path}: damaged ({error}); install the model again") from None

    def active(self) -> Path | None:
        """The installed model's file; None: the configuration's model is the one that answers."""
        try:
            active = self.state().active
        except ModelError:
            return None
        return None if active is None else self.folder / active.file

    def begin(self) -> list[str]:
        """Begin to answer with the active model; a service calls it whenever it loads its model.

        Each call is one start of a model on trial. One that was started `TRIAL_STARTS` times and not accepted is
        rolled back, and so is one whose file is damaged. An accepted model that only cannot be used now, for a key or
        the disk cannot be read, or serkit is older than it needs, is passed over until the next call. Raises nothing.

        Returns:
            Lines for the journal.
        """
        self.problem, self._answering, self._begun = "", None, True
        try:
            if not self.folder.exists():
                return []
            with self._locked():
                return self._begin()
        except (ModelError, OSError) as error:
            self.problem = str(error)
            return [f"{error}; {_answers(State())}"]

    def _begin(self) -> list[str]:
        lines: list[str] = []
        if self._for_now:
            self._unwritten, self._for_now = None, False
        try:
            found, state = self._read(), self.state()
        except _DamagedError as error:
            found, state = State(trial_starts=0), State()  # differ, so that an empty one is written
            lines.append(f"{error}; {_answers(state)}")
        kept = state  # what the disk is to say
        while state.active is not None and (reason := self._failed(state)):
            old, on_trial, state = state.active, state.trial_starts is not None, state.stepped_back()
            if on_trial:
                state = state.refusing(old.digest, reason)
            for_good = on_trial or self._damaged(old)
            if for_good and kept.active == old:
                kept = state
            lines.append(f"{old} {'rolled back' if for_good else 'passed over'}: {reason}; {_answers(state)}")
        if lines:
            lines += bad_keys()
        if state.trial_starts is not None:
            kept = state = replace(state, trial_starts=state.trial_starts + 1)
            lines.append(f"{state.active} is on trial, start {state.trial_starts} of {TRIAL_STARTS}")
        if kept != found and not self._save(kept):
            if state.trial_starts is not None:  # uncounted, it could be started for ever
                state = state.stepped_back()
                self._unwritten = found, state
                lines[-1] = f"a trial that cannot be counted does not begin; {_answers(state)}"
            lines.append(self.problem)
        elif state != kept:
            self._unwritten, self._for_now = (kept, state), True
        self._answering = state.active
        return lines

    def _failed(self, state: State) -> str:
        """Why the active model cannot go on; empty where it can."""
        assert state.active is not None
        if state.trial_starts is not None and state.trial_starts >= TRIAL_STARTS:
            return f"it was started {state.trial_starts} times and never found healthy"
        try:
            read_bundle(self.folder / state.active.file, trusted_keys(self.folder.parent))
        except ModelError as error:
            return str(error)
        return ""

    def _damaged(self, model: Installed) -> bool:
        """Whether its file is not what was installed."""
        try:
            return digest(read_file(self.folder / model.file)) != model.digest
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def accept(self) -> bool:
        """The active model has proven itself; whether that is written now: not where `begin` began with another."""
        return (
            self._change(lambda s: replace(s, trial_starts=None) if self._answers_with(s) else s) and not self.problem
        )

    def uncount(self) -> None:
        """This start ended in order, before the active model could prove itself or fail: it does not count."""
        self._change(lambda s: replace(s, trial_starts=n - 1) if (n := s.trial_starts) and self._answers_with(s) else s)

    def roll_back(self, reason: str) -> bool:
        """Go back to the model before the active one, and remember that this one failed.

        Returns:
            Whether another model is active now: not where none is installed, or where another one was since `begin`.
        """

        def change(state: State) -> State:
            if state.active is None or not self._answers_with(state):
                return state
            return state.stepped_back().refusing(state.active.digest, reason)

        return self._change(change)

    def refuse(self, digest: str, reason: str) -> None:
        """Remember a model that failed before it was installed."""
        self._change(lambda state: state.refusing(digest, reason))

    def _answers_with(self, state: State) -> bool:
        """Whether this process answers with the active model, as far as is known."""
        return not self._begun or state.active == self._answering

    def _change(self, change: Callable[[State], State]) -> bool:
        """Change the state; whether it did. Raises nothing: `problem` says what went wrong."""
        self.problem = ""
        try:
            with self._locked():
                found = self.state()
                state = change(found)
                if state != found:
                    self._save(state)
        except ModelError as error:
            self.problem = str(error)
            return False
        return state != found

    def install(self, bundle: Bundle, signature: str) -> Installed:
        """Make a verified model the active one, on trial.

        Raises:
            ModelError: It cannot be written; what was installed before still is.
        """
        new = Installed(
            file=f"v{bundle.version}-{digest(bundle.data)}.tflite", name=bundle.name, version=bundle.version
        )
        with self._locked():
            found = self.state()
            previous = found.previous if found.trial_starts is not None else found.active
            refused = {d: r for d, r in found.refused.items() if d != new.digest}
            state = State(active=new, previous=previous, trial_starts=0, refused=refused)
            try:
                self._sweep(found)
                write_whole(self.folder / f"{new.file}.minisig", signature.encode())
                write_whole(self.folder / new.file, bundle.data)
                sync_folder(self.folder)
                self._write_state(state)
            except OSError as error:
                self._sweep(found, self._read())  # a rename that was not synced may not last
                raise unusable(self.folder, "written", error) from None
            self._sweep(state)
        return new

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Hold the store for one update, from its first check to its installation.

        Raises:
            ModelError: Another update holds it, or the folder cannot be written.
        """
        above = self.folder.parent
        try:
            above.mkdir(parents=True, exist_ok=True)
            if not self.folder.exists():
                self.folder.mkdir()
                if os.geteuid() == 0:  # the service, which is not root, has to write here as well
                    with opened_folder(self.folder) as folder:
                        os.fchown(folder, above.stat().st_uid, above.stat().st_gid)
                sync_folder(above)
            if not os.access(self.folder, os.W_OK):
                read_only = os.statvfs(self.folder).f_flag & os.ST_RDONLY
                raise OSError(code := errno.EROFS if read_only else errno.EACCES, os.strerror(code))
        except OSError as error:
            raise unusable(self.folder, "written", error) from None
        with locked(above, 0.0, "another update is running; wait for it to end"):
            try:
                self._read()
            except _DamagedError:
                if not self._save(State()):
                    raise ModelError(self.problem) from None
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.folder, _PATIENCE_S, "another process is writing here; try again"):
            yield

    def _save(self, state: State) -> bool:
        """Replace the state; what cannot be written holds for this process."""
        self._unwritten, self.problem = None, ""
        try:
            self._write_state(state)
        except OSError as error:
            self.problem = str(unusable(self.folder, "written", error))
            with suppress(ModelError):
                self._unwritten = self._read(), state
        return not self.problem

    def _write_state(self, state: State) -> None:
        write_whole(
            self.folder / _STATE, json.dumps({"schema": _SCHEMA} | asdict(state), indent=1, ensure_ascii=False).encode()
        )
        sync_folder(self.folder)

    def _sweep(self, *states: State) -> None:
        """Remove what no state names: models before the previous one, and what a power cut left half."""
        named = {m.file for state in states for m in (state.active, state.previous) if m is not None}
        with suppress(OSError), opened_folder(self.folder) as folder:
            for name in sorted(os.listdir(folder)):  # noqa: PTH208 - by its descriptor
                model = name.removesuffix(".minisig")
                if name.endswith(".new") or (model.endswith(".tflite") and model not in named):
                    with suppress(OSError):
                        os.unlink(name, dir_fd=folder)


def _answers(state: State) -> str:
    return f"{state.active or 'the model of the configuration'} answers"
