"""What can be said of a model's health from one small batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from convae import engine
from convae.autoencoder import Autoencoder
from convae.engine import Array, to_numpy

EXAMPLES = 2
"""Random examples with which the self-check tests each layer."""

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
"""Errors of the trilinear identity that rounding cannot explain, relative to the norms."""

TF32_TOLERANCE = 1e-3
"""The same where a GPU rounds factors to TF32."""


def codes(model: Autoencoder, x: Array) -> list[Array]:
    """Encode images and keep what every layer makes of them.

    Parameters
    ----------
    model : Autoencoder
        The model.
    x : (N, C, *size) ndarray
        Images.

    Returns
    -------
    list of (N, O, *output) ndarray
        The layers' codes, from the image upwards.
    """
    found = []
    for layer in model.layers:
        x, _ = layer.encode(x)
        found.append(x)
    return found


def dead_filters(H: Array) -> int:
    """Count the filters whose activation is the same at every position of every example.

    Parameters
    ----------
    H : (N, O, *output) ndarray
        A layer's code of several images.

    Returns
    -------
    int
        How many of the O filters tell nothing about any image.
    """
    axes = (0, *range(2, H.ndim))
    return int((H.max(axis=axes) == H.min(axis=axes)).sum())


def tied_halves(
    model: Autoencoder, x: Array, target: Array
) -> tuple[dict[str, Array], dict[int, dict[str, float]]]:
    """Compare what the encoder and the decoder ask of the kernel that they share.

    Parameters
    ----------
    model : Autoencoder
        The model.
    x, target : (N, C, *size) ndarray
        A small batch, and what its reconstruction is compared with.

    Returns
    -------
    gradients : dict
        The whole gradient, by the names of the model's parameters.
    halves : dict
        For each tied layer: ``encoder`` and ``decoder``, the norms of the two halves of the
        kernel's gradient, and the ``cosine`` of the angle between them (0 if one half is 0).
    """
    encoder, decoder = model.gradient_halves(x, target)
    halves = {}
    for index, layer in enumerate(model.layers):
        if layer.layer.tied:
            e, d = (to_numpy(half[f"{index}.kernel"]).ravel() for half in (encoder, decoder))
            norms = float(np.linalg.norm(e)), float(np.linalg.norm(d))
            cosine = float(e @ d) / (norms[0] * norms[1]) if all(norms) else 0.0
            halves[index] = {"encoder": norms[0], "decoder": norms[1], "cosine": cosine}
    return {name: encoder[name] + decoder[name] for name in encoder}, halves


def self_check(model: Autoencoder, tf32: bool = False) -> None:
    """Test the trilinear identity ``<c(K, V), G> = <V, h(K, G)> = <K, g(G, V)>`` on each layer.

    Parameters
    ----------
    model : Autoencoder
        Its kernels are used as they are; V and G are random.
    tf32 : bool
        Whether a GPU may round factors to TF32.

    Raises
    ------
    RuntimeError
        If the engine's c, h and g do not agree on a layer within rounding.
    """
    rng = np.random.default_rng(0)

    def random(*shape: int) -> Any:
        return model.xp.asarray(rng.standard_normal(shape).astype(model.dtype))

    for index, layer in enumerate(model.layers):
        V, G = random(EXAMPLES, *layer.input_shape), random(EXAMPLES, *layer.output_shape)
        error = engine.trilinear_error(layer.parameters["kernel"], V, G, **layer.how)
        if not error < (TF32_TOLERANCE if tf32 else TOLERANCE[model.dtype]):
            raise RuntimeError(
                f"trainer.self_check: on layer {index} c, h and g differ by {error:.1e} of their "
                "norms, which rounding cannot explain; this machine, or the engine, computes wrong "
                "results: please report it"
            )
