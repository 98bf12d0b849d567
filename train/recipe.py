"""A recipe: everything that decides what a training run does, as one TOML file that lists only what differs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from serkit.edge.errors import SettingsError
from serkit.edge.frontend import FrontendSettings
from serkit.edge.settings import build, read_toml
from serkit.edge.window import WindowSettings
from serkit.train.augment import AugmentSettings
from serkit.train.corpora import CORPORA
from serkit.train.labels import EMOTIONS, RAVDESS_EMOTIONS, labels_of
from serkit.train.splits import PROTOCOLS
from serkit.train.teacher import TeacherSettings

#: What `Recipe.control` says of a leak.
LEAK = "copies of its test side trained"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the weights are found. The defaults are R1's.

    Attributes:
        epochs: At most this many; of a system that is fitted at once and has [augment], those of
            `serkit.train.consistency`.
        batch_size: Windows per step.
        learning_rate: Adam's, at the start.
        schedule: ``constant``, or ``cosine`` down to a hundredth over all epochs.
        warmup: Steps of the first epoch over which the learning rate rises to what it is then.
        weight_decay: Decoupled (AdamW); 0 is plain Adam.
        label_smoothing: Share of the target spread over all labels.
        patience: Epochs without a better validation score before stopping; 0 always runs to the end.
        monitor: Validation score that picks the epoch, or what is chosen of a fit: ``accuracy`` (R1), ``uar``, of a
            teacher alone ``imitated``, the share of the variance of its frames (with functionals the mean of both), or
            of `serkit.train.consistency` ``agreement``.
        ema: Momentum of the running mean of the weights that is scored and kept instead of the last step's; 0 is off.
        seed: Of the initial weights, order and augmentation; random splits have their own.
        shuffle_labels: A control: deal the training labels out at random. Figures must come out at chance.
    """

    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    patience: int = 15
    monitor: Literal["accuracy", "uar", "imitated", "agreement"] = "accuracy"
    ema: float = 0.0
    seed: int = 0
    shuffle_labels: bool = False

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1:
            raise SettingsError("epochs and batch_size need to be at least 1")
        if not self.learning_rate > 0:
            raise SettingsError(f"learning_rate is {self.learning_rate}; it needs to be above 0")
        for name in ("ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it needs 0 to below 1")
        if min(self.patience, self.warmup, self.weight_decay) < 0:
            raise SettingsError("patience, warmup and weight_decay need to be 0 or more")
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"seed is {self.seed}; it needs 0 to {2**32 - 1}")


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Who trains, validates and tests; see `serkit.train.splits`.

    Attributes:
        protocol: One of `PROTOCOLS`.
        fold: Fold of ``speaker-independent``.
        seed: Draws validation speakers, or the whole of a random split.
        validation_share: Share of the remaining speakers that validate.
        leak: A control: augmented copies of what validates and tests train too, as where augmentation comes before a
            random split. It shows what that mistake is worth.
    """

    protocol: str = "speaker-independent"
    fold: int = 0
    seed: int = 0
    validation_share: float = 0.15
    leak: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise SettingsError(f"protocol is {self.protocol!r}; choose one of {', '.join(PROTOCOLS)}")
        if min(self.fold, self.seed) < 0 or not 0 < self.validation_share < 1:
            raise SettingsError("fold and seed need 0 or more, validation_share a number between 0 and 1")
        if self.leak and not self.protocol.startswith("random"):
            raise SettingsError(f"leak belongs to a random split; {self.protocol} tests voices that nobody may hear")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe.

    Attributes:
        name: What the trained model is called.
        system: Key of `serkit.train.zoo.SYSTEMS`.
        labels: Emotions the model tells apart, in the order of its outputs.
        corpora: Corpus to the share of its training utterances that each epoch draws.
        scatter: Corpora whose emotions are classes of their own and no answers: an LDA learns from them
            how far voices scatter within an emotion. Nobody of the ship-test is among them.
        start: Recipe whose trained encoder this one starts from; it is trained first, beside this one, where it is not
            finished. None by default.
        model: Options of the system's builder.
    """

    name: str
    system: str
    labels: tuple[str, ...] = RAVDESS_EMOTIONS
    corpora: dict[str, float] = field(default_factory=lambda: {"ravdess": 1.0})
    scatter: tuple[str, ...] = ()
    start: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    frontend: FrontendSettings = field(default_factory=FrontendSettings)
    window: WindowSettings = field(default_factory=WindowSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.labels) - set(EMOTIONS)):
            raise SettingsError(f"no emotion {unknown[0]!r}; choose from {', '.join(EMOTIONS)}")
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise SettingsError(f"labels are {', '.join(self.labels)}; two or more different emotions are needed")
        if unknown := sorted({*self.corpora, *self.scatter} - set(CORPORA)):
            raise SettingsError(f"no corpus {unknown[0]!r}; choose from {', '.join(CORPORA)}")
        if not self.corpora or not all(0 < share <= 1 for share in self.corpora.values()):
            raise SettingsError("corpora needs at least one corpus with a share above 0 and up to 1")
        if shared := {CORPORA[c].voices for c in self.scatter} & {CORPORA[c].voices for c in self.corpora}:
            raise SettingsError(
                f"scatter comes from voices of other corpora than {shared.pop()}, who are scored; name others"
            )
        if self.frontend.kind != "log_mel" or self.frontend.deltas:
            raise SettingsError(
                "models are trained on log_mel without deltas: the speech gate, silence and augmentation know nothing "
                "else; the front end computes the rest for programs of your own"
            )
        if (self.training.monitor == "imitated") != self.teacher.alone:
            raise SettingsError("monitor = 'imitated' and a teacher alone go together: nothing else can be monitored")
        if self.augment.time_mask_frames > self.window.input_frames:
            raise SettingsError(f"time_mask_frames is longer than the window's {self.window.input_frames} frames")
        if self.augment.mel_mask_bands > self.frontend.n_mels:
            raise SettingsError(f"mel_mask_bands is more than the {self.frontend.n_mels} mel bands")
        if self.split.leak and not (self.augment.time_stretch or self.augment.pitch_shift):
            raise SettingsError("leak needs time_stretch or pitch_shift: copies that differ from what they test")
        if self.augment.band_probability and 2 * self.augment.band_high_hz[1] >= self.frontend.sample_rate:
            raise SettingsError(
                f"band_high_hz reaches {self.augment.band_high_hz[1]:g}; at {self.frontend.sample_rate} Hz it needs "
                f"less than {self.frontend.sample_rate / 2:g}"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, then those that ``scatter`` adds, such as ``nemo/happy``."""
        return (*self.labels, *(f"{corpus}/{emotion}" for corpus in self.scatter for emotion in labels_of(corpus)))

    def class_of(self, corpus: str, emotion: str) -> int:
        """Index among `classes` of what is said in a recording of ``corpus``."""
        return self.classes.index(f"{corpus}/{emotion}" if corpus in self.scatter else emotion)

    @property
    def control(self) -> str | None:
        """What is wrong with it on purpose; None for all that is meant to be used."""
        if self.training.shuffle_labels:
            return "shuffled labels"
        return LEAK if self.split.leak else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with serkit, by name."""
    files = (Path(__file__).parent / "recipes").glob("*.toml")
    return {p.stem: p for p in sorted(files, key=lambda p: p.stem)}


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file, or a bundled one by its name.

    Raises:
        SettingsError: No such file, not TOML, or a setting is unknown or impossible.
    """
    bundled = bundled_recipes()
    file = bundled.get(str(path), Path(path))
    if not file.exists():
        raise SettingsError(f"no recipe {path}; give a TOML file or one of {', '.join(bundled)}")
    return build(Recipe, {"name": file.stem} | read_toml(file, "recipe"), f"recipe {path}")


def lineage(recipe: Recipe) -> list[Recipe]:
    """The recipe, the one that it starts from, the one that that starts from, and so on.

    Raises:
        SettingsError: One of them does not exist, or they run in a circle.
    """
    line = [recipe]
    while (name := line[-1].start) is not None:
        if name in [r.start for r in line[:-1]]:
            raise SettingsError(f"recipe {recipe.name} starts from {name}, which starts from itself; break the circle")
        line.append(read_recipe(name))
    return line


def override(
    recipe: Recipe,
    *,
    corpus: str | None = None,
    start: str | None = None,
    split: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> Recipe:
    """The recipe with some settings replaced; None values leave the recipe's own.

    Args:
        recipe: What to change.
        corpus: Train on this corpus alone, with its emotions as labels.
        start: Recipe to start from.
        split: Fields of `SplitSettings`.
        training: Fields of `TrainingSettings`.
    """
    if corpus is not None:
        recipe = replace(recipe, corpora={corpus: 1.0}, labels=labels_of(corpus))
    if start is not None:
        recipe = replace(recipe, start=start)
    split = {k: v for k, v in (split or {}).items() if v is not None}
    training = {k: v for k, v in (training or {}).items() if v is not None}
    return replace(recipe, split=replace(recipe.split, **split), training=replace(recipe.training, **training))
