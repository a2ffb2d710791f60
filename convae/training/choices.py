"""What a configuration leaves open, chosen from the images: layers, output, length, augmentation.

Everything is chosen before training begins, once, and said in a line each; the run's configuration
then holds the values as if they had been given. The rules were measured with a start as PCA
(`convae.models.initialisation`), and `benchmarks/quality.py` measures what they give.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from math import ceil, inf
from operator import attrgetter
from typing import Any

import numpy as np

from convae.configuration import (
    AugmentationConfig,
    Config,
    LayerConfig,
    ScheduleConfig,
    TrainerConfig,
)
from convae.data.augmentation import Augmentation
from convae.data.splits import Split, Splits, kind, sample, unit
from convae.errors import UserError, counted
from convae.models.architecture import choose_layers
from convae.models.classifier import Classifier
from convae.training.start import source_of

SAMPLE = 1000
"""Training images on which a choice is based, at most."""

SATURATED = 0.3
"""Fraction of black and white values from which on a sigmoid is chosen for the output."""

SMALL, LARGE = 4_000, 20_000
"""Training images from which on batches are of 64 and of 128, instead of 32."""

STEPS = 3_000
"""Steps of training: as many epochs as that takes."""

FEWEST_EPOCHS, MOST_EPOCHS = 12, 150
"""Limits of that."""

WARMUP = 100
"""Steps over which the learning rate rises; a tenth of a shorter run."""

LEAST_PATIENCE = 5
"""Epochs without a lower validation loss that are tolerated; a third of the epochs, if more."""

RATE, SATURATED_RATE = 1e-3, 4e-3
"""Adam's learning rate, and that before a sigmoid, where kernels start larger."""

DECAY, DECAY_OF_FEW = 0.1, 0.2
"""AdamW's weight decay, and that for few images."""

SGD_FACTOR = 500
"""SGD's learning rate over Adam's: the loss is a mean over pixels, so its gradient is small."""

SHIFT_PART = 8
"""Images are shifted by this part of their shorter side, at most."""

ALIKE = 1.1
"""Largest error of changed images, over that of images as they are, with which they are used."""

COMPARED_POSITIONS = 256
"""Positions, about, to which images are reduced to be compared."""

CHOSEN = (
    "model.output_activation",
    "augmentation.flip",
    "augmentation.shift",
    "trainer.epochs",
    "trainer.batch_size",
)
"""What has no value of its own where none is given: every run has one, given or chosen."""


@dataclass(frozen=True)
class Choices:
    """A configuration without open ends, and what was chosen.

    Parameters
    ----------
    config : Config
        The configuration.
    reasons : tuple of str
        A line for each choice.
    """

    config: Config
    reasons: tuple[str, ...] = ()


def choose(config: Config, data: Splits) -> Choices:
    """Choose what a configuration leaves open; a `UserError` says what does not fit the images."""
    reasons: list[str] = []
    augmentation = config.augmentation
    is_open = None in (config.model.output_activation, augmentation.flip, augmentation.shift)
    images = _sample(data.train) if is_open else np.empty((0, *data.train.shape), np.float32)
    config = replace(
        config,
        model=_model(config, data.train.shape, images, reasons),
        code=None,
        augmentation=_augmentation(config, images, reasons),
        trainer=_length(config, len(data.train), reasons),
    )
    config = replace(config, schedule=_warmup(config, len(data.train), reasons))
    optimizer = config.optimizer
    if optimizer.learning_rate is None:
        saturating = config.model.output_activation == "sigmoid"
        rate = SATURATED_RATE if saturating else RATE
        rate *= SGD_FACTOR if optimizer.name == "sgd" else 1
        optimizer = replace(optimizer, learning_rate=rate)
        reasons.append(f"optimizer.learning_rate={rate:g}")
    if optimizer.name == "adamw" and optimizer.weight_decay is None:
        decay = DECAY_OF_FEW if len(data.train) < SMALL else DECAY
        optimizer = replace(optimizer, weight_decay=decay)
        reasons.append(f"optimizer.weight_decay={decay:g}")
    return Choices(replace(config, optimizer=optimizer), tuple(reasons))


def left_open(config: Config) -> list[str]:
    """Name what a configuration leaves to be chosen."""
    return [name for name in CHOSEN if attrgetter(name)(config) is None]


def _warmup(config: Config, images: int, reasons: list[str]) -> ScheduleConfig:
    """Choose a short warm-up, unless the schedule has one of its own."""
    schedule, trainer = config.schedule, config.trainer
    if schedule.warmup is not None or schedule.name == "one_cycle":
        return schedule
    assert trainer.epochs is not None
    assert trainer.batch_size is not None
    steps = trainer.epochs * ceil(images / trainer.batch_size)
    warmup = min(WARMUP, steps // 10)
    reasons.append(f"schedule.warmup={warmup}")
    return replace(schedule, warmup=warmup)


def _sample(train: Split) -> np.ndarray[Any, Any]:
    """Take some training images: (N, C, *size) in [0, 1]."""
    pixels = np.concatenate(list(sample(train, SAMPLE).batches(256)))
    return pixels.astype(np.float32) * np.float32(unit(pixels))


def _model(
    config: Config,
    shape: tuple[int, ...],
    images: np.ndarray[Any, Any],
    reasons: list[str],
) -> Any:
    """Choose the layers, and the output activation by the values that images have."""
    model = config.model
    source = source_of(config)
    if source is not None and config.code is not None:
        raise UserError(f"code: the model of init={config.init} has one already; leave it out")
    if source is not None and not model.layers:
        is_classifier = isinstance(source, Classifier)
        encoder = source.layers[:-1] if is_classifier else source.layers
        own = [LayerConfig(**dataclasses.asdict(layer.spec)) for layer in encoder]
        model = replace(model, layers=own, output_activation=source.output_activation.name)
        reasons.append(f"model.layers, model.output_activation: those of init={config.init}")
    if not model.layers:
        layers = choose_layers(shape, config.code)
        if config.task == "classify":
            layers[-1] = replace(layers[-1], activation="relu")
        if config.penalty.kl:
            layers[-1] = replace(layers[-1], activation="sigmoid")
            reasons.append("model.layers: a sigmoid code, since penalty.kl reads probabilities")
        model = replace(
            model, layers=[LayerConfig(**dataclasses.asdict(layer)) for layer in layers]
        )
        *convolutions, code = layers
        sizes = "x".join(map(str, shape[1:]))
        if convolutions:
            code_input = shape
            for layer in convolutions:
                code_input = (layer.filters, *layer.geometry(code_input).output)
            widths = ", ".join(str(layer.filters) for layer in convolutions)
            halved = "x".join(map(str, code_input[1:]))
            sizes += f" is halved to {halved} by convolutions of {widths} filters"
        numbers = counted(code.filters, "number")
        reasons.append(f"model=auto: {sizes}, then a code of {numbers}")
    if config.task == "classify":
        model = replace(model, output_activation="identity")  # of what it does not have
    if model.output_activation is None:
        saturated = float(((images <= 1 / 255) | (images >= 254 / 255)).mean())
        why = f"{saturated:.0%} of the values are black or white"
        name = "sigmoid" if saturated >= SATURATED else "identity"
        if images.min() < 0 or images.max() > 1:
            name, why = "identity", "values are not between 0 and 1"
        if config.loss.name == "bce":
            name, why = "sigmoid", "loss=bce needs values between 0 and 1"
        model = replace(model, output_activation=name)
        reasons.append(f"model.output_activation={name}: {why}")
    return model


def _augmentation(
    config: Config, images: np.ndarray[Any, Any], reasons: list[str]
) -> AugmentationConfig:
    """Mirror and shift images if what that gives looks like images to their PCA."""
    augmentation, side = config.augmentation, min(images.shape[2:])
    example = kind(images.shape[1:])
    size = "x".join(map(str, images.shape[2:]))
    if augmentation.shift and augmentation.shift >= side:
        raise UserError(
            f"augmentation.shift: {augmentation.shift} would move all that there is out of "
            f"{example}s of {size}; expected less than {side}"
        )
    if augmentation.flip is None and images.ndim == 3:
        augmentation = replace(augmentation, flip=False)
        reasons.append("augmentation.flip=false: signals have a direction")
    elif augmentation.flip is None:
        ratio = likeness(images, images[..., ::-1])
        augmentation = replace(augmentation, flip=ratio <= ALIKE)
        reasons.append(_likeness_reason("flip", augmentation.flip, f"mirrored {example}s", ratio))
    if augmentation.shift is None and side < SHIFT_PART:
        augmentation = replace(augmentation, shift=0)
        reasons.append(f"augmentation.shift=0: {example}s of {size} are small")
    elif augmentation.shift is None:
        largest = side // SHIFT_PART
        moved = Augmentation(shift=largest)(images, 0)
        ratio = likeness(images, moved)
        augmentation = replace(augmentation, shift=largest if ratio <= ALIKE else 0)
        reasons.append(_likeness_reason("shift", augmentation.shift, f"shifted {example}s", ratio))
    return augmentation


def _likeness_reason(name: str, value: object, changed: str, ratio: float) -> str:
    """Say what was chosen, and by which error."""
    choice = f"augmentation.{name}={str(value).lower()}"
    if ratio == inf:
        return f"{choice}: too few, or too plain ones, to tell whether {changed} fit"
    return f"{choice}: {changed} have {ratio:.2f} times the error of PCA on those as they are"


def likeness(images: np.ndarray[Any, Any], changed: np.ndarray[Any, Any]) -> float:
    """Compare images with changed ones, (N, C, *size): PCA's error on the latter, over that.

    PCA is fitted on one half of the images; both errors are measured on the other half. It is 1
    where the changed images are as likely as the others, and infinite where there are too few or
    all are the same.
    """
    from sklearn.decomposition import PCA

    rows, others = _reduced(images), _reduced(changed)
    half = len(rows) // 2
    components = min(half, rows.shape[1]) // 4
    chosen = np.random.default_rng(0).permutation(len(rows))
    first, second = chosen[:half], chosen[half:]
    if components < 1 or not np.ptp(rows[first], axis=0).any():
        return inf
    pca = PCA(components, random_state=0).fit(rows[first])

    def error(vectors: np.ndarray[Any, Any]) -> float:
        return float(((pca.inverse_transform(pca.transform(vectors)) - vectors) ** 2).mean())

    rounding = 1e-9 * float(rows.var(axis=0).mean())
    return error(others[second]) / max(error(rows[second]), rounding)


def _reduced(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Reduce images to `COMPARED_POSITIONS` or more by means of blocks, and make rows of them."""
    side = round(COMPARED_POSITIONS ** (1 / (images.ndim - 2)))
    factor = max(1, min(images.shape[2:]) // side)
    for axis in range(2, images.ndim):
        count = images.shape[axis] // factor
        images = np.moveaxis(images, axis, -1)[..., : count * factor]
        images = images.reshape(*images.shape[:-1], count, factor).mean(axis=-1)
        images = np.moveaxis(images, -1, axis)
    return images.reshape(len(images), -1)


def _length(config: Config, images: int, reasons: list[str]) -> TrainerConfig:
    """Choose the batch size, and as many epochs as give enough steps."""
    trainer = config.trainer
    if trainer.batch_size is None:
        size = 32 if images < SMALL else 64 if images < LARGE else 128
        trainer = replace(trainer, batch_size=size)
        reasons.append(f"trainer.batch_size={size}")
    assert trainer.batch_size is not None
    if trainer.epochs is None:
        epochs = round(STEPS / ceil(images / trainer.batch_size))
        epochs = min(max(epochs, FEWEST_EPOCHS), MOST_EPOCHS)
        patience = trainer.patience or max(LEAST_PATIENCE, epochs // 3)
        trainer = replace(trainer, epochs=epochs, patience=patience)
        reasons.append(
            f"trainer.epochs={epochs}, fewer if the validation loss has not fallen for {patience}"
        )
    return trainer
