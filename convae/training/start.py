"""The start of a run: initial parameters, from a sample of the training images."""

from __future__ import annotations

import logging
from math import prod

import numpy as np

from convae.configuration import Config
from convae.data.pictures import to_floats
from convae.data.splits import Split, Splits, kind, sample
from convae.engine import Array
from convae.models.autoencoder import Autoencoder
from convae.models.initialisation import FROM_DATA, initialise

log = logging.getLogger("convae")

IMAGES = 10_000
"""Training images from which parameters start, at most."""

BYTES = 2**30
"""Memory for them, at most."""


def start(model: Autoencoder, config: Config, data: Splits) -> None:
    """Give a model its initial parameters."""
    if config.init not in FROM_DATA:
        initialise(model, config.init)
        return
    images = starting_images(model, data.train)
    log.info(f"init={config.init}: from {len(images):,} training {kind(data.train.shape)}s")
    initialise(model, config.init, images)


def starting_images(model: Autoencoder, train: Split) -> Array:
    """Draw training images (N, C, H, W) at random, in random order, as many as memory is for."""
    images = min(IMAGES, max(BYTES // (4 * prod(train.shape)), 1))
    batches = sample(train, images).batches(256, np.random.default_rng([model.seed, 5]))
    return model.xp.concatenate([to_floats(p, model.backend, model.dtype) for p in batches])
