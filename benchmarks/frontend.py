"""What one second of audio costs in each front end, measured in turn in the same process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import librosa
import numpy as np
import python_speech_features

from serkit.edge.frontend import Frontend, FrontendSettings

#: Lengths of a recording handed over at once, s.
LENGTHS_S = (0.5, 1.0, 2.56, 10.0)
#: A stream: how much new audio each step brings, and how much the model looks at. The peers have no streaming form and
#: compute the whole window at every step.
HOP_S, WINDOW_S = 0.5, 2.56

_RATE = 16000
# The same features for all three: 25 ms Hamming, 10 ms hop, 512-point FFT, natural log.
_N_MELS = 128


def _peers() -> dict[str, dict[str, Callable[[Any], Any]]]:
    settings = {
        "log_mel": FrontendSettings(n_mels=_N_MELS),
        "mfcc": FrontendSettings(kind="mfcc", n_mels=26, n_mfcc=13, lifter=22),
    }

    def ours(kind: str) -> Callable[[Any], Any]:
        frontend = Frontend(settings[kind])

        def compute(x: Any) -> Any:
            frontend.reset()
            return frontend.push(x)

        return compute

    def librosa_log_mel(x: Any) -> Any:
        power = librosa.feature.melspectrogram(
            y=x, sr=_RATE, n_fft=512, win_length=400, hop_length=160, window="hamming", n_mels=_N_MELS, htk=True,
            norm=None, center=False,
        )  # fmt: skip
        return np.log(np.maximum(power, 1e-8))

    def librosa_mfcc(x: Any) -> Any:
        return librosa.feature.mfcc(
            y=x, sr=_RATE, n_mfcc=13, n_fft=512, win_length=400, hop_length=160, window="hamming", n_mels=26, htk=True,
            lifter=22, center=False,
        )  # fmt: skip

    return {
        "log_mel": {
            "serkit": ours("log_mel"),
            "python_speech_features": lambda x: python_speech_features.logfbank(x, _RATE, nfilt=_N_MELS, preemph=0),
            "librosa": librosa_log_mel,
        },
        "mfcc": {
            "serkit": ours("mfcc"),
            "python_speech_features": lambda x: python_speech_features.mfcc(x, _RATE, winfunc=np.hamming, preemph=0),
            "librosa": librosa_mfcc,
        },
    }


def measure(repeats: int = 60, warm_up: int = 5) -> list[dict[str, Any]]:
    """Median and 95th percentile of the cost per second of audio, and the ratio to serkit's in the same round.

    Returns:
        Rows with ``features, scenario, length_s, system, median_ms, p95_ms`` (both per second of audio), ``ratio_to``
        and ``ratio`` (median over rounds of the system's time by serkit's).
    """
    rng = np.random.default_rng(0)
    rows = []
    for kind, peers in _peers().items():
        for scenario, length_s in [("stream", HOP_S), *(("recording", s) for s in LENGTHS_S)]:
            new = (0.1 * rng.standard_normal(int(length_s * _RATE))).astype(np.float32)
            window = (0.1 * rng.standard_normal(int(WINDOW_S * _RATE))).astype(np.float32)
            times: dict[str, list[float]] = {name: [] for name in peers}
            for i in range(warm_up + repeats):
                for name, compute in peers.items():
                    signal = window if scenario == "stream" and name != "serkit" else new
                    started = time.perf_counter()
                    compute(signal)
                    if i >= warm_up:
                        times[name].append((time.perf_counter() - started) * 1e3 / length_s)
            for name, measured in times.items():
                ratios = [t / o for t, o in zip(measured, times["serkit"], strict=True)]
                rows.append(
                    {
                        "features": kind,
                        "scenario": scenario,
                        "length_s": length_s,
                        "system": name,
                        "median_ms": round(statistics.median(measured), 4),
                        "p95_ms": round(float(np.percentile(measured, 95)), 4),
                        "ratio_to": "serkit",
                        "ratio": round(statistics.median(ratios), 2),
                    }
                )
    return rows
