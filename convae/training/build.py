"""From a configuration to the objects that it describes: everything is built here, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from convae.configuration import KIND_VALUES, Config, OptimizerConfig, ScheduleConfig
from convae.data.augmentation import Augmentation
from convae.data.corruption import Corruption
from convae.data.splits import Splits
from convae.engine import backend_for
from convae.errors import UserError, check_choice, prefixed
from convae.models.autoencoder import Autoencoder
from convae.models.classifier import Classifier
from convae.models.kinds import KINDS
from convae.models.model import Model
from convae.models.penalties import Penalty
from convae.models.specification import Layer
from convae.processes import ALONE, Group
from convae.report.fixed_images import FixedImages
from convae.report.tensorboard import Board
from convae.training.averaging import MovingAverage
from convae.training.optimizers import OPTIMIZERS, Optimizer
from convae.training.progress import Progress
from convae.training.schedules import SCHEDULES, Schedule
from convae.training.state import StateFolder
from convae.training.step import GPU_ENGINES, TrainingStep, check_engine
from convae.training.tasks import Classification, Reconstruction, Task
from convae.training.trainer import Trainer

Built = TypeVar("Built")

LOOP = ("epochs", "batch_size", "log_every", "panels_every")
SAVING = ("checkpoint_every", "checkpoint_minutes", "patience")


@dataclass(frozen=True)
class Parts:
    """What a configuration describes without regard to the data; see `build_parts`."""

    optimizer: Optimizer
    schedule: Schedule
    corruption: Corruption
    augmentation: Augmentation
    penalty: Penalty


def build_parts(config: Config) -> Parts:
    """Build what does not depend on the data, so that mistakes show before any are read.

    What the configuration leaves open has to be chosen (`convae.training.choices`) before it is
    used.
    """
    augmentation = config.augmentation
    check_choice("gpu_engine", config.gpu_engine, GPU_ENGINES)
    return Parts(
        _build("optimizer", OPTIMIZERS, config.optimizer),
        _build("schedule", SCHEDULES, config.schedule),
        Corruption(config.corruption.name, config.corruption.amount, config.seed),
        Augmentation(
            bool(augmentation.flip), augmentation.shift or 0, config.seed, augmentation.window
        ),
        Penalty(**dataclasses.asdict(config.penalty)),
    )


def build_model(config: Config, input_shape: tuple[int, ...], classes: int = 0) -> Model:
    """Build the model for images of a shape (C, H, W), with its initial parameters.

    A classifier gets a layer for so many classes on top.
    """
    backend = backend_for(config.device, tf32=config.tf32)
    check_engine(config.gpu_engine, backend.device)
    layers = [Layer(**dataclasses.asdict(layer)) for layer in config.model.layers]
    own = {name: getattr(config.model, name) for name in KIND_VALUES}
    arguments: dict[str, Any] = {name: v for name, v in own.items() if v is not None}
    kind: Any = KINDS[config.model.kind]
    if config.task == "classify":
        kind = Classifier
        layers.append(Layer(filters=classes, kernel="input", activation="identity"))
    else:
        arguments["output_activation"] = config.model.output_activation
    if kind is Autoencoder:
        arguments["loss"] = config.loss.name
    try:
        model: Model = kind(
            input_shape,
            layers,
            **arguments,
            seed=config.seed,
            dtype=config.dtype,
            storage=config.storage,
            backend=backend,
        )
        return model
    except UserError as error:
        is_own = str(error).startswith(("layers", "output_activation", *own))
        raise type(error)(
            f"{'model.' if is_own else ''}{error} (images are {input_shape})"
        ) from None


def build_step(config: Config, model: Model, parts: Parts, group: Group = ALONE) -> TrainingStep:
    """Build the training step of a model."""
    ema = config.trainer.ema
    return TrainingStep(
        model,
        parts.optimizer,
        config.trainer.clip_norm,
        parts.penalty,
        None if ema is None else MovingAverage(model, ema),
        config.gpu_engine,
        group,
        config.trainer.accumulate,
    )


def build_task(config: Config, parts: Parts, data: Splits) -> Task:
    """Build what a model is trained for."""
    fixed_images = FixedImages(data.test, config.trainer.probe, parts.corruption)
    if config.task == "reconstruct":
        return Reconstruction(parts.corruption, fixed_images)
    assert data.train.labels is not None
    return Classification(data.train.labels, parts.corruption, fixed_images)


def build_trainer(
    config: Config,
    model: Model,
    parts: Parts,
    data: Splits,
    board: Board,
    states: StateFolder,
    progress: Progress,
    after_epoch: Callable[[int, float], bool] | None = None,
    group: Group = ALONE,
) -> Trainer:
    """Build the training loop around a model, fresh or restored."""
    trainer = config.trainer
    return Trainer(
        step=build_step(config, model, parts, group),
        data=data,
        schedule=parts.schedule,
        task=build_task(config, parts, data),
        augmentation=parts.augmentation,
        board=board,
        states=states,
        progress=progress,
        after_epoch=after_epoch,
        **{name: getattr(trainer, name) for name in (*LOOP, *SAVING)},
    )


def _build(
    group: str,
    choices: Mapping[str, Callable[..., Built]],
    config: OptimizerConfig | ScheduleConfig,
) -> Built:
    """Call the choice that a configuration names with the values that it gives."""
    check_choice(f"{group}.name", config.name, choices)
    choice: Any = choices[config.name]
    accepted = [field.name for field in dataclasses.fields(choice) if field.init]
    values = dataclasses.asdict(config)
    given = {k: v for k, v in values.items() if k != "name" and v is not None}
    for name in given:
        if name not in accepted:
            raise UserError(
                f"{group}.{name}: {config.name} has no such value; it accepts {', '.join(accepted)}"
            )
    with prefixed(f"{group}."):
        built: Built = choice(**given)
    return built
