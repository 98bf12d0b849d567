"""How well voice detectors find speech in noise, how often they take noise or music for it, and what they cost.

Streams are composed from recordings: speakers in turn, pauses of 1 to 4 s of digital silence between their utterances.
A 10 ms frame is speech by the *clean* signal alone, whatever is added to it later: its level (over 30 ms) is no more
than 35 dB below the recording's loud frames (the 95th percentile of those within 50 dB of the loudest); gaps shorter
than 0.25 s inside a recording are closed, and what then is shorter than 50 ms (a click) is no speech. Then every
recording is brought to -26 dBFS of speech power (but in the condition "as recorded"), and noise is laid under the
whole stream at a ratio to that power.

Every detector runs inside `serkit.edge.vad.VoiceGate`, behind the same levels, and is judged twice:

- by decisions, one per 0.5 s hop as `Recognizer.windows` takes them. A hop is speech if most of it is, silent if there
  is no speech in it nor in the second before it; others do not count.
- frame by frame, 10 ms each; a decision is known once the chunk of 32 ms that it is about has been heard.

Thresholds and hang-overs are chosen on other speakers than those that are judged, and with other noise: recordings of
the kinds that training may hear are shared out between the two sides, the kinds of `serkit.train.augment.TEST_NOISES`
are only ever judged. Chosen is the setting that, at 10 dB, misses at most 1 % of the speech hops (half of what is
wanted: a margin for other voices) and takes the fewest silent ones for speech; where none is that good, the one with
the smallest sum of both. The gate for files (``window-level``: `speech_ratio` of each whole window) has nothing to
choose.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import webrtcvad
from pymicro_vad import MicroVad

from serkit.edge.audio import read_audio
from serkit.edge.bundle import read_bundle
from serkit.edge.errors import CorpusError
from serkit.edge.frontend import Frontend, features
from serkit.edge.stream import Recognizer
from serkit.edge.vad import MIN_SPEECH, Detector, Level, Silero, VadSettings, VoiceGate, frame_levels, speech_ratio
from serkit.edge.window import silence
from serkit.train.augment import TEST_NOISES
from serkit.train.conditions import SNRS_DB
from serkit.train.corpora import read_corpus, recordings
from serkit.train.splits import SHIP_TEST

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_RATE = 16000
_FRAME, _HOP, _CHUNK = 160, 8000, 512  # samples
_SPEECH_DBFS = -26.0  # ITU-T P.56's usual level of speech in tests
_RANGE_DB = 35.0
_MAX_MISS = 0.01  # of speech hops at 10 dB: half of the 2 % wanted, a margin for other voices
#: Speakers the settings are chosen on; judged are those no shipped model ever heard.
_TUNING = {"ravdess": ("4", "10", "12", "14"), "emodb": ("09", "10", "13")}
#: Everyday speech by the first word of the file name; others have too much noise for labels by level.
_EVERYDAY = {"tuning": ("silero",), "test": ("openwakeword", "speechbrain", "vctk")}
_UTTERANCES = {"ravdess": 32, "emodb": 24}
_LONGEST_S = 60.0
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
        size = 2 * _FRAME
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
    return _Buffered(lambda data: float(vad.is_speech(data, _RATE)), lambda: None)


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


@dataclass(frozen=True)
class _Stream:
    """A condition's samples, and which 10 ms frames hold speech."""

    condition: str
    what: str
    level_db: float | None
    samples: Array
    speech: Mask


def speech_frames(samples: Array) -> Mask:
    """Which 10 ms frames of a clean recording hold speech, by the rule above, bool ``(n_samples // 160,)``."""
    power = np.mean(np.square(samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME), dtype=np.float64), axis=1)
    level = 10 * np.log10(np.convolve(power, np.ones(3) / 3, "same") + 1e-12)
    loud = np.quantile(level[level > level.max() - 50], 0.95)
    speech = level > loud - _RANGE_DB
    for start, end in _runs(~speech):
        if end - start < 25 and start and end < len(speech):
            speech[start:end] = True
    for start, end in _runs(speech):
        if end - start < 5:
            speech[start:end] = False
    return np.asarray(speech)


def _runs(mask: Mask) -> npt.NDArray[np.intp]:
    """First and last-but-one index of each run of True, ``(n, 2)``."""
    return np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)


def _recordings(data: Path, side: str) -> list[Path]:
    """Recordings of one side, in a random order that is always the same."""
    rng = np.random.default_rng(0)
    chosen = []
    for corpus, count in _UTTERANCES.items():
        speakers = _TUNING[corpus] if side == "tuning" else SHIP_TEST[corpus]
        paths = [u.path for u in read_corpus(corpus, data) if u.speaker in speakers]
        chosen += [paths[i] for i in rng.permutation(len(paths))[:count]]
    everyday = data / "speech_neutral"
    if everyday.is_dir():
        chosen += [p for p in recordings(everyday) if p.stem.split("_")[0] in _EVERYDAY[side]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _compose(paths: Sequence[Path], level_dbfs: float | None) -> tuple[Array, Mask]:
    rng = np.random.default_rng(0)
    samples, speech = [np.zeros(2 * _RATE, np.float32)], [np.zeros(200, bool)]
    for path in paths:
        x = read_audio(path, _RATE)[: int(_LONGEST_S * _RATE)]
        x = x[: len(x) // _FRAME * _FRAME]
        labels = speech_frames(x)
        if level_dbfs is not None:
            power = float(np.mean(np.square(x.reshape(-1, _FRAME)[labels], dtype=np.float64)))
            x = x * np.float32(10 ** (level_dbfs / 20) / np.sqrt(power))
        pause = int(100 * rng.uniform(1, 4))
        samples += [x, np.zeros(pause * _FRAME, np.float32)]
        speech += [labels, np.zeros(pause, bool)]
    return np.concatenate(samples), np.concatenate(speech)


def _noise(folder: Path, n: int, side: str) -> Array:
    """Noise of one kind and of power 1: its recordings in turn, each for 5 to 30 s; those of the side."""
    rng = np.random.default_rng(0)
    paths = list(recordings(folder))
    if folder.name not in TEST_NOISES:
        paths = paths[0 if side == "tuning" else 1 :: 2]
    if not paths:
        raise CorpusError(f"{folder}: too few recordings of noise to share out; give at least two")
    pieces: list[Array] = []
    while sum(map(len, pieces)) < n:
        for path in paths:
            x = read_audio(path, _RATE)
            x = np.resize(np.roll(x, -int(rng.integers(len(x)))), int(np.clip(len(x), 5 * _RATE, 30 * _RATE)))
            pieces.append(x / np.float32(np.sqrt(np.mean(np.square(x, dtype=np.float64)))))
    return np.concatenate(pieces)[:n]


def _streams(data: Path, side: str, snrs_db: Sequence[float]) -> list[_Stream]:
    paths = _recordings(data, side)
    clean, speech = _compose(paths, _SPEECH_DBFS)
    recorded, speech_recorded = _compose(paths, None)
    made = [
        _Stream("clean", "as recorded", None, recorded, speech_recorded),
        _Stream("clean", "", _SPEECH_DBFS, clean, speech),
        _Stream("clean", "soft", _SPEECH_DBFS - 20, clean / np.float32(10), speech),
    ]
    nothing = np.zeros(6000, bool)
    kinds = [d for d in sorted((data / "noise").iterdir()) if d.is_dir()]
    for folder in kinds if side == "test" else [d for d in kinds if d.name not in TEST_NOISES]:
        x = _noise(folder, max(len(clean), 60 * _RATE), side)
        for snr in snrs_db:
            gain = np.float32(10 ** ((_SPEECH_DBFS - snr) / 20))
            made.append(_Stream("noise", folder.name, snr, clean + gain * x[: len(clean)], speech))
        for level in (-30.0, -50.0):
            alone = np.float32(10 ** (level / 20)) * x[: 60 * _RATE]
            made.append(_Stream("alone", folder.name, level, alone, nothing))
    hum = np.random.default_rng(0).standard_normal(60 * _RATE).astype(np.float32)
    made.append(_Stream("silence", "digital", None, np.zeros(60 * _RATE, np.float32), nothing))
    made.append(_Stream("silence", "room, white noise", -65.0, hum * np.float32(10 ** (-65 / 20)), nothing))
    return made


def _hops(speech: Mask) -> tuple[Mask, Mask]:
    """Which hops are speech, and which are silent."""
    frames = _HOP // _FRAME
    share = speech[: len(speech) // frames * frames].reshape(-1, frames).mean(axis=1)
    before = np.concatenate([[0, 0], share])
    return share > 0.5, (share == 0) & (before[1:-1] == 0) & (before[:-2] == 0)


def _figures(stream: _Stream, frames: Mask, scored: Mask) -> dict[str, float | None]:
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


def _gated(stream: _Stream, settings: VadSettings, detector: Detector) -> tuple[Mask, Mask, float]:
    """Frames flagged, hops scored and the share of chunks that got past the levels."""
    gate = VoiceGate(_RATE, settings, detector)
    scored: list[bool] = []
    chunks: list[float] = []
    for end in range(_HOP, len(stream.samples) + 1, _HOP):
        gate.push(stream.samples[end - _HOP : end])
        scored.append(gate.speech_ratio((end - _HOP) / _RATE, end / _RATE) >= MIN_SPEECH)
        chunks += [gate.speech_ratio(k * _CHUNK / _RATE, (k + 1) * _CHUNK / _RATE) for k in
                   range(len(chunks), gate.n_chunks)]  # fmt: skip
    flags = np.array(chunks, bool)
    return (
        flags[np.arange(len(flags) * _CHUNK // _FRAME) * _FRAME // _CHUNK],
        np.array(scored),
        gate.n_detected / gate.n_chunks,
    )


def _window_level(stream: _Stream, recognizer: Recognizer) -> tuple[Mask, Mask, float]:
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
        end = min(len(padded), w.n_frames + (k + 1) * w.hop_frames)
        scored[k] = speech_ratio(frame_levels(padded[end - w.n_frames : end], f)) >= MIN_SPEECH
    return (levels > -55.0) & (levels > loudest - 30.0), scored, 0.0


def _choose(streams: Sequence[_Stream], name: str) -> VadSettings:
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
    """Milliseconds per second of audio, medians, measured in turn: model, front end, gates asleep and awake."""
    b = recognizer.bundle
    per_s = b.frontend.sample_rate / (b.window.hop_frames * b.frontend.hop_length)
    window = np.resize(features(speech, b.frontend), (b.window.input_frames, b.frontend.n_features))
    frontend = Frontend(b.frontend)
    gates = {
        name: VoiceGate(_RATE, VadSettings(floor_dbfs=-200, rise_db=0.0), make()) for name, make in _DETECTORS.items()
    }
    asleep = VoiceGate(_RATE, VadSettings(), Level())
    quiet = np.zeros(_RATE, np.float32)
    tasks: dict[str, tuple[Callable[[], Any], float]] = {
        "model": (lambda: recognizer.score(window), per_s),
        "front end": (lambda: frontend.push(speech), 1.0),
        "asleep": (lambda: asleep.push(quiet), 1.0),
        **{name: (lambda gate=gate: gate.push(speech), 1.0) for name, gate in gates.items()},  # type: ignore[misc]
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(5 + repeats):
        for name, (run, times_per_s) in tasks.items():
            started = time.perf_counter()
            run()
            if i >= 5:
                times[name].append((time.perf_counter() - started) * 1e3 * times_per_s)
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
        (of hops), ``frame_miss, frame_false_alarm``, ``scored`` (share of hops whose window the model scores),
        ``awake`` (share of the audio the detector was asked about), ``cost_ratio`` (the detector's cost per second of
        audio by the emotion model's) and ``compute_ratio`` (front end, gate and model, by front end and model without
        a gate).

    Raises:
        CorpusError: A corpus or the noise is missing.
    """
    if not (data / "noise").is_dir():
        raise CorpusError(
            f"no folder {data / 'noise'}; give the folder that holds the corpora and the noise with --data"
        )
    recognizer = Recognizer(read_bundle("default"))
    tuning = _streams(data, "tuning", (10.0,))
    chosen = {name: _choose(tuning, name) for name in _DETECTORS}
    test = _streams(data, "test", SNRS_DB)
    cost = _costs(recognizer, test[1].samples[3 * _RATE : 4 * _RATE], repeats)
    rows = []
    for name in ("window-level", *_DETECTORS):
        settings = chosen.get(name)
        for stream in test:
            if settings is None:
                frames, scored, awake = _window_level(stream, recognizer)
                gate_cost = busy = 0.0
            else:
                frames, scored, awake = _gated(stream, settings, _DETECTORS[name]())
                busy = cost[name]
                gate_cost = cost["asleep"] + awake * (busy - cost["asleep"])
            figures = _figures(stream, frames, scored)
            spent = cost["front end"] + gate_cost + cost["model"] * float(np.mean(scored))
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
