"""The three operations: check the arguments, choose the backend of the arrays, call it.

c does not flip the kernel: it is cross-correlation, as everywhere in this field. The convolution
of the mathematicians is ``c(rot180(K), V)``.

Arrays are NCHW, with 1, 2 or 3 spatial axes. How a result lies in memory is the backend's choice;
`numpy.ascontiguousarray` copies it into C order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convae.engine.arrays import Array, array_module
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
) -> Array:
    """Strided convolution (cross-correlation: no flip).

    ``Z[i, j] = sum over l, m of V[l, j*stride + m] * K[i, l, m]``, equation 9.8 of *Deep Learning*
    (Goodfellow et al.), and 9.9 and 9.10 for local and tiled kernels.

    Parameters
    ----------
    K : (O, C/groups, *kernel) or (O, *tile, C/groups, *kernel) ndarray
        The kernel. With ``tile`` axes, output position j uses kernel ``j % tile``; a tile as large
        as the output gives each position a kernel of its own (a local, or unshared, one).
    V : (N, C, *size) ndarray
        The input; 1, 2 or 3 spatial axes.
    stride : int or sequence of int
        Input positions from one output position to the next.
    padding : "valid", "same", "full", int or sequence
        Zeros around V; one number for each axis, or a pair (before, after) for each axis. "same"
        gives ``ceil(size / stride)`` positions.
    dilation : int or sequence of int
        Input positions from one kernel element to the next.
    groups : int
        Parts into which the channels are divided; filter i sees only the channels of its part.

    Returns
    -------
    (N, O, *output) ndarray
        Z, on the device of the arguments and of their dtype.

    Raises
    ------
    TypeError
        If arrays are mixed between NumPy and CuPy or between dtypes, or an argument is no integer.
    ValueError
        If shapes, sizes or groups do not fit; the message names the argument.
    """
    backend = _backend(("K", K), ("V", V))
    axes = _axes("V", V)
    geometry = resolve(
        size=V.shape[2:],
        stride=stride,
        padding=padding,
        dilation=dilation,
        **_kernel(K, axes, groups),
    )
    _check_channels(V, K.shape[-axes - 1], groups)
    return backend.c(K, V, geometry)


def h(
    K: Array,
    G: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    size: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Array:
    """Transposed convolution: from the output back to the input, the adjoint of `c` in V.

    ``V'[l, y] = sum over i, (j, m): j*stride + m = y of K[i, l, m] * G[i, j]``, equation 9.13 of
    *Deep Learning*.

    Parameters
    ----------
    K : (O, C/groups, *kernel) or (O, *tile, C/groups, *kernel) ndarray
        The kernel.
    G : (N, O, *output) ndarray
        What lies on the output side.
    stride, padding, dilation, groups
        As in `c`.
    size : int or sequence of int, optional
        Positions of the result. Required where a stride is over 1, since several input sizes then
        have the same output size; it is never guessed.

    Returns
    -------
    (N, C, *size) ndarray
        V', on the device of the arguments and of their dtype.

    Raises
    ------
    TypeError
        As in `c`.
    ValueError
        As in `c`; and if the size is open or impossible: the message lists the possible sizes.
    """
    backend = _backend(("K", K), ("G", G))
    axes = _axes("G", G)
    kernel = _kernel(K, axes, groups)
    size = transposed_size(G.shape[2:], size, K.shape[K.ndim - axes :], stride, padding, dilation)
    geometry = resolve(size=size, stride=stride, padding=padding, dilation=dilation, **kernel)
    _check_filters(G, K.shape[0], geometry)
    return backend.h(K, G, geometry)


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
) -> Array:
    """Gradient of the kernel, summed over the examples: the adjoint of `c` in K.

    ``dK[i, l, m] = sum over j of G[i, j] * V[l, j*stride + m]``, equation 9.11 of *Deep Learning*.

    Parameters
    ----------
    G : (N, O, *output) ndarray
        What lies on the output side.
    V : (N, C, *size) ndarray
        What lies on the input side.
    stride, padding, dilation, groups
        As in `c`.
    kernel : int or sequence of int
        Elements of the kernel along each axis; with strides the arrays leave it open.
    tile : int or sequence of int, optional
        Kernels used in turn along each axis; None for a shared kernel.

    Returns
    -------
    (O, C/groups, *kernel) or (O, *tile, C/groups, *kernel) ndarray
        dK, on the device of the arguments and of their dtype, or float32 if that is shorter; with
        the tile's axes if a tile was given.

    Raises
    ------
    TypeError, ValueError
        As in `c`.
    """
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
    )
    if G.ndim != V.ndim or G.shape[0] != V.shape[0]:
        raise UserError(
            f"G: shape {G.shape} does not go with V's {V.shape}; "
            "both need the same number of examples and of spatial axes"
        )
    filters, channels = G.shape[1], V.shape[1]
    _check_groups(filters, groups)
    if channels % groups:
        raise UserError(f"groups: {groups} does not divide V's {channels} channels")
    _check_filters(G, filters, geometry)
    tiles = () if tile is None else per_axis("tile", tile, axes)
    K_shape = (filters, *tiles, channels // groups, *geometry.kernel)
    return backend.g(G, V, K_shape, geometry)


def rot180(K: Array, axes: int | None = None) -> Array:
    """Turn a kernel by 180 degrees: every spatial axis reversed.

    ``c(rot180(K), V)`` is convolution in the mathematicians' sense, which flips the kernel.

    Parameters
    ----------
    K : (..., *kernel) ndarray
        The kernel.
    axes : int, optional
        Number of spatial axes; ``K.ndim - 2``, as of a shared kernel, if not given.

    Returns
    -------
    ndarray
        A view on K.

    Raises
    ------
    ValueError
        If K has no such spatial axes.
    """
    array_module(K, names="K")
    spatial = K.ndim - 2 if axes is None else axes
    if not 1 <= spatial <= min(3, K.ndim):
        raise UserError(f"axes: {spatial} spatial axes of K's {K.ndim}; use 1, 2 or 3")
    return K[(..., *(slice(None, None, -1),) * spatial)]


def _backend(*named: tuple[str, Array]) -> Backend:
    """Choose the backend of the arrays, after checking that they agree."""
    names, arrays = zip(*named, strict=True)
    array_module(*arrays, names=" and ".join(names))
    dtype = arrays[0].dtype
    if any(array.dtype != dtype for array in arrays):
        listing = ", ".join(f"{name} is {array.dtype}" for name, array in named)
        raise UserTypeError(f"dtype: {listing}; convert them to one dtype")
    backend = backend_for(arrays[0])
    if dtype.name not in backend.dtypes:
        raise UserTypeError(
            f"dtype: {dtype} is not supported on the {backend.device}; "
            f"expected {' or '.join(backend.dtypes)}"
        )
    return backend


def _axes(name: str, array: Array) -> int:
    """Count the spatial axes of a batch."""
    if not 3 <= array.ndim <= 5 or 0 in array.shape:
        raise UserError(
            f"{name}: shape {array.shape} is not (examples, channels, *positions) "
            "with 1 to 3 axes of positions and nothing empty"
        )
    return int(array.ndim - 2)


def _kernel(K: Array, axes: int, groups: int) -> dict[str, Any]:
    """Read kernel size and tile off a kernel's shape."""
    if K.ndim not in (2 + axes, 2 + 2 * axes) or 0 in K.shape:
        raise UserError(
            f"K: shape {K.shape} has {K.ndim} axes; with {axes} spatial axes it needs "
            f"{2 + axes}, (filters, channels, *kernel), or {2 + 2 * axes}, "
            "(filters, *tile, channels, *kernel)"
        )
    _check_groups(K.shape[0], groups)
    tile = K.shape[1 : K.ndim - axes - 1] or 1
    return {"kernel": K.shape[K.ndim - axes :], "tile": tile, "groups": groups}


def _check_groups(filters: int, groups: int) -> None:
    (groups,) = per_axis("groups", groups, 1)
    if filters % groups:
        raise UserError(f"groups: {groups} does not divide the {filters} filters")


def _check_channels(V: Array, per_group: int, groups: int) -> None:
    if V.shape[1] != per_group * groups:
        raise UserError(
            f"V: {V.shape[1]} channels, but K takes {per_group} in each of {groups} group(s), "
            f"{per_group * groups} in all"
        )


def _check_filters(G: Array, filters: int, geometry: Geometry) -> None:
    expected = (filters, *geometry.output)
    if G.shape[1:] != expected:
        raise UserError(
            f"G: shape {G.shape} does not fit; with an input of size {geometry.size} "
            f"it has to be (N, {', '.join(map(str, expected))})"
        )
