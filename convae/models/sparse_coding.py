"""Convolutional sparse coding: few numbers whose transposed convolution is the image.

For a dictionary K and an image V, the code H minimises

    F(H) = 1/2 |V - a - h(K, H)|^2 + sparsity * |H|_1                                           (1)

(Zeiler et al. 2010; *Deep Learning*, section 13.4), which `convae.models.fista` finds by c and h.
At the minimum the gradient in K is that of the first term alone, g(H, E) with the error
E = a + h(K, H) - V: the envelope theorem. Filters have a norm of at most 1, since otherwise the
code could shrink while they grow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from convae.engine import Array, Backend, to_numpy
from convae.errors import UserError
from convae.models.backpropagation import training_chunks
from convae.models.fista import Lasso
from convae.models.initialisation import mean_of
from convae.models.parameters import Gradients
from convae.models.penalties import Penalty
from convae.models.single import SingleLayer
from convae.models.specification import Layer

ARGUMENTS = ("sparsity", "iterations", "tolerance", "nonnegative", "backtracking")
"""Those of its own; see `convae.models.fista.Lasso`."""


class SparseCoding(SingleLayer):
    """A dictionary of filters, and the codes that FISTA finds with it.

    Its attributes, and the methods that all models share, are those of
    `convae.models.model.Model`.

    Parameters
    ----------
    input_shape : (C, *size) sequence of int
        Shape of one example; 1, 2 or 3 axes of positions.
    layers : sequence of one Layer, or of a mapping of its arguments
        Its kernel is the dictionary. It is tied, its activation the identity, and it has no hidden
        bias.
    output_activation : {"identity"}
        Activation of the reconstruction.
    sparsity : float
        Weight of the code's absolute values, in units of the image.
    iterations : int
        Iterations of FISTA, at most.
    tolerance : float
        FISTA ends when no example's code changes by more than this part of its norm.
    nonnegative : bool
        Whether codes have no negative numbers.
    backtracking : bool
        Whether L is searched for in every iteration, instead of computed from the kernel.
    seed : int
        Seed of the initial kernels.
    dtype, device, storage, backend
        As in `convae.Autoencoder`; storage has to be None.

    Raises
    ------
    UserTypeError, UserError
        If an argument is malformed or the layers do not fit; the message names the argument.
    DeviceError
        If the device is "gpu" and there is none.
    """

    kind = "sparse_coding"
    penalties = ("weight_decay",)
    wanted: ClassVar[dict[str, Any]] = {
        "activation": "identity",
        "hidden_bias": "none",
        "tied": True,
    }

    def __init__(
        self,
        input_shape: Sequence[int],
        layers: Sequence[Layer | Mapping[str, Any]],
        output_activation: str = "identity",
        sparsity: float = 0.1,
        iterations: int = 200,
        tolerance: float = 1e-3,
        nonnegative: bool = False,
        backtracking: bool = False,
        seed: int = 0,
        dtype: str | type | np.dtype[Any] = "float32",
        device: str = "cpu",
        storage: None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        if output_activation != "identity":
            raise UserError(f"output_activation: {output_activation!r}; of sparse codes 'identity'")
        super().__init__(
            input_shape, layers, output_activation, seed, dtype, device, storage, backend
        )
        self.lasso = Lasso(
            self.layers[0], sparsity, iterations, tolerance, nonnegative, backtracking
        )
        self.constrain()

    def configuration(self) -> dict[str, Any]:
        """Describe the model in plain values.

        Returns
        -------
        dict
            The arguments that make a model of the same kind and shape.
        """
        return super().configuration() | {name: getattr(self.lasso, name) for name in ARGUMENTS}

    def encode(self, x: Array, mask: Array | None = None, weights: Array | None = None) -> Array:
        """Find the codes of images by FISTA.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.
        mask : (N, C, *size) ndarray, optional
            1 where x is known, and 0 where it is missing: there the code is free to fill in
            anything, and x is not read. Numbers between them weigh the squares of errors.
        weights : (N, O, *output) ndarray, optional
            Factors on `sparsity`, not negative, one for each number of the code.

        Returns
        -------
        (N, O, *output) ndarray
            The codes H, most of whose numbers are 0.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit, or mask or weights have values out of range.
        """
        x = self._check("x", x, self.input_shape)
        mask = self._check_factors("mask", mask, self.input_shape, len(x), 1)
        weights = self._check_factors("weights", weights, self.code_shape, len(x), np.inf)
        if mask is not None:
            x = self.xp.where(mask > 0, x, 0)
        H = self.backend.empty_batch((len(x), *self.code_shape), self.dtype)
        L = self.lasso.lipschitz()

        def find(chunk: slice) -> None:
            factors = (
                None if array is None else self.backend.arrange(array[chunk])
                for array in (mask, weights)
            )
            H[chunk] = self.lasso.solve(self.backend.arrange(x[chunk]), L, *factors)

        if len(x):
            self.backend.map(find, self._chunks(len(x)))
        return H

    def codes(self, x: Array) -> list[Array]:
        """Encode images: what `encode` returns, in a list, as other models have several codes.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.

        Returns
        -------
        list of one (N, O, *output) ndarray
            Their codes.

        Raises
        ------
        UserTypeError, UserError
            As in `encode`.
        """
        return [self.encode(x)]

    def _check_factors(
        self, name: str, factors: Array | None, shape: tuple[int, ...], count: int, largest: float
    ) -> Array | None:
        """Refuse factors that do not belong to so many examples, or are out of range."""
        if factors is None:
            return None
        factors = self._check(name, factors, shape)
        if len(factors) != count:
            raise UserError(f"{name}: {len(factors)} of them, but x has {count} examples")
        if not bool(((factors >= 0) & (factors <= largest)).all()):
            limit = f" and at most {largest:g}" if largest < np.inf else ""
            raise UserError(f"{name}: has values that are not at least 0{limit}")
        return factors

    def objective_of(
        self, x: Array, H: Array, mask: Array | None = None, weights: Array | None = None
    ) -> Array:
        """Compute equation (1), the number that `encode` minimises, of each example.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        H : (N, O, *output) ndarray
            Codes.
        mask, weights
            As in `encode`.

        Returns
        -------
        (N,) ndarray of float64
            ``1/2 |x - a - h(K, H)|^2 + sparsity * |H|_1``.
        """
        x = self._check("x", x, self.input_shape)
        H = self._check("H", H, self.code_shape)
        return self.lasso.objective(self.decode(H) - x, H, mask, weights)

    def _chunks(self, examples: int) -> list[slice]:
        return training_chunks(self.backend, self.layers, examples)

    def start_from(self, images: Array) -> None:
        """Start with patches of images as filters, of norm 1; see `Model.start_from`.

        Parameters
        ----------
        images : (N, C, *size) ndarray
            Training images, in random order.
        """
        self._check_finite(images)
        (layer,), rng = self.layers, np.random.default_rng([self.seed, 6])
        geometry, bias = layer.geometry, self.parameters.get("0.visible_bias")
        if bias is not None:
            bias[...] = mean_of(self.backend, images, bias.shape)
        sides = tuple(min(k, n) for k, n in zip(geometry.kernel, geometry.size, strict=True))
        K = np.zeros(layer.shapes["kernel"])
        per_group = layer.spec.filters // geometry.groups
        for filter_and_tile in np.ndindex(*K.shape[: -geometry.axes - 1]):
            group = filter_and_tile[0] // per_group
            channels = slice(group * K.shape[-geometry.axes - 1], None)
            corner = [rng.integers(n - k + 1) for n, k in zip(geometry.size, sides, strict=True)]
            where = tuple(slice(c, c + k) for c, k in zip(corner, sides, strict=True))
            patch = to_numpy(images[rng.integers(len(images))])[(channels, *where)]
            patch = patch[: K.shape[-geometry.axes - 1]].astype(float)
            patch = patch - patch.mean() + 1e-3 * rng.standard_normal(patch.shape)
            inside = (slice(None), *map(slice, sides))
            K[filter_and_tile][inside] = patch / np.linalg.norm(patch)
        layer.parameters["kernel"][...] = self.xp.asarray(K)

    def quantities(self, x: Array) -> dict[str, float]:
        """Measure how many numbers of the codes are not 0; see `Model.quantities`.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.

        Returns
        -------
        dict
            ``nonzero``, their part.
        """
        return {"nonzero": float((self.encode(x) != 0).mean())}

    def constrain(self) -> None:
        """Scale filters that are longer than 1 down to that; see `Model.constrain`."""
        K = self.layers[0].parameters["kernel"]
        axes = self.layers[0].geometry.axes
        lengths = self.xp.sqrt(
            self.xp.square(K).sum(axis=tuple(range(-axes - 1, 0)), keepdims=True, dtype="float64")
        )
        K /= self.xp.maximum(lengths, 1).astype(K.dtype)

    def _evaluate(self, x: Array, target: Array) -> tuple[Array, Array]:
        H = self.encode(x)
        R = self.decode(H)
        return self.lasso.objective(R - x, H).sum() / x.size, R

    def _gradients(self, x: Array, target: Array, penalty: Penalty) -> Any:
        L, (layer,) = self.lasso.lipschitz(), self.layers

        def compute(chunk: slice, gradients: Gradients) -> Array:
            images = self.backend.arrange(x[chunk])
            H = self.lasso.solve(images, L)
            R, backward = layer.decode(H)
            R -= images
            J = self.lasso.objective(R, H).sum() / x.size
            R /= x.size
            backward(R, gradients[0])
            return J

        return self._sums(self._chunks(len(x)), compute)
