"""Run a TFLite graph: LiteRT and tflite-runtime behind one face, with no memory of earlier windows.

One input ``(1, n_frames, n_features)``, one output ``(1, n_labels)``; float32 outside, whatever type inside.
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
        engine: ``litert``, ``tflite-runtime`` or ``auto``, the first that is installed.
        threads: Threads of one inference.

    Raises:
        MissingExtraError: The engine is not installed.
        ModelError: The engine refuses the graph, or its inputs and outputs are not one window and one set of logits.
    """

    def __init__(self, data: bytes, engine: str = "auto", threads: int = 1) -> None:
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
                self._interpreter.allocate_tensors()
            (self._input,) = self._interpreter.get_input_details()
            (self._output,) = self._interpreter.get_output_details()
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

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(1, n_frames, n_features)``."""
        return tuple(int(n) for n in self._input["shape"])

    @property
    def n_labels(self) -> int:
        return int(self._output["shape"][-1])

    def logits(self, window: Array) -> Array:
        """Score one normalised window ``(n_frames, n_features)``; float32 ``(n_labels,)``.

        The same window gives the same bits whatever came before: variables (the state of fused LSTM operators) are
        reset first.

        Raises:
            ModelError: The window has another shape than the model's, or the model answers NaN.
        """
        x = np.asarray(window, np.float32)
        if (1, *x.shape) != self.input_shape:
            raise ModelError(f"window of shape {x.shape}; this model needs {self.input_shape[1:]}")
        self._interpreter.reset_all_variables()
        self._interpreter.set_tensor(self._input["index"], quantize(x, self._input)[None])
        self._interpreter.invoke()
        out = dequantize(self._interpreter.get_tensor(self._output["index"])[0], self._output)
        if not np.all(np.isfinite(out)):
            raise ModelError("the model answers with values that are no numbers; convert it again")
        return out

    def batch_logits(self, windows: Array) -> Array:
        """`logits` of each window, ``(n, n_frames, n_features)`` to ``(n, n_labels)``."""
        return np.stack([self.logits(w) for w in windows])


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
