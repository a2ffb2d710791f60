"""The NumPy backend: which way a problem is computed, over chunks of the batch.

Ordinary convolutions of whole blocks of examples are computed in place by `direct`, or by
`winograd` where many channels make that faster; the rest of the family as large matrix products by
`gemm`. Partial sums are added in the order of the chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from math import prod
from types import ModuleType

import numpy as np

from convae.engine import gemm
from convae.engine.arrays import Array
from convae.engine.geometry import Geometry
from convae.engine.parallel import BLOCK_BYTES, LARGEST_PART, cut, over, scratch

COLUMNS_BYTES = 32 << 20
"""Memory that the columns of one chunk may take; below it, larger chunks were the faster ones."""


def chunks(geometry: Geometry, channels: int, itemsize: int, examples: int) -> list[slice]:
    """Divide a batch so that the columns of each part stay small.

    Parameters
    ----------
    geometry : Geometry
        The resolved geometry.
    channels : int
        Channels of the input.
    itemsize : int
        Bytes of one element.
    examples : int
        Examples in the batch.

    Returns
    -------
    list of slice
        Consecutive parts of the batch, of equal length but for the last.
    """
    per_example = channels * prod(geometry.kernel) * prod(geometry.extended) * itemsize
    return cut(examples, min(max(COLUMNS_BYTES // per_example, 1), LARGEST_PART))


@lru_cache(maxsize=1024)
def compiled_way(
    operation: str, geometry: Geometry, channels: int, filters: int, examples: int, itemsize: int
) -> Callable[..., Array] | None:
    """Find the compiled way of an ordinary kernel and whole blocks of examples.

    Parameters
    ----------
    operation : {"c", "h", "g"}
        What is to be computed.
    geometry : Geometry
        The resolved geometry.
    channels, filters : int
        Channels of the input and of the output.
    examples, itemsize : int
        Examples in the batch, and bytes of one element.

    Returns
    -------
    callable or None
        The operation of `winograd` where that is faster, or of `direct`, to be called as those of
        this module; None for `gemm`.
    """
    blocks, rest = divmod(examples * itemsize, BLOCK_BYTES)
    if rest or geometry.groups != 1 or {*geometry.tile, *geometry.dilation} != {1}:
        return None
    from convae.engine import direct, winograd  # here, since importing Numba takes time

    plan = winograd.plan(operation, geometry, channels, filters, blocks)
    if plan is None:
        return getattr(direct, operation)  # type: ignore[no-any-return]
    return partial(getattr(winograd, operation), plan=plan)


@cache
def compiled_passes() -> ModuleType:
    """Import the compiled passes over activations, when they are first needed.

    Returns
    -------
    module
        `convae.engine.pointwise`, for arrays as `convae.engine.arrays.rows` shows them.
    """
    from convae.engine import pointwise

    return pointwise


def c(K: Array, V: Array, geometry: Geometry) -> Array:
    """Strided convolution.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        The kernel.
    V : (C, *size, N) ndarray
        The input.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (O, *output, N) ndarray
        Z.
    """
    way = compiled_way("c", geometry, V.shape[0], K.shape[0], V.shape[-1], V.itemsize)
    if way is not None:
        return way(K, V, geometry)
    parts = chunks(geometry, V.shape[0], V.itemsize, V.shape[-1])
    if len(parts) == 1:
        return gemm.c(np, K, V, geometry, scratch)
    Z = np.empty((K.shape[0], *geometry.output, V.shape[-1]), V.dtype)

    def part(examples: slice) -> None:
        Z[..., examples] = gemm.c(np, K, V[..., examples], geometry, scratch)

    over(part, parts)
    return Z


def h(K: Array, G: Array, geometry: Geometry) -> Array:
    """Transposed convolution.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        The kernel.
    G : (O, *output, N) ndarray
        What lies on the output side.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (C, *size, N) ndarray
        V'.
    """
    C = K.shape[-geometry.axes - 1] * geometry.groups
    way = compiled_way("h", geometry, C, K.shape[0], G.shape[-1], G.itemsize)
    if way is not None:
        return way(K, G, geometry)
    parts = chunks(geometry, C, G.itemsize, G.shape[-1])
    if len(parts) == 1:
        return gemm.h(np, K, G, geometry, scratch)
    V = np.empty((C, *geometry.size, G.shape[-1]), G.dtype)

    def part(examples: slice) -> None:
        V[..., examples] = gemm.h(np, K, G[..., examples], geometry, scratch)

    over(part, parts)
    return V


def g(G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
    """Gradient of the kernel.

    Parameters
    ----------
    G : (O, *output, N) ndarray
        What lies on the output side.
    V : (C, *size, N) ndarray
        What lies on the input side.
    K_shape : tuple of int
        Shape of the result.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    ndarray
        dK of the shape K_shape, the chunks' sums added in their order.
    """
    way = compiled_way("g", geometry, V.shape[0], G.shape[0], V.shape[-1], V.itemsize)
    if way is not None:
        return way(G, V, K_shape, geometry)

    def part(examples: slice) -> Array:
        return gemm.g(np, G[..., examples], V[..., examples], K_shape, geometry, scratch)

    parts = over(part, chunks(geometry, V.shape[0], V.itemsize, V.shape[-1]))
    dK = parts[0]
    for other in parts[1:]:
        dK += other
    return dK
