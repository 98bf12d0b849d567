"""How well voice detectors find speech in noise, how often they take noise or music for it, and what they cost.

What they listen to, and which frames of it are speech, is in `serkit.benchmarks.vad_streams`.

Every detector runs inside `serkit.edge.vad.VoiceGate`, behind the same levels, and is judged twice:

- by decisions, one per 0.5 s hop as `Recognizer.windows` takes them. A hop is speech if most of it is, silent if there
  is no speech in it nor in the second before it; others do not count.
- frame by frame, 10 ms each; a decision is known once the chunk of 32 ms that it is about has been heard.

Thresholds and hang-overs are chosen on other speakers and other noise than those that are judged. Chosen is the setting
that, at 10 dB, misses at most 1 % of the speech hops (half of what is wanted: a margin for other voices) and takes the
fewest silent ones for speech; where none is that good, the one with the smallest sum of both. The gate for files
(``window-level``: `speech_ratio` of each whole window) has nothing to choose.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import webrtcvad
from pymicro_vad import MicroVad

from serkit.benchmarks.vad_streams import FRAME, SAMPLE_RATE, Array, Mask, Stream, read_streams
from serkit.edge.bundle import read_bundle
from serkit.edge.errors import CorpusError
from serkit.edge.frontend import Frontend, features
from serkit.edge.stream import Recognizer
from serkit.edge.vad import MIN_SPEECH, Detector, Level, Silero, VadSettings, VoiceGate, frame_levels, speech_ratio
from serkit.edge.window import silence
from serkit.train.conditions import SNRS_DB
from serkit.train.noises import TEST_NOISES

_HOP, _CHUNK = 8000, 512  # samples
_MAX_MISS = 0.01  # of speech hops at 10 dB: half of the 2 % wanted, a margin for other voices
_GRID = {
    "silero": (0.1, 0.2, 0.3, 0.5, 0.7),
    "pymicro-vad": (0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
    "webrtcvad": (0.3, 0.6, 1.0),
    "level": (0.5,),
}
_RELEASE = 0.6  # of the threshold
_HANG_OVERS_S = (0.0, 0.2, 0.5, 1.0)


class _Buffered(Detector):
    """A detector with steps of its own, here 10 ms: the mean over those a chunk completes."""

    def __init__(self, step: Callable[[bytes], float], forget: Callable[[], None]) -> None:
        self._step, self._forget = step, forget
        self._rest = b""

    def __call__(self, chunk: Array) -> float:
        data = self._rest + (np.clip(chunk, -1, 1) * 32767).astype("<i2").tobytes()
        size = 2 * FRAME
        n = len(data) // size * size
        self._rest = data[n:]
        return statistics.fmean(self._step(data[i : i + size]) for i in range(0, n, size))

    def reset(self) -> None:
        self._rest = b""
        self._forget()


def _pymicro() -> Detector:
    vad = MicroVad()
    return _Buffered(vad.process_10ms, vad.reset)


def _webrtc() -> Detector:
    vad = webrtcvad.Vad(3)  # the mode with the fewest false alarms
    return _Buffered(lambda data: float(vad.is_speech(data, SAMPLE_RATE)), lambda: None)


_DETECTORS: dict[str, Callable[[], Detector]] = {
    "silero": Silero,
    "pymicro-vad": _pymicro,
    "webrtcvad": _webrtc,
    "level": Level,
}


class _Replay(Detector):
    """Gives again what a detector said: one pass of the detector, many settings."""

    def __init__(self, scores: Sequence[float]) -> None:
        self._scores = scores
        self.reset()

    def __call__(self, chunk: Array) -> float:
        return next(self._next)

    def reset(self) -> None:
        self._next = iter(self._scores)


class _Record(Detector):
    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.scores: list[float] = []

    def __call__(self, chunk: Array) -> float:
        self.scores.append(self._detector(chunk))
        return self.scores[-1]

    def reset(self) -> None:
        self._detector.reset()


def _hops(speech: Mask) -> tuple[Mask, Mask]:
    """Which hops are speech, and which are silent."""
    frames = _HOP // FRAME
    share = speech[: len(speech) // frames * frames].reshape(-1, frames).mean(axis=1)
    before = np.concatenate([[0, 0], share])
    return share > 0.5, (share == 0) & (before[1:-1] == 0) & (before[:-2] == 0)


def _figures(stream: Stream, frames: Mask, scored: Mask) -> dict[str, float | None]:
    """Miss and false-alarm rates of frames flagged and hops scored; None where there is nothing to miss or to flag."""

    def share(wrong: Mask, of: Mask) -> float | None:
        return round(float(np.mean(wrong[of])), 4) if of.any() else None

    speech, silent = _hops(stream.speech)
    n = min(len(frames), len(stream.speech))
    truth = stream.speech[:n]
    return {
        "miss": share(~scored, speech[: len(scored)]),
        "false_alarm": share(scored, silent[: len(scored)]),
        "frame_miss": share(~frames[:n], truth),
        "frame_false_alarm": share(frames[:n], ~truth),
        "scored": round(float(np.mean(scored)), 4),
    }


def _gated(stream: Stream, settings: VadSettings, detector: Detector) -> tuple[Mask, Mask, float]:
    """Frames flagged, hops scored and the share of chunks that got past the levels."""
    gate = VoiceGate(SAMPLE_RATE, settings, detector)
    scored: list[bool] = []
    chunks: list[float] = []
    for end in range(_HOP, len(stream.samples) + 1, _HOP):
        gate.push(stream.samples[end - _HOP : end])
        scored.append(gate.speech_ratio((end - _HOP) / SAMPLE_RATE, end / SAMPLE_RATE) >= MIN_SPEECH)
        chunks += [gate.speech_ratio(k * _CHUNK / SAMPLE_RATE, (k + 1) * _CHUNK / SAMPLE_RATE) for k in
                   range(len(chunks), gate.n_chunks)]  # fmt: skip
    flags = np.array(chunks, bool)
    return (
        flags[np.arange(len(flags) * _CHUNK // FRAME) * FRAME // _CHUNK],
        np.array(scored),
        gate.n_detected / gate.n_chunks,
    )


def _window_level(stream: Stream, recognizer: Recognizer) -> tuple[Mask, Mask, float]:
    """The gate for files: the share of a window's frames that are loud enough; its newest hop is what it decides on."""
    w, f = recognizer.bundle.window, recognizer.bundle.frontend
    log_mel = features(stream.samples, f)
    levels = frame_levels(log_mel, f)
    loudest = np.max(np.lib.stride_tricks.sliding_window_view(np.pad(levels, (w.n_frames - 1, 0), mode="minimum"),
                                                              w.n_frames), axis=1)  # fmt: skip
    hops = len(stream.samples) // _HOP
    scored = np.zeros(hops, bool)
    padded = np.concatenate([np.full((w.n_frames, f.n_features), silence(f), np.float32), log_mel])
    for k in range(hops):
        end = min(len(padded), w.n_frames + (k + 1) * _HOP // f.hop_length)
        scored[k] = speech_ratio(frame_levels(padded[end - w.n_frames : end], f)) >= MIN_SPEECH
    return (levels > -55.0) & (levels > loudest - 30.0), scored, 0.0


def _before(scored: Mask, n_hops: int) -> Mask:
    """Hops that are scored or among the ``n_hops`` before one that is."""
    before = scored.copy()
    for back in range(1, n_hops + 1):
        before[:-back] |= scored[back:]
    return before


def _choose(streams: Sequence[Stream], name: str) -> VadSettings:
    """The settings for a detector, by the rule above."""
    ranked = []
    recorded = []
    for stream in streams:
        record = _Record(_DETECTORS[name]())
        _gated(stream, VadSettings(), record)
        recorded.append(record.scores)
    for threshold, hang_over_s in itertools.product(_GRID[name], _HANG_OVERS_S):
        settings = VadSettings(threshold=threshold, release=_RELEASE * threshold, hang_over_s=hang_over_s)
        misses, alarms = [], []
        for stream, scores in zip(streams, recorded, strict=True):
            frames, scored, _ = _gated(stream, settings, _Replay(scores))
            figures = _figures(stream, frames, scored)
            if stream.condition == "noise" and figures["miss"] is not None:
                misses.append(figures["miss"])
            if stream.condition in ("noise", "alone") and figures["false_alarm"] is not None:
                alarms.append(figures["false_alarm"])
        miss, alarm = statistics.fmean(misses), statistics.fmean(alarms)
        good = miss <= _MAX_MISS
        ranked.append((not good, alarm if good else miss + alarm, threshold, hang_over_s, settings))
    return min(ranked, key=lambda r: r[:4])[4]


def _costs(recognizer: Recognizer, speech: Array, repeats: int) -> dict[str, float]:
    """Milliseconds of the processor per second of audio, medians, measured in turn: model, front end, gates.

    The model is asked as in a stream, where what it encoded for the window before is not encoded again.
    """
    b = recognizer.bundle
    per_s = b.frontend.sample_rate / (b.window.hop_frames * b.frontend.hop_length)
    window = np.resize(features(speech, b.frontend), (b.window.input_frames, b.frontend.n_features))
    frontend = Frontend(b.frontend)
    gates = {
        name: VoiceGate(SAMPLE_RATE, VadSettings(floor_dbfs=-200, rise_db=0.0), make())
        for name, make in _DETECTORS.items()
    }
    asleep = VoiceGate(SAMPLE_RATE, VadSettings(), Level())
    quiet = np.zeros(SAMPLE_RATE, np.float32)
    hops = itertools.count()
    recognizer.engine.forget()
    tasks: dict[str, tuple[Callable[[], Any], float]] = {
        "model": (lambda: recognizer.score(window, next(hops)), per_s),
        "front end": (lambda: frontend.push(speech), 1.0),
        "asleep": (lambda: asleep.push(quiet), 1.0),
        **{name: (lambda gate=gate: gate.push(speech), 1.0) for name, gate in gates.items()},  # type: ignore[misc]
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(5 + repeats):
        for name, (run, times_per_s) in tasks.items():
            started = time.process_time()
            run()
            if i >= 5:
                times[name].append((time.process_time() - started) * 1e3 * times_per_s)
    return {name: statistics.median(measured) for name, measured in times.items()}


def measure(
    data: Path, repeats: int = 60, shown: Callable[[dict[str, Any]], None] = lambda row: None
) -> list[dict[str, Any]]:
    """One row per detector and condition.

    Args:
        data: Folder of the corpora RAVDESS and EMO-DB, and of ``noise`` with one sub-folder per kind.
        repeats: Rounds counted for the costs.
        shown: Called with each row as it is made.

    Returns:
        Rows with ``detector, threshold, release, hang_over_s, condition, what, level_db`` (noise: the signal-to-noise
        ratio; else of the signal, dBFS), ``test_only`` (a kind of noise nothing was chosen on), ``miss, false_alarm``
        (of hops), ``frame_miss, frame_false_alarm``, ``unheard`` (share of the hops of speech that are in no scored
        window: later ones hold them, too), ``scored`` (share of hops whose window the model scores), ``awake`` (share
        of the audio the detector was asked about), ``cost_ratio`` (the detector's cost per second of audio by the
        emotion model's) and ``compute_ratio`` (front end, gate and model, by front end and model without a gate).

    Raises:
        CorpusError: A corpus or the noise is missing.
    """
    if not (data / "noise").is_dir():
        raise CorpusError(
            f"no folder {data / 'noise'}; give the folder that holds the corpora and the noise with --data"
        )
    recognizer = Recognizer(read_bundle("default"))
    w, f = recognizer.bundle.window, recognizer.bundle.frontend
    tuning = read_streams(data, "tuning", (10.0,))
    chosen = {name: _choose(tuning, name) for name in _DETECTORS}
    test = read_streams(data, "test", SNRS_DB)
    cost = _costs(recognizer, test[1].samples[3 * SAMPLE_RATE : 4 * SAMPLE_RATE], repeats)
    rows = []
    for name in ("window-level", *_DETECTORS):
        settings = chosen.get(name)
        for stream in test:
            if settings is None:
                frames, scored, awake = _window_level(stream, recognizer)
                gate_cost = busy = 0.0
                computed = np.ones(len(scored), bool)  # it judges frames
            else:
                frames, scored, awake = _gated(stream, settings, _DETECTORS[name]())
                busy = cost[name]
                gate_cost = cost["asleep"] + awake * (busy - cost["asleep"])
                computed = _before(scored, -(-f.n_samples(w.input_frames) // _HOP) - 1)
            figures = _figures(stream, frames, scored)
            in_windows = _before(scored, f.n_samples(w.n_frames) // _HOP - 1)
            spent = gate_cost + cost["front end"] * float(np.mean(computed)) + cost["model"] * float(np.mean(scored))
            rows.append(
                {
                    "detector": name,
                    "threshold": settings and settings.threshold,
                    "release": settings and round(settings.release, 3),
                    "hang_over_s": settings and settings.hang_over_s,
                    "condition": stream.condition,
                    "what": stream.what,
                    "level_db": stream.level_db,
                    "test_only": stream.what in TEST_NOISES if stream.condition in ("noise", "alone") else None,
                    **figures,
                    "unheard": _figures(stream, frames, in_windows)["miss"],
                    "awake": round(awake, 4),
                    "cost_ratio": round(busy / cost["model"], 3),
                    "compute_ratio": round(spent / (cost["front end"] + cost["model"]), 4),
                }
            )
            shown(rows[-1])
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Speech missed at each signal-to-noise ratio, a line per detector, and false alarms on noise and music alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    detectors = list(dict.fromkeys(r["detector"] for r in rows))
    kinds = sorted({r["what"] for r in rows if r["condition"] == "alone"})
    for i, name in enumerate(detectors):
        mine = [r for r in rows if r["detector"] == name]
        snrs = sorted({r["level_db"] for r in mine if r["condition"] == "noise"})
        misses = [
            100 * statistics.fmean(r["miss"] for r in mine if r["condition"] == "noise" and r["level_db"] == snr)
            for snr in snrs
        ]
        curves.plot(snrs, misses, "o-", label=name)
        alarms = [
            100
            * next(r["false_alarm"] for r in mine if (r["condition"], r["what"], r["level_db"]) == ("alone", k, -30))
            for k in kinds
        ]
        bars.barh(np.arange(len(kinds)) + 0.16 * (i - 2), alarms, 0.16, label=name)
    curves.axhline(2, color="k", linewidth=1)
    curves.set(xlabel="signal-to-noise ratio, dB", ylabel="speech missed, % of hops", ylim=(0, None))
    curves.legend(fontsize="small")
    bars.set(xlabel="taken for speech at -30 dBFS, % of hops", yticks=range(len(kinds)), yticklabels=kinds)
    figure.savefig(path, dpi=110)
