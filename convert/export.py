"""Keras model to TFLite bytes, in a child process that may crash without taking us along.

The recipe that works everywhere: a batch of one, a SavedModel, LSTM steps written out (see `serkit.convert.lstm` for
the other forms: full int8 crashes the converter on WHILE loops, fused operators keep state from one window to the
next), no Flex operators (no device wheel has them), and in dynamic per-tensor quantized dense layers (the per-channel
kind needs an operator version that tflite-runtime 2.14 refuses; in int8 it does not). Signatures are those of
`serkit.edge.engine`: a network with layers named ``encode`` and ``classify`` becomes two, any other one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.convert.lstm import LSTM_FORMS, twin, unclipped
from serkit.edge.errors import ModelError, SettingsError
from serkit.train.build import build_system
from serkit.train.recipe import Recipe
from serkit.train.zoo import is_encoded

#: Format to what it means.
FORMATS = {
    "float32": "32-bit floats throughout; the reference",
    "float16": "weights as 16-bit floats, computed in 32 bits; half the size",
    "dynamic": "weights as 8-bit integers, activations as floats; a quarter of the size",
    "int8": "weights and activations as 8-bit integers, calibrated on training utterances; a quarter of the size",
}
#: Formats that are measured (`serkit bench matrix`) and not shipped.
TRIED = {"int16x8": "weights as 8-bit integers, activations as 16-bit ones; no engine here has fast kernels for it"}


def export(
    run: Path, formats: Sequence[str], calibration: npt.NDArray[np.float32], lstm: str = "unrolled"
) -> dict[str, bytes]:
    """Convert a run's model.

    Args:
        run: A finished run folder.
        formats: Keys of `FORMATS` or `TRIED`.
        calibration: Normalised windows ``(n, input_frames, n_features)`` that show int8 the range of every activation.
        lstm: Key of `LSTM_FORMS`.

    Returns:
        The TFLite flatbuffer of each format.

    Raises:
        SettingsError: Unknown format or form.
        ModelError: The converter refused or crashed.
    """
    with tempfile.TemporaryDirectory() as folder:
        export_into(Path(folder), run, formats, calibration, lstm)
        return {format: (Path(folder) / f"{format}.tflite").read_bytes() for format in formats}


def export_into(
    folder: Path, run: Path, formats: Sequence[str], calibration: npt.NDArray[np.float32], lstm: str = "unrolled"
) -> None:
    """As `export`, to ``<format>.tflite`` in a folder, one after the other: those before a failure are there."""
    if unknown := sorted(set(formats) - set(FORMATS) - set(TRIED)):
        raise SettingsError(f"no format {unknown[0]!r}; choose one of {', '.join(FORMATS)}")
    if lstm not in LSTM_FORMS:
        raise SettingsError(f"no LSTM form {lstm!r}; choose one of {', '.join(LSTM_FORMS)}")
    np.save(folder / "calibration.npy", calibration)
    command = [sys.executable, "-m", "serkit.convert.export", str(run), str(folder), lstm, *formats]
    quiet = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    child = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True)
    if child.returncode:
        what = next((f for f in formats if not (folder / f"{f}.tflite").exists()), formats[-1])
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise ModelError(f"{run}: the TFLite converter crashed ({name}) on {what}; another format may do")
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["no message"]
        raise ModelError(f"{run}: the TFLite converter refused {what}: {lines[-1]}")


def _convert(run: Path, folder: Path, lstm: str, formats: Sequence[str]) -> None:
    """The child: load, give the recurrence its form, split into signatures, save, convert into ``folder``."""
    import tensorflow as tf

    from serkit.train.runs import load_run, load_trained

    recipe, _, _ = load_run(run)
    model = twin(recipe, load_trained(run), lstm)
    module, examples = tf.Module(), {}
    for name, (network, inputs) in _signatures(recipe, model, np.load(folder / "calibration.npy")).items():
        examples[name] = inputs
        setattr(module, f"{name}_variables", [v.value for v in network.variables])
        setattr(module, name, _signature(network, _OUTPUTS[name]))
    tf.saved_model.save(module, str(folder / "saved"), signatures={name: getattr(module, name) for name in examples})
    for format in formats:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"), signature_keys=sorted(examples))
        converter._experimental_disable_per_channel_quantization_for_dense_layers = format != "int8"
        if format != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if format == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if format in ("int8", "int16x8"):
            converter.representative_dataset = lambda: (
                (name, {"frames": x[None]}) for name, inputs in examples.items() for x in inputs
            )
        if format == "int16x8":
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
        if format == "int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        graph = converter.convert()
        (folder / f"{format}.tflite").write_bytes(slimmed(unclipped(graph) if lstm == "fused" else graph))


def slimmed(graph: bytes) -> bytes:
    """A flatbuffer without what no engine reads: names of tensors, which written-out LSTM steps have hundreds of, their
    empty buffers and quantizations, copies of the same shape (99 of 536 KB of a CNN-BiLSTM in int8), and how it was
    converted."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class Sharing(flatbuffers.Builder):  # type: ignore[misc]
        """Writes equal vectors, such as shapes, once."""

        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: npt.NDArray[Any]) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self._written:
                self._written[key] = super().CreateNumpyVector(x)
            return self._written[key]

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph, 0))
    model.metadata = [m for m in model.metadata or [] if m.name != b"CONVERSION_METADATA"]
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    for tensor in tensors:
        tensor.name = None
        if tensor.quantization is not None and tensor.quantization.scale is None:
            tensor.quantization = None
        if not _holds_data(model.buffers[tensor.buffer]):
            tensor.buffer = 0  # by convention the empty one
    users = [*tensors, *model.metadata]
    kept = sorted({0, *(user.buffer for user in users)})
    for user in users:
        user.buffer = kept.index(user.buffer)
    model.buffers = [model.buffers[i] for i in kept]
    builder = Sharing(len(graph))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _holds_data(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0


_OUTPUTS = {"encode": "features", "classify": "logits"}


def _signatures(
    recipe: Recipe, model: Any, windows: npt.NDArray[np.float32]
) -> dict[str, tuple[Any, npt.NDArray[np.float32]]]:
    """For each signature its network and what it is calibrated with, ``(n, ...)``."""
    if not is_encoded(model):
        return {"classify": (model, windows)}
    w = recipe.window
    hop = build_system(replace(recipe, window=replace(w, n_frames=w.hop_frames)), twin=True).get_layer("encode")
    hop.set_weights(model.get_layer("encode").get_weights())
    chunks = [windows[:, i : i + hop.input.shape[1]] for i in range(0, w.n_frames, w.hop_frames)]
    features = model.get_layer("encode").predict(windows, verbose=0)
    return {"encode": (hop, np.concatenate(chunks)), "classify": (model.get_layer("classify"), features)}


def _signature(network: Any, output: str) -> Any:
    """A network as a function of one example."""
    import tensorflow as tf

    shape = tf.TensorSpec((1, *network.input.shape[1:]), tf.float32, name="frames")
    return tf.function(lambda frames: {output: network(frames, training=False)}, input_signature=[shape])


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
