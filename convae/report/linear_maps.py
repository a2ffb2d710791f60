"""Linear maps of low rank that lose least: PCA and reduced-rank regression, from second moments.

Of all affine maps of rank k, PCA's ``x -> m + V V' (x - m)`` has the least squared error on x
itself (Eckart and Young 1936). Where x is to be predicted from a noisy y, the least error is that
of the regression ``A = Cyy^-1 Cyx``, projected on the k leading directions of what it predicts
(Izenman 1975): ``y -> m + U U' A' (y - m_y)``, where U has the eigenvectors of ``Cxy Cyy^-1 Cyx``.

Rows are kept by position, (N, P, L): all positions share a basis, and each has a mean of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from convae.models.frames import eigenvectors

Floats: TypeAlias = np.ndarray[Any, Any]

BLOCK = 256
"""Rows multiplied at a time: sums of so many products of bytes are below 2^24, exact in float32."""

COLUMNS = 4096
"""Values of a row, at a time, that become floats in `snapshot_basis`."""

RIDGE = 1e-8
"""Of the mean variance, added to each: values without variance have no inverse."""

SMALLEST = 1e-6
"""Variances below this part of the largest are lost in `snapshot_basis`'s rounding errors."""


class Moments:
    """Means of rows x and y by position, and their covariance over all positions."""

    def __init__(self) -> None:
        self.count = 0
        self._x: Floats | float = 0.0
        self._y: Floats | float = 0.0
        self._products: Floats | None = None

    def add(self, x: Floats, y: Floats) -> None:
        """Add rows x, y (N, P, L) in pairs; those of bytes are summed up without rounding."""
        self.count += len(x)
        self._x = self._x + x.sum(axis=0, dtype=np.float64)
        self._y = self._y + y.sum(axis=0, dtype=np.float64)
        dtype = np.float32 if x.dtype == y.dtype == np.uint8 else np.float64
        x, y = (rows.reshape(-1, rows.shape[-1]) for rows in (x, y))
        for start in range(0, len(x), BLOCK):
            left, right = (rows[start : start + BLOCK].astype(dtype) for rows in (x, y))
            # a copy, since NumPy's way for x.T @ x takes twice as long
            products = np.ascontiguousarray(left.T) @ right
            if self._products is None:
                self._products = products.astype(np.float64)
            else:
                self._products += products

    @property
    def mean(self) -> Floats:
        """The mean of x: (P, L)."""
        return np.asarray(self._x / self.count)

    @property
    def mean_of_y(self) -> Floats:
        """The mean of y: (P, L)."""
        return np.asarray(self._y / self.count)

    def covariance(self) -> Floats:
        """Compute the covariance of x and y within positions, in the place of the sums: (L, L)."""
        assert self._products is not None
        C, self._products = self._products, None
        C /= self.count * len(self.mean)
        C -= self.mean.T @ self.mean_of_y / len(self.mean)
        return C


def times(rows: Floats, A: Floats) -> Floats:
    """Multiply rows (N, P, L) by A (L, M) in one product; NumPy's own way has one for each n."""
    return (rows.reshape(-1, len(A)) @ A).reshape(*rows.shape[:-1], A.shape[1])


@dataclass(frozen=True)
class Coordinates:
    """Rows less their mean, and within the span of a basis if there is one.

    Parameters
    ----------
    mean : (P, L) ndarray
        What is subtracted.
    basis : (M, L) ndarray, optional
        Orthonormal directions.
    """

    mean: Floats
    basis: Floats | None = None

    def of(self, rows: Floats) -> Floats:
        """Rows (N, P, L) -> (N, P, M)."""
        centred = rows - self.mean
        return centred if self.basis is None else times(centred, self.basis.T)

    def back(self, z: Floats) -> Floats:
        """Coordinates (N, P, M) -> (N, P, L)."""
        return (z if self.basis is None else times(z, self.basis)) + self.mean


@dataclass(frozen=True)
class LowRank:
    """An affine map of rank k, ``y -> offset + (y - offset_of_y) down up`` in some coordinates.

    Parameters
    ----------
    coordinates : Coordinates
        Of M numbers.
    down, up : (M, k) and (k, M) ndarray
        The two factors.
    offset_of_y, offset : (P, M) ndarray or float
        The means of what is given and of what is predicted.
    """

    coordinates: Coordinates
    down: Floats
    up: Floats
    offset_of_y: Floats | float = 0.0
    offset: Floats | float = 0.0

    @property
    def rank(self) -> int:
        """Numbers that a row is described by."""
        return len(self.up)

    def __call__(self, rows: Floats) -> Floats:
        """Rows (N, P, L) -> (N, P, L), in float32."""
        z = self.coordinates.of(rows) - self.offset_of_y
        R: Floats = self.coordinates.back(times(times(z, self.down), self.up) + self.offset)
        return R.astype("float32", copy=False)


def leading(C: Floats, count: int) -> Floats:
    """Compute the eigenvectors of the largest eigenvalues of C (L, L): -> (count, L)."""
    return eigenvectors(C, count)[1].T if count else np.empty((0, len(C)))


def reduced_rank(Cyy: Floats, Cyx: Floats, rank: int) -> tuple[Floats, Floats]:
    """Factor the linear map of a rank that predicts x from y best: -> (L, rank), (rank, L)."""
    ridge = RIDGE * np.trace(Cyy) / len(Cyy) or RIDGE
    A = np.linalg.solve(Cyy + ridge * np.eye(len(Cyy)), Cyx)
    predicted = Cyx.T @ A
    U = leading((predicted + predicted.T) / 2, rank)
    down: Floats = A @ U.T
    return down, U


def snapshot_basis(rows: Floats, count: int) -> Floats:
    """Compute the principal directions of long rows from the products between rows.

    That is the method of snapshots (Sirovich 1987): the eigenvectors of X X' give those of X' X.

    rows (N, P, L), all of them in memory; -> (at most count, L) of float32
    """
    count = min(count, rows.shape[0] * rows.shape[1])
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)

    def block(start: int) -> Floats:
        columns = slice(start, start + COLUMNS)
        some: Floats = rows[..., columns] - mean[:, columns]
        return some.reshape(-1, some.shape[-1])

    starts = range(0, rows.shape[-1], COLUMNS)
    G = np.zeros((rows.shape[0] * rows.shape[1],) * 2)
    for start in starts:
        some = block(start)
        G += some @ some.T.copy()
    U = leading(G, count)
    variances = np.einsum("kn,nm,km->k", U, G, U, optimize=True)
    kept = variances > SMALLEST * variances.max(initial=0)
    factors = (U[kept] / np.sqrt(variances[kept])[:, None]).astype(np.float32)
    basis: Floats = np.empty((len(factors), rows.shape[-1]), np.float32)
    for start in starts:
        basis[:, start : start + COLUMNS] = factors @ block(start)
    return basis
