"""The convolutional restricted Boltzmann machine (Lee et al. 2009), by the same three operations.

`convae.models.energy` says what its energy is. The gradient of the likelihood is that of the free
energy F at samples of the model less that at the data; in the kernel it is

    g(P(H | V'), V') - g(P(H | V), V).

Contrastive divergence (Hinton 2002) takes V' from a few steps of Gibbs sampling that begin at the
data, its persistent form (Tieleman 2008) from chains that go on. See *Deep Learning*, sections 18.2
and 20.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from convae.engine import Array, Backend
from convae.errors import UserError, check_range
from convae.models.backpropagation import mean_activation, training_chunks
from convae.models.energy import START, STREAM, Energy
from convae.models.initialisation import mean_of
from convae.models.parameters import Gradients
from convae.models.penalties import NONE, Penalty
from convae.models.single import SingleLayer
from convae.models.specification import Layer


class RBM(SingleLayer):
    """A restricted Boltzmann machine whose weights are a convolution's.

    `encode` returns P(H = 1 | V), `decode` the mean of V given H. What all models share is in
    `convae.models.model.Model`.

    Parameters
    ----------
    input_shape : (C, *size) sequence of int
        Shape of one example; 1, 2 or 3 axes of positions.
    layers : sequence of one Layer, or of a mapping of its arguments
        It is tied, and its activation the sigmoid.
    output_activation : {"sigmoid", "identity"}
        "sigmoid" for binary visible units, of which values from 0 to 1 are the probabilities;
        "identity" for real ones of unit variance.
    steps : int
        Steps of Gibbs sampling for a gradient, k of CD-k.
    chains : int
        0 to begin them at the data; otherwise so many chains go on from step to step (persistent
        contrastive divergence).
    seed : int
        Seed of the initial kernels, and of all samples of training.
    dtype, device, storage, backend
        As in `convae.Autoencoder`; storage has to be None.

    Raises
    ------
    UserTypeError, UserError
        If an argument is malformed or the layers do not fit; the message names the argument.
    DeviceError
        If the device is "gpu" and there is none.
    """

    kind = "rbm"
    penalties = ("l1", "kl", "weight_decay")
    wanted: ClassVar[dict[str, Any]] = {"activation": "sigmoid", "tied": True}
    arguments = ("steps", "chains")

    def __init__(
        self,
        input_shape: Sequence[int],
        layers: Sequence[Layer | Mapping[str, Any]],
        output_activation: str = "sigmoid",
        steps: int = 1,
        chains: int = 0,
        seed: int = 0,
        dtype: str | type | np.dtype[Any] = "float32",
        device: str = "cpu",
        storage: None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        check_range("steps", steps, at_least=1, integer=True)
        check_range("chains", chains, at_least=0, integer=True)
        if output_activation not in ("sigmoid", "identity"):
            raise UserError(
                f"output_activation: {output_activation!r}; an RBM's visible units are binary, "
                "with 'sigmoid', or real, with 'identity'"
            )
        super().__init__(
            input_shape, layers, output_activation, seed, dtype, device, storage, backend
        )
        self.steps, self.chains = steps, chains
        self.energy = Energy(self.layers[0])
        self.state = {"draws": np.zeros(1, "int64")}
        if chains:
            self.state["chains"] = self.xp.asarray(
                self._generator().random((chains, *self.input_shape)) < 0.5
            ).astype(self.dtype)
        K = self.parameters["0.kernel"]
        K[...] = self.xp.asarray(START * np.random.default_rng(seed).standard_normal(K.shape))

    @classmethod
    def state_shapes(
        cls, configuration: Mapping[str, Any]
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and type of each array of `state`; see `Model.state_shapes`.

        Parameters
        ----------
        configuration : mapping
            As `configuration` returns it.

        Returns
        -------
        dict
            ``draws``, how often samples were drawn, and ``chains``, if they go on.
        """
        found: dict[str, tuple[tuple[int, ...], str]] = {"draws": ((1,), "int64")}
        if configuration["chains"]:
            shape = (configuration["chains"], *configuration["input_shape"])
            found["chains"] = shape, configuration["dtype"]
        return found

    def free_energy(self, x: Array) -> Array:
        """Compute the free energy of images.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Visible units.

        Returns
        -------
        (N,) ndarray of float64
            F(V); the probability of V is ``exp(-F(V))``, up to a factor that all V share.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        return self.energy.free(self._check("x", x, self.input_shape))

    def gibbs(self, x: Array, steps: int, seed: int = 0) -> Array:
        """Go some steps of Gibbs sampling, each drawing hidden and then visible units.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Visible units to begin with.
        steps : int
            How many.
        seed : int
            Seed of what is drawn, the same on every device.

        Returns
        -------
        (N, C, *size) ndarray
            Visible units.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit, or steps or seed are negative.
        """
        check_range("steps", steps, at_least=0, integer=True)
        check_range("seed", seed, at_least=0, integer=True)
        x = self._check("x", x, self.input_shape)
        return self.energy.gibbs(x, steps, np.random.default_rng(seed))

    def start_from(self, images: Array) -> None:
        """Start the visible bias where images are on average; see `Model.start_from`.

        Parameters
        ----------
        images : (N, C, *size) ndarray
            Training images, in random order.
        """
        self._check_finite(images)
        if (a := self.parameters.get("0.visible_bias")) is not None:
            a[...] = self.energy.resting_bias(mean_of(self.backend, images, a.shape))

    def samples(self, count: int, steps: int = 200, seed: int = 0) -> Array:
        """Draw images from the model, by Gibbs sampling that begins at noise.

        Parameters
        ----------
        count : int
            How many.
        steps : int
            Steps of Gibbs sampling; the more, the closer to the model's own distribution.
        seed : int
            Seed of what is drawn, the same on every device.

        Returns
        -------
        (count, C, *size) ndarray
            Means of the visible units, given the hidden ones of the last step.

        Raises
        ------
        UserTypeError, UserError
            If count or steps are no integers of at least 1, or the seed is negative.
        """
        check_range("count", count, at_least=1, integer=True)
        check_range("steps", steps, at_least=1, integer=True)
        rng = np.random.default_rng([seed, STREAM])
        H = rng.random((count, *self.code_shape)) < 0.5
        V = self.layers[0].decode(self.xp.asarray(H).astype(self.dtype))[0]
        V = self.energy.gibbs(self.backend.arrange(V), steps - 1, rng)
        return self.layers[0].decode(self.energy.sample_hidden(V, rng))[0]

    def quantities(self, x: Array) -> dict[str, float]:
        """Measure the free energy per visible unit; see `Model.quantities`.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.

        Returns
        -------
        dict
            ``free_energy``: lower for training images than for others where a model overfits.
        """
        return {"free_energy": float(self.free_energy(x).mean()) / prod(self.input_shape)}

    def _generator(self) -> np.random.Generator:
        """Return what draws the next gradient's samples: by the seed and the draws so far."""
        return np.random.default_rng([self.seed, STREAM, int(self.state["draws"][0])])

    def contrast(self, x: Array, sampled: Array, penalty: Penalty = NONE) -> Array:
        """Leave the gradient of a difference of mean free energies in `flat_gradients`.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Data.
        sampled : (M, C, *size) ndarray
            Samples of the model.
        penalty : Penalty
            What is added, of the data; not the kernels' decay.

        Returns
        -------
        0-d ndarray
            The penalties: what the gradient is of, with the difference per visible unit.
        """
        xp, (layer,), N, M = self.xp, self.layers, len(x), len(sampled)
        size, both = prod(self.input_shape), xp.concatenate([x, sampled])
        w = xp.concatenate([xp.full(N, -1 / N), xp.full(M, 1 / M)]).astype(x.dtype) / size
        w = w.reshape(-1, *(1 for _ in x.shape[1:]))
        mean = None
        if penalty.kl:
            chunks = training_chunks(self.backend, self.layers, N)
            mean = mean_activation(self.backend, self.layers, x, chunks, self.group)
        count = N * self.code_size

        def compute(chunk: slice, gradients: Gradients) -> Array:
            V = self.backend.arrange(both[chunk])
            P, _ = layer.encode(V)
            G, J = w[chunk] * P, xp.zeros((), "float64")
            data = slice(0, max(N - chunk.start, 0))
            if (penalty.l1 or penalty.kl) and data.stop:
                J, dP = penalty.of_code(P[data], mean, count)
                G[data] += dP * P[data] * (1 - P[data])
            layer.add_kernel_gradient("kernel", G, V, gradients[0])
            layer.add_bias_gradient("hidden_bias", G, gradients[0])
            layer.add_bias_gradient("visible_bias", w[chunk] * V, gradients[0])
            return J

        J = self._sums(training_chunks(self.backend, self.layers, N + M), compute)
        if mean is not None:
            J = J + penalty.divergence(mean)
        return J

    def _evaluate(self, x: Array, target: Array) -> tuple[Array, Array]:
        return self.energy.misfit(x, self.seed), self.decode(self.encode(x))

    def _gradients(self, x: Array, target: Array, penalty: Penalty) -> Any:
        self._check_finite(x)
        x = self.backend.arrange(x)
        begin = self.backend.arrange(self.state.get("chains", x))
        sampled = self.energy.gibbs(begin, self.steps, self._generator())
        if self.chains:
            self.state["chains"] = sampled
        self.state["draws"] = self.state["draws"] + 1
        return self.contrast(x, sampled, penalty) + self.energy.misfit(x, self.seed)
