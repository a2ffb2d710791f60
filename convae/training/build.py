"""From a configuration to the objects that it describes: everything is built here, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from convae.configuration import Config, OptimizerConfig, ScheduleConfig
from convae.data.augmentation import Augmentation
from convae.data.corruption import Corruption
from convae.data.splits import Splits
from convae.engine import backend_for
from convae.errors import UserError, check_choice, prefixed
from convae.models.autoencoder import Autoencoder
from convae.models.layers import Layer
from convae.models.penalties import Penalty
from convae.report.fixed_images import FixedImages
from convae.report.tensorboard import Board
from convae.training.averaging import MovingAverage
from convae.training.optimizers import OPTIMIZERS, Optimizer
from convae.training.progress import Progress
from convae.training.schedules import SCHEDULES, Schedule
from convae.training.state import StateFolder
from convae.training.step import GPU_ENGINES, TrainingStep, check_engine
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


def build_model(config: Config, input_shape: tuple[int, ...]) -> Autoencoder:
    """Build the model for images of a shape (C, H, W), with its initial parameters."""
    output = config.model.output_activation
    assert output is not None
    backend = backend_for(config.device, tf32=config.tf32)
    check_engine(config.gpu_engine, backend.device)
    try:
        return Autoencoder(
            input_shape,
            [Layer(**dataclasses.asdict(layer)) for layer in config.model.layers],
            output_activation=output,
            loss=config.loss.name,
            seed=config.seed,
            dtype=config.dtype,
            storage=config.storage,
            backend=backend,
        )
    except UserError as error:
        prefix = "model." if str(error).startswith(("layers", "output_activation")) else ""
        raise type(error)(f"{prefix}{error} (images are {input_shape})") from None


def build_step(config: Config, model: Autoencoder, parts: Parts) -> TrainingStep:
    """Build the training step of a model."""
    ema = config.trainer.ema
    return TrainingStep(
        model,
        parts.optimizer,
        config.trainer.clip_norm,
        parts.penalty,
        None if ema is None else MovingAverage(model, ema),
        config.gpu_engine,
    )


def build_trainer(
    config: Config,
    model: Autoencoder,
    parts: Parts,
    data: Splits,
    board: Board,
    states: StateFolder,
    progress: Progress,
    after_epoch: Callable[[int, float], bool] | None = None,
) -> Trainer:
    """Build the training loop around a model, fresh or restored."""
    trainer = config.trainer
    return Trainer(
        step=build_step(config, model, parts),
        data=data,
        schedule=parts.schedule,
        corruption=parts.corruption,
        augmentation=parts.augmentation,
        fixed_images=FixedImages(data.test, trainer.probe, parts.corruption),
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
