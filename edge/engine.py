"""Run a TFLite graph: LiteRT and tflite-runtime behind one face; float32 outside, whatever type inside.

A graph has the signature ``classify``, and some have ``encode`` before it:

- ``classify`` alone takes a window of frames ``(1, n_frames, n_features)`` and gives logits ``(1, n_labels)``;
- ``encode`` takes a chunk, one hop of frames and the earlier ones that its convolutions reach back to, and gives that
  hop's features ``(1, n_steps, n_channels)``; ``classify`` then takes the features of all hops of a window.

A stream that is scored every hop pays for one chunk at a time: the others were encoded for earlier windows. Since a
whole window is encoded chunk by chunk as well, streamed and whole-window results are the same bits.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import MissingExtraError, ModelError
from serkit.edge.stderr import muted

Array = npt.NDArray[np.float32]

#: Engine name to the module that has its ``Interpreter``, in the order they are tried.
ENGINES = {"litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_PACKAGES = {"litert": "ai-edge-litert", "tflite-runtime": "tflite-runtime"}


def available_engines() -> list[str]:
    """Names of the engines that are installed, the preferred one first."""
    return [name for name in ENGINES if _load(name) is not None]


def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(ENGINES[name])
    except ImportError:
        return None


class Engine:
    """One loaded graph.

    Args:
        data: The model file's bytes; a zip behind the flatbuffer does not matter.
        hop_frames: Step from one window to the next, frames; what ``encode`` advances by.
        engine: ``litert``, ``tflite-runtime`` or ``auto``, the first that is installed.
        threads: Threads of one inference.

    Attributes:
        name: Which engine it is.
        input_shape: Of a window, ``(n_frames, n_features)``.
        n_labels: Emotions.

    Raises:
        MissingExtraError: The engine is not installed.
        ModelError: The engine refuses the graph, or it has not the signatures above.
    """

    def __init__(self, data: bytes, hop_frames: int, engine: str = "auto", threads: int = 1) -> None:
        if engine not in ("auto", *ENGINES):
            raise ModelError(f"no engine {engine!r}; choose auto, {' or '.join(ENGINES)}")
        names = list(ENGINES) if engine == "auto" else [engine]
        found = next(((name, module) for name in names if (module := _load(name)) is not None), None)
        if found is None:
            raise MissingExtraError(
                f"no TFLite engine: {' or '.join(_PACKAGES[n] for n in names)} is not installed; install it with "
                f"`pip install {_PACKAGES[names[0]]}`"
            )
        self.name, module = found
        try:
            with muted():
                self._interpreter: Any = module.Interpreter(model_content=data, num_threads=threads)
                signatures = sorted(self._interpreter.get_signature_list())
                if signatures not in (["classify"], ["classify", "encode"]):
                    raise ValueError(f"its signatures are {', '.join(signatures) or 'none'}")
                self._classify = _Signature(self._interpreter, "classify")
                self._encode = _Signature(self._interpreter, "encode") if "encode" in signatures else None
        except SystemError:
            raise MissingExtraError(
                f"{_PACKAGES[self.name]} does not work with numpy {np.__version__}; it needs `pip install 'numpy<2'`"
            ) from None
        except (ValueError, RuntimeError) as error:
            if self.name == "tflite-runtime" and "tensorflow" in sys.modules:
                raise ModelError(
                    "tflite-runtime does not work in a process that has loaded TensorFlow; use the engine litert here"
                ) from None
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{self.name} cannot load this model ({reason}); convert it again") from None
        self._hop = hop_frames
        self.n_labels = self._classify.output_shape[-1]
        self.input_shape, self._n_chunks = self._classify.input_shape, 1
        if self._encode is not None:
            chunk, n_features = self._encode.input_shape
            self._n_chunks = self._classify.input_shape[0] // self._encode.output_shape[0]
            self.input_shape = (chunk + (self._n_chunks - 1) * hop_frames, n_features)
        self._chunks: dict[int, Array] = {}  # hop to its features, of the stream

    def logits(self, window: Array, hop: int | None = None) -> Array:
        """Score one normalised window ``(n_frames, n_features)``; float32 ``(n_labels,)``.

        The same window gives the same bits whatever came before: variables (the state of fused LSTM operators) are
        reset first.

        Args:
            window: The frames.
            hop: In a stream, which hop the window begins with. What was encoded for earlier windows since `forget` is
                not encoded again.

        Raises:
            ModelError: The window has another shape than the model's, the engine fails, or the model answers NaN.
        """
        x = np.asarray(window, np.float32)
        if x.shape != self.input_shape:
            raise ModelError(f"window of shape {x.shape}; this model needs {self.input_shape}")
        try:
            self._interpreter.reset_all_variables()
            if self._encode is not None:
                x = self._encoded(x, hop)
            out = self._classify(x)
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{self.name} fails at a window ({error}); convert the model again") from None
        if not np.all(np.isfinite(out)):
            raise ModelError("the model answers with values that are no numbers; convert it again")
        return out

    def _encoded(self, window: Array, hop: int | None) -> Array:
        """Features of a window's hops, ``(n_steps, n_channels)``."""
        assert self._encode is not None
        first, known = (0, {}) if hop is None else (hop, self._chunks)
        length = self._encode.input_shape[0]
        for i in range(self._n_chunks):
            if first + i not in known:
                known[first + i] = self._encode(window[i * self._hop : i * self._hop + length])
        for old in [k for k in known if k < first]:
            del known[old]
        return np.concatenate([known[first + i] for i in range(self._n_chunks)])

    def forget(self) -> None:
        """Begin another stream."""
        self._chunks.clear()

    def batch_logits(self, windows: Array) -> Array:
        """`logits` of each window, ``(n, n_frames, n_features)`` to ``(n, n_labels)``."""
        return np.stack([self.logits(w) for w in windows])


class _Signature:
    """One signature of a graph: one input, one output, a batch of one."""

    def __init__(self, interpreter: Any, name: str) -> None:
        self._run = interpreter.get_signature_runner(name)
        ((self._input_name, self._input),) = self._run.get_input_details().items()
        ((self._output_name, self._output),) = self._run.get_output_details().items()
        self.input_shape, self.output_shape = (
            tuple(int(n) for n in detail["shape"][1:]) for detail in (self._input, self._output)
        )
        self(np.zeros(self.input_shape, np.float32))  # allocates its tensors; variables cannot be reset before

    def __call__(self, x: Array) -> Array:
        out = self._run(**{self._input_name: quantize(x, self._input)[None]})
        return dequantize(out[self._output_name][0], self._output)


def quantize(x: Array, detail: dict[str, Any]) -> npt.NDArray[Any]:
    """Real values to a tensor's own type: rounded to nearest and clipped for integers, unchanged for floats.

    >>> quantize(np.float32([0.26, 99.0]), {"dtype": np.int8, "quantization": (0.5, -10)}).tolist()
    [-9, 127]
    """
    dtype = np.dtype(detail["dtype"])
    if not np.issubdtype(dtype, np.integer):
        return x.astype(dtype, copy=False)
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(dtype)
    return np.clip(np.rint(x / np.float32(scale)) + zero_point, limits.min, limits.max).astype(dtype)


def dequantize(q: npt.NDArray[Any], detail: dict[str, Any]) -> Array:
    """A tensor's own type to real values, float32.

    >>> dequantize(np.int8([-9]), {"dtype": np.int8, "quantization": (0.5, -10)}).tolist()
    [0.5]
    """
    if not np.issubdtype(q.dtype, np.integer):
        return np.asarray(q, np.float32)
    scale, zero_point = detail["quantization"]
    return np.asarray((q.astype(np.float32) - zero_point) * np.float32(scale), np.float32)
