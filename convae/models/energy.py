"""The energy of a restricted Boltzmann machine, and samples from it.

Visible units V are binary, or real with unit variance; hidden units H are binary. The energy is

    E(V, H) = -<H, c(K, V)> - <b, H> - <a, V>                  binary V
    E(V, H) = -<H, c(K, V)> - <b, H> + 1/2 |V - a|^2           real V

so that P(H = 1 | V) = sigmoid(c(K, V) + b), and the mean of V given H is f_out(h(K, H) + a), with a
sigmoid or the identity: a tied layer encodes and decodes. Summed over H, the energy becomes the
free energy

    F(V) = -<a, V> or 1/2 |V - a|^2, less the sum of softplus(c(K, V) + b).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from convae.engine import Array, array_module, biases
from convae.models.activations import SOFTPLUS
from convae.models.layers import TiedConvolution

STREAM = 7
"""Of the random numbers of a machine, beside those of a run's other parts."""

START = 0.01
"""Deviation of a machine's initial kernels (Hinton 2010): units begin nearly alike."""

LEAST = 0.01
"""Least mean of a binary unit for which a bias is computed."""


@dataclass(frozen=True)
class Energy:
    """The energy that a tied layer defines; its arrays are not checked.

    Parameters
    ----------
    layer : TiedConvolution
        Its hidden activation is the sigmoid; with a sigmoid on the visible side that is binary,
        with the identity real.
    """

    layer: TiedConvolution

    @property
    def is_binary(self) -> bool:
        """Whether the visible units are binary."""
        return self.layer.visible_activation.name == "sigmoid"

    def free(self, V: Array) -> Array:
        """Compute F(V): (N, C, *size) -> (N,) of float64."""
        layer, xp, axes = self.layer, array_module(V), tuple(range(1, V.ndim))
        Z = layer.c(layer.parameters["kernel"], V)
        b = biases.spread(layer.parameters.get("hidden_bias"), layer.geometry.output)
        softplus = layer.backend.activate(Z, b, SOFTPLUS).sum(axis=axes, dtype="float64")
        a = self._visible_bias(V)
        if self.is_binary:
            return -(a * V).sum(axis=axes, dtype="float64") - softplus
        return xp.square(V - a).sum(axis=axes, dtype="float64") / 2 - softplus

    def _visible_bias(self, V: Array) -> Array:
        """Return a, of a shape that broadcasts to V's; 0 where there is none."""
        a = biases.spread(self.layer.parameters.get("visible_bias"), self.layer.geometry.size)
        if a is None:
            return array_module(V).zeros((), V.dtype)
        return a.reshape(-1, *(1 for _ in V.shape[2:])) if a.ndim == 1 else a

    def resting_bias(self, mean: Array) -> Array:
        """Invert the visible activation: the bias of units that nothing is connected with."""
        if not self.is_binary:
            return mean
        xp = array_module(mean)
        mean = xp.clip(mean, LEAST, 1 - LEAST)
        return xp.log(mean / (1 - mean))

    def sample_hidden(self, V: Array, rng: np.random.Generator) -> Array:
        """Draw H given V: (N, C, *size) -> zeros and ones (N, O, *output)."""
        return _bernoulli(self.layer.encode(V)[0], rng)

    def sample_visible(self, H: Array, rng: np.random.Generator) -> Array:
        """Draw V given H: (N, O, *output) -> (N, C, *size)."""
        M = self.layer.decode(H)[0]
        if self.is_binary:
            return _bernoulli(M, rng)
        noise = rng.standard_normal(M.shape, dtype=M.dtype.name)
        return M + array_module(M).asarray(noise)

    def gibbs(self, V: Array, steps: int, rng: np.random.Generator) -> Array:
        """Draw hidden and then visible units, so many times."""
        for _ in range(steps):
            V = self.sample_visible(self.sample_hidden(V, rng), rng)
        return V

    def misfit(self, V: Array, seed: int) -> Array:
        """Measure how badly data fit, per visible unit, where the likelihood cannot be computed."""
        return self._pseudo_likelihood(V, seed) if self.is_binary else self._score_matching(V)

    def _pseudo_likelihood(self, V: Array, seed: int) -> Array:
        """``-log P(v | the others)`` of a unit of each example, drawn at random (Besag 1975)."""
        xp, N, size = array_module(V), len(V), prod(V.shape[1:])
        of_batch = abs(round(float(V.sum(dtype="float64"))))  # other units for other images
        units = np.random.default_rng([seed, STREAM, of_batch]).integers(size, size=N)
        where = xp.arange(N), xp.asarray(units)
        flipped = V.reshape(N, size).copy()
        flipped[where] = 1 - flipped[where]
        rise = self.free(flipped.reshape(V.shape)) - self.free(V)
        return xp.logaddexp(0, -rise).mean()

    def _score_matching(self, V: Array) -> Array:
        """``1/2 (dF/dv)^2 - d2F/dv2``, mean over units and examples (Hyvarinen 2005)."""
        layer, xp = self.layer, array_module(V)
        K = layer.parameters["kernel"]
        P = layer.encode(V)[0]
        slope = V - self._visible_bias(V) - layer.h(K, P)
        bend = 1 - layer.h(K * K, P * (1 - P))
        return (xp.square(slope) / 2 - bend).mean(dtype="float64")


def _bernoulli(P: Array, rng: np.random.Generator) -> Array:
    """Draw zeros and ones of these probabilities, on the host, the same for every device."""
    drawn = array_module(P).asarray(rng.random(P.shape, dtype=P.dtype.name))
    return (drawn < P).astype(P.dtype)
