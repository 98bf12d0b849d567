"""What the bundled models answer, window by window, as JSON on standard output, to be compared between two machines.

    python -m serkit.benchmarks.answers litert edge/demo/clip.flac

Needs what a device has, no more.
"""

from __future__ import annotations

import base64
import json
import platform
import sys
from importlib import metadata
from typing import Any

import numpy as np

from serkit.edge.audio import read_audio
from serkit.edge.bundle import bundled_models, read_bundle
from serkit.edge.frontend import features
from serkit.edge.stream import Recognizer


def answers(engine: str, paths: list[str]) -> dict[str, Any]:
    """Every bundled model's answer to every recording.

    Returns:
        ``architecture``, ``versions``, ``heard`` (per model and recording: the samples and frames as base64 of
        little-endian float32) and ``windows`` (per model and recording: the probabilities of each window that was
        scored, in order).
    """
    heard, windows = [], []
    for model in bundled_models():
        bundle = read_bundle(model)
        recognizer = Recognizer(bundle, engine)
        for path in paths:
            samples = read_audio(path, bundle.frontend.sample_rate)
            frames = features(samples, bundle.frontend)
            scored = [w.probabilities for w in recognizer.windows([samples]) if w.probabilities is not None]
            heard.append([_encoded(samples), _encoded(frames)])
            windows.append(
                {
                    "model": model,
                    "format": bundle.format,
                    "temperature": bundle.temperature,
                    "probabilities": [p.tolist() for p in scored],
                }
            )
    packages = ("numpy", "soxr", "soundfile", "ai-edge-litert" if engine == "litert" else engine)
    versions = {name: metadata.version(name) for name in packages}
    return {"architecture": platform.machine(), "versions": versions, "heard": heard, "windows": windows}


def _encoded(values: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


if __name__ == "__main__":
    json.dump(answers(sys.argv[1], sys.argv[2:]), sys.stdout)
