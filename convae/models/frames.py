"""Tight frames: kernels that their own transpose inverts, ``h(K, c(K, V)) = V``.

A tied layer decodes with the kernel that it encodes with, so it loses nothing where c's matrix has
orthonormal columns. Kernels get there if some of their elements, the *taps*, meet every position of
the input exactly once: the patches under the taps then divide the input among themselves, and
every orthonormal basis of such a patch, one filter for each vector, makes c an orthogonal map. With
fewer filters it becomes the projection on the directions that are kept; the leading eigenvectors of
the patches' second moments then lose least (Eckart and Young 1936). With more, any matrix with
orthonormal columns in front of the basis keeps it tight (a Parseval frame).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from convae.engine import Array, array_module
from convae.engine.geometry import Geometry

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

LARGEST_MOMENTS = 2048
"""Longest patch whose second moments are computed; of longer ones the patches are kept."""

SMALLEST = 1e-7
"""Moments below this part of the largest are lost in rounding errors."""


def taps(geometry: Geometry) -> tuple[list[int], ...]:
    """Choose the elements of a kernel, along each axis, that are to meet every position once.

    Where a kernel meets the whole input these are all of it. Elsewhere it is one for each
    remainder of a division by the stride: of those that reach the most positions, the one nearest
    the middle.
    """
    chosen = []
    for axis in range(geometry.axes):
        kernel, stride, outputs = (
            values[axis] for values in (geometry.kernel, geometry.stride, geometry.output)
        )
        if outputs == 1:
            chosen.append(list(range(kernel)))
            continue
        found: dict[int, tuple[int, float, int]] = {}
        for m in range(kernel):
            y = _meets(geometry, axis, m)
            missed = -int(((y >= 0) & (y < geometry.size[axis])).sum())
            remainder = m * geometry.dilation[axis] % stride
            candidate = (missed, abs(m - (kernel - 1) / 2), m)
            found[remainder] = min(candidate, found.get(remainder, candidate))
        chosen.append(sorted(m for _, _, m in found.values()))
    return tuple(chosen)


def _meets(geometry: Geometry, axis: int, m: int) -> np.ndarray[Any, Any]:
    """List the positions that a kernel's element m meets along an axis, in the padding or not."""
    start = m * geometry.dilation[axis] - geometry.padding[axis][0]
    return start + geometry.stride[axis] * np.arange(geometry.output[axis])


def patches(V: Array, geometry: Geometry, chosen: tuple[list[int], ...]) -> Array:
    """Gather what the taps meet: V (N, C, *padded size) -> (N, C, taps, *output)."""
    xp = array_module(V)
    columns = []
    for element in product(*chosen):
        where = tuple(
            slice(m * dilation, m * dilation + (outputs - 1) * stride + 1, stride)
            for m, dilation, outputs, stride in zip(
                element, geometry.dilation, geometry.output, geometry.stride, strict=True
            )
        )
        columns.append(V[(slice(None), slice(None), *where)])
    return xp.stack(columns, axis=2)


def embedded(Q: Floats, geometry: Geometry, chosen: tuple[list[int], ...]) -> Floats:
    """Put vectors (P, C * taps) into kernels of zeros: -> (P, C, *kernel)."""
    counts = [len(elements) for elements in chosen]
    K = np.zeros((len(Q), Q.shape[1] // int(np.prod(counts)), *geometry.kernel))
    where: Any = (slice(None), slice(None), *np.ix_(*chosen))
    K[where] = Q.reshape(*K.shape[:2], *counts)
    return K


class Moments:
    """The second moments of rows of numbers, or the rows themselves where these are long.

    Parameters
    ----------
    length : int
        Numbers in a row.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._sum: Floats | None = None
        self._rows: list[np.ndarray[Any, Any]] = []

    def add(self, rows: np.ndarray[Any, Any]) -> None:
        """Add rows (M, length)."""
        if self.length > LARGEST_MOMENTS:
            self._rows.append(rows)
            return
        products = rows.T @ rows
        self._sum = products.astype(np.float64) if self._sum is None else self._sum + products

    def leading(self, count: int) -> Floats:
        """Compute orthonormal directions of the largest moments: (count, length)."""
        if self._sum is not None:
            return eigenvectors(self._sum, count)[1].T
        rows = np.concatenate(self._rows)
        if len(rows) >= self.length:
            return eigenvectors((rows.T @ rows).astype(np.float64), count)[1].T
        # the method of snapshots (Sirovich 1987): X X' has the same eigenvalues, and is smaller
        moments, U = eigenvectors((rows @ rows.T).astype(np.float64), count)
        kept = moments > SMALLEST * moments.max(initial=0)
        directions = (U[:, kept] / np.sqrt(moments[kept])).T @ rows
        return _completed(directions, count)


def eigenvectors(S: Floats, count: int) -> tuple[Floats, Floats]:
    """Compute the largest eigenvalues, at most so many, and their vectors in columns."""
    from scipy.linalg import eigh

    last = len(S) - 1
    values, vectors = eigh(S, subset_by_index=[max(last + 1 - count, 0), last], check_finite=False)
    return values[::-1], vectors[:, ::-1]


def _completed(directions: Floats, count: int) -> Floats:
    """Add directions orthogonal to those there are, or leave some out, to have so many."""
    kept, length = directions[:count], directions.shape[1]
    more = np.random.default_rng(0).standard_normal((count - len(kept), length))
    return np.linalg.qr(np.concatenate([kept, more]).T)[0].T


Basis: TypeAlias = Callable[[Moments, int], Floats]
"""``basis(moments, count)`` returns orthonormal directions (count, length)."""


def random_directions(length: int, count: int, rng: np.random.Generator) -> Floats:
    """Draw orthonormal directions, uniformly: (count, length)."""
    Q, R = np.linalg.qr(rng.standard_normal((length, count)))
    return (Q * np.sign(np.diag(R))).T


def frame(moments: Moments, count: int, basis: Basis, rng: np.random.Generator) -> Floats:
    """Make filters of rows: orthonormal ones, or a Parseval frame if they are more than a basis."""
    length = moments.length
    if count <= length:
        return basis(moments, count)
    return random_directions(count, length, rng).T @ basis(moments, length)
