"""Learn from a large pretrained network: hear what it hears, before and beside learning to name emotions.

A corpus of some twenty actors says little about what voices have in common. An encoder that was trained to write down
hundreds of thousands of hours knows it: of the mean and deviation over time of one of its hidden layers, a linear
classifier names the emotions of unseen speakers better than any small network here does on its own
(``train/EXPERIMENTS.md``). So the small network's encoder learns to predict that layer, step by step, from the same
speech (knowledge distillation by hints: Romero et al. 2015). That needs no labels: a recipe that imitates ``alone``
makes an encoder of any speech, and other recipes ``start`` from it.

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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.window import WindowSettings
from serkit.train.augment import Cut
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
        weight: Of the squared error of the imitated frames (in units of their own variance) beside the cross-entropy;
            0 is no teacher.
        layer: Which of the encoder's layers, from 0.
        alone: Imitate and nothing else, no label is looked at: an encoder for recipes that ``start`` from it.
    """

    weight: float = 0.0
    layer: int = 1
    alone: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise SettingsError(f"weight is {self.weight}; it needs 0 (no teacher) or more")
        if not 0 <= self.layer < _N_LAYERS - 1:
            raise SettingsError(f"layer is {self.layer}; the teacher's are 0 to {_N_LAYERS - 2}")
        if self.alone and not self.weight:
            raise SettingsError("alone is true and weight 0: that learns nothing; give the teacher a weight")


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


class Scale(NamedTuple):
    """Mean and standard deviation of each of the teacher's values, ``(d,)`` each."""

    mean: Array
    deviation: Array


def scale_of(heard: FeatureSet) -> Scale:
    """Over every frame of these recordings."""
    n = sum(len(frames) for frames in heard.frames)
    total = squares = np.zeros(heard.frames[0].shape[1])
    for frames in heard.frames:
        wide = frames.astype(np.float64)
        total, squares = total + wide.sum(axis=0), squares + (wide**2).sum(axis=0)
    mean = total / n
    deviation = np.sqrt(np.maximum(0, squares / n - mean**2)) + 1e-3
    return Scale(mean.astype(np.float32), deviation.astype(np.float32))


class Lessons:
    """What the teacher hears during each step of any window of some recordings.

    Args:
        heard: Its frames of each of them.
        scale: In which its values are said: that of the training side.
        frontend: What the student's frames are.
        window: What its windows are.
        n_steps: Into how many steps its encoder divides them.
    """

    def __init__(
        self,
        heard: FeatureSet,
        scale: Scale,
        frontend: FrontendSettings,
        window: WindowSettings,
        n_steps: int,
    ) -> None:
        f = frontend
        self.heard, self.scale = heard, scale
        self._seconds_per_frame = f.hop_length / f.sample_rate
        self._centre = 0.0 if f.padding == "center" else f.win_length / 2 / f.sample_rate
        step = window.n_frames / n_steps
        self._frames = (np.arange(n_steps) + 0.5) * step - 0.5  # the middle of each step

    @property
    def n_targets(self) -> int:
        return len(self.scale.mean)

    def targets(self, row: int, cut: Cut) -> Array:
        """What it heard of recording ``row`` at each step of a window: ``(n_steps, n_targets)``; outside, NaN."""
        frames = self.heard.frames[row]
        seconds = (cut.start + cut.rate * self._frames) * self._seconds_per_frame + self._centre
        position = (seconds * SAMPLE_RATE - _CENTRE) / HOP_LENGTH
        last = len(frames) - 1
        inside = np.clip(position, 0, last)
        low = np.minimum(inside.astype(np.intp), max(0, last - 1))
        weight = (inside - low).astype(np.float32)[:, None]
        said = (1 - weight) * frames[low] + weight * frames[np.minimum(low + 1, last)]
        said = (said - self.scale.mean) / self.scale.deviation
        said[(position < -0.5) | (position > last + 0.5)] = np.nan
        return np.asarray(said, np.float32)
