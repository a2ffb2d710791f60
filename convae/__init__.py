"""Convolutional autoencoders with tied weights, without automatic differentiation."""

from convae import engine
from convae.autoencoder import Autoencoder
from convae.export import to_torch
from convae.layers import Layer
from convae.optimizers import SGD, Adam, AdamW
from convae.penalties import Penalty
from convae.saved import load
from convae.step import TrainingStep
from convae.version import __version__

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Autoencoder",
    "Layer",
    "Penalty",
    "TrainingStep",
    "__version__",
    "engine",
    "load",
    "to_torch",
]
