"""One hop at a time: what half a second of a stream costs, from its samples to the decision."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import serkit
from serkit.edge.audio import read_audio
from serkit.edge.bundle import Bundle
from serkit.edge.decision import Decision, DecisionSettings
from serkit.edge.frontend import Frontend
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VoiceGate
from serkit.edge.window import silence

Array = npt.NDArray[np.float32]

CLIP = Path(serkit.__path__[0]) / "edge" / "demo" / "clip.flac"
HOP_S = 0.5
BLOCK_SIZE = 512  # as `serkit listen` hears
_QUIET_S = 20.0
_WARM_UP = 5


def talking(sample_rate: int) -> Array:
    """What the voice gate takes for speech in the demo clip, joined: somebody who never pauses."""
    clip = read_audio(CLIP, sample_rate)
    gate, step = VoiceGate(sample_rate), sample_rate // 10
    heard = []
    for start in range(0, len(clip) - step, step):
        gate.push(clip[start : start + step])
        if gate.speech_ratio(start / sample_rate, (start + step) / sample_rate) == 1.0:
            heard.append(clip[start : start + step])
    return np.concatenate(heard)


def quiet(sample_rate: int) -> Array:
    """A silent room: noise of -80 dB of full scale."""
    return 1e-4 * np.random.default_rng(0).standard_normal(round(_QUIET_S * sample_rate)).astype(np.float32)


def blocks(audio: Array) -> Iterator[Array]:
    """The audio again and again, in blocks."""
    return cycle([audio[start : start + BLOCK_SIZE] for start in range(0, len(audio), BLOCK_SIZE)])


def with_hop(bundle: Bundle, hop_s: float = HOP_S) -> Bundle:
    """The model, asked every ``hop_s`` seconds; as it is if it encodes hop by hop or its hop is near."""
    frame_s = bundle.frontend.hop_length / bundle.frontend.sample_rate
    if bundle.window.context_frames or abs(bundle.window.hop_frames * frame_s / hop_s - 1) < 0.05:
        return bundle
    return replace(bundle, window=replace(bundle.window, hop_frames=round(hop_s / frame_s)))


def hop_s(bundle: Bundle) -> float:
    """The time from one window to the next."""
    return bundle.window.hop_frames * bundle.frontend.hop_length / bundle.frontend.sample_rate


class OpenGate(VoiceGate):
    """Lets everything through at no cost, so that the model is asked at every hop."""

    def push(self, samples: Array) -> None:
        pass

    def speech_ratio(self, start_s: float, end_s: float) -> float:
        return 1.0


class Stepper(Protocol):
    """Something that can be asked for one hop after the other."""

    def hop(self) -> bool:
        """Take the next hop of audio, up to the decision; says whether the model was asked."""


class Streamed(Stepper):
    """Front end, voice gate, model and decision as `serkit listen` joins them, over an endless stream."""

    def __init__(self, recognizer: Recognizer, audio: Array, gate: VoiceGate) -> None:
        bundle = recognizer.bundle
        self._windows = recognizer.windows(blocks(audio), gate)
        self._decision = Decision(bundle.labels, bundle.name, DecisionSettings())

    def hop(self) -> bool:
        window = next(self._windows)
        self._decision.window(window.time_s, window.probabilities)
        return window.probabilities is not None


class Recomputed(Stepper):
    """The same answers with nothing kept from one hop to the next: front end and model over the whole window."""

    def __init__(self, recognizer: Recognizer, audio: Array) -> None:
        bundle = recognizer.bundle
        f, w = bundle.frontend, bundle.window
        self._recognizer = recognizer
        self._frontend = Frontend(f)
        self._decision = Decision(bundle.labels, bundle.name, DecisionSettings())
        self._length = f.n_samples(w.input_frames)
        self._hop = w.hop_frames * f.hop_length
        self._audio = np.concatenate([audio, np.resize(audio, self._length)])
        self._window = np.full((w.input_frames, f.n_features), silence(f), np.float32)
        self._start, self._n = -w.context_frames * f.hop_length, 0

    def hop(self) -> bool:
        self._frontend.reset()
        heard = self._audio[max(0, self._start) : self._start + self._length]
        frames = np.concatenate([self._frontend.push(heard), self._frontend.flush()])  # padding and deltas owe some
        before = max(0, -self._start) // self._recognizer.bundle.frontend.hop_length  # silence, as a stream begins
        self._window[before:] = frames[: len(self._window) - before]
        self._n += 1
        self._decision.window(self._n * hop_s(self._recognizer.bundle), self._recognizer.score(self._window))
        self._start += self._hop
        if self._start >= len(self._audio) - self._length:
            self._start -= len(self._audio) - self._length
        return True


class Times:
    """What hops took, the waiting of a busy machine included, and of a core."""

    def __init__(self) -> None:
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.n_asked = 0

    def take(self, stepper: Stepper) -> None:
        """Time one hop."""
        wall, cpu = time.perf_counter(), time.process_time()
        asked = stepper.hop()
        self.cpu_s.append(time.process_time() - cpu)
        self.wall_s.append(time.perf_counter() - wall)
        self.n_asked += asked

    def figures(self, hop_s: float) -> dict[str, Any]:
        """``n_hops, hop_ms, scored_share, median_ms, p95_ms, p99_ms, cpu_ms`` (median) and ``core_share`` (mean)."""
        return {
            "n_hops": len(self.wall_s),
            "hop_ms": round(1000 * hop_s, 1),
            "scored_share": round(self.n_asked / len(self.wall_s), 3),
            **percentiles(self.wall_s),
            "cpu_ms": round(1000 * float(np.median(self.cpu_s)), 4),
            "core_share": round(float(np.mean(self.cpu_s)) / hop_s, 6),
        }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """``median_ms``, ``p95_ms`` and ``p99_ms``."""
    found = np.percentile(seconds, [50, 95, 99]).tolist()
    return {f"{name}_ms": round(1000 * value, 4) for name, value in zip(("median", "p95", "p99"), found, strict=True)}


def in_turn(steppers: Mapping[str, Stepper], rounds: int, seconds: float = float("inf")) -> dict[str, Times]:
    """Time hops of several systems in turn, so that whatever else the machine does meets them all.

    Args:
        steppers: Systems by name.
        rounds: Hops of each that are counted.
        seconds: Stop after so long, but not before 20 rounds.
    """
    times = {name: Times() for name in steppers}
    for stepper in steppers.values():
        for _ in range(_WARM_UP):
            stepper.hop()
    end_s = time.monotonic() + seconds
    names = list(steppers)
    for i in range(rounds):
        if i >= 20 and time.monotonic() > end_s:
            break
        for name in names:
            times[name].take(steppers[name])
        names.append(names.pop(0))  # who comes first finds the caches of whoever came last
    return times
