"""Continuous detection: a source, a model, a decision and sinks, as one iterator of events that can be muted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from serkit.edge.adaptation import RunningVoice
from serkit.edge.audio import FileSource, Source, paced
from serkit.edge.bundle import read_bundle
from serkit.edge.config import Config, read_config
from serkit.edge.decision import Decision
from serkit.edge.errors import AudioError, SettingsError
from serkit.edge.events import Event
from serkit.edge.pace import Pace, hops_of
from serkit.edge.pipe import PipeSource
from serkit.edge.recorder import Recorder
from serkit.edge.sinks import Sink
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VoiceGate
from serkit.edge.voice import voice_offset

if TYPE_CHECKING:
    from typing_extensions import Self

Array = npt.NDArray[np.float32]


@dataclass(kw_only=True)
class Health:
    """How the listening itself does; counters only grow.

    Attributes:
        audio_s: Audio heard, s.
        dropped_s: Audio that was dropped because this machine was too busy to take it, s.
        windows: Windows decided on.
        scored: Windows the model was asked about; the rest held no speech.
        hop_s: From one window to the next, as it is now, s.
        latency_ms: From the arrival of a window's last block to its event, ms.
        load: Share of the time that processing took, in the last 10 s of a live source.
        notices: Status events so far.
    """

    audio_s: float = 0.0
    dropped_s: float = 0.0
    windows: int = 0
    scored: int = 0
    hop_s: float = 0.0
    latency_ms: float = 0.0
    load: float = 0.0
    notices: int = 0


class Listener:
    """Listen until the source ends; every window becomes an event, which all sinks get as well.

    Without ``with``, the end of the stream closes it.

        with Listener(recognizer, source, decision, gate, sinks=[...]) as listener:
            for event in listener: ...

    Attributes:
        recognizer: The model that hears.
        answers: What an event's ``emotion`` can be, in display order.
        sinks: Where events go.
        voice: Name of the person who is enrolled; None: nobody.
        gate: What judges whether somebody speaks; None where levels alone do.
        health: Counters.
        heartbeat: Called after every window, when its events were taken; what it raises ends the stream.

    Raises:
        AudioError: While iterating: the stream ended before one frame of audio.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        source: Source,
        decision: Decision,
        gate: VoiceGate | None = None,
        *,
        pace: Pace | None = None,
        sinks: Sequence[Sink] = (),
        recorder: Recorder | None = None,
        realtime: bool = False,
        voice: str | None = None,
    ) -> None:
        self.recognizer = recognizer
        self.voice = voice
        self._pace = pace
        self.health = Health(hop_s=0.0 if pace is None else pace.hop_s)
        self._source = source
        self.sinks = list(sinks)
        self._recorder = recorder
        self._realtime = realtime
        self.answers = decision.answers
        self._decision = decision
        self.gate = gate
        self.heartbeat: Callable[[], None] | None = None
        self._announced: deque[str] = deque()
        self._stopping = False
        self._muted = False
        self._arrived = 0.0  # monotonic time of the newest block
        self._started: list[Sink] = []
        self._opened = self._closed = False
        self._stream = self._run()

    @property
    def muted(self) -> bool:
        """Whether silence is heard in place of the audio."""
        return self._muted

    def mute(self, muted: bool = True) -> None:
        """Stop hearing, or go on, at once; from any thread."""
        self._muted = muted

    def announce(self, message: str) -> None:
        """Have the next window preceded by a status event with this message; from any thread."""
        self._announced.append(message)

    def stop(self) -> None:
        """End the stream in order, as if the source had ended; from any thread or signal handler."""
        self._stopping = True
        self._source.stop()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._opened = True
        try:
            for sink in self.sinks:
                self._started.append(sink)
                sink.start(self)
        except BaseException:  # nobody calls __exit__ then
            self.close()
            raise

    def close(self) -> None:
        """Let go of the source and the sinks; a second call does nothing."""
        self._closed = True
        with ExitStack() as all_of_them:
            all_of_them.callback(self._source.close)
            if self._recorder is not None:
                all_of_them.callback(self._recorder.close)
            while self._started:
                all_of_them.callback(self._started.pop().close)

    def __iter__(self) -> Iterator[Event]:
        """The one stream of events: who breaks off and iterates again goes on where it was."""
        return self._stream

    def _run(self) -> Iterator[Event]:
        if self._closed:
            raise AudioError("this listener is closed; open another with serkit.listen()")
        alone = not self._opened  # without `with`: the end of the stream closes it
        if alone:
            self._open()
        try:
            for event in self._events():
                yield from self._sent(event)
        finally:
            if alone:
                self.close()

    def _sent(self, event: Event) -> Iterator[Event]:
        """Hand an event to every sink; one that breaks its promise never to raise is left out from then on."""
        for sink in list(self._started):
            try:
                sink.send(event)
            except Exception as error:
                yield from self._sent(self._left_out(sink, error, event.time_s))
        yield event

    def _left_out(self, sink: Sink, error: Exception, time_s: float) -> Event:
        self._started.remove(sink)
        with suppress(Exception):
            sink.close()
        return self._status(time_s, f"{sink.name} failed and gets no more events: {error!r}")

    def _events(self) -> Iterator[Event]:
        """What is decided on, and between it what happened to the source and the sinks."""
        time_s, muted = 0.0, False
        for window in self.recognizer.windows(self._blocks(), self.gate, self._pace):
            time_s = window.time_s
            if not self.muted:  # else what comes when somebody is to be heard again would be taken late
                self._source.rest(time_s + self.health.hop_s - self.health.audio_s)
            yield from self._notices(time_s)
            if muted != self.muted:
                muted = not muted
                yield self._status(time_s, "muted" if muted else "no longer muted")
                self._decision.forget()
            self.health.windows += 1
            self.health.scored += window.probabilities is not None and not muted
            if muted:  # time goes on, so that the first window afterwards does not stand for all of it
                self._decision.window(time_s, None)
                events = [Event(time_s=time_s, kind="silence", model=self.recognizer.bundle.name, message="muted")]
            else:
                events = self._decision.window(time_s, window.probabilities)
            for event in events:
                self.health.latency_ms = 1000 * (time.monotonic() - self._arrived)
                if event.kind == "silence" or not self._decision.per_utterance:  # else it is about an utterance
                    event = replace(event, speech_ratio=window.speech_ratio, level_dbfs=window.level_dbfs)
                yield event
            if self.heartbeat is not None:
                self.heartbeat()
        yield from self._decision.end()
        yield from self._notices(time_s)
        if not self.health.windows and not self._stopping:
            f = self.recognizer.bundle.frontend
            raise AudioError(
                f"the stream ended before {f.win_length / f.sample_rate:g} s of audio; nothing could be heard"
            )

    def _blocks(self) -> Iterator[Array]:
        """The source's blocks, silent while muted."""
        rate = self.recognizer.bundle.frontend.sample_rate
        for block in paced(self._source, rate) if self._realtime else self._source:
            if self._stopping:
                return
            self._arrived = time.monotonic()
            self.health.audio_s += len(block) / rate
            self.health.dropped_s = self._source.dropped_samples / rate
            heard = np.zeros_like(block) if self.muted else block
            if self._recorder is not None:
                self._recorder.push(heard)
            yield heard
            if self._pace is not None:
                self._pace.worked(time.monotonic() - self._arrived, len(block) / rate)
                self.health.hop_s, self.health.load = self._pace.hop_s, self._pace.load

    def _notices(self, time_s: float) -> Iterator[Event]:
        """What was announced, and what the source, the pace, the recording and the sinks have to say."""
        while self._announced:
            yield self._status(time_s, self._announced.popleft())
        for teller in (self._source, self._pace, self._recorder):
            if teller is not None:
                yield from (self._status(time_s, message) for message in iter(teller.notice, None))
        for sink in list(self._started):
            try:
                messages = list(iter(sink.notice, None))
            except Exception as error:
                yield self._left_out(sink, error, time_s)
            else:
                yield from (self._status(time_s, f"{sink.name}: {message}") for message in messages)

    def _status(self, time_s: float, message: str) -> Event:
        self.health.notices += 1
        return Event(time_s=time_s, kind="status", model=self.recognizer.bundle.name, message=message)


def listen(
    source: str | Path | Callable[[int], Source] = "mic",
    *,
    model: str | Path | None = None,
    preset: str | None = None,
    config: Config | str | Path | None = None,
    device: str | None = None,
    block_size: int | None = 512,
    engine: str | None = None,
    threads: int | None = None,
    voice: str | None = None,
    hop_s: float | None = None,
    realtime: bool = False,
    sinks: Sequence[Sink] = (),
    record: str | Path | None = None,
    wait: bool = False,
) -> Listener:
    """Open everything continuous detection needs; use the result as a context manager and iterate over its events.

    Args:
        source: ``"mic"``, an audio file, ``"-"`` for standard input, or what makes a `Source` of the model's rate, Hz.
        model: Bundled model or .tflite file, instead of the configuration's.
        preset: Name of a preset, instead of the configuration's.
        config: A configuration, or the TOML file that holds one.
        device: Microphone: number or part of its name, instead of the configuration's.
        block_size: Samples per block; results never depend on it.
        engine: ``auto``, ``litert`` or ``tflite-runtime``, instead of the configuration's.
        threads: Of one inference, instead of the configuration's.
        voice: Name of somebody enrolled, instead of the configuration's.
        hop_s: Score a window so often, s, instead of as the configuration says; made longer up to a multiple of the
            model's own hop.
        realtime: Hand a file's audio out no faster than it was spoken.
        sinks: More places for the events than the configuration names.
        record: New audio file for all that is heard. Without it, audio is never written anywhere.
        wait: Where there is no microphone yet, hear silence and keep trying.

    Raises:
        SerkitError: Source, model or a setting cannot be used.
    """
    if isinstance(config, Config) and preset is not None:
        raise SettingsError("preset and a Config are both given; read_config(path, preset) makes one of the two")
    if not isinstance(config, Config):
        config = read_config(None if config is None else Path(config), preset)
    bundle = read_bundle(config.model if model is None else model)
    rate = bundle.frontend.sample_rate
    frame_s = bundle.frontend.hop_length / rate
    window_s, own_hop_s = bundle.window.n_frames * frame_s, bundle.window.hop_frames * frame_s
    paced_by = config.pace if hop_s is None else replace(config.pace, hops=hops_of(hop_s, own_hop_s))
    pace = Pace(paced_by, window_s, own_hop_s)
    voice = config.voice if voice is None else voice
    offset = voice_offset(voice, bundle)
    recognizer = Recognizer(bundle, engine or config.engine, paced_by.threads if threads is None else threads, offset)
    all_sinks = [*config.sinks(), *sinks]
    running = None if voice else RunningVoice.of(bundle, config.decision.adapt_s)  # who is enrolled is known already
    decision = Decision(bundle.labels, bundle.name, config.decision, own_hop_s, running)
    gate = VoiceGate(rate, config.vad)
    opened: Source
    if callable(source):
        opened = source(rate)
    elif source == "mic":
        from serkit.edge.microphone import Microphone

        opened = Microphone(rate, block_size, device=config.device if device is None else device, wait=wait)
    elif source == "-":
        opened = PipeSource(rate, block_size)
    else:
        opened = FileSource(source, rate, block_size)
    try:
        recorder = None if record is None else Recorder(Path(record), rate, live=opened.live)
    except BaseException:
        opened.close()
        raise
    pace.live = opened.live
    listener = Listener(
        recognizer,
        opened,
        decision,
        gate,
        pace=pace,
        sinks=all_sinks,
        recorder=recorder,
        realtime=realtime,
        voice=voice,
    )
    if config.decision.adapt_s and not voice and running is None:
        listener.announce(f"{bundle.name} cannot adapt to a voice (see `serkit enroll`); everybody is heard alike")
    return listener
