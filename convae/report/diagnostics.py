"""Checks of a model's health on one small batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from convae.engine import Array, to_numpy
from convae.engine.identity import backend_error
from convae.models.autoencoder import Autoencoder
from convae.models.model import Model


def dead_filters(H: Array) -> int:
    """Count the filters of a code (N, O, *output) that are constant over examples and positions."""
    axes = (0, *range(2, H.ndim))
    return int((H.max(axis=axes) == H.min(axis=axes)).sum())


def tied_halves(
    model: Autoencoder, x: Array, target: Array
) -> tuple[dict[str, Array], dict[int, dict[str, float]]]:
    """Compare the encoder's and the decoder's halves of the tied gradient, on a small batch.

    Returns the whole gradient, by the names of the model's parameters, and for each tied layer the
    norms of the two halves and the ``cosine`` of the angle between them (0 if one vanishes).
    """
    encoder, decoder = model.gradient_halves(x, target)
    halves = {}
    for index, layer in enumerate(model.layers):
        if layer.spec.tied:
            e, d = (to_numpy(half[f"{index}.kernel"]).ravel() for half in (encoder, decoder))
            norms = float(np.linalg.norm(e)), float(np.linalg.norm(d))
            cosine = float(e @ d) / (norms[0] * norms[1]) if all(norms) else 0.0
            halves[index] = {"encoder": norms[0], "decoder": norms[1], "cosine": cosine}
    return {name: encoder[name] + decoder[name] for name in encoder}, halves


def self_check(model: Model, examples: int) -> None:
    """Test the trilinear identity ``<c(K, V), G> = <V, h(K, G)> = <K, g(G, V)>`` on each layer.

    The kernels are the model's, V and G are random batches of as many examples as those of
    training, in the type in which activations are stored: what computes depends on both. A
    `RuntimeError` says that the backend's operations disagree by more than rounding can explain.
    """
    rng, backend = np.random.default_rng(0), model.backend
    dtype = model.storage or model.dtype

    def random(shape: tuple[int, ...]) -> Any:
        values = rng.standard_normal((examples, *shape), dtype="float32")
        return backend.arrange(backend.xp.asarray(values).astype(dtype))

    for index, layer in enumerate(model.layers):
        V, K = random(layer.input_shape), layer.parameters["kernel"].astype(dtype, copy=False)
        if not bool((K != 0).any()):  # of zeros there is nothing to compare
            K = backend.xp.asarray(rng.standard_normal(K.shape)).astype(dtype)
        # a G that points to c(K, V): with random ones the forms would be sums that nearly vanish
        Z = layer.c(K, V)
        G = random(Z.shape[1:]) + Z / backend.xp.sqrt(backend.xp.square(Z).mean())
        G = backend.arrange(G.astype(dtype, copy=False))
        error = backend_error(backend, K, V, G, layer.geometry)
        if not error < backend.tolerance[dtype]:
            raise RuntimeError(
                f"trainer.self_check: on layer {index} c, h and g differ by {error:.1e} of their "
                "norms, which rounding cannot explain; this machine or the engine computes wrong "
                "results: please report it"
            )
