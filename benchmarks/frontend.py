"""What one second of audio costs in each front end, measured in turn in the same process.

CPU time is counted, with one thread each, so that the figures depend little on what else the machine does.

Beside two libraries stands a TFLite graph of the same features, on LiteRT: framing, window and DFT as one convolution,
then power, mel matrix and logarithm. (With RFFT2D in place of the DFT it took half as long again.) And beside all
stands what nothing in numpy can do without: the FFT of the same frames alone.
"""

from __future__ import annotations

import functools
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import librosa
import numpy as np
import python_speech_features
import scipy.fft
import threadpoolctl

from serkit.edge.engine import Engine
from serkit.edge.errors import ModelError
from serkit.edge.frontend import Frontend, FrontendSettings, features
from serkit.edge.mel import mel_filterbank
from serkit.edge.stderr import muted

#: Whether the TFLite graph can be built.
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None

#: Lengths of a recording handed over at once, s.
LENGTHS_S = (0.5, 1.0, 2.56, 10.0)
#: A stream: how much new audio each step brings, and how much the model looks at. The peers, the TFLite graph among
#: them, keep no state and compute the whole window at every step; what the new audio alone would cost them shows in
#: the recording of the same length.
HOP_S, WINDOW_S = 0.5, 2.56

#: numpy's share that no front end in numpy gets below.
FFT_ALONE = "numpy's FFT alone"

_RATE = 16000
# The same features for all: 25 ms Hamming, 10 ms hop, 512-point FFT, natural log.
_N_MELS = 128
_SETTINGS = {
    "log_mel": FrontendSettings(n_mels=_N_MELS),
    "mfcc": FrontendSettings(kind="mfcc", n_mels=26, n_mfcc=13, lifter=22),
}


def tflite_graph(settings: FrontendSettings, n_samples: int) -> Engine:
    """The features of ``n_samples`` samples as a TFLite graph, ready to run; Hamming window and HTK mel scale.

    Raises:
        ModelError: Its values are not those of `features`.
    """
    with muted():
        import tensorflow as tf

    s = settings
    angle = -2 * np.pi / s.n_fft * np.outer(np.arange(s.win_length), np.arange(s.n_fft // 2 + 1))
    waves = np.exp(1j * angle) * np.hamming(s.win_length)[:, None]
    dft = np.concatenate([waves.real, waves.imag], axis=1)[:, None, :].astype(np.float32)  # (win_length, 1, 2 bins)
    mel = mel_filterbank(s).T.astype(np.float32)
    lifter = 1 + s.lifter / 2 * np.sin(np.pi * np.arange(s.n_mfcc) / s.lifter)
    dct = (scipy.fft.dct(np.eye(s.n_mels), norm="ortho")[:, : s.n_mfcc] * lifter).astype(np.float32)

    def compute(x: Any) -> Any:
        squares = tf.square(tf.nn.conv1d(x[:, :, None], dft, s.hop_length, "VALID"))
        power = squares[..., : len(mel)] + squares[..., len(mel) :]
        log_mel = tf.math.log(tf.maximum(power @ mel, s.log_floor))
        return log_mel if s.kind == "log_mel" else log_mel @ dct

    with muted():
        module = tf.Module()
        module.classify = tf.function(compute, input_signature=[tf.TensorSpec((1, n_samples), tf.float32)])
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder, signatures={"classify": module.classify})
            engine = Engine(tf.lite.TFLiteConverter.from_saved_model(folder).convert(), 0, "litert")
    x = (0.1 * np.random.default_rng(1).standard_normal(n_samples)).astype(np.float32)
    difference = np.max(np.abs(engine.logits(x) - features(x, s)))
    if difference > 1e-3:
        raise ModelError(f"{s.kind}: the TFLite graph is {difference:.1e} away from the front end; 1e-3 is allowed")
    return engine


def _peers() -> dict[str, dict[str, Callable[[Any], Any]]]:
    def ours(kind: str) -> Callable[[Any], Any]:
        frontend = Frontend(_SETTINGS[kind])

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

    def tflite(kind: str) -> dict[str, Callable[[Any], Any]]:
        graph = functools.cache(lambda n_samples: tflite_graph(_SETTINGS[kind], n_samples))
        return {"tflite graph": lambda x: graph(len(x)).logits(x)} if HAS_TENSORFLOW else {}

    @functools.cache
    def frames(n_samples: int) -> Any:
        s = _SETTINGS["log_mel"]
        n = (n_samples - s.win_length) // s.hop_length + 1
        return np.pad(
            np.random.default_rng(2).standard_normal((n, s.win_length)), ((0, 0), (0, s.n_fft - s.win_length))
        )

    def fft_alone(x: Any) -> Any:
        every = frames(len(x))
        return [np.fft.rfft(every[i : i + 64], axis=1) for i in range(0, len(every), 64)]  # in a level-2 cache

    return {
        "log_mel": {
            "serkit": ours("log_mel"),
            "python_speech_features": lambda x: python_speech_features.logfbank(x, _RATE, nfilt=_N_MELS, preemph=0),
            "librosa": librosa_log_mel,
            **tflite("log_mel"),
            FFT_ALONE: fft_alone,
        },
        "mfcc": {
            "serkit": ours("mfcc"),
            "python_speech_features": lambda x: python_speech_features.mfcc(x, _RATE, winfunc=np.hamming, preemph=0),
            "librosa": librosa_mfcc,
            **tflite("mfcc"),
            FFT_ALONE: fft_alone,
        },
    }


def _times_ms(peers: dict[str, Callable[[], Any]], repeats: int, warm_up: int) -> dict[str, list[float]]:
    """CPU time of each call, the peers in turn."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    with threadpoolctl.threadpool_limits(1):
        for i in range(warm_up + repeats):
            for name, compute in peers.items():
                started = time.thread_time()
                compute()
                if i >= warm_up:
                    times[name].append((time.thread_time() - started) * 1e3)
    return times


def measure(repeats: int = 60, warm_up: int = 5) -> list[dict[str, Any]]:
    """Median and 95th percentile of the CPU time per second of audio, and the ratio to serkit's in the same round.

    The TFLite graph is left out where TensorFlow is not installed.

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
            calls: dict[str, Callable[[], Any]] = {
                name: functools.partial(
                    compute, window if scenario == "stream" and name not in ("serkit", FFT_ALONE) else new
                )
                for name, compute in peers.items()
            }
            times = _times_ms(calls, repeats, warm_up)
            for name, measured in times.items():
                ratios = [t / o for t, o in zip(measured, times["serkit"], strict=True)]
                rows.append(
                    {
                        "features": kind,
                        "scenario": scenario,
                        "length_s": length_s,
                        "system": name,
                        "median_ms": round(statistics.median(measured) / length_s, 4),
                        "p95_ms": round(float(np.percentile(measured, 95)) / length_s, 4),
                        "ratio_to": "serkit",
                        "ratio": round(statistics.median(ratios), 2),
                    }
                )
    return rows
