"""The configuration's schema: every key of `configs/`, its type, and what it means.

Plain dataclasses, so that nothing below `train.py` needs Hydra. A key that is not here, or a value
of another type, is refused when the configuration is composed.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"
"""Hydra's mark of a value that has to be given."""


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


@dataclass
class ModelConfig:
    """The stack of layers, from the image upwards."""

    layers: list[LayerConfig] = field(default_factory=list)
    output_activation: str = "sigmoid"


@dataclass
class DatasetConfig:
    """Which images, and how they are read."""

    name: str = MISSING  # "digits", "photos", "ImageFolder" or a class of torchvision.datasets
    root: str = "data"  # where its files are looked for, and downloaded to
    train: dict[str, Any] = field(default_factory=dict)  # arguments that select the training half
    test: dict[str, Any] | None = None  # and the test half, where there is one
    transposed: bool = False  # stored with rows and columns exchanged, as EMNIST is
    image_size: int | None = None  # resize the short side to this and crop the centre square
    channels: int | None = None  # 1: grey, 3: colour; as the images are if not given
    holdout: float = 0.1  # part of the training images for validation (and test, if it has none)
    normal: list[Any] | None = None  # train on these classes only; the rest are anomalies
    limit: int | None = None  # use only so many training images
    evaluation_limit: int | None = None  # and so many validation and test images
    memory_mb: int = 2048  # a split larger than this streams from disk
    workers: int = 2  # processes that read images while streaming


@dataclass
class OptimizerConfig:
    """The optimizer by name; values not given are the optimizer's own defaults."""

    name: str = MISSING  # sgd, adam or adamw
    learning_rate: float = MISSING  # per step
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
    """What is minimised."""

    name: str = MISSING  # mse or bce


@dataclass
class CorruptionConfig:
    """Noise on what the model is given; it is compared with the clean images."""

    name: str = "none"  # none, gaussian, masking or salt_and_pepper
    amount: float = 0.0  # standard deviation, or fraction of the values replaced


@dataclass
class PenaltyConfig:
    """What is added to the loss; the fields are those of `convae.Penalty`."""

    l1: float = 0.0
    kl: float = 0.0
    target: float = 0.05
    contractive: float = 0.0
    weight_decay: float = 0.0


@dataclass
class TrainerConfig:
    """The training loop."""

    epochs: int = 20
    batch_size: int = 64
    log_every: int = 20  # steps between two points of TensorBoard's training curves
    panels_every: int = 20  # epochs between two sets of TensorBoard's pictures and histograms
    probe: int = 16  # test images whose reconstructions are shown
    threshold_quantile: float = 0.95  # of validation errors; an image beyond is called an anomaly
    embeddings: int = 1000  # test images in TensorBoard's projector, at the end of the run
    self_check: bool = True  # test the trilinear identity on the model's layers before training
    pretrain_epochs: int = 0  # first train each layer alone for so many epochs
    ema: float | None = None  # evaluate and keep a moving average of the parameters
    patience: int | None = None  # stop after so many epochs without a lower validation loss
    clip_norm: float | None = None  # shorten longer gradients to this norm
    checkpoint_every: int = 1  # epochs between two states that a run can go on from
    checkpoint_minutes: float = 10.0  # and minutes, within a long epoch


@dataclass
class Config:
    """Everything that `python train.py` can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    storage: str | None = None  # how a GPU stores what lies between c, h and g
    tf32: bool = False  # whether a GPU may round the factors of float32 products
    resume: str | None = None  # the folder of a run that shall go on
    find_learning_rate: bool = False  # try learning rates instead of training


def unknown_key(arguments: Iterable[str]) -> str | None:
    """Look for an override whose key the schema does not have.

    Hydra refuses it too, but does not say which keys there are; and with a plus in front it takes a
    key that nothing would ever read.

    Parameters
    ----------
    arguments : iterable of str
        The command line's arguments.

    Returns
    -------
    str or None
        A message that names the key and those that would do, or None if all keys are known.
    """
    for argument in arguments:
        key, equals, _ = argument.lstrip("+").partition("=")
        if not equals or key.startswith(("-", "~", "hydra")):
            continue
        message = _unknown_part(Config, key.partition("@")[0].split("."), [])
        if message:
            return message
    return None


def _unknown_part(node: Any, parts: list[str], above: list[str]) -> str | None:
    if not parts:
        return None
    if typing.get_origin(node) is list:
        (node,) = typing.get_args(node)
        return _unknown_part(node, parts[1:], [*above, parts[0]])
    if not dataclasses.is_dataclass(node):
        return None
    hints = typing.get_type_hints(node)
    names = [*hints, "experiment", "debug"] if node is Config else list(hints)
    if parts[0] not in names:
        close = difflib.get_close_matches(parts[0], names, n=1)
        suggestion = f"; did you mean {'.'.join([*above, close[0]])}?" if close else ""
        where = ".".join(above) if above else "the configuration"
        return (
            f"{'.'.join([*above, parts[0]])}: no such key{suggestion}\n"
            f"{where} has: {', '.join(names)}"
        )
    return _unknown_part(hints.get(parts[0]), parts[1:], [*above, parts[0]])
