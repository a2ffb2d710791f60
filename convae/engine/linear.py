"""Convolution as a linear map of its input: an operator, a sparse matrix, its singular values.

Flattened, ``Z = c(K, V)`` is a product ``z = A v``, and ``h(K, G)`` is the product with A's
transpose. A is sparse, and holds each element of K many times over (*Deep Learning*, sections 9.1
and 9.5). The operator multiplies by c and h without A ever being there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from convae.engine import edges
from convae.engine.arrays import Array, array_module, plain, to_numpy
from convae.engine.backend import Backend, backend_for
from convae.engine.geometry import Geometry, Integers
from convae.engine.operations import geometry_of
from convae.errors import UserError, check_range


def operator(K: Array, size: int | Sequence[int], **geometry: Any) -> Any:
    """Make the linear map ``v -> c(K, v)``, which multiplies by c, and its transpose by h.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        The kernel, as in `c`.
    size : int or sequence of int
        Spatial size of the input; one number for all axes. A kernel with four axes is taken for a
        shared one of two axes if one number is given.
    **geometry
        stride, padding, dilation, groups and padding_mode, as in `c`.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator or its counterpart in cupyx
        Of shape ``(O * prod(output), C * prod(size))``; vectors are (C, *size) and (O, *output)
        arrays, flattened in C order. Vectors of other types are converted to K's.

    Raises
    ------
    TypeError, ValueError
        As in `c`.
    """
    backend, found, channels = _resolve(K, size, geometry)
    inputs, outputs = (channels, *found.size), (K.shape[0], *found.output)

    def forward(columns: Array) -> Array:
        """Multiply (inputs, M) or (inputs,) by A."""
        V = _examples(columns, inputs, K)
        return _columns(edges.c(backend, K, V, found), columns)

    def backward(columns: Array) -> Array:
        """Multiply (outputs, M) or (outputs,) by A's transpose."""
        G = _examples(columns, outputs, K)
        return _columns(edges.h(backend, K, G, found), columns)

    if backend.xp is np:
        from scipy.sparse.linalg import LinearOperator
    else:
        from cupyx.scipy.sparse.linalg import LinearOperator
    return LinearOperator(
        (prod(outputs), prod(inputs)),
        matvec=forward,
        rmatvec=backward,
        matmat=forward,
        rmatmat=backward,
        dtype=K.dtype,
    )


def matrix(K: Array, size: int | Sequence[int], **geometry: Any) -> Any:
    """Write the linear map ``v -> c(K, v)`` as an explicit sparse matrix.

    Parameters
    ----------
    K, size, **geometry
        As in `operator`.

    Returns
    -------
    scipy.sparse.csr_array or cupyx.scipy.sparse.csr_matrix
        Of shape ``(O * prod(output), C * prod(size))``, in K's type. Where padding copies
        positions, elements of K that meet one of them twice are added up.

    Raises
    ------
    TypeError, ValueError
        As in `c`.
    """
    from scipy.sparse import coo_array

    backend, found, channels = _resolve(K, size, geometry)
    kernel = to_numpy(K).reshape(
        K.shape[0], prod(found.tile), channels // found.groups, prod(found.kernel)
    )
    O, _, C, _ = kernel.shape
    P, Q = prod(found.output), prod(found.size)
    first = np.arange(O) // (O // found.groups) * C  # channel of each filter's group
    values, rows, columns = [], [], []
    for m, element in enumerate(product(*map(range, found.kernel))):
        p, q, t = _meetings(found, element)
        values.append(kernel[..., m][:, t].ravel())
        shape = O, len(p), C
        rows.append(np.broadcast_to(_column(np.arange(O)) * P + p[:, None], shape).ravel())
        columns.append(((_column(first) + np.arange(C)) * Q + q[:, None]).ravel())
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    A = coo_array(entries, shape=(O * P, channels * Q)).tocsr()
    if backend.xp is np:
        return A
    from cupyx.scipy.sparse import csr_matrix

    return csr_matrix(A)


def largest_singular_value(
    K: Array,
    size: int | Sequence[int],
    *,
    tolerance: float = 1e-6,
    iterations: int = 1000,
    seed: int = 0,
    **geometry: Any,
) -> float:
    """Measure by how much ``c(K, V)`` can be longer than V: the norm of the linear map.

    By power iteration on ``h(K, c(K, V))``, whose largest eigenvalue is the square.

    Parameters
    ----------
    K, size, **geometry
        As in `operator`.
    tolerance : float
        It ends when an iteration changes the value by less than this part of it.
    iterations : int
        It ends after so many in any case. What it returns is never larger than the exact value but
        for rounding.
    seed : int
        Seed of the random vector that it begins with.

    Returns
    -------
    float
        The value, not negative.

    Raises
    ------
    TypeError, ValueError
        As in `c`; if tolerance or iterations are not positive, or K is not finite.
    """
    check_range("tolerance", tolerance, over=0)
    check_range("iterations", iterations, at_least=1, integer=True)
    check_range("seed", seed, at_least=0, integer=True)
    backend, found, channels = _resolve(K, size, geometry)
    return operator_norm(backend, K, found, channels, tolerance, iterations, seed)


def operator_norm(
    backend: Backend,
    K: Array,
    geometry: Geometry,
    channels: int,
    tolerance: float = 1e-6,
    iterations: int = 1000,
    seed: int = 0,
) -> float:
    """Do what `largest_singular_value` does, with sizes that are resolved."""
    xp = backend.xp
    if not bool(xp.isfinite(K).all()):
        raise UserError("K: has values that are not finite")
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((1, channels, *geometry.size))
    V = backend.arrange(xp.asarray(start.astype(K.dtype)))
    value = 0.0
    for _ in range(iterations):
        V = V / float(xp.sqrt(xp.square(V).sum(dtype="float64")))
        Z = edges.c(backend, K, V, geometry)
        before, value = value, float(xp.sqrt(xp.square(Z).sum(dtype="float64")))
        if value - before <= tolerance * value:
            break
        V = edges.h(backend, K, Z, geometry)
    return value


def _resolve(
    K: Array, size: int | Sequence[int], geometry: dict[str, Any]
) -> tuple[Backend, Geometry, int]:
    """Check a kernel and resolve its sizes: -> backend, geometry, and channels of the input."""
    K = plain("K", K)
    array_module(K, names="K")
    found = geometry_of(K, size, **geometry)
    return backend_for(K), found, K.shape[-found.axes - 1] * found.groups


def _examples(columns: Array, shape: Integers, like: Array) -> Array:
    """View columns (n, M), or a vector (n,), as a batch (M, *shape) in a kernel's type."""
    return columns.reshape(prod(shape), -1).T.reshape(-1, *shape).astype(like.dtype, copy=False)


def _columns(batch: Array, like: Array) -> Array:
    """View a batch (M, *shape) as columns (n, M), or as a vector where one came in."""
    rows = batch.reshape(len(batch), -1)
    return rows[0] if like.ndim == 1 else rows.T


def _column(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values[:, None, None]


def _meetings(
    geometry: Geometry, element: tuple[int, ...]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """List the output positions at which a kernel's element meets an input position.

    Returns, flattened, the outputs' positions, the inputs' positions and the tiles' numbers.
    """
    copies = None if geometry.padding_mode == "zeros" else edges.sources(geometry)
    sides = []
    for axis, m in enumerate(element):
        j = np.arange(geometry.output[axis])
        y = j * geometry.stride[axis] + m * geometry.dilation[axis]
        if copies is not None:
            sides.append((j, copies[axis][y], j % geometry.tile[axis]))
            continue
        y -= geometry.padding[axis][0]
        inside = (y >= 0) & (y < geometry.size[axis])
        sides.append((j[inside], y[inside], (j % geometry.tile[axis])[inside]))
    sizes = geometry.output, geometry.size, geometry.tile
    p, q, t = (
        np.ravel_multi_index(np.meshgrid(*(side[n] for side in sides), indexing="ij"), shape)
        for n, shape in enumerate(sizes)
    )
    return p.ravel(), q.ravel(), t.ravel()
