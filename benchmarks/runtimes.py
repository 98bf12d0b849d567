"""Models on the runtimes of this machine: Keras' back ends and TFLite's engines, each in a process of its own.

One process cannot hold two of them: Keras has one back end, and tflite-runtime does not load beside TensorFlow. What is
timed is the network alone, from normalised windows in numpy to logits in numpy, so that a GPU's copies are counted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.benchmarks.energy import meter
from serkit.benchmarks.pack import Pack
from serkit.edge.bundle import read_bundle
from serkit.edge.engine import ENGINES, Engine
from serkit.edge.errors import ModelError, SerkitError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.stderr import muted
from serkit.edge.stream import Recognizer
from serkit.edge.window import WindowSettings
from serkit.train.cli import prepare_keras
from serkit.train.runs import learned_from, load_run, load_trained
from serkit.train.scoring import Logits, utterance_probabilities, window_utterances

#: Keras' back ends; a run is measured on each.
BACKENDS = ("jax", "torch", "tensorflow")
#: Everything a model can run on.
RUNTIMES = (*ENGINES, *BACKENDS)

_SCORING_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run or a bundle, described without loading its network.

    Attributes:
        source: The run folder, or the bundle's file.
        model: What it is called.
        trained: When its training ended: the same for a run and the bundles made from it.
        format: ``keras``, or the bundle's.
    """

    source: Path
    model: str
    system: str
    recipe: str
    trained: str
    format: str
    labels: tuple[str, ...]
    frontend: FrontendSettings
    window: WindowSettings
    temperature: float
    n_parameters: int
    size_bytes: int
    split: dict[str, Any]
    learned_from: dict[str, Any]


def describe_run(run: Path) -> Candidate:
    """A finished run.

    Raises:
        SerkitError: It is not.
    """
    recipe, metrics, split = load_run(run)
    try:
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        size_bytes = (run / "model.keras").stat().st_size
    except (OSError, ValueError) as error:
        raise ModelError(f"{run}: not a finished run with a Keras model ({error}); train it again") from None
    return Candidate(
        source=run,
        model=recipe.name,
        system=recipe.system,
        recipe=recipe.name,
        trained=environment["created"],
        format="keras",
        labels=tuple(recipe.labels),
        frontend=recipe.frontend,
        window=recipe.window,
        temperature=metrics["temperature"],
        n_parameters=metrics["n_parameters"],
        size_bytes=size_bytes,
        split=recipe.to_dict()["split"],
        learned_from=learned_from(recipe, split),
    )


def describe_bundle(model: str) -> Candidate:
    """A bundled model or a ``.tflite`` file.

    Raises:
        ModelError: There is none, or it is not to be trusted.
    """
    bundle = read_bundle(model)
    info = bundle.info
    return Candidate(
        source=bundle.path,
        model=bundle.name,
        system=info["system"],
        recipe=info["recipe"],
        trained=info["trained"]["created"],
        format=bundle.format,
        labels=bundle.labels,
        frontend=bundle.frontend,
        window=bundle.window,
        temperature=bundle.temperature,
        n_parameters=info["n_parameters"],
        size_bytes=len(bundle.data),
        split=info["split"],
        learned_from=info["learned_from"],
    )


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where a model runs.

    Attributes:
        engine: One of `RUNTIMES`.
        threads: Of one inference, for a TFLite engine; Keras takes what its back end takes.
        cpu_only: Keep Keras off accelerators.
    """

    engine: str
    threads: int | None = None
    cpu_only: bool = False

    @property
    def is_keras(self) -> bool:
        return self.engine in BACKENDS


class Worker:
    """One runtime in a process of its own; used with ``with``.

    Attributes:
        device: The accelerator's name, None for the CPU.

    Raises:
        SerkitError: The runtime is not installed, or died.
    """

    device: str | None

    def __init__(self, runtime: Runtime, candidates: list[Candidate], pack: Pack) -> None:
        self.runtime = runtime
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, runtime, candidates, pack), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.device = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; twice is fine."""
        self._connection.close()  # it ends when nobody asks any more
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def call(self, what: str, *arguments: Any) -> Any:
        """Call a method of `_Loaded` over there.

        Raises:
            SerkitError: What it raised there, or the process died.
        """
        try:
            self._connection.send((what, arguments))
        except OSError:
            raise self._died() from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            failed, value = self._connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if failed:
            raise value
        return value

    def _died(self) -> ModelError:
        self._process.join(timeout=10)
        return ModelError(f"{self.runtime.engine} died (exit code {self._process.exitcode}); measure without it")


def _work(connection: Connection, runtime: Runtime, candidates: list[Candidate], pack: Pack) -> None:
    """The child: load the runtime, then answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several back ends share one GPU
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    if runtime.cpu_only:
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    try:
        loaded = _Loaded(runtime, candidates, pack)
        answer: tuple[bool, Any] = (False, loaded.device)
        while True:
            connection.send(answer)
            what, arguments = connection.recv()
            try:
                answer = (False, getattr(loaded, what)(*arguments))
            except SerkitError as error:
                answer = (True, error)
    except SerkitError as error:
        connection.send((True, error))
    except (EOFError, BrokenPipeError):
        pass


class _Loaded:
    """In the child: the runtime, and the networks loaded so far."""

    def __init__(self, runtime: Runtime, candidates: list[Candidate], pack: Pack) -> None:
        self.runtime, self._candidates, self._pack = runtime, candidates, pack
        self._networks: dict[int, Logits] = {}
        self._engines: dict[int, Engine] = {}
        self.device: str | None = None
        if runtime.is_keras:
            prepare_keras(runtime.engine)
            self.device = _accelerator(runtime.engine)
        self._windows = {w: window_utterances(pack.frames, pack.frontend, w) for w in {c.window for c in candidates}}
        self._meter = meter("cpu" if self.device is None else "gpu")

    def load(self, index: int) -> None:
        """Load a candidate's network and try it."""
        c, r = self._candidates[index], self.runtime
        if r.is_keras:
            with muted():
                self._networks[index] = compiled(load_trained(c.source))
        else:
            self._engines[index] = Recognizer(read_bundle(c.source), r.engine, r.threads or 1).engine
            self._networks[index] = self._engines[index].batch_logits
        self.time_ms(index, 1, 1, 0)

    def probabilities(self, index: int) -> npt.NDArray[np.float64]:
        """Of every utterance, ``(n_utterances, n_labels)``."""
        c, windows = self._candidates[index], self._windows[self._candidates[index].window]
        network = self._networks[index]
        logits = in_batches(network, _SCORING_BATCH) if self.runtime.is_keras else network
        return utterance_probabilities(logits, windows, len(self._pack.utterances), c.temperature)

    def n_windows(self, index: int) -> int:
        return len(self._windows[self._candidates[index].window].inputs)

    def time_ms(self, index: int, batch: int, repeats: int, first: int) -> list[float]:
        """Milliseconds of each of ``repeats`` batches, from window number ``first`` on, round and round."""
        times = []
        for i in range(repeats):
            x = self._batch(index, batch, first + i * batch)
            started = time.perf_counter()
            self._networks[index](x)
            times.append((time.perf_counter() - started) * 1e3)
        return times

    def streamed_ms(self, index: int, repeats: int, first: int) -> list[float]:
        """Milliseconds of each further window of a stream on a TFLite engine, which remembers what it encoded."""
        engine, times = self._engines[index], []
        engine.forget()
        for i in range(1 + repeats):
            x = self._batch(index, 1, first + i)[0]
            started = time.perf_counter()
            engine.logits(x, hop=i)
            times.append((time.perf_counter() - started) * 1e3)
        return times[1:]

    def energy_mj(self, index: int, batch: int, seconds: float) -> float | None:
        """Energy per window, mJ, over so long a time; None where the machine does not tell."""
        if self._meter is None:
            return None
        x, network, n = self._batch(index, batch, 0), self._networks[index], 0
        before, started = self._meter.read(), time.perf_counter()
        while time.perf_counter() - started < seconds:
            network(x)
            n += batch
        return self._meter.spent_mj(before) / n

    def _batch(self, index: int, batch: int, first: int) -> npt.NDArray[np.float32]:
        inputs = self._windows[self._candidates[index].window].inputs
        return inputs[np.arange(first, first + batch) % len(inputs)]


def _accelerator(backend: str) -> str | None:
    """The name of what Keras computes on, None for the CPU."""
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else str(device.device_kind)
    if backend == "torch":
        import torch

        return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")) if gpus else None


def compiled(model: Any) -> Logits:
    """A Keras model's forward pass, compiled where its back end compiles: numpy windows in, numpy logits out.

    `Model.predict` is made for whole data sets; on one window, most of its time is its own.
    """
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        weights = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
        step = jax.jit(lambda t, n, x: model.stateless_call(t, n, x, training=False)[0])
        return lambda x: np.asarray(step(*weights, x), np.float32)
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda x: model(x, training=False))
        return lambda x: np.asarray(function(tf.constant(x)), np.float32)
    import torch

    def forward(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)), np.float32)

    return forward


def in_batches(logits: Callable[[Any], Any], size: int) -> Logits:
    """A network that is only ever asked for ``size`` windows at once: another number would compile it anew."""

    def batched(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        filled = np.concatenate([x, np.repeat(x[-1:], -len(x) % size, axis=0)])
        return np.concatenate([logits(filled[i : i + size]) for i in range(0, len(filled), size)])[: len(x)]

    return batched
