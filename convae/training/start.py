"""The start of a run: initial parameters, from a sample of the training images."""

from __future__ import annotations

import logging
from math import prod

import numpy as np

from convae.configuration import Config
from convae.data.pictures import to_floats
from convae.data.splits import Split, Splits
from convae.engine import Array
from convae.models.autoencoder import Autoencoder
from convae.models.initialisation import FROM_DATA, initialise

log = logging.getLogger("convae")

IMAGES = 10_000
"""Training images from which parameters start, at most."""

BYTES = 2**30
"""Memory for these images and their codes, about."""


def start(model: Autoencoder, config: Config, data: Splits) -> None:
    """Give a model its initial parameters."""
    if config.init not in FROM_DATA:
        initialise(model, config.init)
        return
    images = sample(model, data.train)
    log.info(f"init={config.init}: from {len(images):,} training images")
    initialise(model, config.init, images)


def sample(model: Autoencoder, train: Split) -> Array:
    """Draw as many training images (N, C, H, W) as fit into memory with their codes."""
    codes = [prod(model.input_shape), *(prod(layer.output_shape) for layer in model.layers)]
    each = (
        4 * 3 * sum(sorted(codes)[-2:])
    )  # of two neighbours at a time, as they are and as patches
    count = min(IMAGES, len(train), max(BYTES // each, 1))
    chosen = np.sort(np.random.default_rng([model.seed, 5]).permutation(len(train))[:count])
    batches = train.select(chosen).batches(256)
    x = [to_floats(pixels, model.backend, model.dtype) for pixels in batches]
    return model.xp.concatenate(x)
