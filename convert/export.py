"""Keras model to TFLite bytes, in a child process that may crash without taking us along.

The recipe that works everywhere: a batch of one, LSTM steps written out (`unroll=True`), each signature's function
frozen to constants. Signatures are those of `serkit.edge.engine`: a network with layers named ``encode`` and
``classify`` becomes two, any other one. There are no WHILE loops (full int8 crashes the converter on them), no fused
LSTM operators (they keep state from one window to the next), no Flex operators (no device wheel has them), and
per-tensor quantized dense layers (the per-channel kind needs an operator version that tflite-runtime 2.14 refuses).
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

from serkit.edge.errors import ModelError, SettingsError

#: Format to what it means.
FORMATS = {
    "float32": "32-bit floats throughout; the reference",
    "float16": "weights as 16-bit floats, computed in 32 bits; half the size",
    "dynamic": "weights as 8-bit integers, activations as floats; a quarter of the size",
    "int8": "weights and activations as 8-bit integers, calibrated on training utterances; a quarter of the size",
}


def export(run: Path, formats: Sequence[str], calibration: npt.NDArray[np.float32]) -> dict[str, bytes]:
    """Convert a run's model.

    Args:
        run: A finished run folder.
        formats: Keys of `FORMATS`.
        calibration: Normalised windows ``(n, input_frames, n_features)`` that show int8 the range of every activation.

    Returns:
        The TFLite flatbuffer of each format.

    Raises:
        SettingsError: Unknown format.
        ModelError: The converter refused or crashed.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise SettingsError(f"no format {unknown[0]!r}; choose one of {', '.join(FORMATS)}")
    what = " and ".join(formats)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "calibration.npy", calibration)
        command = [sys.executable, "-m", "serkit.convert.export", str(run), folder, *formats]
        quiet = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        child = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True)
        if child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            raise ModelError(f"{run}: the TFLite converter crashed ({name}) on {what}; another format may do")
        if child.returncode:
            lines = child.stderr.strip().splitlines() or ["no message"]
            raise ModelError(f"{run}: the TFLite converter refused {what}: {lines[-1]}")
        return {format: (Path(folder) / f"{format}.tflite").read_bytes() for format in formats}


def _convert(run: Path, folder: Path, formats: Sequence[str]) -> None:
    """The child: load, split into signatures, freeze, convert into ``folder``."""
    import tensorflow as tf

    calibration = np.load(folder / "calibration.npy")
    module, examples = tf.Module(), {}
    for name, (network, inputs) in _signatures(run, calibration).items():
        setattr(module, name, _frozen(network, name))
        examples[name] = inputs
    tf.saved_model.save(module, str(folder / "saved"), signatures={name: getattr(module, name) for name in examples})
    for format in formats:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"), signature_keys=sorted(examples))
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        if format != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if format == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if format == "int8":
            converter.representative_dataset = lambda: (
                (name, {"frames": x[None]}) for name, inputs in examples.items() for x in inputs
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        (folder / f"{format}.tflite").write_bytes(converter.convert())


def _signatures(run: Path, windows: npt.NDArray[np.float32]) -> dict[str, tuple[Any, npt.NDArray[np.float32]]]:
    """For each signature its network and what it is calibrated with, ``(n, ...)``."""
    from serkit.train.fit import build_system
    from serkit.train.runs import load_run, load_trained

    recipe, _, _ = load_run(run)
    trained = load_trained(run)
    whole = build_system(recipe, unroll=True)
    whole.set_weights(trained.get_weights())
    if "encode" not in {layer.name for layer in whole.layers}:
        return {"classify": (whole, windows)}
    w = recipe.window
    hop = build_system(replace(recipe, window=replace(w, n_frames=w.hop_frames))).get_layer("encode")
    hop.set_weights(whole.get_layer("encode").get_weights())
    chunks = [windows[:, i : i + hop.input.shape[1]] for i in range(0, w.n_frames, w.hop_frames)]
    features = whole.get_layer("encode").predict(windows, verbose=0)
    return {"encode": (hop, np.concatenate(chunks)), "classify": (whole.get_layer("classify"), features)}


def _frozen(network: Any, name: str) -> Any:
    """A network as a function of one example, its variables turned to constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = [tf.TensorSpec((1, *network.input.shape[1:]), tf.float32, name="frames")]
    function = tf.function(lambda x: network(x, training=False), input_signature=signature)
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    output = {"encode": "features", "classify": "logits"}[name]
    return tf.function(lambda frames: {output: frozen(frames)[0]}, input_signature=signature)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
