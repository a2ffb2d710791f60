"""Where a run stands, on disk: all that it takes to go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from convae import checkpoint
from convae.autoencoder import Autoencoder
from convae.engine import to_numpy
from convae.optimizers import Optimizer

log = logging.getLogger("convae")

LAYOUT = 2
"""Order of the parameters in the optimizer's vectors; a state of another order is refused."""

KEPT = 2
"""States kept of a run: the newest, and one to fall back on."""


@dataclass
class LossSum:
    """Losses added up over a stretch of training.

    Parameters
    ----------
    total : float or 0-d ndarray
        Sum of the batches' mean losses, each times its images; it may lie on the device.
    images : int
        Images counted.
    """

    total: Any = 0.0
    images: int = 0

    def add(self, loss: Any, images: int) -> None:
        """Count one batch; nothing waits for the device.

        Parameters
        ----------
        loss : 0-d ndarray
            Mean loss of the batch.
        images : int
            Its images.
        """
        self.total = self.total + loss * images
        self.images += images

    def mean(self) -> float:
        """Mean loss over the images, waiting for the device."""
        return float(self.total) / self.images


@dataclass
class Progress:
    """How far a run has come.

    Parameters
    ----------
    epoch : int
        Epochs completed.
    batch : int
        Batches done of the epoch under way.
    step : int
        Updates of the parameters done.
    steps_per_epoch : int
        Updates that an epoch takes.
    best_epoch : int
        The epoch with the lowest validation loss so far.
    best_loss : float
        That loss.
    whole, recent : LossSum
        Training losses of the epoch under way, and since the last point of the curves.
    order : dict
        State of the generator that shuffles the images, at the start of the epoch under way.
    schedule : dict
        What the learning rate's schedule has taken note of.
    average : (M,) ndarray or None
        Moving average of the parameters when the state was saved, on the host.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    best_epoch: int = 0
    best_loss: float = inf
    whole: LossSum = field(default_factory=LossSum)
    recent: LossSum = field(default_factory=LossSum)
    order: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    average: np.ndarray[Any, Any] | None = None

    @classmethod
    def fresh(cls, seed: int) -> Progress:
        """Stand at the start of a run.

        Parameters
        ----------
        seed : int
            The run's seed; it decides the order of the images.

        Returns
        -------
        Progress
            Nothing done yet.
        """
        return cls(order=dict(np.random.default_rng([seed, 2]).bit_generator.state))

    def plain(self) -> dict[str, Any]:
        """Describe the progress in plain values, ready for JSON.

        Returns
        -------
        dict
            The fields but the average; sums are fetched from the device.
        """
        values = dataclasses.asdict(self)
        del values["average"]
        for name in ("whole", "recent"):
            values[name]["total"] = float(values[name]["total"])
        return values

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Progress:
        """Rebuild what `plain` described.

        Parameters
        ----------
        values : mapping
            The fields.

        Returns
        -------
        Progress
            The progress.
        """
        sums = {name: LossSum(**values[name]) for name in ("whole", "recent")}
        return cls(**{**values, **sums})


def save_state(
    directory: Path,
    model: Autoencoder,
    optimizer: Optimizer,
    progress: Progress,
    configuration: Mapping[str, Any],
) -> Path:
    """Write a run's state beside the earlier ones, and remove all but the newest `KEPT`.

    Parameters
    ----------
    directory : Path
        The run's folder.
    model, optimizer, progress
        What is saved.
    configuration : mapping
        The run's configuration in plain values.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        If it cannot be written; the earlier states are then untouched.
    """
    arrays = {f"model.{name}": to_numpy(array) for name, array in model.parameters.items()}
    arrays |= {f"optimizer.{name}": to_numpy(array) for name, array in optimizer.state.items()}
    if progress.average is not None:
        arrays["average"] = progress.average
    description = {
        "layout": LAYOUT,
        "model": model.configuration(),
        "optimizer_steps": optimizer.steps,
        "progress": progress.plain(),
        "configuration": configuration,
    }
    path = directory / f"state-{progress.step:09d}.safetensors"
    checkpoint.write(path, arrays, description)
    for old in _states(directory)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def _states(directory: Path) -> list[Path]:
    """List a run's states, newest first."""
    pattern = re.compile(r"state-\d{9}\.safetensors")
    return sorted((p for p in directory.glob("state-*") if pattern.fullmatch(p.name)), reverse=True)


def has_state(directory: Path) -> bool:
    """Tell whether there is a run in a folder that can go on.

    Parameters
    ----------
    directory : Path
        The folder, which need not exist.

    Returns
    -------
    bool
        Whether it holds a state, damaged or not.
    """
    return bool(_states(directory))


def read_state(
    directory: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Read the newest state of a run that is not damaged.

    Parameters
    ----------
    directory : path
        The run's folder.

    Returns
    -------
    arrays : dict
        Parameters and the optimizer's vectors.
    description : dict
        What `save_state` wrote beside them.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no state in it.
    ValueError
        If all its states are damaged.
    """
    folder = Path(directory)
    states = _states(folder)
    if not states:
        raise FileNotFoundError(
            f"resume: {os.fspath(directory)!r} holds no state of a run; give the folder of a run, "
            "such as one under outputs/"
        )
    for path in states:
        try:
            arrays, description = checkpoint.read(path)
        except ValueError as error:
            log.warning(f"warning: {error}; trying the state before it")
            continue
        if "progress" in description:
            return arrays, description
        log.warning(f"warning: {path} holds no state of a run; trying the one before it")
    raise ValueError(f"resume: all states in {os.fspath(directory)!r} are damaged")


def restore(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    description: Mapping[str, Any],
    model: Autoencoder,
    optimizer: Optimizer,
) -> Progress:
    """Put a state back into a model and an optimizer.

    Parameters
    ----------
    arrays, description : mapping
        What `read_state` returned.
    model, optimizer
        Freshly built; overwritten.

    Returns
    -------
    Progress
        How far the run had come.

    Raises
    ------
    ValueError
        If the state belongs to another model or optimizer, or to a version whose vectors are laid
        out otherwise.
    """
    if description.get("layout") != LAYOUT:
        raise ValueError(
            "resume: the state was written by another version of convae, which laid the "
            "optimizer's vectors out in another order; go on with that version"
        )
    parameters = {f"model.{name}": array for name, array in model.parameters.items()}
    shapes = {name: array.shape for name, array in arrays.items() if name.startswith("model.")}
    if shapes != {name: array.shape for name, array in parameters.items()}:
        raise ValueError("resume: the state belongs to another model; leave model as it was")
    vectors = {name for name in arrays if name.startswith("optimizer.")}
    if not vectors <= {f"optimizer.{name}" for name in optimizer.vectors}:
        raise ValueError("resume: the state is another optimizer's; leave optimizer.name as it was")
    for name, array in parameters.items():
        array[...] = model.xp.asarray(arrays[name])
    for name in vectors:
        optimizer.state[name.removeprefix("optimizer.")] = model.xp.array(arrays[name])
    optimizer.steps = description["optimizer_steps"]
    progress = Progress.from_plain(description["progress"])
    progress.average = arrays.get("average")
    return progress
