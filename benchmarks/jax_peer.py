"""The same tied autoencoder in JAX, with automatic differentiation and JIT compilation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import convae
from convae.engine import to_numpy

ACTIVATIONS = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "identity": lambda z: z}
LAYOUT = ("NHWC", "OIHW", "NHWC")  # for which XLA's CPU convolutions are faster

Arrays = dict[str, jax.Array]


def training_step(model: convae.Autoencoder, x: np.ndarray) -> Callable[[], float]:
    """Return JAX's training step with Adam, one compiled function, on a copy of the model."""
    layers = list(enumerate(model.layers))
    images = jnp.asarray(x.transpose(0, 2, 3, 1))

    def reconstruct(weights: Arrays, V: jax.Array) -> jax.Array:
        convolutions, H = [], V
        for i, layer in layers:

            def convolution(V: jax.Array, i: int = i, layer: object = layer) -> jax.Array:
                geometry = layer.geometry
                padding = geometry.padding
                K = weights[f"{i}.kernel"]
                return lax.conv_general_dilated(V, K, geometry.stride, padding, None, None, LAYOUT)

            convolutions.append((convolution, H))
            H = ACTIVATIONS[layer.hidden_activation.name](
                convolution(H) + weights[f"{i}.hidden_bias"]
            )
        for (i, layer), (convolution, V) in zip(
            reversed(layers), reversed(convolutions), strict=True
        ):
            (H,) = jax.linear_transpose(convolution, V)(H)
            H = ACTIVATIONS[layer.visible_activation.name](H + weights[f"{i}.visible_bias"])
        return H

    def loss(weights: Arrays) -> jax.Array:
        return jnp.mean((reconstruct(weights, images) - images) ** 2)

    @jax.jit
    def update(
        weights: Arrays, m: Arrays, v: Arrays, t: jax.Array
    ) -> tuple[Arrays, Arrays, Arrays, jax.Array, jax.Array]:
        J, gradients = jax.value_and_grad(loss)(weights)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        scale = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        epsilon = 1e-8 * jnp.sqrt(1 - 0.999**t)
        weights = jax.tree.map(
            lambda w, m, v: w - scale * m / (jnp.sqrt(v) + epsilon), weights, m, v
        )
        return weights, m, v, t, J

    weights = {name: jnp.asarray(to_numpy(array)) for name, array in model.parameters.items()}
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = [weights, zeros, zeros, jnp.zeros(())]

    def step() -> float:
        *state[:], J = update(*state)
        return float(J)

    return step
