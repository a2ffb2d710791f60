"""The start of a run: initial parameters, from a sample of the training images or another model."""

from __future__ import annotations

import logging
from math import prod
from pathlib import Path

import numpy as np

from convae.configuration import INITIALISATIONS, Config
from convae.data.pictures import to_floats
from convae.data.splits import Split, Splits, kind, sample, shuffled
from convae.engine import Array, to_numpy
from convae.errors import UserError
from convae.models.autoencoder import Autoencoder
from convae.models.classifier import Classifier
from convae.models.initialisation import FROM_DATA, initialise
from convae.models.loading import load
from convae.models.model import Model

log = logging.getLogger("convae")

IMAGES = 10_000
"""Training images from which parameters start, at most."""

BYTES = 2**30
"""Memory for them, at most."""


def start(model: Model, config: Config, data: Splits) -> None:
    """Give a model its initial parameters."""
    examples = f"training {kind(data.train.shape)}s"
    if (source := source_of(config)) is not None:
        warm_start(model, source, str(config.init))
        log.info(f"init={config.init}: its parameters")
    elif isinstance(model, Autoencoder):
        method = config.init or ("he" if model.pools else "pca")
        if method not in FROM_DATA:
            initialise(model, method)
            return
        images = starting_images(model, data.train)
        log.info(f"init={method}: from {len(images):,} {examples}")
        initialise(model, method, images)
    elif isinstance(model, Classifier):
        if config.init in FROM_DATA:
            raise UserError(
                f"init: {config.init!r} is for what reconstructs; with task=classify orthogonal, "
                "he or the folder of an autoencoder's run"
            )
        initialise(model, config.init or "he")
    else:
        model.start_from(starting_images(model, data.train))


def source_of(config: Config) -> Model | None:
    """Load the model whose parameters a run starts from; None where it starts anew."""
    if config.init is None or config.init in INITIALISATIONS:
        return None
    if not Path(config.init).exists():
        raise UserError(
            f"init: {config.init!r} is neither {', '.join(INITIALISATIONS)}, nor the folder of a "
            "run, nor a model's file"
        )
    return load(config.init)


def warm_start(model: Model, source: Model, name: str) -> None:
    """Copy the parameters of another model; of the layers below the top for a classifier.

    A `UserError` says which layer differs.
    """
    is_encoder = isinstance(model, Classifier) and not isinstance(source, Classifier)
    layers = model.layers[:-1] if is_encoder else model.layers
    theirs, ours = (
        f"{len(each)} layers on examples of {owner.input_shape}"
        for each, owner in ((source.layers, source), (layers, model))
    )
    if len(layers) != len(source.layers):
        raise UserError(
            f"init: the model of {name} has {theirs}, this one {ours}; leave model out to have its "
            "layers"
        )
    for index, (layer, other) in enumerate(zip(layers, source.layers, strict=True)):
        same = ("kernel", "stride", "padding", "activation") if is_encoder else ()
        shapes = {k: other.shapes.get(k) for k in layer.shapes}
        if shapes != layer.shapes or any(
            getattr(layer.spec, key) != getattr(other.spec, key) for key in same
        ):
            raise UserError(
                f"init: layer {index} of the model of {name} differs from that of this one (it has "
                f"{theirs}, this one {ours}); take images of that size, and leave model out to "
                "have its layers"
            )
        for key, array in layer.parameters.items():
            array[...] = model.xp.asarray(to_numpy(other.parameters[key]))
    if is_encoder:  # all classes begin alike, however large codes are
        for array in model.layers[-1].parameters.values():
            array[...] = 0


def starting_images(model: Model, train: Split) -> Array:
    """Draw training images (N, C, H, W) at random, in random order, as many as memory is for."""
    images = min(IMAGES, max(BYTES // (4 * prod(train.shape)), 1))
    some = sample(train, images)
    batches = some.batches(256, shuffled(some, np.random.default_rng([model.seed, 5])))
    return model.xp.concatenate([to_floats(p, model.backend, model.dtype) for p in batches])
