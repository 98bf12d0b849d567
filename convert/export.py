"""Keras model to TFLite bytes, in a child process that may crash without taking us along.

The recipe that works everywhere: a batch of one, LSTM steps written out (`unroll=True`), the function frozen to
constants. There are no WHILE loops (full int8 crashes the converter on them), no fused LSTM operators (they keep state
from one window to the next), no Flex operators (no device wheel has them), and per-tensor quantized dense layers (the
per-channel kind needs an operator version that tflite-runtime 2.14 refuses).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

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
        calibration: Normalised windows ``(n, n_frames, n_features)`` that show int8 the range of every activation.

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
    """The child: load, write the recurrence out, freeze, convert into ``folder``."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from serkit.train.fit import build_system
    from serkit.train.runs import load_run, load_trained

    recipe, _, _ = load_run(run)
    trained = load_trained(run)
    shape = (recipe.window.n_frames, recipe.frontend.n_features)
    model = build_system(recipe, unroll=True)
    model.set_weights(trained.get_weights())
    function = tf.function(
        lambda x: model(x, training=False),
        input_signature=[tf.TensorSpec((1, *shape), tf.float32, name="log_mel")],
    )
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    for format in formats:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        if format != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if format == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if format == "int8":
            calibration = np.load(folder / "calibration.npy")
            converter.representative_dataset = lambda windows=calibration: ([w[None]] for w in windows)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        (folder / f"{format}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
