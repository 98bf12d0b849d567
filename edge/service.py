"""Detection as a system service: one configuration file, for ever; what `serkit serve` runs and systemd starts.

By sd_notify(3) it tells:

- ``READY=1`` once the model scored a self-test and the first window of the stream was decided on. A silent room, and
  one without a microphone, are heard as well: what is missing is in ``STATUS=`` and on stderr.
- ``WATCHDOG=1`` after every window, from the loop that scored it and from nowhere else: an engine or a sound thread
  that hangs, and a process that is stopped, end the heartbeat. A microphone that is lost does not: its silence is
  heard in its place, the loop goes on, and `serkit.edge.microphone` brings it back by itself.
- ``RELOADING=1`` on SIGHUP. The configuration is read again; one that cannot be used is refused, and the old one stays.
  A model that was installed or rolled back meanwhile is loaded in both cases.
- ``STOPPING=1`` on SIGTERM and SIGINT. The stream ends as a file does, sinks deliver what they hold, exit code 0.

An installed model (`serkit.edge.store`) that does not load, fails its self-test, answers NaN or cannot keep up is
rolled back here, and the one before it takes over. It is accepted after 30 s in which it scored speech; where nobody
speaks, after 90 s on its self-test alone, for a quiet room shall not keep it on trial for ever. A start that ends in
order before that does not count, nor does one that fails for another reason than the model.

Nothing depends on the time of day: the clock is the monotonic one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serkit.edge.audio import Source
from serkit.edge.config import Config, read_config
from serkit.edge.errors import AudioError, ModelError, SerkitError, SettingsError, VoiceError
from serkit.edge.events import Event, to_json
from serkit.edge.listener import Listener, listen
from serkit.edge.sinks import Sink
from serkit.edge.sinks.web import WebPage
from serkit.edge.store import ModelStore
from serkit.edge.stream import Recognizer
from serkit.edge.systemd import ERROR, INFO, NOTICE, WARNING, notify, say

_TRIAL_S = 30.0  # of audio, that an installed model has to bear before it is accepted
_TRIAL_WINDOWS = 10  # of them scored, which are those with speech
_QUIET_TRIAL_S = 90.0  # where there were fewer: silence, muted, no microphone
_OVERLOAD_S = 13.0  # of audio: longer than one interval of `serkit.edge.pace` and the longest hop, so two intervals
_SELF_TEST = 4  # windows


def configuration_file() -> Path | None:
    """``serkit.toml`` in systemd's ``$CONFIGURATION_DIRECTORY``, else in /etc/serkit; None where there is none."""
    path = Path(os.environ.get("CONFIGURATION_DIRECTORY", "/etc/serkit").split(":")[0]) / "serkit.toml"
    return path if path.exists() else None


def model_store() -> ModelStore | None:
    """Installed models, in systemd's ``$STATE_DIRECTORY``; None where there is none."""
    folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return ModelStore(Path(folder) / "models") if folder else None


def self_test(recognizer: Recognizer) -> float:
    """Score windows of noise one hop apart, as a stream does; returns the quickest one's time, s.

    Raises:
        ModelError: The engine fails, or answers NaN.
    """
    window = np.random.default_rng(0).normal(-5, 2, recognizer.engine.input_shape).astype(np.float32)
    times = []
    recognizer.engine.forget()
    for hop in range(_SELF_TEST):
        began_s = time.perf_counter()
        recognizer.score(window, hop)
        times.append(time.perf_counter() - began_s)
    recognizer.engine.forget()
    return min(times)


class StandardOutput(Sink):
    """One event per line; where the configuration names no other sink."""

    name = "stdout"

    def __init__(self) -> None:
        self._failed = False
        self._notices: list[str] = []

    def send(self, event: Event) -> None:
        try:
            os.write(1, to_json(event).encode() + b"\n")
        except OSError as error:
            if not self._failed:
                self._notices.append(f"events cannot be written ({error.strerror}); those are lost")
            self._failed = True
        else:
            self._failed = False

    def notice(self) -> str | None:
        return self._notices.pop(0) if self._notices else None


class Service:
    """Listen until SIGTERM or SIGINT.

    Args:
        path: The configuration; None looks where systemd keeps it.
        source: What makes a source of the model's rate, Hz, instead of the microphone.
        store: Installed models; None: there are none, and the configuration's is used.
        mutes: One item for each time that somebody asked to mute, or to hear again, before this service could.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        source: Callable[[int], Source] | None = None,
        store: ModelStore | None = None,
        mutes: list[int] | None = None,
    ) -> None:
        self._path = path
        self._mutes = [] if mutes is None else mutes  # while there is no listener
        self._source = source
        self._store = store
        runtime = os.environ.get("RUNTIME_DIRECTORY")
        self._runtime = None if not runtime else Path(runtime.split(":")[0])
        self._stop = self._reload = False  # asked for by a signal
        self._again = False  # the stream was ended to open another
        self._listener: Listener | None = None
        self._stored: Path | None = None  # the installed model in use
        self._on_trial = False  # it is
        self._kept_up_s = 0.0  # audio heard when it last did
        self._ready = self._muted = False

    def run(self) -> None:
        """Returns when it was told to stop and all is closed.

        Raises:
            SerkitError: The configuration, the model or a sink cannot be used at the start.
        """
        with self._signals(), self._pid_file():
            notify("STATUS=loading the model")
            self._muted = self._runtime is not None and (self._runtime / "muted").exists()
            self._config = self._next = self._read()
            listener = self._open(self._config)
            while True:
                try:
                    self._hear(listener)
                except ModelError as error:
                    if not self._rolled_back(error):
                        raise
                if self._stop:
                    return
                listener = self._reopened()

    def _read(self) -> Config:
        return read_config(configuration_file() if self._path is None else self._path)

    def _open(self, config: Config) -> Listener:
        """Start to listen, by an installed model that works or else the configuration's."""
        try:
            return self._opened(config)
        except SerkitError as error:
            if not isinstance(error, ModelError):  # so it is not the model's fault
                self._uncount()
            raise

    def _opened(self, config: Config) -> Listener:
        while True:
            stored = None
            if self._store is not None:
                for line in self._store.begin():
                    say(line, WARNING)
                stored = self._store.active()
                self._on_trial = stored is not None and self._store.state().trial_starts is not None
            try:
                listener = self._built(config, stored)
                break
            except (ModelError, SettingsError) as error:
                # The preset and the labels of a model do not fit together: the newer one is to blame.
                blamed = isinstance(error, ModelError) or (self._on_trial and stored != self._stored)
                if not (blamed and self._rolled_back(error)):
                    raise
        listener.heartbeat = self._beat
        listener.mute(self._muted)
        self._listener, self._stored, self._ready, self._again = listener, stored, False, False
        while self._mutes:  # a signal adds no more, for there is a listener
            self._mutes.pop()
            listener.mute(not listener.muted)
        listener.__enter__()
        if self._stop:  # asked for meanwhile
            listener.stop()
        for sink in listener.sinks:
            if isinstance(sink, WebPage):
                say(f"the live page is at {sink.link}", INFO)
        return listener

    def _built(self, config: Config, stored: Path | None) -> Listener:
        try:
            listener = listen(self._source or "mic", model=stored, config=config, wait=True)
        except VoiceError as error:
            if config.voice != self._config.voice:  # a reload: the old configuration stays
                raise
            # after an update of the model, say: better than nobody
            listener = listen(self._source or "mic", model=stored, config=replace(config, voice=None), wait=True)
            listener.announce(f"everybody is heard alike: {error}")
        try:
            seconds, bundle = self_test(listener.recognizer), listener.recognizer.bundle
            hop_s = bundle.window.hop_frames * bundle.frontend.hop_length / bundle.frontend.sample_rate
            if self._on_trial and seconds > hop_s:
                raise ModelError(
                    f"{bundle.name} takes {1000 * seconds:.0f} ms for a window and is to score one every "
                    f"{1000 * hop_s:.0f} ms; it is too slow for this machine"
                )
        except BaseException:
            listener.close()
            raise
        if not listener.sinks:
            listener.sinks.append(StandardOutput())
        return listener

    def _hear(self, listener: Listener) -> None:
        """Listen until a signal ends it.

        Raises:
            ModelError: The model failed.
        """
        try:
            for event in listener:
                if event.kind == "status" and event.message is not None:
                    self._remember_mute(listener.muted)
                    say(event.message, WARNING)
                    notify(f"STATUS={event.message}")
            if not (self._stop or self._again):
                raise AudioError("the microphone's stream ended; it should not")
            self._uncount()
        finally:
            self._listener = None
            self._remember_mute(listener.muted)
            if self._stop:
                notify("STOPPING=1", "STATUS=stopping")
            listener.close()
            for sink in listener.sinks:  # what they could not deliver
                for message in iter(sink.notice, None):
                    say(f"{sink.name}: {message}", WARNING)

    def _beat(self) -> None:
        """After every window."""
        assert self._listener is not None
        if not self._ready:
            self._ready = True
            bundle = self._listener.recognizer.bundle
            what = f"{bundle.name} ({bundle.format}, {self._listener.recognizer.engine.name}) listens"
            say(what, INFO)
            notify("READY=1", f"STATUS={what}")
        notify("WATCHDOG=1")
        if self._on_trial:
            self._judge(self._listener)
        if self._reload and not self._stop:
            self._reload = False
            self._read_again(self._listener)

    def _judge(self, listener: Listener) -> None:
        """Accept a model on trial when it has proven itself, or end the stream."""
        assert self._store is not None
        health, name = listener.health, listener.recognizer.bundle.name
        if health.load <= 1:
            self._kept_up_s = health.audio_s
        elif health.audio_s - self._kept_up_s > _OVERLOAD_S:
            raise ModelError(f"{name} cannot keep up here: processing takes {health.load:.0%} of the time")
        else:  # perhaps another program's fault
            return
        proven = health.scored >= _TRIAL_WINDOWS
        if health.audio_s >= (_TRIAL_S if proven else _QUIET_TRIAL_S):
            self._on_trial = False
            how = "has proven itself and is accepted" if proven else "is accepted on its self-test alone: nobody spoke"
            if self._store.accept():
                say(f"{name} {how}", NOTICE)
            else:
                say(self._store.problem or f"{name} is not accepted: this start of it was not counted", WARNING)

    def _uncount(self) -> None:
        if self._on_trial and self._store is not None:
            self._store.uncount()

    def _rolled_back(self, error: SerkitError) -> bool:
        """Whether another model takes the place of an installed one that failed."""
        if self._store is None:
            return False
        rolled_back = self._store.roll_back(str(error))
        if self._store.problem:
            say(self._store.problem, ERROR)
        if not rolled_back:
            return False
        say(f"{error}; the model before it takes over", ERROR)
        self._stored = None
        return True

    def _read_again(self, listener: Listener) -> None:
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reading the configuration again")
        try:
            self._next = self._read()
        except SettingsError as error:
            self._refuse(error)
            if self._store is None or self._store.active() == self._stored:
                notify("READY=1")
                return
        self._again = True
        listener.stop()

    def _reopened(self) -> Listener:
        """By the new configuration if it can be used, else by the old one."""
        try:
            listener = self._open(self._next)
        except SerkitError as error:
            if self._next is self._config:
                raise
            self._next = self._config
            self._refuse(error)
            return self._open(self._config)
        if self._next is not self._config:
            say("the configuration was read again", NOTICE)
        self._config = self._next
        return listener

    def _refuse(self, error: SerkitError) -> None:
        say(f"the new configuration is refused and the old one stays: {error}", ERROR)
        notify(f"STATUS=the new configuration is refused: {error}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """What systemd and people ask for; handlers only take note, for they run in the middle of anything."""

        def stop(number: int, frame: Any) -> None:
            self._stop = True
            if self._listener is not None:
                self._listener.stop()

        def reload(number: int, frame: Any) -> None:
            self._reload = True

        def mute(number: int, frame: Any) -> None:
            if self._listener is None:
                self._mutes.append(number)
            else:
                self._listener.mute(not self._listener.muted)

        handlers = {"SIGTERM": stop, "SIGINT": stop, "SIGHUP": reload, "SIGUSR1": mute}
        before = {
            number: signal.signal(number, handler)
            for name, handler in handlers.items()
            if (number := getattr(signal, name, None)) is not None
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _pid_file(self) -> Iterator[None]:
        """``$RUNTIME_DIRECTORY/pid``, by which `serkit update` finds who is to reload."""
        path = None if self._runtime is None else self._runtime / "pid"
        try:
            if path is not None:
                path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            say(f"{path} cannot be written ({error.strerror}); `serkit update` will not find this service", WARNING)
        try:
            yield
        finally:
            if path is not None:
                with suppress(OSError):
                    path.unlink()

    def _remember_mute(self, muted: bool) -> None:
        """Who muted the microphone shall not be heard after a reload or a restart either."""
        if muted == self._muted:
            return
        self._muted = muted
        if self._runtime is None:
            return
        try:
            (self._runtime / "muted").touch() if self._muted else (self._runtime / "muted").unlink(missing_ok=True)
        except OSError as error:
            say(f"muting cannot be remembered beyond a restart ({error.strerror})", WARNING)
