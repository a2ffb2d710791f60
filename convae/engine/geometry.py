"""The integers behind a convolution: sizes, padding, stride, dilation and tiles.

Every size error of the engine is raised here, by the name of the argument that caused it.
Along one axis, output position ``j`` and kernel element ``m`` meet the input position

    y = j * stride + m * dilation - padding_before,

and uses kernel ``j % tile`` of that axis (Goodfellow et al., *Deep Learning*, equation 9.10).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

from convae.errors import UserError, UserTypeError

Integers: TypeAlias = tuple[int, ...]
Padding: TypeAlias = str | int | Sequence[int | Sequence[int]]

PADDINGS = ("valid", "same", "full")


@dataclass(frozen=True)
class Geometry:
    """How one layer's input, kernel and output positions meet, all axes resolved.

    Every field holds one entry for each spatial axis, in the order of the array's axes.

    Parameters
    ----------
    size : tuple of int
        Positions of the input (the visible side), without padding.
    kernel : tuple of int
        Elements of the kernel.
    stride : tuple of int
        Input positions from one output position to the next.
    padding : tuple of (int, int)
        Zeros before the first and after the last input position.
    dilation : tuple of int
        Input positions from one kernel element to the next.
    tile : tuple of int
        Kernels used in turn along the axis; 1 is ordinary, shared convolution.
    groups : int
        Parts into which input and output channels are divided.
    """

    size: Integers
    kernel: Integers
    stride: Integers
    padding: tuple[tuple[int, int], ...]
    dilation: Integers
    tile: Integers
    groups: int

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @cached_property
    def output(self) -> Integers:
        """Positions of the output (the hidden side)."""
        return tuple(
            (size + before + after - span) // stride + 1
            for size, (before, after), span, stride in zip(
                self.size, self.padding, spans(self.kernel, self.dilation), self.stride, strict=True
            )
        )

    @cached_property
    def repeats(self) -> Integers:
        """How often each axis runs through its tile, the last time perhaps in part."""
        return tuple(-(-out // tile) for out, tile in zip(self.output, self.tile, strict=True))

    @cached_property
    def extended(self) -> Integers:
        """Output positions rounded up to whole tiles."""
        return tuple(r * t for r, t in zip(self.repeats, self.tile, strict=True))

    @cached_property
    def padded(self) -> Integers:
        """Positions of the zero-padded input: all that it or the extended output reaches."""
        return tuple(
            max(before + size, (extended - 1) * stride + span)
            for before, size, extended, stride, span in zip(
                (before for before, _ in self.padding),
                self.size,
                self.extended,
                self.stride,
                spans(self.kernel, self.dilation),
                strict=True,
            )
        )

    def macs(self, channels: int, filters: int) -> int:
        """Multiply-accumulates of one c, h or g for one example.

        Parameters
        ----------
        channels, filters : int
            Channels of the input and of the output.

        Returns
        -------
        int
            The count; the same for all three operations, which are one trilinear form.
        """
        per_position = filters * (channels // self.groups) * math.prod(self.kernel)
        return per_position * math.prod(self.output)


def spans(kernel: Integers, dilation: Integers) -> Integers:
    """Input positions that a dilated kernel covers along each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))


def per_axis(name: str, value: int | Sequence[int], axes: int, minimum: int = 1) -> Integers:
    """Turn one integer, or one for each axis, into a checked tuple."""
    try:
        if isinstance(value, Sequence) and not isinstance(value, str):
            entries = tuple(operator.index(entry) for entry in value)
        else:
            entries = (operator.index(value),) * axes
    except TypeError:
        raise UserTypeError(
            f"{name}: {value!r} is not an integer, nor a sequence of {axes} integers"
        ) from None
    if len(entries) != axes:
        raise UserError(
            f"{name}: {value!r} has {len(entries)} entries for {axes} spatial axes; "
            f"give one integer, or {axes}"
        )
    if min(entries) < minimum:
        raise UserError(f"{name}: {value!r} is too small; use integers of at least {minimum}")
    return entries


def per_side(padding: Padding, kernel: Integers, dilation: Integers) -> tuple[tuple[int, int], ...]:
    """Turn every form of padding into zeros before and after, for each axis.

    "same" adds ``(kernel - 1) * dilation`` zeros, the odd one at the end, so that the output has
    ``ceil(size / stride)`` positions whatever the size and the stride.
    """
    reach = tuple(span - 1 for span in spans(kernel, dilation))
    if isinstance(padding, str):
        named = {
            "valid": tuple((0, 0) for _ in reach),
            "same": tuple((r // 2, r - r // 2) for r in reach),
            "full": tuple((r, r) for r in reach),
        }
        if padding not in named:
            raise UserError(
                f"padding: {padding!r} is unknown; use 'valid', 'same', 'full', a number, "
                "one number for each axis, or one pair (before, after) for each axis"
            )
        return named[padding]
    entries: Sequence[Any] = padding if isinstance(padding, Sequence) else (padding,) * len(kernel)
    if len(entries) != len(kernel):
        raise UserError(
            f"padding: {padding!r} has {len(entries)} entries for {len(kernel)} spatial axes; "
            "give one number, one for each axis, or one pair (before, after) for each axis"
        )
    sides = []
    for entry in entries:
        before, after = per_axis("padding", entry, 2, minimum=0)
        sides.append((before, after))
    return tuple(sides)


def resolve(
    *,
    size: Sequence[int],
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    tile: int | Sequence[int] = 1,
    groups: int = 1,
) -> Geometry:
    """Normalise and check everything that `c`, `h` and `g` are told about positions.

    Parameters
    ----------
    size : sequence of int
        Positions of the input along each spatial axis; its length is the number of axes.
    kernel, stride, dilation, tile : int or sequence of int
        One for all the axes, or one for each.
    padding : str, int or sequence
        As in `per_side`.
    groups : int
        Parts into which the channels are divided.

    Returns
    -------
    Geometry
        The resolved geometry.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, the kernel exceeds its padded input, or the tile exceeds the
        output. The message names the argument, what came and what would do.
    """
    named = {
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "tile": tile,
    }
    try:
        return _resolve(tuple(size), *named.values(), groups)
    except TypeError:  # a list, or something wrong
        hashable = [_hashable(name, value) for name, value in named.items()]
        return _resolve(tuple(size), *hashable, groups)


def _hashable(name: str, value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_hashable(name, entry) for entry in value)
    if not isinstance(value, Hashable):
        raise UserTypeError(
            f"{name}: {value!r} is neither an integer nor a tuple or list of integers"
        )
    return value


@lru_cache(maxsize=1024, typed=True)  # typed: 1.0 and True are not 1
def _resolve(
    size: Integers,
    kernel: int | Integers,
    stride: int | Integers,
    padding: Padding,
    dilation: int | Integers,
    tile: int | Integers,
    groups: int,
) -> Geometry:
    axes = len(size)
    sizes = per_axis("size", size, axes)
    kernels = per_axis("kernel", kernel, axes)
    dilations = per_axis("dilation", dilation, axes)
    geometry = Geometry(
        size=sizes,
        kernel=kernels,
        stride=per_axis("stride", stride, axes),
        padding=per_side(padding, kernels, dilations),
        dilation=dilations,
        tile=per_axis("tile", tile, axes),
        groups=per_axis("groups", groups, 1)[0],
    )
    for axis, span in enumerate(spans(kernels, dilations)):
        before, after = geometry.padding[axis]
        if sizes[axis] + before + after < span:
            raise UserError(
                f"kernel: {kernels[axis]} along axis {axis} covers {span} positions "
                f"(dilation {dilations[axis]}), but the input has only {sizes[axis]} and "
                f"{before} + {after} of padding; use a smaller kernel or more padding"
            )
        if geometry.tile[axis] > geometry.output[axis]:
            raise UserError(
                f"tile: {geometry.tile[axis]} along axis {axis} is larger than the output, which "
                f"has {geometry.output[axis]} positions; {geometry.output[axis]} makes it local"
            )
    return geometry


def transposed_size(
    output: Integers,
    size: Sequence[int] | int | None,
    kernel: Integers,
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
) -> Integers:
    """Settle the size that `h` returns: the input size whose output is the given one.

    With stride ``s`` along an axis, ``s`` input sizes share one output size; which one is meant
    has to be said.
    """
    named = {"size": size, "stride": stride, "padding": padding, "dilation": dilation}
    try:
        return _transposed_size(output, kernel, *named.values())
    except TypeError:  # a list, or something wrong
        hashable = [_hashable(name, value) for name, value in named.items()]
        return _transposed_size(output, kernel, *hashable)


@lru_cache(maxsize=1024, typed=True)
def _transposed_size(
    output: Integers,
    kernel: Integers,
    size: int | Integers | None,
    stride: int | Integers,
    padding: Padding,
    dilation: int | Integers,
) -> Integers:
    axes = len(output)
    strides = per_axis("stride", stride, axes)
    dilations = per_axis("dilation", dilation, axes)
    sides = per_side(padding, kernel, dilations)
    possible = []
    for out, step, (before, after), span in zip(
        output, strides, sides, spans(kernel, dilations), strict=True
    ):
        smallest = (out - 1) * step + span - before - after
        possible.append([n for n in range(smallest, smallest + step) if n >= 1])
    listing = " by ".join(
        " or ".join(str(n) for n in sizes) if sizes else "(none: the padding is too large)"
        for sizes in possible
    )
    if size is None:
        if any(len(sizes) != 1 for sizes in possible):
            raise UserError(
                f"size: with stride {strides} the result's size is not determined by the input of "
                f"size {output}; say size=, which can be {listing}"
            )
        return tuple(sizes[0] for sizes in possible)
    wanted = per_axis("size", size, axes)
    if any(n not in sizes for n, sizes in zip(wanted, possible, strict=True)):
        raise UserError(
            f"size: {wanted} has no output of size {output} with kernel {kernel}, "
            f"stride {strides}; it can be {listing}"
        )
    return wanted
