"""Learn from a large pretrained network: hear what it hears, before and beside learning to name emotions.

A corpus of some twenty actors says little about what voices have in common. An encoder that was trained to write down
hundreds of thousands of hours knows it: of the *functionals* of its early layers, mean and deviation over time, a
linear classifier names the emotions of unseen speakers better than any small network here does on its own
(``train/EXPERIMENTS.md``). So the small network learns to predict from the same speech one layer's frames, step by
step, and if a recipe says so the functionals of three layers, window by window (knowledge distillation by hints: Romero
et al. 2015). That needs no labels: a recipe that imitates ``alone`` makes an encoder of any speech, and other recipes
``start`` from it.

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
#: Values of each frame of a layer.
N_VALUES = 288
#: Whose mean and deviation name emotions best (``train/EXPERIMENTS.md``, "A teacher that has heard more").
FUNCTIONAL_LAYERS = (1, 2, 3)
_LEAST_FRAMES = 8  # of which functionals are taken, 0.2 s


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """What is learned from the teacher.

    Attributes:
        weight: Of the squared error of the imitated frames (in units of their own variance) beside the cross-entropy;
            0 is no teacher.
        layer: Which of the encoder's layers, from 0.
        functionals: Weight of the squared error of what `functionals_of` says of each window, in units of its variance
            between recordings; 0 leaves it out.
        alone: Imitate and nothing else, no label is looked at: an encoder for recipes that ``start`` from it.
        answers: Of what is fitted at once and then hears ``[augment]``, the share of each target that a discriminant
            analysis of its functionals answers (`serkit.train.consistency`); to 1. It goes without the others.
    """

    weight: float = 0.0
    layer: int = 1
    functionals: float = 0.0
    alone: bool = False
    answers: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.answers <= 1:
            raise SettingsError(f"answers is {self.answers}; it needs 0 (off) to 1")
        for name in ("weight", "functionals"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} is {getattr(self, name)}; it needs 0 (off) or more")
        if self.functionals and not self.weight:
            raise SettingsError("functionals go with frames: give weight more than 0 as well")
        if not 0 <= self.layer < _N_LAYERS - 1:
            raise SettingsError(f"layer is {self.layer}; the teacher's are 0 to {_N_LAYERS - 2}")
        if self.alone and not self.weight:
            raise SettingsError("alone is true and weight 0: that learns nothing; give the teacher a weight")

    @property
    def hears_functionals(self) -> bool:
        """Whether functionals are needed, to be predicted or to answer by."""
        return bool(self.functionals or self.answers)

    @property
    def layers(self) -> tuple[int, ...]:
        """What has to be heard: the frames' layer first."""
        return tuple(dict.fromkeys((self.layer, *(FUNCTIONAL_LAYERS if self.hears_functionals else ()))))


@lru_cache(maxsize=1)
def hidden_layers(layers: tuple[int, ...]) -> Callable[[Array], npt.NDArray[np.float16]]:
    """The teacher's hidden layers as a function of samples at `SAMPLE_RATE`, to frames ``(n, N_VALUES * n_layers)``.

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
    for layer in layers:
        name = f"/layers.{layer}/Add_1_output_0"
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    encoder = session(model.SerializeToString())

    def frames(samples: Array) -> npt.NDArray[np.float16]:
        samples = np.pad(samples, (0, max(0, SAMPLE_RATE // 2 - len(samples))))
        inputs = {"input_values": samples[None], "attention_mask": np.ones((1, len(samples)), np.int64)}
        return np.concatenate([heard[0] for heard in encoder.run(None, inputs)], axis=-1).astype(np.float16)

    return frames


def hear(utterances: Sequence[Utterance], settings: TeacherSettings, cache: Path | None = None) -> FeatureSet:
    """The teacher's frames of recordings, its layers beside each other, from the cache where it has them.

    Raises:
        SettingsError: They are not in the cache, and the teacher is not installed.
        CorpusError: None of a corpus can be used.
    """
    layers = settings.layers
    what = {"teacher": "moonshine-tiny"} | ({"layers": layers} if layers[1:] else {"layer": layers[0]})
    return load_frames(utterances, what, SAMPLE_RATE, lambda x: hidden_layers(layers)(x), cache)


class Scale(NamedTuple):
    """In what the teacher's values are said: mean and standard deviation of each.

    Attributes:
        mean: Of the frames, ``(N_VALUES,)``.
        deviation: Of the frames, same shape.
        functionals: Mean and standard deviation of the functionals, ``(2, n_functionals)``; empty without.
    """

    mean: Array
    deviation: Array
    functionals: Array = np.empty((2, 0), np.float32)


def scale_of(heard: FeatureSet, settings: TeacherSettings) -> Scale:
    """Over every frame of these recordings, and for functionals over every recording."""
    n = sum(len(frames) for frames in heard.frames)
    total = squares = np.zeros(N_VALUES)
    for frames in heard.frames:
        wide = frames[:, :N_VALUES].astype(np.float64)
        total, squares = total + wide.sum(axis=0), squares + (wide**2).sum(axis=0)
    mean = total / n
    deviation = np.sqrt(np.maximum(0, squares / n - mean**2)) + 1e-3
    functionals = np.empty((2, 0))
    if settings.hears_functionals:
        said = np.stack([functionals_of(frames.astype(np.float32), settings) for frames in heard.frames])
        functionals = np.stack([said.mean(axis=0), said.std(axis=0) + 1e-3])
    return Scale(mean.astype(np.float32), deviation.astype(np.float32), functionals.astype(np.float32))


def functionals_of(frames: Array, settings: TeacherSettings) -> Array:
    """Mean and logarithm of the standard deviation over time of each value of `FUNCTIONAL_LAYERS`.

    Args:
        frames: Of the layers that these settings hear, ``(n, N_VALUES * n_layers)``.
        settings: Which these are.

    Returns:
        ``(2 * N_VALUES * len(FUNCTIONAL_LAYERS),)``; NaN where the frames are too few to say.
    """
    if len(frames) < _LEAST_FRAMES:
        return np.full(2 * N_VALUES * len(FUNCTIONAL_LAYERS), np.nan, np.float32)
    at = [settings.layers.index(layer) for layer in FUNCTIONAL_LAYERS]
    of = np.concatenate([frames[:, N_VALUES * i : N_VALUES * (i + 1)] for i in at], axis=1)
    return np.concatenate([of.mean(axis=0), np.log(of.std(axis=0) + 1e-2)])


class Lessons:
    """What the teacher hears during any window of some recordings.

    Args:
        heard: Its frames of each of them.
        settings: What is learned of it.
        scale: In which its values are said: that of the training side.
        frontend: What the student's frames are.
        window: What its windows are.
        n_steps: Into how many steps its encoder divides them.
    """

    def __init__(
        self,
        heard: FeatureSet,
        settings: TeacherSettings,
        scale: Scale,
        frontend: FrontendSettings,
        window: WindowSettings,
        n_steps: int,
    ) -> None:
        f = frontend
        self.heard, self.settings, self.scale = heard, settings, scale
        self._seconds_per_frame = f.hop_length / f.sample_rate
        self._centre = 0.0 if f.padding == "center" else f.win_length / 2 / f.sample_rate
        step = window.n_frames / n_steps
        self._frames = (np.arange(n_steps) + 0.5) * step - 0.5  # the middle of each step
        self._ends = np.array([0, window.n_frames])

    @property
    def n_targets(self) -> dict[str, int]:
        """How many values there are of each target."""
        n = {"teacher": len(self.scale.mean)}
        return n | ({"functionals": self.scale.functionals.shape[1]} if self.settings.functionals else {})

    def targets(self, row: int, cut: Cut) -> dict[str, Array]:
        """What it heard in a window of recording ``row``; NaN where it heard nothing.

        ``teacher``, its frame at each step, ``(n_steps, N_VALUES)``; with functionals also ``functionals``, of those of
        its frames that lie in the window and in the recording.
        """
        said = {"teacher": self._steps(row, cut)}
        return said | ({"functionals": self.functionals(row, cut)} if self.settings.functionals else {})

    def functionals(self, row: int, cut: Cut) -> Array:
        """`functionals_of` those of its frames that lie in a window and in the recording, in their scale."""
        low, high = np.clip(np.round(self._positions(cut, self._ends)), 0, None).astype(np.intp)
        mean, deviation = self.scale.functionals
        of = functionals_of(self.heard.frames[row][low:high].astype(np.float32), self.settings)
        return np.asarray((of - mean) / deviation)

    def _positions(self, cut: Cut, frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Which of the teacher's frames are heard when these of a window are."""
        seconds = (cut.start + cut.rate * frames) * self._seconds_per_frame + self._centre
        return np.asarray((seconds * SAMPLE_RATE - _CENTRE) / HOP_LENGTH)

    def _steps(self, row: int, cut: Cut) -> Array:
        frames = self.heard.frames[row][:, :N_VALUES]
        position = self._positions(cut, self._frames)
        last = len(frames) - 1
        inside = np.clip(position, 0, last)
        low = np.minimum(inside.astype(np.intp), max(0, last - 1))
        weight = (inside - low).astype(np.float32)[:, None]
        said = (1 - weight) * frames[low] + weight * frames[np.minimum(low + 1, last)]
        said = (said - self.scale.mean) / self.scale.deviation
        said[(position < -0.5) | (position > last + 0.5)] = np.nan
        return np.asarray(said, np.float32)
