"""Convolutional autoencoders with tied weights, without automatic differentiation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convae.version import __version__

if TYPE_CHECKING:
    from convae import engine
    from convae.app.entry import train
    from convae.data.augmentation import Augmentation
    from convae.data.corruption import Corruption, Use
    from convae.data.pictures import read_image
    from convae.data.scaling import Scaling
    from convae.errors import UserError
    from convae.export.formats import to_torch
    from convae.models.activations import Activation
    from convae.models.architecture import choose_layers
    from convae.models.autoencoder import Autoencoder
    from convae.models.classifier import Classifier
    from convae.models.extensions import register
    from convae.models.initialisation import initialise
    from convae.models.loading import load
    from convae.models.losses import Loss
    from convae.models.penalties import Penalty
    from convae.models.rbm import RBM
    from convae.models.sparse_coding import SparseCoding
    from convae.models.specification import Layer
    from convae.training.averaging import MovingAverage
    from convae.training.estimators import AnomalyDetector, AutoencoderTransformer
    from convae.training.joining import join
    from convae.training.optimizers import SGD, Adam, AdamW
    from convae.training.schedules import Cosine, OneCycle, Plateau, Schedule, StepDecay
    from convae.training.step import TrainingStep

__all__ = [
    "RBM",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "AnomalyDetector",
    "Augmentation",
    "Autoencoder",
    "AutoencoderTransformer",
    "Classifier",
    "Corruption",
    "Cosine",
    "Layer",
    "Loss",
    "MovingAverage",
    "OneCycle",
    "Penalty",
    "Plateau",
    "Scaling",
    "Schedule",
    "SparseCoding",
    "StepDecay",
    "TrainingStep",
    "Use",
    "UserError",
    "__version__",
    "choose_layers",
    "engine",
    "initialise",
    "join",
    "load",
    "read_image",
    "register",
    "to_torch",
    "train",
]

HOMES = {
    "convae.app.entry": ["train"],
    "convae.data.augmentation": ["Augmentation"],
    "convae.data.corruption": ["Corruption", "Use"],
    "convae.data.pictures": ["read_image"],
    "convae.data.scaling": ["Scaling"],
    "convae.errors": ["UserError"],
    "convae.export.formats": ["to_torch"],
    "convae.models.activations": ["Activation"],
    "convae.models.architecture": ["choose_layers"],
    "convae.models.autoencoder": ["Autoencoder"],
    "convae.models.classifier": ["Classifier"],
    "convae.models.rbm": ["RBM"],
    "convae.models.sparse_coding": ["SparseCoding"],
    "convae.models.extensions": ["register"],
    "convae.models.initialisation": ["initialise"],
    "convae.models.specification": ["Layer"],
    "convae.models.loading": ["load"],
    "convae.models.losses": ["Loss"],
    "convae.models.penalties": ["Penalty"],
    "convae.training.averaging": ["MovingAverage"],
    "convae.training.estimators": ["AnomalyDetector", "AutoencoderTransformer"],
    "convae.training.joining": ["join"],
    "convae.training.optimizers": ["SGD", "Adam", "AdamW"],
    "convae.training.schedules": ["Cosine", "OneCycle", "Plateau", "Schedule", "StepDecay"],
    "convae.training.step": ["TrainingStep"],
}
"""Where the public names are; each is imported when it is first used, so that commands start at
once and a script loads no more than it needs."""


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name == "engine":
        return import_module("convae.engine")
    for module, names in HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
