"""Convolutional autoencoders with tied weights, without automatic differentiation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convae import engine
from convae.errors import UserError
from convae.export.formats import to_torch
from convae.models.autoencoder import Autoencoder
from convae.models.layers import Layer
from convae.models.loading import load
from convae.models.penalties import Penalty
from convae.training.optimizers import SGD, Adam, AdamW
from convae.training.step import TrainingStep
from convae.version import __version__

if TYPE_CHECKING:
    from convae.app.entry import train

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Autoencoder",
    "Layer",
    "Penalty",
    "TrainingStep",
    "UserError",
    "__version__",
    "engine",
    "load",
    "to_torch",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import `train` when it is first used, since Hydra and the datasets take time to import."""
    if name == "train":
        from convae.app.entry import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
