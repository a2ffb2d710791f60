"""The three operations, written as the sums that define them.

A slow executable definition, meant to be read and used as the reference in tests. It imports
nothing from the backends. All three operations come from one trilinear form,

    sum over terms of  K[k] * V[v] * Z[z],

and differ only in which of the three arrays is unknown. `terms` enumerates the index triples: for
every example and along every axis, output position j and kernel element m meet the input position
``j * stride + m * dilation - padding_before``, with kernel ``j % tile``
(Goodfellow et al., *Deep Learning*, section 9.5, equations 9.8 to 9.13; indices from 0, no flip).

All arrays are NumPy arrays: V ``(N, C, *size)``, Z and G ``(N, O, *output)``,
K ``(O, C/groups, *kernel)`` or ``(O, *tile, C/groups, *kernel)``. Arguments have one entry per
spatial axis and are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Index: TypeAlias = tuple[Any, ...]
Integers: TypeAlias = Sequence[int]


def output_size(
    size: Integers,
    kernel: Integers,
    stride: Integers,
    padding: Sequence[tuple[int, int]],
    dilation: Integers,
) -> tuple[int, ...]:
    """Count the positions at which the whole kernel lies inside the padded input.

    Parameters
    ----------
    size, kernel, stride, dilation : sequence of int
        One entry per axis.
    padding : sequence of (int, int)
        Zeros before and after the input, per axis.

    Returns
    -------
    tuple of int
        Output size along each axis.
    """
    return tuple(
        len(range(0, n + before + after - (k - 1) * d, s))
        for n, k, s, (before, after), d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def terms(
    K_shape: Integers,
    V_shape: Integers,
    stride: Integers,
    padding: Sequence[tuple[int, int]],
    dilation: Integers,
    groups: int,
) -> Iterator[tuple[Index, Index, Index]]:
    """Enumerate the terms of the trilinear form.

    Parameters
    ----------
    K_shape, V_shape : sequence of int
        Shapes of the kernel and the input.
    stride, padding, dilation, groups
        As in `c`.

    Yields
    ------
    k, v, z : tuple
        Indices of the elements of K, V and Z to be multiplied; v and z select all examples with a
        slice.
    """
    axes = len(V_shape) - 2
    filters, channels, kernel = K_shape[0], K_shape[-axes - 1], K_shape[-axes:]
    tile = K_shape[1 : -axes - 1]  # empty for a shared kernel
    size = V_shape[2:]
    every = slice(None)
    for i in range(filters):
        group = i // (filters // groups)
        for position in np.ndindex(*output_size(size, kernel, stride, padding, dilation)):
            turn = tuple(j % t for j, t in zip(position, tile)) if tile else ()  # noqa: B905
            for offset in np.ndindex(*kernel):
                place = tuple(
                    j * s + m * d - before
                    for j, s, m, d, (before, _) in zip(
                        position, stride, offset, dilation, padding, strict=True
                    )
                )
                if all(0 <= y < n for y, n in zip(place, size, strict=True)):
                    for l in range(channels):
                        k = (i, *turn, l, *offset)
                        v = (every, group * channels + l, *place)
                        yield k, v, (every, i, *position)


def c(
    K: Array,
    V: Array,
    stride: Integers,
    padding: Sequence[tuple[int, int]],
    dilation: Integers,
    groups: int = 1,
) -> Array:
    """Strided convolution: ``Z[i, j] = sum over l, m of V[l, j*s + m] * K[i, l, m]``.

    Parameters
    ----------
    K : (O, C/groups, *kernel) or (O, *tile, C/groups, *kernel) ndarray
        The kernel.
    V : (N, C, *size) ndarray
        The input.
    stride, padding, dilation : sequence
        One entry per axis; padding as pairs (before, after).
    groups : int
        Number of groups of channels.

    Returns
    -------
    (N, O, *output) ndarray
        Z, as in equation 9.8 of the book but with indices from 0.
    """
    kernel = K.shape[-(V.ndim - 2) :]
    size = output_size(V.shape[2:], kernel, stride, padding, dilation)
    Z = np.zeros((V.shape[0], K.shape[0], *size), V.dtype)
    for k, v, z in terms(K.shape, V.shape, stride, padding, dilation, groups):
        Z[z] += K[k] * V[v]
    return Z


def h(
    K: Array,
    G: Array,
    size: Integers,
    stride: Integers,
    padding: Sequence[tuple[int, int]],
    dilation: Integers,
    groups: int = 1,
) -> Array:
    """Transposed convolution: ``V'[l, y] = sum over i and j*s + m = y of K[i, l, m] * G[i, j]``.

    Parameters
    ----------
    G : (N, O, *output) ndarray
        The output-side array.
    size : sequence of int
        Spatial size of the result.
    K, stride, padding, dilation, groups
        As in `c`.

    Returns
    -------
    (N, C, *size) ndarray
        V', equation 9.13 of the book.
    """
    axes = G.ndim - 2
    V = np.zeros((G.shape[0], K.shape[-axes - 1] * groups, *size), G.dtype)
    for k, v, z in terms(K.shape, V.shape, stride, padding, dilation, groups):
        V[v] += K[k] * G[z]
    return V


def g(
    G: Array,
    V: Array,
    K_shape: Integers,
    stride: Integers,
    padding: Sequence[tuple[int, int]],
    dilation: Integers,
    groups: int = 1,
) -> Array:
    """Kernel gradient: ``dK[i, l, m] = sum over j of G[i, j] * V[l, j*s + m]``.

    Parameters
    ----------
    G : (N, O, *output) ndarray
        The output-side array.
    V : (N, C, *size) ndarray
        The input-side array.
    K_shape : sequence of int
        Shape of the kernel.
    stride, padding, dilation, groups
        As in `c`.

    Returns
    -------
    ndarray
        dK of shape K_shape, summed over the examples, equation 9.11 of the book.
    """
    dK = np.zeros(tuple(K_shape), G.dtype)
    for k, v, z in terms(K_shape, V.shape, stride, padding, dilation, groups):
        dK[k] += (G[z] * V[v]).sum()
    return dK
