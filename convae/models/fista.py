"""FISTA (Beck and Teboulle 2009): the sparse code of an image, by c and h.

For the kernel K of a layer, its visible bias a and an image V, the code H minimises

    F(H) = 1/2 |V - a - h(K, H)|^2 + sparsity * |H|_1.                                          (1)

The gradient of the first term is c(K, E) with the error E = a + h(K, H) - V. An iteration is

    H <- shrink(Y - c(K, E) / L, sparsity / L),     E of Y
    Y <- H + beta (H - the one before),

with L the square of the largest singular value of c: by it the gradient can change, at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convae.engine import Array
from convae.engine.linear import operator_norm
from convae.errors import UserTypeError, check_range
from convae.models.layers import TiedConvolution

MARGIN = 1.01
"""Factor on L, which power iteration approaches from below."""


@dataclass(frozen=True)
class Lasso:
    """Equation (1) for a layer, and how it is minimised; its arrays are not checked.

    Parameters
    ----------
    layer : TiedConvolution
        With K and a.
    sparsity : float
        Weight of the code's absolute values.
    iterations : int
        Iterations, at most.
    tolerance : float
        It ends when no example's code changes by more than this part of its norm.
    nonnegative : bool
        Whether codes have no negative numbers.
    backtracking : bool
        Whether L is searched for, from 1 on by doubling, instead of computed.

    Raises
    ------
    UserTypeError, UserError
        If a number is out of range, or no bool where one is needed.
    """

    layer: TiedConvolution
    sparsity: float
    iterations: int
    tolerance: float
    nonnegative: bool
    backtracking: bool

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_range("sparsity", self.sparsity, at_least=0)
        check_range("iterations", self.iterations, at_least=1, integer=True)
        check_range("tolerance", self.tolerance, at_least=0)
        for name in ("nonnegative", "backtracking"):
            if not isinstance(getattr(self, name), bool):
                raise UserTypeError(f"{name}: {getattr(self, name)!r} is neither True nor False")

    @property
    def xp(self) -> Any:
        """The array library."""
        return self.layer.backend.xp

    def lipschitz(self) -> float:
        """Compute L, and a little more; at least a tiny number. 0 where it is searched for."""
        layer, K = self.layer, self.layer.parameters["kernel"]
        if self.backtracking:
            return 0.0
        channels = layer.input_shape[0]
        norm = operator_norm(layer.backend, K, layer.geometry, channels, 1e-4, iterations=200)
        return max(MARGIN * norm**2, float(np.finfo(K.dtype).tiny))

    def objective(
        self, E: Array, H: Array, mask: Array | None = None, weights: Array | None = None
    ) -> Array:
        """Compute equation (1) of each example: errors (N, C, *size), codes -> (N,) of float64."""
        xp, axes = self.xp, tuple(range(1, E.ndim))
        squares = xp.square(E) if mask is None else mask * xp.square(E)
        absolute = xp.abs(H) if weights is None else weights * xp.abs(H)
        terms = (part.sum(axis=axes, dtype="float64") for part in (squares, absolute))
        return next(terms) / 2 + self.sparsity * next(terms)

    def solve(
        self, x: Array, L: float, mask: Array | None = None, weights: Array | None = None
    ) -> Array:
        """Find the codes of images (N, C, *size), each with a momentum of its own.

        The momentum begins anew where it points uphill (O'Donoghue and Candes 2015). The mask
        (N, C, *size) multiplies the squares of the errors, weights (N, O, *output) the absolute
        values of the code.
        """
        xp, layer = self.xp, self.layer
        K = layer.parameters["kernel"]
        H = layer.backend.empty_batch((len(x), *layer.output_shape), x.dtype.name)
        H[...] = 0
        Y, t = H.copy(order="K"), xp.ones(len(x), "float64")
        L = L or 1.0
        for _ in range(self.iterations):
            E = self._error(x, mask, Y)
            G = layer.c(K, E)
            new, uphill, change, size = self._descend(Y, G, H, L, weights)
            while self.backtracking and not self._is_below(x, mask, Y, E, G, new, L):
                L *= 2
                new, uphill, change, size = self._descend(Y, G, H, L, weights)
            t = xp.where(uphill > 0, 1.0, t)
            t, before = (1 + xp.sqrt(1 + 4 * t * t)) / 2, t
            if bool((change <= self.tolerance**2 * size).all()):
                return new
            self._extrapolate(Y, new, H, (before - 1) / t)
            H = new
        return H

    def _pieces(self, H: Array) -> list[slice]:
        """Divide codes (N, O, *output) along an axis of positions, for elementwise passes."""
        along = H.shape[2]
        return self.layer.backend.pieces(along, H.size // along)

    def _descend(
        self, Y: Array, G: Array, H: Array, L: float, weights: Array | None
    ) -> tuple[Array, Array, Array, Array]:
        """Step from Y against the gradient G, and shrink.

        Returns the new codes, and for each example, whether the momentum points uphill, the square
        of what changes from H on, and that of the codes.
        """
        xp, backend = self.xp, self.layer.backend
        new = xp.empty_like(H)

        def do(part: slice) -> Any:
            where = slice(None), slice(None), part
            y = Y[where]
            n = self._shrink(y - G[where] / L, L, None if weights is None else weights[where])
            step = n - H[where]
            new[where] = n
            axes = tuple(range(1, n.ndim))
            return xp.stack(
                [(a * b).sum(axis=axes) for a, b in ((y - n, step), (step, step), (n, n))]
            )

        total = sum(backend.map(do, self._pieces(H)))
        return new, *total

    def _extrapolate(self, Y: Array, new: Array, H: Array, beta: Array) -> None:
        """Replace Y by what lies so far beyond the new codes, coming from H."""
        beta = beta.astype(H.dtype).reshape(-1, *(1 for _ in H.shape[1:]))

        def do(part: slice) -> None:
            where = slice(None), slice(None), part
            Y[where] = new[where] + beta * (new[where] - H[where])

        self.layer.backend.map(do, self._pieces(H))

    def _error(self, x: Array, mask: Array | None, H: Array) -> Array:
        E = self.layer.decode(H)[0]
        E -= x
        if mask is not None:
            E *= mask
        return E

    def _shrink(self, H: Array, L: float, weights: Array | None) -> Array:
        """Move numbers towards 0 by a step of the penalty, the nearer ones to 0 itself."""
        amount = H.dtype.type(self.sparsity / L)
        if weights is not None:
            amount = amount * weights
        if self.nonnegative:
            return self.xp.maximum(H - amount, 0)
        return H - self.xp.clip(H, -amount, amount)

    def _is_below(
        self, x: Array, mask: Array | None, Y: Array, E: Array, G: Array, new: Array, L: float
    ) -> bool:
        """Tell whether the quadratic model of curvature L at Y lies above the error at new."""
        xp, D, R = self.xp, new - Y, self._error(x, mask, new)
        if mask is not None:  # whose root belongs to each error
            root = xp.sqrt(xp.where(mask > 0, mask, 1))
            R, E = R / root, E / root

        def square(array: Array) -> float:
            return float(xp.square(array).sum(dtype="float64"))

        rise = (square(R) - square(E)) / 2
        bound = float((G * D).sum(dtype="float64")) + L / 2 * square(D)
        return rise <= bound + float(np.finfo(E.dtype).eps) * square(E)
