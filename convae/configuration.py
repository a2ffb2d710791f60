"""The configuration's schema: every key of `configs/`, its type, its range and its meaning.

Plain dataclasses, so that only `convae.app` needs Hydra. Unknown keys and values of another type
are refused when the configuration is composed, values out of range when it becomes an object.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from convae.errors import UserError, check_choice, check_range, require_keys

MISSING: Any = "???"
"""Hydra's mark of a mandatory value."""

BUILT_IN = ("digits", "photos", "synthetic_beats", "synthetic_volumes")
"""Datasets that need neither torchvision nor files."""

INITIALISATIONS = ("pca", "parseval", "orthogonal", "he")
"""Ways in which parameters can start; see `convae.initialise`."""

SCORES = (
    *("squared_error", "ssim", "ms_ssim", "gradient", "peak", "relative", "mahalanobis"),
    "combined",
)
"""How unlike the training images an image is; see `convae.report.scores`."""

FITS = ("crop", "pad", "stretch")
"""How a picture of another shape fits into `dataset.image_size`."""

SCALINGS = ("range", "standard")
"""How arrays are scaled: by the training examples' range, or by their mean and deviation."""

LARGEST_SIDE = 4096
"""Largest `dataset.image_size`, in pixels."""


def _pair(value: Any) -> tuple[int, ...] | None:
    """Read a number, for a square, or rows and columns."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, list) else (value, value)


def _check_pair(name: str, value: Any, at_least: int = 1) -> None:
    """Refuse what `_pair` reads, unless it is a size in pixels or nothing."""
    sides = _pair(value)
    if sides is not None and len(sides) != 2:
        raise UserError(f"{name}: {value!r} is neither a number of pixels nor [rows, columns]")
    for side in sides or ():
        check_range(name, side, at_least=at_least, at_most=LARGEST_SIDE, integer=True)


MODEL_KINDS = ("autoencoder", "sparse_coding", "rbm")
"""The kinds of models that reconstruct; see `convae.models.kinds`."""

KIND_VALUES = {
    **dict.fromkeys(("spatial", "lifetime"), "autoencoder"),
    **dict.fromkeys(
        ("sparsity", "iterations", "tolerance", "nonnegative", "backtracking"), "sparse_coding"
    ),
    **dict.fromkeys(("steps", "chains"), "rbm"),
    "trained": "classifier",
}
"""Keys of `ModelConfig` that one kind has, and which."""

TASKS = ("reconstruct", "classify")
"""What a model can be trained for."""


@dataclass
class LayerConfig:
    """One layer; the fields are those of `convae.Layer`."""

    filters: int = MISSING
    kernel: Any = MISSING  # int, one for each axis, or "input"
    stride: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    groups: int = 1
    activation: str = "relu"
    sharing: str = "shared"
    tile: Any = None
    hidden_bias: str = "natural"
    visible_bias: str = "natural"
    tied: bool = True
    padding_mode: str = "zeros"
    pool: Any = 1


@dataclass
class ModelConfig:
    """The stack of layers, from the image upwards."""

    layers: list[LayerConfig] = field(default_factory=list)  # none: chosen for the images
    output_activation: str | None = "sigmoid"  # chosen if not given
    kind: str = "autoencoder"  # one of `MODEL_KINDS`; what follows is for some kinds only
    spatial: bool | None = None  # reconstruct from each filter's strongest position
    lifetime: float | None = None  # and from this part of a batch's
    sparsity: float | None = None  # weight of a sparse code's absolute values
    iterations: int | None = None  # of the search for a sparse code
    tolerance: float | None = None  # relative change of a code at which the search ends
    nonnegative: bool | None = None  # whether sparse codes have no negative numbers
    backtracking: bool | None = None  # whether the search's step is searched for, too
    steps: int | None = None  # of Gibbs sampling for an RBM's gradient
    chains: int | None = None  # that go on from gradient to gradient
    trained: str | None = None  # which layers of a classifier learn: all or last

    def __post_init__(self) -> None:
        """Check the kind, and that values are given only to kinds that have them."""
        check_choice("model.kind", self.kind, MODEL_KINDS)
        for name, kind in KIND_VALUES.items():
            if getattr(self, name) is not None and kind not in (self.kind, "classifier"):
                raise UserError(f"model.{name}: is for model.kind={kind}, not {self.kind}")


@dataclass
class DatasetConfig:
    """Which images, and how they are read."""

    name: str = MISSING  # one of `BUILT_IN`, "ImageFolder", "arrays", module.Class or torchvision's
    root: str = "data"  # the folder of its files; missing ones are downloaded to it
    train: dict[str, Any] = field(default_factory=dict)  # arguments that select training images
    test: Any = None  # and test images, where there are any: a mapping, too
    transposed: bool = False  # rows and columns are exchanged in the files, as in EMNIST
    image_size: Any = None  # a number, for a square, or [rows, columns]; as images are if not given
    fit: str = "crop"  # what happens to others: crop at the sides, pad with the background, stretch
    tile: Any = None  # cut examples of any size into tiles: a number, or one for each axis
    overlap: int = 0  # positions that neighbouring tiles share
    channels: int | None = None  # 1: grey, 3: colour; as the images are if not given
    background: str = "white"  # what shows through transparent pictures
    layout: str | None = None  # the axes of arrays, such as NCL or NHWC
    scaling: str | None = None  # of arrays: range, to [0, 1], or standard, mean 0 and deviation 1
    labels: Any = None  # the classes of arrays: a file, or a table's column
    columns: list[Any] | None = None  # the columns of a table that hold values; all if not given
    strict: bool = False  # stop at pictures that cannot be read, instead of leaving them out
    check: bool = True  # read every picture once before training, also those that are streamed
    holdout: float = 0.1  # fraction set aside for validation (and for test, if there is none)
    normal: list[Any] | None = None  # train on these classes only; all others are anomalies
    limit: int | None = None  # use only so many training images
    evaluation_limit: int | None = None  # and so many validation and test images
    memory_mb: int = 2048  # a split larger than this streams from disk
    workers: int = 2  # processes that read images while streaming

    @property
    def size(self) -> tuple[int, ...] | None:
        """Rows and columns that `image_size` asks for."""
        return _pair(self.image_size)

    @property
    def tile_size(self) -> tuple[int, ...] | None:
        """Rows and columns that `tile` asks for."""
        return _pair(self.tile)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not isinstance(self.root, str) or not self.root:
            raise UserError(f"dataset.root: {self.root!r} is not a folder or file")
        check_range("dataset.holdout", self.holdout, over=0, below=0.5)
        check_range("dataset.workers", self.workers, at_least=0, integer=True)
        check_range("dataset.memory_mb", self.memory_mb, at_least=0, integer=True)
        if self.channels not in (None, 1, 3):
            raise UserError(
                f"dataset.channels: {self.channels!r} is neither 1 (grey) nor 3 (colour)"
            )
        _check_pair("dataset.image_size", self.image_size)
        check_choice("dataset.fit", self.fit, FITS)
        if self.fit != "crop" and self.image_size is None:
            raise UserError(f"dataset.fit: {self.fit!r} needs dataset.image_size")
        self._check_tiles()
        self._check_arrays()
        bounds = {
            "limit": (2, None),
            "evaluation_limit": (1, None),
        }
        for name, (least, most) in bounds.items():
            if getattr(self, name) is not None:
                value = getattr(self, name)
                check_range(f"dataset.{name}", value, at_least=least, at_most=most, integer=True)
        if not isinstance(self.test, dict | None):
            raise UserError(
                f"dataset.test: {self.test!r} is not a mapping such as {{train: false}}"
            )
        if self.name in (*BUILT_IN, "ImageFolder", "arrays") and (self.train or self.test):
            raise UserError(
                f"dataset.train, dataset.test: {self.name!r} takes no arguments; leave them out"
            )
        if self.strict and not self.check:
            raise UserError("dataset.strict: broken pictures are found by dataset.check=true")
        for name in ("image_size", "channels", "transposed"):
            if self.name in BUILT_IN and getattr(self, name) not in (None, False):
                raise UserError(f"dataset.{name}: {self.name!r} has a fixed form; leave this out")

    def _check_tiles(self) -> None:
        """Check the tiles."""
        if self.tile is None:
            if self.overlap:
                raise UserError(f"dataset.overlap: {self.overlap} needs dataset.tile")
            return
        if self.name == "arrays":  # of as many axes as their layout says
            sides = self.tile if isinstance(self.tile, list) and self.tile else [self.tile]
            for side in sides:
                check_range("dataset.tile", side, at_least=2, integer=True)
        else:
            _check_pair("dataset.tile", self.tile, at_least=2)
            sides = [*(self.tile_size or ())]
        check_range("dataset.overlap", self.overlap, at_least=0, below=min(sides), integer=True)
        if self.name in BUILT_IN:
            raise UserError(f"dataset.tile: {self.name!r} has a fixed form; leave this out")
        if not self.check:
            raise UserError("dataset.check: pictures are read once in any case to cut them")

    def _check_arrays(self) -> None:
        """Check what is for arrays only, and what is not."""
        if self.scaling is not None:
            check_choice("dataset.scaling", self.scaling, SCALINGS)
        if self.name != "arrays":
            for name in ("layout", "scaling", "labels", "columns"):
                is_used = name == "scaling" and self.name.startswith("synthetic")
                if getattr(self, name) is not None and not is_used:
                    raise UserError(f"dataset.{name}: is for dataset=arrays; leave it out")
            return
        for name in ("image_size", "channels", "transposed"):
            if getattr(self, name) not in (None, False):
                raise UserError(f"dataset.{name}: is for pictures, and not for arrays")
        if not self.check:
            raise UserError("dataset.check: arrays are read once in any case, for their scaling")


@dataclass
class OptimizerConfig:
    """The optimizer by name; values not given are the optimizer's own defaults."""

    name: str = MISSING  # sgd, adam or adamw
    learning_rate: float | None = None  # per step; chosen if not given
    weight_decay: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None


@dataclass
class ScheduleConfig:
    """The learning rate over the run; values not given are the schedule's own defaults."""

    name: str = "constant"  # constant, cosine, step, one_cycle or plateau
    warmup: int | None = None  # steps
    final: float | None = None  # factor at the end: cosine, one_cycle
    start: float | None = None  # factor at the beginning: one_cycle
    rise: float | None = None  # part of the run: one_cycle
    every: int | None = None  # epochs: step
    decay: float | None = None  # factor: step, plateau
    patience: int | None = None  # epochs: plateau


@dataclass
class LossConfig:
    """The loss that is minimised."""

    name: str = MISSING  # mse, bce, l1 or ssim


@dataclass
class CorruptionConfig:
    """Noise on the model's input; reconstructions are compared with the clean images."""

    name: str = "none"  # none, gaussian, masking or salt_and_pepper
    amount: float = 0.0  # standard deviation, or fraction of the values replaced


@dataclass
class AugmentationConfig:
    """Random changes of training images; what is not given is chosen for them."""

    flip: bool | None = False  # mirror every second one
    shift: int | None = 0  # move them by so many pixels at most
    crop: Any = None  # windows at random, of a number of pixels or [rows, columns]; else the middle

    @property
    def window(self) -> tuple[int, ...] | None:
        """Rows and columns that `crop` asks for."""
        return _pair(self.crop)

    def __post_init__(self) -> None:
        """Check the range."""
        _check_pair("augmentation.crop", self.crop)
        if self.shift is not None:
            check_range("augmentation.shift", self.shift, at_least=0, integer=True)


@dataclass
class PenaltyConfig:
    """Terms added to the loss; the fields are those of `convae.Penalty`."""

    l1: float = 0.0
    kl: float = 0.0
    target: float = 0.05
    contractive: float = 0.0
    weight_decay: float = 0.0


@dataclass
class TrainerConfig:
    """The training loop."""

    epochs: int | None = 20  # chosen if not given
    batch_size: int | None = 64  # chosen if not given
    accumulate: int = 1  # parts of a batch whose gradients are computed one after the other
    log_every: int = 20  # steps between two points of TensorBoard's training curves
    panels_every: int = 20  # epochs between two sets of TensorBoard's pictures and histograms
    probe: int = 16  # test images whose reconstructions are shown
    threshold_quantile: float = 0.95  # of validation errors; an image above it counts as an anomaly
    embeddings: int = 1000  # test images in TensorBoard's projector, at the end of the run
    self_check: bool = True  # test the trilinear identity on the model's layers before training
    pretrain_epochs: int = 0  # first train each layer alone for so many epochs
    ema: float | None = None  # evaluate and keep a moving average of the parameters
    patience: int | None = None  # stop after so many epochs without a lower validation loss
    clip_norm: float | None = None  # scale longer gradients down to this norm
    checkpoint_every: int = 1  # epochs between two states to resume from
    checkpoint_minutes: float = 10.0  # and minutes, within a long epoch
    keep_states: int = 2  # how many of them stay
    drop_states: bool = False  # remove them at the end of the run, which then cannot be prolonged

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) is not None:
                check_range(f"trainer.{name}", getattr(self, name), at_least=1, integer=True)
        for name in ("accumulate", "log_every", "panels_every", "probe"):
            check_range(f"trainer.{name}", getattr(self, name), at_least=1, integer=True)
        for name in ("pretrain_epochs", "embeddings"):
            check_range(f"trainer.{name}", getattr(self, name), at_least=0, integer=True)
        for name in ("checkpoint_every", "keep_states"):
            check_range(f"trainer.{name}", getattr(self, name), at_least=1, integer=True)
        check_range("trainer.checkpoint_minutes", self.checkpoint_minutes, at_least=0)
        check_range("trainer.threshold_quantile", self.threshold_quantile, over=0, below=1)
        if self.patience is not None:
            check_range("trainer.patience", self.patience, at_least=1, integer=True)
        if self.clip_norm is not None:
            check_range("trainer.clip_norm", self.clip_norm, over=0)
        if self.ema is not None:
            check_range("trainer.ema", self.ema, over=0, below=1)


@dataclass
class Config:
    """Everything that can be configured."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    code: int | None = None  # numbers of a code, where the layers are chosen
    task: str = "reconstruct"  # or classify, by the dataset's labels
    score: str = "combined"  # how unusual an image is: one of `SCORES`
    init: str | None = None  # how parameters start: one of `INITIALISATIONS`, or a run's folder
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    storage: str | None = None  # type of a GPU's activations, if shorter than dtype
    gpu_engine: str = "auto"  # or portable: array code; or fast: no going back to it
    tf32: bool = False  # whether a GPU may round the factors of float32 products
    resume: str | None = None  # the folder of a run to resume
    find_learning_rate: bool = False  # try learning rates instead of training

    def __post_init__(self) -> None:
        """Check seed, start, code and scaling; everything else is checked where it is used."""
        check_range("seed", self.seed, at_least=0, integer=True)
        check_choice("score", self.score, SCORES)
        check_choice("task", self.task, TASKS)
        self._check_kind()
        if self.code is not None:
            check_range("code", self.code, at_least=1, integer=True)
            if self.model.layers:
                raise UserError(
                    f"code: {self.code} is for model=auto, which chooses layers; here the last "
                    f"layer says it, model.layers.{len(self.model.layers) - 1}.filters"
                )
        if self.dataset.scaling == "standard":
            self._check_standard()

    def _check_kind(self) -> None:
        """Refuse what other kinds of models, and classifiers, do not have."""
        kind, is_classifier = self.model.kind, self.task == "classify"
        if is_classifier and kind != "autoencoder":
            raise UserError(f"model.kind: {kind!r} reconstructs; with task=classify leave it out")
        if not is_classifier and self.model.trained is not None:
            raise UserError("model.trained: is for task=classify; leave it out")
        if is_classifier and (self.model.spatial or self.model.lifetime):
            raise UserError("model.spatial, model.lifetime: are for task=reconstruct")
        what = "task=classify" if is_classifier else f"model.kind={kind}"
        if what == "model.kind=autoencoder":
            return
        others = {
            "loss": self.loss.name not in (MISSING, "mse"),
            "corruption": self.corruption.name != "none" and not is_classifier,
            "trainer.pretrain_epochs": self.trainer.pretrain_epochs > 0,
            "init": self.init in INITIALISATIONS and not is_classifier,
            "code": self.code is not None and not is_classifier,
        }
        for name, is_set in others.items():
            if is_set:
                raise UserError(f"{name}: does not go with {what}; leave it out")
        if not is_classifier and not self.model.layers:
            raise UserError(f"model.layers: none are chosen for {what}; give one")

    def _check_standard(self) -> None:
        """Refuse what presumes values between 0 and 1, where there are others."""
        needs = {
            f"loss={self.loss.name}": self.loss.name in ("bce", "ssim"),
            f"corruption={self.corruption.name}": self.corruption.name not in ("none", "masking"),
            f"model.output_activation={self.model.output_activation}": (
                self.model.output_activation in ("sigmoid", "relu", "softplus")
            ),
        }
        for what, is_set in needs.items():
            if is_set:
                raise UserError(
                    f"dataset.scaling: standard gives values below 0, which {what} does not allow; "
                    "choose range, or another of the other"
                )


def from_plain(values: Any, kind: Any = Config, name: str = "configuration") -> Any:
    """Turn plain values, as `dataclasses.asdict` returns them, into a configuration.

    A `UserError` names what is missing, unknown, of a wrong type or out of range.
    """
    if not dataclasses.is_dataclass(kind):
        return _of_type(values, kind, name)
    hints = typing.get_type_hints(kind)
    require_keys(name, values, hints)
    built: Any = kind
    return built(
        **{key: from_plain(value, hints[key], f"{name}.{key}") for key, value in values.items()}
    )


def _of_type(value: Any, kind: Any, name: str) -> Any:
    """Return a value of a type that is no dataclass, or refuse it."""
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for choice in choices:
        origin = typing.get_origin(choice)
        if choice is Any or (choice is types.NoneType and value is None):
            return value
        if origin is list and isinstance(value, (list, tuple)):
            (entry,) = typing.get_args(choice)
            return [from_plain(each, entry, f"{name}.{n}") for n, each in enumerate(value)]
        if origin is dict and isinstance(value, dict):
            return value
        if choice is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if origin is None and type(value) is choice:
            return value
    raise UserError(f"{name}: {value!r} is not of the type {getattr(kind, '__name__', kind)}")
