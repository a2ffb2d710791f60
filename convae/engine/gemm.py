"""c, h and g as matrix products, in array code shared by NumPy and CuPy.

One mechanism serves all kinds of kernels. `windows` is a strided view of the padded input that
gives the input element read by every kernel element at every output position. Output positions are
split into ``repeats`` x ``tile``; the tile axes and the groups come first, so that the matrix
product batches over them:

    c:  Z     = K    @ columns(V)        shared kernel: tile 1, one product
    h:  V'    = fold(K^T @ G)
    g:  dK    = G    @ columns(V)^T      local kernel: one product per position

Arrays here are channels first, examples last, ``(C, *size, N)``: copies run along contiguous rows
of examples, the stride affects outer axes only, and no product needs a transposed copy.

``scratch(name, shape, dtype)`` returns a buffer that is used only within a call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import prod
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from convae.engine.arrays import Array
from convae.engine.geometry import Geometry

Scratch: TypeAlias = Callable[[str, tuple[int, ...], "np.dtype[np.generic]"], Array]


def windows(xp: ModuleType, P: Array, geometry: Geometry) -> Array:
    """View a padded array as the elements read per kernel element and output position.

    P (C, *padded, N) -> (*tile, groups, C/groups, *kernel, *repeats, N)
    """
    channel, *steps, example = P.strides
    per_group = P.shape[0] // geometry.groups
    shape = (
        *geometry.tile,
        geometry.groups,
        per_group,
        *geometry.kernel,
        *geometry.repeats,
        P.shape[-1],
    )
    output_steps = [step * s for step, s in zip(steps, geometry.stride, strict=True)]
    strides = (
        *output_steps,
        channel * per_group,
        channel,
        *(step * d for step, d in zip(steps, geometry.dilation, strict=True)),
        *(step * t for step, t in zip(output_steps, geometry.tile, strict=True)),
        example,
    )
    return xp.lib.stride_tricks.as_strided(P, shape, strides)


def columns(xp: ModuleType, V: Array, geometry: Geometry, scratch: Scratch) -> Array:
    """Copy the windows of an input into the right-hand matrices of c and g (im2col).

    V (C, *size, N) -> (*tile, groups, C/groups * prod(kernel), prod(repeats) * N)
    """
    axes, C, N = geometry.axes, V.shape[0], V.shape[-1]
    P = V
    if geometry.padded != geometry.size:
        P = scratch("padded", (C, *geometry.padded, N), V.dtype)
        P[...] = 0
        P[inside(geometry)] = V
    view = windows(xp, P, geometry)
    matrices = scratch("columns", view.shape, V.dtype)
    xp.copyto(matrices, view)
    for axis, (out, tile) in enumerate(zip(geometry.output, geometry.tile, strict=True)):
        if rest := out % tile:  # the last tile is filled up: no output reads what follows
            unread: list[Any] = [slice(None)] * matrices.ndim
            unread[axis], unread[axis - axes - 1] = slice(rest, None), -1
            matrices[tuple(unread)] = 0
    return matrices.reshape(
        *geometry.tile,
        geometry.groups,
        C // geometry.groups * prod(geometry.kernel),
        prod(geometry.repeats) * N,
    )


def inside(geometry: Geometry) -> tuple[slice, ...]:
    """Index the unpadded input within the padded array."""
    sides = zip(geometry.padding, geometry.size, strict=True)
    return (slice(None), *(slice(before, before + size) for (before, _), size in sides))


def kernel_matrices(K: Array, geometry: Geometry) -> Array:
    """View a kernel as the left-hand matrices of c.

    K (O, [*tile,] C/groups, *kernel) -> (*tile, groups, O/groups, C/groups * prod(kernel))
    """
    groups, tile = geometry.groups, geometry.tile
    matrices = K.reshape(groups, K.shape[0] // groups, *tile, -1)
    axes = range(2, 2 + len(tile))
    return matrices.transpose(*axes, 0, 1, -1)


def output_matrices(xp: ModuleType, G: Array, geometry: Geometry, scratch: Scratch) -> Array:
    """Arrange the output-side array as matrices, zero-padded to whole tiles.

    G (O, *output, N) -> (*tile, groups, O/groups, prod(repeats) * N)
    """
    O, N = G.shape[0], G.shape[-1]
    if geometry.extended != geometry.output:
        whole = scratch("extended", (O, *geometry.extended, N), G.dtype)
        whole[...] = 0
        whole[(slice(None), *(slice(n) for n in geometry.output))] = G
        G = whole
    groups, tile, repeats = geometry.groups, geometry.tile, geometry.repeats
    axes = geometry.axes
    split = [n for pair in zip(repeats, tile, strict=True) for n in pair]
    G = G.reshape(groups, O // groups, *split, N)
    G = G.transpose(*range(3, 3 + 2 * axes, 2), 0, 1, *range(2, 2 + 2 * axes, 2), -1)
    return G.reshape(*tile, groups, O // groups, prod(repeats) * N)


def _product(xp: ModuleType, A: Array, B: Array, out: Array | None = None) -> Array:
    """Multiply stacks of matrices; single ones by `dot`, since CuPy has TF32 only for that."""
    stack = A.shape[:-2]
    if prod(stack) > 1:
        return xp.matmul(A, B, out=out)
    rows, columns = A.shape[-2], B.shape[-1]
    flat = None if out is None else out.reshape(rows, columns)
    result = xp.dot(A.reshape(A.shape[-2:]), B.reshape(B.shape[-2:]), out=flat)
    return result.reshape(*stack, rows, columns)


def c(xp: ModuleType, K: Array, V: Array, geometry: Geometry, scratch: Scratch) -> Array:
    """Strided convolution: kernel matrices times input columns.

    K (O, [*tile,] C/groups, *kernel); V (C, *size, N) -> (O, *output, N)
    """
    axes, groups, tile, repeats = geometry.axes, geometry.groups, geometry.tile, geometry.repeats
    O, N = K.shape[0], V.shape[-1]
    Z = _product(xp, kernel_matrices(K, geometry), columns(xp, V, geometry, scratch))
    Z = Z.reshape(*tile, groups, O // groups, *repeats, N)
    turns = [n for axis in range(axes) for n in (2 + axes + axis, axis)]
    Z = Z.transpose(axes, axes + 1, *turns, -1)  # (groups, O/groups, repeat, tile, ..., N)
    Z = Z.reshape(O, *geometry.extended, N)
    return Z[(slice(None), *(slice(n) for n in geometry.output))]


def h(xp: ModuleType, K: Array, G: Array, geometry: Geometry, scratch: Scratch) -> Array:
    """Transposed convolution: the transposed product, its columns accumulated (col2im).

    K (O, [*tile,] C/groups, *kernel); G (O, *output, N) -> (C, *size, N)
    """
    axes = geometry.axes
    C, N = K.shape[-axes - 1] * geometry.groups, G.shape[-1]
    P = xp.zeros((C, *geometry.padded, N), G.dtype)
    view = windows(xp, P, geometry)
    matrices = kernel_matrices(K, geometry).swapaxes(-1, -2)
    meets = scratch("columns", view.shape, G.dtype)
    product = meets.reshape(*matrices.shape[:-1], -1)
    _product(xp, matrices, output_matrices(xp, G, geometry, scratch), product)
    every = (slice(None),) * (axes + 2)  # tile, groups, channels
    for some in itertools.product(*_disjoint(geometry)):
        met = view[(*every, *some)]
        met += meets[(*every, *some)]  # an assignment to an index would copy it once more
    return P[inside(geometry)]


def _disjoint(geometry: Geometry) -> list[list[slice]]:
    """Divide a kernel, by axes, into elements no two of which meet in a position of the input."""
    spans = [
        kernel if output == 1 else stride if dilation == 1 else 1
        for kernel, output, stride, dilation in zip(
            geometry.kernel, geometry.output, geometry.stride, geometry.dilation, strict=True
        )
    ]
    return [
        [slice(first, first + span) for first in range(0, kernel, span)]
        for kernel, span in zip(geometry.kernel, spans, strict=True)
    ]


def g(
    xp: ModuleType,
    G: Array,
    V: Array,
    K_shape: tuple[int, ...],
    geometry: Geometry,
    scratch: Scratch,
) -> Array:
    """Kernel gradient: output matrices times transposed input columns.

    G (O, *output, N); V (C, *size, N) -> K_shape
    """
    axes = geometry.axes
    meets = columns(xp, V, geometry, scratch).swapaxes(-1, -2)
    dK = _product(xp, output_matrices(xp, G, geometry, scratch), meets)
    dK = dK.transpose(axes, axes + 1, *range(axes), -1)  # (groups, O/groups, *tile, ...)
    return dK.reshape(K_shape)
