"""Runs the stages of listening one by one, marked for a program that counts instructions (deploy/arm/count.c).

    deploy/arm/emulate count edge -m serkit.benchmarks.instructions litert /src/edge/demo/clip.flac 4

Needs what a device has, no more. Standard output gets one JSON line per stage, in the order of the marks.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.audio import FakeSource, read_audio
from serkit.edge.bundle import bundled_models, read_bundle
from serkit.edge.config import read_config
from serkit.edge.decision import Decision
from serkit.edge.events import to_json
from serkit.edge.frontend import Frontend
from serkit.edge.listener import Listener
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VoiceGate

Array = npt.NDArray[np.float32]

BLOCK_SIZE = 512  # samples, the default of `serkit listen`
QUIET_DBFS = -70.0  # a quiet room: below what the voice gate wakes up for


def stages(engine: str, model: str, path: str, seconds: float) -> None:
    """Run each stage on ``seconds`` of speech, thrice: once to warm up, then once and twice as long between marks.

    What ``seconds`` more of audio cost is the second stretch less the first; what a stream costs at its start and its
    end cancels.
    """
    bundle = read_bundle(model)
    rate = bundle.frontend.sample_rate
    n = round(seconds * rate)
    speech = np.resize(read_audio(path, rate), n)
    quiet = (10 ** (QUIET_DBFS / 20) * np.random.default_rng(0).standard_normal(n)).astype(np.float32)
    recognizer = Recognizer(bundle, engine)
    config = read_config(None)
    frontend, gate = Frontend(bundle.frontend), VoiceGate(rate, config.vad)

    hop = bundle.window.hop_frames * bundle.frontend.hop_length

    def blocks(samples: Array, size: int = BLOCK_SIZE) -> list[Array]:
        return [samples[i : i + size] for i in range(0, len(samples), size)]

    def frames(samples: Array) -> dict[str, Any]:
        frontend.reset()
        for block in blocks(samples, hop):  # as `Recognizer.windows` does: what is left of it is the model
            frontend.push(block)
        return {}

    def voice(samples: Array) -> dict[str, Any]:
        gate.reset()
        for block in blocks(samples):
            gate.push(block)
        return {"detector": gate.detector_name, "chunks": gate.n_chunks, "detected": gate.n_detected}

    def windows(samples: Array) -> dict[str, Any]:
        answers = [w.probabilities is not None for w in recognizer.windows(blocks(samples))]
        return {"windows": len(answers), "scored": sum(answers)}

    def listen(samples: Array) -> dict[str, Any]:
        decision = Decision(bundle.labels, bundle.name, config.decision)
        with Listener(recognizer, FakeSource(samples, rate, BLOCK_SIZE), decision, gate) as events:
            for event in events:
                to_json(event)
            return {"windows": events.health.windows, "scored": events.health.scored}

    def run(stage: str, work: Callable[[Array], dict[str, Any]], samples: Array) -> None:
        work(samples)
        mark()
        once = work(samples)
        mark()
        twice = work(np.tile(samples, 2))
        mark()
        more = {k: v if isinstance(v, str) else v - once[k] for k, v in twice.items()}
        print(json.dumps({"model": model, "engine": engine, "stage": stage, "seconds": seconds, **more}), flush=True)

    run("front end", frames, speech)
    run("voice gate", voice, speech)
    run("windows", windows, speech)
    run("listen, speech", listen, speech)
    run("listen, quiet", listen, quiet)


def mark() -> None:
    """The system call that the counter takes for a mark; elsewhere it does nothing."""
    os.getsid(0)


if __name__ == "__main__":
    for bundled in bundled_models():
        stages(sys.argv[1], bundled, sys.argv[2], float(sys.argv[3]))
