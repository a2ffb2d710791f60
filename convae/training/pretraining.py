"""Greedy layer-wise pretraining (Bengio et al. 2007): each layer alone, on the codes below it.

Every stage is an ordinary run in a folder of its own, ``pretraining/<layer>``, with its models,
states and curves; so it resumes, when the run resumes, from where it was.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convae.configuration import AugmentationConfig, Config, CorruptionConfig
from convae.data.pictures import to_floats
from convae.data.splits import Files, Labels, Order, Split, Splits
from convae.engine import Array, to_numpy
from convae.models import backpropagation
from convae.models.autoencoder import Autoencoder
from convae.processes import Group
from convae.report.tensorboard import Board
from convae.training.build import build_parts, build_trainer
from convae.training.signals import Interrupted
from convae.training.state import (
    StateFolder,
    begin,
    check_resumable,
    has_state,
    read_state,
    restore,
)

log = logging.getLogger("convae")

STAGES = "pretraining"
"""Folder of the stages in a run's folder."""


@dataclass(frozen=True)
class Encoded:
    """A split as the lower layers of a model encode it.

    Parameters
    ----------
    split : Split
        The images.
    model : Autoencoder
        The model.
    depth : int
        How many of its layers encode.
    """

    split: Split
    model: Autoencoder
    depth: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one code."""
        return self.model.layers[self.depth].input_shape

    @property
    def labels(self) -> Labels | None:
        """Class of each image."""
        return self.split.labels

    @property
    def files(self) -> Files | None:
        """File of each image."""
        return self.split.files

    def __len__(self) -> int:
        """Count the images."""
        return len(self.split)

    def select(self, indices: np.ndarray[Any, Any]) -> Encoded:
        """Select images by their positions."""
        return replace(self, split=self.split.select(indices))

    def fingerprint(self) -> str:
        """See `Split`."""
        return self.split.fingerprint()

    def batches(self, size: int, order: Order | None = None, skip: int = 0) -> Iterator[Array]:
        """See `Split`; the codes are floats."""
        below = self.model.layers[: self.depth]
        for pixels in self.split.batches(size, order, skip):
            x = to_floats(pixels, self.model.backend, self.model.dtype)
            yield to_numpy(backpropagation.encode(below, x)[-1])


def pretrain(
    model: Autoencoder, data: Splits, config: Config, directory: Path, group: Group
) -> None:
    """Train each layer in turn as an autoencoder of its own, from the image upwards.

    The model's parameters are overwritten, layer by layer, with the best of each stage. The lowest
    stage minimises the run's loss, the others the mean squared error of codes. Noise and
    augmentation are for images only, and the code's own penalties for the uppermost layer only.

    Raises what `Trainer.fit` raises.
    """
    for index, layer in enumerate(model.layers):
        log.info(f"pretraining layer {index} for {config.trainer.pretrain_epochs} epochs")
        folder = directory / STAGES / str(index)
        stage = Autoencoder(
            layer.input_shape,
            [layer.spec],
            output_activation=layer.visible_activation.name,
            loss=model.loss.name if index == 0 else "mse",
            dtype=model.dtype,
            storage=model.storage,
            backend=model.backend,
        )
        for name, array in layer.parameters.items():
            stage.parameters[f"0.{name}"][...] = array
        try:
            best = _fit_stage(
                stage,
                _stage_data(model, data, index),
                _stage_config(config, model, index, len(data.train)),
                folder,
                group,
            )
        except Interrupted as stop:
            raise Interrupted(stop.number, f"stopped while pretraining layer {index}") from None
        for name, array in layer.parameters.items():
            array[...] = model.xp.asarray(best[f"0.{name}"])


def _fit_stage(
    stage: Autoencoder, data: Splits, config: Config, folder: Path, group: Group
) -> Mapping[str, np.ndarray[Any, Any]]:
    """Train one stage, or resume it; returns its best parameters."""
    parts = build_parts(config)
    configuration = dataclasses.asdict(config)
    if group.of_first(lambda: has_state(folder)):
        saved = group.of_first(lambda: read_state(folder))
        progress = restore(*saved, stage, parts.optimizer)
        check_resumable(progress, data, stage.loss.name)
    else:
        progress = begin(configuration, data, stage.loss.name)
    states = StateFolder(folder, configuration, config.trainer.keep_states)
    with Board(folder, progress.step, is_silent=not group.is_first) as board:
        if progress.step == 0:
            board.hyperparameters({"pretraining": f"layer {folder.name}"})
        ended = build_trainer(
            config, stage, parts, data, board, states, progress, group=group
        ).fit()
    assert ended.best is not None
    return ended.best


def _stage_data(model: Autoencoder, data: Splits, index: int) -> Splits:
    """Show a stage the images, or their codes by the layers below it."""
    if index == 0:
        return Splits(data.name, data.train, data.validation, data.test)
    train, validation, test = (
        Encoded(split, model, index) for split in (data.train, data.validation, data.test)
    )
    return Splits(data.name, train, validation, test)


def _stage_config(config: Config, model: Autoencoder, index: int, images: int) -> Config:
    """Adapt a run's configuration to one stage; its warm-up is a tenth of it at most."""
    is_uppermost = index == len(model.layers) - 1
    trainer = replace(config.trainer, epochs=config.trainer.pretrain_epochs)
    penalty = config.penalty if is_uppermost else replace(config.penalty, l1=0.0, kl=0.0)
    assert trainer.epochs is not None
    assert trainer.batch_size is not None
    steps = trainer.epochs * -(-images // trainer.batch_size)
    warmup = config.schedule.warmup and min(config.schedule.warmup, steps // 10)
    schedule = replace(config.schedule, warmup=warmup)
    config = replace(config, trainer=trainer, penalty=penalty, schedule=schedule)
    if index == 0:
        return config
    return replace(config, corruption=CorruptionConfig(), augmentation=AugmentationConfig())
