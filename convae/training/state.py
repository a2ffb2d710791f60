"""The state of a run on disk: all that it takes to resume as if nothing had happened."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from convae.data.splits import Splits
from convae.engine import to_numpy
from convae.errors import UserError
from convae.models import checkpoint
from convae.models.autoencoder import Autoencoder
from convae.training.optimizers import Optimizer

log = logging.getLogger("convae")

LAYOUT = 2
"""Order of the parameters in the optimizer's vectors; a state of another order is refused."""

KEPT = 2
"""States kept of a run: the newest, and one to fall back on."""


@dataclass
class LossSum:
    """A running sum of losses.

    Parameters
    ----------
    total : float or 0-d ndarray
        Sum of the batches' mean losses, each times its images; perhaps on the device.
    images : int
        Images counted.
    """

    total: Any = 0.0
    images: int = 0

    def add(self, loss: Any, images: int) -> None:
        """Add the mean loss of a batch, a 0-d array, without waiting for the device."""
        self.total = self.total + loss * images
        self.images += images

    def mean(self) -> float:
        """Mean loss over the images; waits for the device."""
        return float(self.total) / self.images


@dataclass
class Progress:
    """How far a run has come.

    Parameters
    ----------
    epoch : int
        Epochs completed.
    batch : int
        Batches done of the current epoch.
    step : int
        Updates of the parameters done.
    steps_per_epoch : int
        Updates that an epoch takes.
    best_epoch : int
        The epoch of the lowest validation loss so far.
    best_loss : float
        That loss.
    whole, recent : LossSum
        Training losses of the current epoch, and since the last point of the curves.
    order : dict
        State of the generator that shuffles the images, at the start of the current epoch.
    schedule : dict
        State of the learning-rate schedule.
    run : str
        The run's id, which its states, its models and its summary carry; see `run_id`.
    steps : int
        Steps of the whole run, as planned.
    data : dict
        Fingerprints of training, validation and test images.
    loss : str
        Name of the loss that `best_loss` is of.
    average : (M,) ndarray or None
        Moving average of the parameters when the state was saved, on the host.
    best : dict or None
        The parameters of the best epoch by name, on the host: with them the best model's file can
        be restored whatever happened to it.
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
    run: str = ""
    steps: int = 0
    data: dict[str, str] = field(default_factory=dict)
    loss: str = ""
    average: np.ndarray[Any, Any] | None = None
    best: dict[str, np.ndarray[Any, Any]] | None = None

    @classmethod
    def fresh(cls, seed: int) -> Progress:
        """Return the start of a run, whose seed decides the order of the images."""
        return cls(order=dict(np.random.default_rng([seed, 2]).bit_generator.state))

    def plain(self) -> dict[str, Any]:
        """Return all fields but the arrays in plain values, ready for JSON."""
        values = dataclasses.asdict(dataclasses.replace(self, average=None, best=None))
        del values["average"], values["best"]
        for name in ("whole", "recent"):
            values[name]["total"] = float(values[name]["total"])
        return values

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Progress:
        """Rebuild what `plain` described."""
        sums = {name: LossSum(**values[name]) for name in ("whole", "recent")}
        return cls(**{**values, **sums})


@dataclass(frozen=True)
class StateFolder:
    """Where a run's states are saved: its folder, the newest `KEPT` of them.

    Parameters
    ----------
    directory : Path
        The run's folder.
    configuration : mapping
        The run's configuration in plain values, kept in every state.
    """

    directory: Path
    configuration: Mapping[str, Any]

    def save(self, model: Autoencoder, optimizer: Optimizer, progress: Progress) -> Path:
        """Write a state beside the earlier ones; they are untouched if it cannot be written."""
        arrays = {f"model.{name}": to_numpy(array) for name, array in model.parameters.items()}
        arrays |= {f"optimizer.{name}": to_numpy(array) for name, array in optimizer.state.items()}
        if progress.average is not None:
            arrays["average"] = progress.average
        arrays |= {f"best.{name}": array for name, array in (progress.best or {}).items()}
        description = {
            "layout": LAYOUT,
            "model": model.configuration(),
            "optimizer_steps": optimizer.steps,
            "progress": progress.plain(),
            "configuration": self.configuration,
        }
        path = self.directory / f"state-{progress.step:09d}.safetensors"
        checkpoint.write(path, arrays, description)
        for old in _states(self.directory)[KEPT:]:
            old.unlink(missing_ok=True)
        return path


def run_id(configuration: Mapping[str, Any], data: Mapping[str, str]) -> str:
    """Identify a run by all that decides its result, so that a repeated run has equal files.

    These are its configuration and the fingerprints of its images -> 16 hexadecimal digits
    """
    content = json.dumps([configuration, data], sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _states(directory: Path) -> list[Path]:
    """List a run's states, newest first."""
    pattern = re.compile(r"state-\d{9}\.safetensors")
    return sorted((p for p in directory.glob("state-*") if pattern.fullmatch(p.name)), reverse=True)


def has_state(directory: Path) -> bool:
    """Tell whether a folder holds a state of a run, damaged or not."""
    return bool(_states(directory))


def used_folder(directory: str | os.PathLike[str]) -> str:
    """Say that a folder holds a run already, and what to do."""
    folder = os.fspath(directory)
    return (
        f"hydra.run.dir: {folder!r} holds a run already; resume it with resume={folder}, or choose "
        "another folder"
    )


def read_state(
    directory: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Read the newest intact state of a run: its arrays, and the description beside them."""
    folder = Path(directory)
    states = _states(folder)
    if not states:
        raise FileNotFoundError(
            f"resume: {os.fspath(directory)!r} holds no state of a run; expected the folder of a "
            "run, such as one under outputs/"
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
    raise UserError(f"resume: all states in {os.fspath(directory)!r} are damaged")


def restore(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    description: Mapping[str, Any],
    model: Autoencoder,
    optimizer: Optimizer,
) -> Progress:
    """Restore a model and an optimizer from a state, and return how far the run had come."""
    if description.get("layout") != LAYOUT:
        raise UserError(
            "resume: the state was written by another version of convae, with another layout of "
            "the optimizer's vectors; resume it with that version"
        )
    parameters = {f"model.{name}": array for name, array in model.parameters.items()}
    shapes = {name: array.shape for name, array in arrays.items() if name.startswith("model.")}
    if shapes != {name: array.shape for name, array in parameters.items()}:
        raise UserError("resume: the state belongs to another model; do not change the model")
    vectors = {name for name in arrays if name.startswith("optimizer.")}
    if not vectors <= {f"optimizer.{name}" for name in optimizer.vectors}:
        raise UserError(
            "resume: the state belongs to another optimizer; do not change optimizer.name"
        )
    for name, array in parameters.items():
        array[...] = model.xp.asarray(arrays[name])
    for name in vectors:
        optimizer.state[name.removeprefix("optimizer.")] = model.xp.array(arrays[name])
    optimizer.steps = description["optimizer_steps"]
    progress = Progress.from_plain(description["progress"])
    progress.average = arrays.get("average")
    best = {n.removeprefix("best."): a for n, a in arrays.items() if n.startswith("best.")}
    progress.best = best or None
    return progress


def check_resumable(progress: Progress, data: Splits, loss: str) -> None:
    """Compare a state with what the run is resumed with.

    Other images, or another division of them, are refused, since training images could become test
    images. Another loss makes the best loss so far meaningless, so the search for the best epoch
    starts again.
    """
    found = data.fingerprints()  # reads every pixel in memory: once
    if progress.data and progress.data != found:
        changed = [name for name in found if progress.data.get(name) != found[name]]
        raise UserError(
            f"resume: the {', '.join(changed)} images are not those of the run's beginning (files, "
            "seed or dataset settings changed), so training images could become test images; "
            "restore them, or start a new run"
        )
    if progress.loss and progress.loss != loss:
        log.warning(
            f"warning: the loss is now {loss!r} instead of {progress.loss!r}: the best epoch is "
            "searched for from here on"
        )
        progress.best_loss, progress.best_epoch, progress.best = inf, 0, None
    progress.data, progress.loss = found, loss
