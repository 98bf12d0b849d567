"""The stream from blocks to scored windows, and the emotion of a whole file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serkit.edge.audio import FileSource
from serkit.edge.bundle import Bundle
from serkit.edge.engine import Engine
from serkit.edge.errors import AudioError, ModelError
from serkit.edge.events import Prediction
from serkit.edge.frame_buffer import FrameBuffer
from serkit.edge.frontend import Frontend
from serkit.edge.pace import Pace
from serkit.edge.vad import MIN_SPEECH, VoiceGate, speech_ratio
from serkit.edge.window import normalise, silence, softmax

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScoredWindow:
    """One window of a stream.

    Attributes:
        time_s: Its end, seconds since the start of the stream; for a window filled up with silence, the stream's end.
        speech_ratio: Share of its frames that hold speech.
        level_dbfs: Level of the loudest frame since the window before it, dB of full scale; with a gate, of the
            loudest of its chunks.
        probabilities: float64 ``(n_labels,)``, or None where there is too little speech to score.
    """

    time_s: float
    speech_ratio: float
    level_dbfs: float
    probabilities: npt.NDArray[np.float64] | None


class Recognizer:
    """A model ready to hear: front end, windows and engine of one bundle. One stream at a time.

    Args:
        bundle: The model.
        engine: ``litert``, ``tflite-runtime``, or ``auto``, the first that is installed.
        threads: Of one inference.
        offset: What is taken from the logits of every window, ``(n_labels,)``, for a voice that was enrolled; see
            `serkit.edge.voice.voice_offset`.

    Raises:
        ModelError: The graph does not fit the bundle's own description.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        threads: int = 1,
        offset: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.bundle = bundle
        self.offset = offset
        self.engine = Engine(bundle.data, bundle.window.hop_frames, engine, threads)
        expected = (bundle.window.input_frames, bundle.frontend.n_features)
        if self.engine.input_shape != expected or self.engine.n_labels != len(bundle.labels):
            raise ModelError(
                f"{bundle.path.name}: its graph takes {self.engine.input_shape} and gives {self.engine.n_labels} "
                f"labels, its description says {expected} and {len(bundle.labels)}; convert it again"
            )
        self._frontend = Frontend(bundle.frontend)
        self._fill = silence(bundle.frontend)

    def score(self, window: Array, hop: int | None = None) -> npt.NDArray[np.float64]:
        """Probabilities ``(n_labels,)`` of one window of frames, not normalised, ``(input_frames, n_features)``.

        In a stream, ``hop`` says which hop it begins with; see `serkit.edge.engine.Engine.logits`.
        """
        logits = self.engine.logits(normalise(window, self.bundle.window), hop)
        return softmax(logits if self.offset is None else logits - self.offset, self.bundle.temperature)

    def windows(
        self, blocks: Iterable[Array], gate: VoiceGate | None = None, pace: Pace | None = None
    ) -> Iterator[ScoredWindow]:
        """Score a stream as it comes: every hop one window, at the end one more for frames in none yet.

        Results do not depend on how the stream is cut into blocks: these wait until a window is complete, as all is
        several times cheaper by the hop than by the block. Memory is one window, one hop and one block. A model with
        an encoder computes nothing twice: a window costs its newest hop and the steps after the encoder, and after a
        pause the hops that went unscored. With a gate, a pause costs nothing but the gate: no frame is computed that no
        window needs.

        Args:
            blocks: The stream.
            gate: Judges what is speech, and windows whose newest hops hold none are not scored; without it, windows
                are judged by their frames' levels.
            pace: Says which windows are due; the others are left out, which does not change those that are not.
        """
        w, f = self.bundle.window, self.bundle.frontend
        self.engine.forget()
        if gate is not None:
            gate.reset()
        frames = FrameBuffer(self._frontend, w.input_frames, 8 * w.hop_frames, w.context_frames, self._fill)
        number = 0  # of the next window
        latest = -w.n_frames // w.hop_frames  # of the last one; all hops of the first one are new
        n_samples = 0  # of the stream

        def complete(n_frames: int) -> Iterator[ScoredWindow]:
            """The windows that end within the stream's first ``n_frames``."""
            nonlocal number, latest
            while (end := number * w.hop_frames + w.n_frames) <= n_frames:
                if pace is None or pace.due(number):
                    yield self._scored(frames, number, end, number - latest, f.n_samples(end) / f.sample_rate, gate)
                    latest = number
                number += 1
                frames.forget(number * w.hop_frames - w.context_frames)

        def hear(part: Array) -> Iterator[ScoredWindow]:
            for start in range(0, len(part), f.sample_rate):  # in seconds: the gate remembers the last minute
                second = part[start : start + f.sample_rate]
                if gate is not None:
                    gate.push(second)
                frames.push(second)
                yield from complete(frames.n_frames)

        held: list[Array] = []  # blocks of a window that is not complete
        wanted = min(f.n_samples(w.n_frames), f.sample_rate)  # samples of the stream until they are looked at
        for block in blocks:
            n_samples += len(block)
            held.append(block.copy())
            if n_samples >= wanted:
                part = np.concatenate(held)
                held.clear()
                yield from hear(part)
                wanted = min(f.n_samples(number * w.hop_frames + w.n_frames), n_samples + f.sample_rate)
        if held:
            yield from hear(np.concatenate(held))
        n_frames = frames.finish(number * w.hop_frames - w.context_frames)
        yield from complete(n_frames)
        if n_frames > max(number * w.hop_frames, latest * w.hop_frames + w.n_frames):
            yield self._scored(frames, number, n_frames, number - latest, n_samples / f.sample_rate, gate)

    def _scored(
        self, frames: FrameBuffer, number: int, end: int, new: int, time_s: float, gate: VoiceGate | None
    ) -> ScoredWindow:
        """Window ``number``, of which frames up to ``end`` were heard; ``new`` hops of it are in none before."""
        w, f = self.bundle.window, self.bundle.frontend
        start = number * w.hop_frames - w.context_frames
        missing = w.input_frames - (end - start)  # frames that the stream was too short for
        if gate is None:
            levels = frames.levels(start, end)
            own = levels[w.context_frames :]
            ratio = newest = speech_ratio(np.pad(own, (0, missing), constant_values=-np.inf) if missing else own)
            level_dbfs = float(levels[-new * w.hop_frames :].max())
        else:
            window_s, new_s = (n * f.hop_length / f.sample_rate for n in (w.n_frames, new * w.hop_frames))
            ratio, newest = gate.speech_ratio(time_s - window_s, time_s), gate.speech_ratio(time_s - new_s, time_s)
            level_dbfs = gate.level_dbfs(time_s - new_s, time_s)
        if newest < MIN_SPEECH:
            return ScoredWindow(time_s, ratio, level_dbfs, None)
        window = frames.frames(start, end)
        if missing:
            window = np.pad(window, ((0, missing), (0, 0)), constant_values=self._fill)
        return ScoredWindow(time_s, ratio, level_dbfs, self.score(window, number))


def predict(recognizer: Recognizer, path: str | Path) -> Prediction:
    """The emotion of one file.

    Raises:
        AudioError: The file cannot be read, is too short, or holds no speech.
    """
    bundle = recognizer.bundle
    total = np.zeros(len(bundle.labels))
    weight = speech = n_windows = 0.0
    with FileSource(path, bundle.frontend.sample_rate) as source:
        for window in recognizer.windows(source):
            n_windows += 1
            speech += window.speech_ratio
            if window.probabilities is not None:
                total += window.speech_ratio * window.probabilities
                weight += window.speech_ratio
        duration_s = source.duration_s
    if not n_windows:
        needed = bundle.frontend.win_length / bundle.frontend.sample_rate
        raise AudioError(f"{path}: {duration_s:.3f} s of audio; at least {needed:.3f} s is needed")
    if not weight:
        raise AudioError(
            f"{path}: no speech in {duration_s:.1f} s of audio; record closer to the microphone, or louder"
        )
    probabilities = total / weight
    best = int(np.argmax(probabilities))
    return Prediction(
        path=str(path),
        duration_s=duration_s,
        emotion=bundle.labels[best],
        confidence=float(probabilities[best]),
        sure=None if bundle.sure_from is None else bool(probabilities[best] >= bundle.sure_from),
        probabilities=dict(zip(bundle.labels, probabilities.tolist(), strict=True)),
        speech_ratio=speech / n_windows,
        model=bundle.name,
    )
