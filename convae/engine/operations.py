"""The three operations: check the arguments, then call the backend of the arrays.

As usual in deep learning, c does not flip the kernel: it is cross-correlation. Mathematical
convolution is ``c(rot180(K), V)``.

Arrays are NCHW, with 1, 2 or 3 spatial axes. The backend chooses the memory order of a result;
`numpy.ascontiguousarray` copies it to C order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from convae.engine import edges
from convae.engine.arrays import Array, array_module, plain
from convae.engine.backend import Backend, backend_for
from convae.engine.geometry import Geometry, Padding, per_axis, resolve, transposed_size
from convae.errors import UserError, UserTypeError


def c(
    K: Array,
    V: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Array:
    """Strided convolution (cross-correlation: the kernel is not flipped).

    ``Z[i, j] = sum over l, m of V[l, j*stride + m] * K[i, l, m]``, equation 9.8 of *Deep Learning*
    (Goodfellow et al.), and 9.9 and 9.10 for local and tiled kernels.

    Parameters
    ----------
    K : (O, C/groups, *kernel) or (O, *tile, C/groups, *kernel) ndarray
        The kernel. With ``tile`` axes, output position j uses kernel ``j % tile``; a tile as large
        as the output gives every position its own kernel (a local, or unshared, kernel).
    V : (N, C, *size) ndarray
        The input, with 1, 2 or 3 spatial axes.
    stride : int or sequence of int
        Input positions between consecutive output positions.
    padding : str, int or sequence
        Positions around V: one integer, one per axis, or a pair (before, after) per axis. By name:
        "valid" adds none, "full" ``(kernel - 1) * dilation`` on both sides, "causal" so many
        before and none after. "same" gives ``ceil(size / stride)`` output positions, centred alike
        for every size; "same_upper" and "same_lower" give as many as ONNX does (and TensorFlow, as
        the former), with padding that depends on the size.
    dilation : int or sequence of int
        Input positions between consecutive kernel elements.
    groups : int
        Number of groups into which the channels are divided; a filter reads only the channels of
        its own group.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What the padding holds: zeros, V mirrored at its edge, the edge's value, or V's other end.

    Returns
    -------
    (N, O, *output) ndarray
        Z, with the dtype and on the device of the arguments.

    Raises
    ------
    TypeError
        If NumPy and CuPy arrays or different dtypes are mixed, the dtype is not supported, or an
        argument is not an integer.
    ValueError
        If shapes, sizes or groups do not match; the message names the argument.
    """
    K, V = plain("K", K), plain("V", V)
    backend = _backend(("K", K), ("V", V))
    axes = _axes("V", V)
    kernel = _kernel(K, axes, groups)
    _check_channels(K, V, axes, groups)
    try:
        geometry = resolve(
            size=V.shape[2:],
            stride=stride,
            padding=padding,
            dilation=dilation,
            padding_mode=padding_mode,
            **kernel,
        )
    except UserError as error:
        if all(k > n for k, n in zip(kernel["kernel"], V.shape[2:], strict=True)):
            raise type(error)(f"{error}; are K and V swapped?") from None
        raise
    if len(V) == 0:
        return backend.xp.zeros((0, len(K), *geometry.output), V.dtype)
    return edges.c(backend, K, V, geometry)


def h(
    K: Array,
    G: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    size: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Array:
    """Transposed convolution: the adjoint of `c` with respect to V.

    ``V'[l, y] = sum over i, (j, m): j*stride + m = y of K[i, l, m] * G[i, j]``, equation 9.13 of
    *Deep Learning*.

    Parameters
    ----------
    G : (N, O, *output) ndarray
        The output-side array, such as a code or the gradient with respect to Z.
    K, stride, padding, dilation, groups, padding_mode
        As in `c`.
    size : int or sequence of int, optional
        Spatial size of the result. Required if a stride exceeds 1, since several input sizes then
        have the same output size.

    Returns
    -------
    (N, C, *size) ndarray
        V', with the dtype and on the device of the arguments.

    Raises
    ------
    TypeError
        As in `c`.
    ValueError
        As in `c`, or if the size is ambiguous or impossible; the message lists the possible sizes.
    """
    K, G = plain("K", K), plain("G", G)
    backend = _backend(("K", K), ("G", G))
    axes = _axes("G", G)
    kernel = _kernel(K, axes, groups)
    if G.shape[1] != K.shape[0]:
        raise UserError(f"G: {G.shape[1]} channels, but K has {K.shape[0]} filters")
    size = transposed_size(G.shape[2:], size, K.shape[K.ndim - axes :], stride, padding, dilation)
    geometry = resolve(
        size=size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=padding_mode,
        **kernel,
    )
    _check_filters(G, K.shape[0], geometry)
    if len(G) == 0:
        return backend.xp.zeros((0, K.shape[-axes - 1] * geometry.groups, *size), G.dtype)
    return edges.h(backend, K, G, geometry)


def g(
    G: Array,
    V: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    kernel: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    tile: int | Sequence[int] | None = None,
    padding_mode: str = "zeros",
) -> Array:
    """Kernel gradient, summed over the examples: the adjoint of `c` with respect to K.

    ``dK[i, l, m] = sum over j of G[i, j] * V[l, j*stride + m]``, equation 9.11 of *Deep Learning*.

    Parameters
    ----------
    G : (N, O, *output) ndarray
        The output-side array, such as the gradient with respect to Z.
    V : (N, C, *size) ndarray
        The input-side array.
    stride, padding, dilation, groups, padding_mode
        As in `c`.
    kernel : int or sequence of int
        Kernel size along each axis; with a stride, the shapes of G and V do not determine it.
    tile : int or sequence of int, optional
        Number of kernels that alternate along each axis; None for a shared kernel.

    Returns
    -------
    (O, C/groups, *kernel) or (O, *tile, C/groups, *kernel) ndarray
        dK, on the device of the arguments, with their dtype or float32 if that is wider; it has
        tile axes if `tile` is given.

    Raises
    ------
    TypeError, ValueError
        As in `c`.
    """
    G, V = plain("G", G), plain("V", V)
    backend = _backend(("G", G), ("V", V))
    axes = _axes("V", V)
    geometry = resolve(
        size=V.shape[2:],
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        tile=1 if tile is None else tile,
        groups=groups,
        padding_mode=padding_mode,
    )
    if G.ndim != V.ndim or G.shape[0] != V.shape[0]:
        raise UserError(
            f"G: shape {G.shape} does not match V's shape {V.shape}; "
            "expected the same number of examples and of spatial axes"
        )
    filters, channels = G.shape[1], V.shape[1]
    _check_groups(filters, groups)
    if channels % groups:
        raise UserError(
            f"groups: {groups} does not divide V's {channels} channels; expected a common divisor "
            "of channels and filters"
        )
    _check_filters(G, filters, geometry)
    tiles = () if tile is None else per_axis("tile", tile, axes)
    K_shape = (filters, *tiles, channels // groups, *geometry.kernel)
    if len(V) == 0:
        return backend.xp.zeros(K_shape, V.dtype)
    return edges.g(backend, G, V, K_shape, geometry)


def rot180(K: Array, axes: int | None = None) -> Array:
    """Rotate a kernel by 180 degrees, which reverses every spatial axis.

    ``c(rot180(K), V)`` is mathematical convolution, which flips the kernel.

    Parameters
    ----------
    K : (..., *kernel) ndarray
        The kernel.
    axes : int, optional
        Number of spatial axes; by default ``K.ndim - 2``, as for a shared kernel.

    Returns
    -------
    ndarray
        A view of K.

    Raises
    ------
    ValueError
        If the number of spatial axes is not 1, 2 or 3, or exceeds ``K.ndim``.
    """
    array_module(K, names="K")
    spatial = K.ndim - 2 if axes is None else axes
    if not 1 <= spatial <= min(3, K.ndim):
        raise UserError(f"axes: {spatial} spatial axes, with K.ndim {K.ndim}; expected 1, 2 or 3")
    return K[(..., *(slice(None, None, -1),) * spatial)]


def geometry_of(
    K: Array,
    size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Geometry:
    """Resolve the sizes of ``c(K, V)`` for inputs of a size; other arguments as in `c`.

    One number for a size stands for all axes of a shared kernel; with six or more axes in K, for
    those of a tiled one.
    """
    _backend(("K", K))
    if isinstance(size, Sequence):
        axes = len(size)
    else:
        axes = K.ndim - 2 if K.ndim <= 5 else (K.ndim - 2) // 2
    if not 1 <= axes <= 3:
        raise UserError(f"size: {size!r}, with K of shape {K.shape}; expected 1 to 3 spatial axes")
    return resolve(
        size=per_axis("size", size, axes),
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=padding_mode,
        **_kernel(K, axes, groups),
    )


def _backend(*named: tuple[str, Array]) -> Backend:
    """Check that the arrays agree in library and dtype, and return their backend."""
    names, arrays = zip(*named, strict=True)
    array_module(*arrays, names=" and ".join(names))
    dtype = arrays[0].dtype
    if any(array.dtype != dtype for array in arrays):
        listing = ", ".join(f"{name} is {array.dtype}" for name, array in named)
        raise UserTypeError(f"dtype: {listing}; expected the same dtype")
    backend = backend_for(arrays[0])
    if _name(dtype) not in backend.dtypes:
        raise UserTypeError(
            f"dtype: {dtype} is not supported on the {backend.device}; "
            f"expected {' or '.join(backend.dtypes)}"
        )
    return backend


@cache
def _name(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name, which NumPy puts together each time."""
    return dtype.name


def _axes(name: str, array: Array) -> int:
    """Return the number of spatial axes of a batch."""
    if not 3 <= array.ndim <= 5 or 0 in array.shape[1:]:
        raise UserError(
            f"{name}: shape {array.shape}; expected (examples, channels, *size) with 1 to 3 "
            "spatial axes, none of them but the examples empty"
        )
    return int(array.ndim - 2)


def _kernel(K: Array, axes: int, groups: int) -> dict[str, Any]:
    """Derive kernel size and tile from a kernel's shape."""
    if K.ndim not in (2 + axes, 2 + 2 * axes) or 0 in K.shape:
        raise UserError(
            f"K: shape {K.shape} has {K.ndim} axes; with {axes} spatial axes expected "
            f"{2 + axes}, (filters, channels, *kernel), or {2 + 2 * axes}, "
            "(filters, *tile, channels, *kernel), nothing empty"
        )
    _check_groups(K.shape[0], groups)
    tile = K.shape[1 : K.ndim - axes - 1] or 1
    return {"kernel": K.shape[K.ndim - axes :], "tile": tile, "groups": groups}


def _check_groups(filters: int, groups: int) -> None:
    (groups,) = per_axis("groups", groups, 1)
    if filters % groups:
        raise UserError(
            f"groups: {groups} does not divide the {filters} filters; expected a common divisor "
            "of channels and filters"
        )


def _check_channels(K: Array, V: Array, axes: int, groups: int) -> None:
    """Compare the channels of K and V, and guess what a mismatch means."""
    per_group = K.shape[-axes - 1]
    wanted = per_group * groups
    if V.shape[1] == wanted:
        return
    hint = ""
    if V.ndim == 3 and K.ndim == 4 and V.shape[0] == K.shape[1] * groups:
        hint = "; V looks like a single image: give it an axis of examples, V[None]"
    elif V.shape[-1] == wanted:
        hint = "; V looks channels-last: expected (N, C, *size), as from numpy.moveaxis(V, -1, 1)"
    elif K.ndim == V.ndim and V.shape[-axes - 1] != wanted and K.shape[1] == V.shape[1]:
        hint = "; are K and V swapped?"
    raise UserError(
        f"V: {V.shape[1]} channels, but K takes {per_group} in each of {groups} group(s); "
        f"expected {wanted}{hint}"
    )


def _check_filters(G: Array, filters: int, geometry: Geometry) -> None:
    expected = (filters, *geometry.output)
    if G.shape[1:] != expected:
        raise UserError(
            f"G: shape {G.shape} does not match an input of size {geometry.size}; "
            f"expected (N, {', '.join(map(str, expected))})"
        )
