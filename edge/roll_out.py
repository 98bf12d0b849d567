"""A model's way to a device over MQTT, and what the device answers.

The controller holds a model at ``serkit-fleet/models/<id>`` and what a device should run, an id, at its ``update/set``;
both are retained, so that it does not matter who is there first. The device looks whether it knows the model, else
fetches it, and answers at ``update``. Nothing that comes this way is trusted before its signature was checked.
"""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol

from serkit.edge.errors import ModelError, SerkitError, SettingsError
from serkit.edge.settings import build
from serkit.edge.store import digest

MODELS_TOPIC = "serkit-fleet/models"
LARGEST_BYTES = 4 * 2**20  # of a message, which a service of at most 256 MB holds twice
_SIGNATURE_LINES = 4
_LONGEST_REASON = 300
_WATCH_S = 1.0  # how often a model on trial is looked at


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a device says about a model.

    Attributes:
        id: Of the model, see `serkit.edge.store.digest`.
        model: Its name, where the device got as far as to read it.
        version: Of the model.
        verdict: ``trial`` means that it answers and has not proven itself yet; only then another answer follows.
        reason: Why it was refused or rolled back.
    """

    id: str
    model: str = ""
    version: int = 0
    verdict: Literal["trial", "accepted", "refused", "rolled back"]
    reason: str = ""

    def to_json(self) -> str:
        """As it is published."""
        return json.dumps({"schema": 1, **asdict(self)}, ensure_ascii=False)


def read_answer(payload: bytes) -> Answer:
    """What was published, which may be anything.

    Raises:
        SettingsError: It is no answer.
    """
    try:
        values = json.loads(payload)
        return build(Answer, {k: v for k, v in values.items() if k != "schema"}, "update")
    except (ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"update: not JSON ({error})") from None


def pack(data: bytes, signature: str) -> bytes:
    """A model and its signature as one message: the signature's four lines, then the model.

    Raises:
        ModelError: Too large.
    """
    lines = signature.splitlines()[:_SIGNATURE_LINES]
    return _small_enough(b"".join(line.encode() + b"\n" for line in lines) + data)


def unpack(payload: bytes) -> tuple[bytes, str]:
    """The model and the text of its signature, neither of them checked.

    Raises:
        ModelError: Too large, or not such a message.
    """
    *lines, data = _small_enough(payload).split(b"\n", _SIGNATURE_LINES)
    if len(lines) != _SIGNATURE_LINES or not all(len(line) <= 1024 and _is_text(line) for line in lines):
        raise ModelError("the message is not a signature and a model; publish it with `serkit fleet roll-out`")
    return data, b"\n".join(lines).decode() + "\n"


def _is_text(line: bytes) -> bool:
    return line.isascii() and b"\0" not in line


def _small_enough(payload: bytes) -> bytes:
    if len(payload) > LARGEST_BYTES:
        raise ModelError(f"a message of {len(payload)} bytes; {LARGEST_BYTES} are the most")
    return payload


class Installer(Protocol):
    """Where a device's models are."""

    def running(self) -> Answer:
        """About the model that answers now."""

    def judged(self, id: str) -> Answer | None:
        """What is known about a model; None: nothing.

        Raises:
            SerkitError: Nobody can say.
        """

    def install(self, data: bytes, signature: str) -> None:
        """Verify a model, test it and let it answer, on trial.

        Raises:
            SerkitError: It is refused.
        """


class Updates:
    """What one device does about the models it is asked for, one at a time, on a thread of its own.

    Args:
        installer: Where its models are.
        answered: Takes every answer, from whichever thread has it.
    """

    def __init__(self, installer: Installer, answered: Callable[[Answer], None]) -> None:
        self._installer = installer
        self._answered = answered
        self._wanted = ""
        self._trial: Answer | None = None
        self._jobs: queue.SimpleQueue[tuple[str, bytes | None] | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Say what runs: so the controller knows that this device can be asked."""
        self._say(self._installer.running())
        threading.Thread(target=self._run, name="serkit-update", daemon=True).start()

    def want(self, payload: bytes) -> str | None:
        """Answer, if the model is known.

        Args:
            payload: An id; empty: no model is wanted.

        Returns:
            Id of the model to fetch; None: none.

        Raises:
            SettingsError: It is no id.
        """
        if payload and re.fullmatch(rb"[0-9a-f]{16}", payload) is None:
            raise SettingsError(f"{payload[:20]!r} is no id of a model")
        self._wanted = payload.decode()
        if not self._wanted:
            return None
        with suppress(SerkitError):  # which the answer will say
            if self._installer.judged(self._wanted) is None:
                return self._wanted
        self._jobs.put((self._wanted, None))
        return None

    def take(self, id: str, payload: bytes) -> None:
        """Install what was fetched, unless it is not wanted any more."""
        self._jobs.put((id, payload))

    def close(self) -> None:
        """Let an installation that runs go on, and watch no longer."""
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_WATCH_S if self._trial is not None else None)
            except queue.Empty:
                self._watch()
                continue
            if job is None:
                return
            if job[0] == self._wanted:
                self._say(self._judged(*job))

    def _judged(self, id: str, payload: bytes | None) -> Answer:
        """What becomes of a model, which is installed unless it is known."""
        try:
            if payload is not None and self._installer.judged(id) is None:
                data, signature = unpack(payload)
                if digest(data) != id:
                    raise ModelError("the message holds another model than its topic says")
                self._installer.install(data, signature)
            return self._installer.judged(id) or Answer(id=id, verdict="refused", reason="it was not installed")
        except (SerkitError, OSError) as error:
            return Answer(id=id, verdict="refused", reason=str(error))

    def _watch(self) -> None:
        """Look whether the model on trial was judged."""
        trial = self._trial
        if trial is None:
            return
        try:
            now = self._installer.judged(trial.id)
        except SerkitError:
            return
        if now is None:
            now = replace(trial, verdict="rolled back", reason="another model took its place")
        elif now.verdict == "refused":
            now = replace(trial, verdict="rolled back", reason=now.reason)
        if now != trial:
            self._say(now)

    def _say(self, answer: Answer) -> None:
        answer = replace(answer, reason=" ".join(answer.reason.split())[:_LONGEST_REASON])
        self._trial = answer if answer.verdict == "trial" else None
        self._answered(answer)
