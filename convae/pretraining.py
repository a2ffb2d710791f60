"""Greedy layer-wise pretraining (Bengio et al. 2007): each layer alone, on the codes below it.

Every stage is an ordinary run in a folder of its own, ``pretraining/<layer>``, with its models,
states and curves; so it goes on, when the run goes on, from where it was.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convae.autoencoder import Autoencoder
from convae.build import build_optimizer
from convae.configuration import Config, CorruptionConfig
from convae.engine import Array, to_numpy
from convae.saved import BEST, load
from convae.signals import Interrupted
from convae.splits import Labels, Split, Splits, to_floats
from convae.state import has_state, read_state, restore
from convae.trainer import fit

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

    def __len__(self) -> int:
        """Count the images."""
        return len(self.split)

    def select(self, indices: np.ndarray[Any, Any]) -> Encoded:
        """Take some of the images, by their positions."""
        return replace(self, split=self.split.select(indices))

    def batches(
        self, size: int, rng: np.random.Generator | None = None, skip: int = 0
    ) -> Iterator[Array]:
        """Walk through all images once, shuffled if a generator is given; see `Split`."""
        for pixels in self.split.batches(size, rng, skip):
            H = to_floats(pixels, self.model.xp, self.model.dtype)
            for layer in self.model.layers[: self.depth]:
                H, _ = layer.encode(H)
            yield to_numpy(H)


def pretrain(model: Autoencoder, data: Splits, config: Config, directory: Path) -> None:
    """Train each layer in turn as an autoencoder of its own, from the image upwards.

    A stage minimises the run's loss where it sees images, and the mean squared error of codes above
    that. Noise is put on images only, and the code's own penalties on the uppermost layer only.

    Parameters
    ----------
    model : Autoencoder
        Its parameters are overwritten, layer by layer, with the best of each stage.
    data : Splits
        The images.
    config : Config
        The run's configuration; `trainer.pretrain_epochs` says how long a stage takes.
    directory : Path
        The run's folder.

    Raises
    ------
    FloatingPointError, Interrupted, OSError
        As in `convae.trainer.fit`.
    """
    for index, layer in enumerate(model.layers):
        log.info(f"pretraining layer {index} for {config.trainer.pretrain_epochs} epochs")
        folder = directory / STAGES / str(index)
        stage = Autoencoder(
            layer.input_shape,
            [layer.layer],
            output_activation=layer.visible_activation.name,
            loss=model.loss.name if index == 0 else "mse",
            dtype=model.dtype,
            device=model.device,
            storage=None if model.storage == model.dtype else model.storage,
        )
        for name, array in layer.parameters.items():
            stage.parameters[f"0.{name}"][...] = array
        halves = [getattr(data, part) for part in ("train", "validation", "test")]
        if index > 0:
            halves = [Encoded(half, model, index) for half in halves]
        optimizer = build_optimizer(config.optimizer)
        progress = None
        if has_state(folder):
            progress = restore(*read_state(folder), stage, optimizer)
        is_last = index == len(model.layers) - 1
        codes = Splits(data.name, *halves)
        try:
            fit(stage, optimizer, codes, _of_stage(config, index, is_last), folder, progress)
        except Interrupted as stop:
            raise Interrupted(
                stop.number,
                f"stopped while pretraining layer {index}; "
                f"to go on: python train.py resume={directory}",
            ) from None
        best = load(folder / BEST, device=model.device)
        for name, array in layer.parameters.items():
            array[...] = best.parameters[f"0.{name}"]


def _of_stage(config: Config, index: int, is_last: bool) -> Config:
    """Adapt a run's configuration to one stage."""
    trainer = dataclasses.replace(config.trainer, epochs=config.trainer.pretrain_epochs)
    penalty = config.penalty if is_last else dataclasses.replace(config.penalty, l1=0.0, kl=0.0)
    corruption = config.corruption if index == 0 else CorruptionConfig()
    return dataclasses.replace(config, trainer=trainer, penalty=penalty, corruption=corruption)
