"""Learn from a large pretrained network: what it hears in a window is predicted beside the window's label.

A corpus of some twenty actors says little about what voices have in common. An encoder that was trained to write down
hundreds of thousands of hours knows it: of the mean and deviation over time of one of its hidden layers, a linear
classifier names the emotions of unseen speakers better than any small network here does on its own
(``train/EXPERIMENTS.md``). So the small network gets a second output, for training alone, which predicts that mean and
deviation, and learns features that others' voices share (knowledge distillation by hints: Romero et al. 2015).

The teacher is the encoder of Moonshine tiny (Jeffries et al. 2024; MIT): 8 million parameters, six transformer layers,
a frame every 24 ms. The wheel of ``moonshine-voice`` 0.0.49 carries it. It hears each recording once, as it is; the
student hears augmented windows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import SettingsError
from serkit.train.corpora import Utterance
from serkit.train.features import FeatureSet, load_frames

Array = npt.NDArray[np.float32]

TITLE = "the encoder of Moonshine tiny (Useful Sensors)"
LICENCE = "MIT"
SAMPLE_RATE = 16000
#: Samples from one of the teacher's frames to the next: the strides 64, 3 and 2 of its convolutions.
HOP_LENGTH = 384
_CENTRE = 447  # of the first frame, samples: their kernels, 127, 7 and 3, reach over 895
_N_LAYERS = 6


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """What is learned from the teacher.

    Attributes:
        weight: Of the squared error of the predicted statistics (in units of their own variance) beside the
            cross-entropy; 0 is no teacher.
        layer: Which of the encoder's layers, from 0.
    """

    weight: float = 0.0
    layer: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise SettingsError(f"weight is {self.weight}; it needs 0 (no teacher) or more")
        if not 0 <= self.layer < _N_LAYERS - 1:
            raise SettingsError(f"layer is {self.layer}; the teacher's are 0 to {_N_LAYERS - 2}")


@lru_cache(maxsize=1)
def hidden_layer(layer: int) -> Callable[[Array], npt.NDArray[np.float16]]:
    """The teacher's hidden layer as a function of samples at `SAMPLE_RATE`, to frames ``(n, 288)``.

    Raises:
        SettingsError: The teacher is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        spec = None
    else:
        spec = find_spec("moonshine_voice")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError("the recipe learns from a teacher that is not installed; pip install 'serkit[teacher]'")
    file = Path(spec.submodule_search_locations[0]) / "assets" / "tiny-en" / "encoder_model.ort"
    if not file.exists():
        raise SettingsError(f"{file} is missing: other releases of moonshine-voice have no model; install 0.0.49")

    def session(model: Any, **values: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in values.items():
            setattr(options, key, value)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    with TemporaryDirectory() as folder:  # the file's format knows no hidden outputs; ONNX's does
        plain = Path(folder) / "encoder.onnx"
        session(str(file), optimized_model_filepath=str(plain))
        model = onnx.load(plain)
    del model.graph.output[:]
    name = f"/layers.{layer}/Add_1_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    encoder = session(model.SerializeToString())

    def frames(samples: Array) -> npt.NDArray[np.float16]:
        samples = np.pad(samples, (0, max(0, SAMPLE_RATE // 2 - len(samples))))
        inputs = {"input_values": samples[None], "attention_mask": np.ones((1, len(samples)), np.int64)}
        return np.asarray(encoder.run(None, inputs)[0][0], np.float16)

    return frames


def hear(utterances: Sequence[Utterance], settings: TeacherSettings, cache: Path | None = None) -> FeatureSet:
    """The teacher's frames of recordings, ``(n, 288)`` each, from the cache where it has them.

    Raises:
        SettingsError: They are not in the cache, and the teacher is not installed.
        CorpusError: None of a corpus can be used.
    """
    what = {"teacher": "moonshine-tiny", "layer": settings.layer}
    return load_frames(utterances, what, SAMPLE_RATE, lambda x: hidden_layer(settings.layer)(x), cache)


def statistics(frames: npt.NDArray[np.floating[Any]]) -> Array:
    """Mean and standard deviation over time, ``(n, d)`` to ``(2 * d,)``."""
    wide = frames.astype(np.float32)
    return np.concatenate([wide.mean(axis=0), wide.std(axis=0)])


class Lessons:
    """The targets of any window of the training side, in units of their deviation over its utterances.

    Args:
        heard: The teacher's frames of each training utterance.
    """

    def __init__(self, heard: FeatureSet) -> None:
        self.heard = heard
        whole = np.stack([statistics(f) for f in heard.frames])
        self._mean, self._deviation = whole.mean(axis=0), whole.std(axis=0) + 1e-3

    @property
    def n_targets(self) -> int:
        return len(self._mean)

    def targets(self, row: int, start: float, end: float) -> Array:
        """What the teacher heard in utterance ``row`` between two times, s: ``(n_targets,)``."""
        frames = self.heard.frames[row]
        first, last = ((t * SAMPLE_RATE - _CENTRE) / HOP_LENGTH for t in (start, end))
        low = min(max(0, round(first)), len(frames) - 1)
        part = frames[low : max(low + 1, round(last))]
        return (statistics(part) - self._mean) / self._deviation


def taught(model: Any, n_targets: int) -> Any:
    """The same network with a second output, ``teacher``: linear in the features that its logits are linear in.

    The layers are shared: training one trains the other.

    Raises:
        SettingsError: The network has no dense layer ``logits``.
    """
    import keras

    def tapped(part: Any) -> tuple[Any, Any]:
        decide = next((layer for layer in part.layers if layer.name == "logits"), None)
        if not isinstance(decide, keras.layers.Dense):
            raise SettingsError(f"{model.name} cannot learn from a teacher: its logits come from no dense layer")
        return part.output, decide.input

    names = [layer.name for layer in model.layers]
    if "classify" in names:
        classify = model.get_layer("classify")
        logits, features = keras.Model(classify.input, tapped(classify), name="tapped")(
            model.get_layer("encode").output
        )
    else:
        logits, features = tapped(model)
    said = keras.layers.Dense(n_targets, name="teacher")(features)
    return keras.Model(model.input, {"logits": logits, "teacher": said}, name=f"{model.name}_taught")
