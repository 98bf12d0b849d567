"""What a hop costs, from samples to decision: beside a peer, beside computing the window anew, and of one core."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from serkit.benchmarks.hops import (
    OpenGate,
    Recomputed,
    Stepper,
    Streamed,
    Times,
    hop_s,
    in_turn,
    quiet,
    talking,
    with_hop,
)
from serkit.edge.bundle import Bundle
from serkit.edge.errors import SettingsError
from serkit.edge.stream import Recognizer
from serkit.edge.vad import VoiceGate


def measure(
    models: Sequence[Bundle],
    peers: Sequence[Bundle] = (),
    *,
    rounds: int = 400,
    seconds: float = float("inf"),
    engine: str = "auto",
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Two races of interleaved hops.

    ``race`` is ``pipeline``: front end, model and decision of somebody who never pauses, with an open voice gate, so
    that every window is scored; the first model is also computed anew for every window (``way``). Or ``listening``:
    with the voice gate, talking and silent, as `serkit listen` does it.

    Args:
        models: What is measured; ratios are to the first.
        peers: Other models, in the first race.
        rounds: Hops of each that are counted.
        seconds: Each race stops after so long.
        engine: ``auto``, ``litert`` or ``tflite-runtime``.
        threads: Of one inference.

    Returns:
        Rows with ``system, race, way, scene, gate, format, engine, threads, peer, trained`` and the figures of
        `serkit.benchmarks.hops.Times`; in the first race also ``ratio_to`` and ``ratio``: the median over rounds of
        this row's time on the processor by that of the first model in the same round, and ``ratio_wall``, the same
        by the clock on the wall, which on a busy machine counts the others as well.

    Raises:
        SettingsError: Two of them have the same name.
    """
    names = [b.name for b in (*models, *peers)]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise SettingsError(f"two models are called {twice[0]}; convert one of them with another --name")
    recognizers = {b.name: Recognizer(with_hop(b), engine, threads) for b in (*models, *peers)}
    speech = {r: talking(r) for r in {b.frontend.sample_rate for b in (*models, *peers)}}
    noise = {rate: quiet(rate) for rate in speech}

    def row(bundle: Bundle, race: str, way: str, scene: str, gate: str, times: Times) -> dict[str, Any]:
        return {
            "system": bundle.name,
            "race": race,
            "way": way,
            "scene": scene,
            "gate": gate,
            "format": bundle.format,
            "engine": recognizers[bundle.name].engine.name,
            "threads": threads,
            "peer": bundle in peers,
            "trained": bundle.info.get("trained") is not None,
            **times.figures(hop_s(recognizers[bundle.name].bundle)),
        }

    rows = []
    entries: dict[str, tuple[Bundle, str, Stepper]] = {}
    for i, bundle in enumerate((*models, *peers)):
        rate = bundle.frontend.sample_rate
        recognizer, audio = recognizers[bundle.name], speech[rate]
        entries[f"{bundle.name} streamed"] = (bundle, "streamed", Streamed(recognizer, audio, OpenGate(rate)))
        if i == 0:  # an engine of its own: nothing kept by one may serve the other
            anew = Recomputed(Recognizer(with_hop(bundle), engine, threads), audio)
            entries[f"{bundle.name} anew"] = (bundle, "anew", anew)
    times = in_turn({name: stepper for name, (_, _, stepper) in entries.items()}, rounds, seconds)
    first = next(iter(times.values()))
    for name, (bundle, way, _) in entries.items():
        ratios = {
            "ratio_to": models[0].name,
            "ratio": _ratio(times[name].cpu_s, first.cpu_s),
            "ratio_wall": _ratio(times[name].wall_s, first.wall_s),
        }
        rows.append({**row(bundle, "pipeline", way, "talking", "none", times[name]), **ratios})

    # a recognizer has one front end: one stream at a time, so each scene has its own
    scenes: dict[str, tuple[Bundle, str, str, Stepper]] = {}
    for bundle in models:
        for scene, heard in (("talking", speech), ("silent", noise)):
            rate = bundle.frontend.sample_rate
            gate = VoiceGate(rate)
            stepper = Streamed(Recognizer(with_hop(bundle), engine, threads), heard[rate], gate)
            scenes[f"{bundle.name} {scene}"] = (bundle, scene, gate.detector_name, stepper)
    times = in_turn({name: s[-1] for name, s in scenes.items()}, rounds, seconds)
    for name, (bundle, scene, gate_name, _) in scenes.items():
        rows.append(row(bundle, "listening", "streamed", scene, gate_name, times[name]))
    return rows


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    return round(median(t / o for t, o in zip(times, others, strict=True)), 3)
