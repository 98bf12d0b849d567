"""The models of a running service, as a roll-out sees them: a model from afar goes the way of `serkit update`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from serkit.edge.errors import ModelError
from serkit.edge.roll_out import Answer
from serkit.edge.signature import state_folder
from serkit.edge.store import Installed, ModelStore, State, digest
from serkit.edge.stream import Recognizer
from serkit.edge.update import install_model, reload_service, service_pid


def service_models(recognizer: Recognizer) -> StoredModels | None:
    """The models of this process, where it is `serkit serve`; None elsewhere.

    Args:
        recognizer: With the model that answers, and the engine.
    """
    return StoredModels(ModelStore(state_folder() / "models"), recognizer) if service_pid() == os.getpid() else None


class StoredModels:
    """Models in a store, and a service that is told to load them.

    Args:
        store: Not the service's own object: one that looks at the same folder.
        recognizer: With the model that answers, the configuration's where the store has none, and the engine.
    """

    def __init__(self, store: ModelStore, recognizer: Recognizer) -> None:
        self._store = store
        self._bundle = recognizer.bundle
        self._engine = recognizer.engine.name

    def running(self) -> Answer:
        """About the model that answers now."""
        with suppress(ModelError):
            state = self._store.state()
            if state.active is not None:
                return _answer(state.active, state)
        b = self._bundle
        return Answer(id=digest(b.data), model=b.name, version=b.version, verdict="accepted")

    def judged(self, id: str) -> Answer | None:
        """What is known about a model; None: nothing.

        Raises:
            ModelError: The store cannot be read.
        """
        state = self._store.state()
        if reason := state.refused.get(id):
            # a file is left of those that answered for a while
            rolled_back = any(self._store.folder.glob(f"*-{id}.tflite"))
            return Answer(id=id, verdict="rolled back" if rolled_back else "refused", reason=reason)
        running = self.running()
        return running if running.id == id else None

    def install(self, data: bytes, signature: str) -> None:
        """Check and try a model, install it, and tell the service.

        Raises:
            ModelError: It is refused.
        """
        with TemporaryDirectory(prefix="serkit-") as folder:
            path = Path(folder) / f"{digest(data)}.tflite"
            path.write_bytes(data)
            path.with_name(path.name + ".minisig").write_text(signature, encoding="utf-8")
            install_model(path, self._store, str(self._bundle.path), engine=self._engine)
        reload_service()


def _answer(model: Installed, state: State) -> Answer:
    return Answer(
        id=model.digest,
        model=model.name,
        version=model.version,
        verdict="accepted" if state.trial_starts is None else "trial",
    )
