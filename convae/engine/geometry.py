"""The integers behind a convolution: sizes, padding, stride, dilation and tiles.

Sizes are checked here; an error names the argument at fault. Along one axis, output position ``j``
and kernel element ``m`` meet the input position

    y = j * stride + m * dilation - padding_before,

and position ``j`` uses kernel ``j % tile`` of that axis (Goodfellow et al., *Deep Learning*,
equation 9.10).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

from convae.errors import UserError, UserTypeError, check_choice

Integers: TypeAlias = tuple[int, ...]
Padding: TypeAlias = str | int | Sequence[int | Sequence[int]]

LARGEST = 2**31 - 1
"""Largest size, stride and so on along an axis."""

PADDINGS = (
    "'valid', 'same', 'full', 'causal', 'same_upper', 'same_lower', an integer, one integer per "
    "axis, or one pair (before, after) per axis"
)
"""What padding may be, for messages."""

SIZED = ("same_upper", "same_lower")
"""Names whose padding depends on the input's size."""

LONGEST_PADDING = {"zeros": math.inf, "replicate": math.inf, "circular": 0, "reflect": -1}
"""The most positions that each mode of padding can add to a side, less the input's size."""

MOST_POSITIONS = 2**36
"""Most positions of a padded input."""


@dataclass(frozen=True)
class Geometry:
    """Resolved sizes, padding, stride, dilation, tile and groups of one convolution.

    Every field but `groups` has one entry per spatial axis, in the order of the array's axes.

    Parameters
    ----------
    size : tuple of int
        Size of the input (the visible side), without padding.
    kernel : tuple of int
        Size of the kernel.
    stride : tuple of int
        Input positions between consecutive output positions.
    padding : tuple of (int, int)
        Positions before the first and after the last of the input.
    dilation : tuple of int
        Input positions between consecutive kernel elements.
    tile : tuple of int
        Number of kernels that alternate along the axis; 1 for a shared kernel.
    groups : int
        Number of groups into which input and output channels are divided.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What the padding holds: zeros, the input mirrored at its edge, the edge's value, or the
        input's other end.
    """

    size: Integers
    kernel: Integers
    stride: Integers
    padding: tuple[tuple[int, int], ...]
    dilation: Integers
    tile: Integers
    groups: int
    padding_mode: str = "zeros"

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @cached_property
    def output(self) -> Integers:
        """Size of the output (the hidden side)."""
        return tuple(
            (size + before + after - span) // stride + 1
            for size, (before, after), span, stride in zip(
                self.size, self.padding, spans(self.kernel, self.dilation), self.stride, strict=True
            )
        )

    @cached_property
    def repeats(self) -> Integers:
        """Number of tiles along each axis, including a partial last one."""
        return tuple(-(-out // tile) for out, tile in zip(self.output, self.tile, strict=True))

    @cached_property
    def extended(self) -> Integers:
        """Output size rounded up to whole tiles."""
        return tuple(r * t for r, t in zip(self.repeats, self.tile, strict=True))

    @cached_property
    def padded(self) -> Integers:
        """Size of the padded input: covers the input and all that `extended` reads."""
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

    @cached_property
    def inner(self) -> Geometry:
        """The same convolution of an input that is padded already; self where zeros pad it."""
        if self.padding_mode == "zeros":
            return self
        size = tuple(
            before + n + after for n, (before, after) in zip(self.size, self.padding, strict=True)
        )
        none = ((0, 0),) * self.axes
        return replace(self, size=size, padding=none, padding_mode="zeros")

    @property
    def meets_each_once(self) -> bool:
        """Whether no input position meets two elements of the kernel at one output position."""
        if self.padding_mode == "zeros" or self.padding == ((0, 0),) * self.axes:
            return True
        reach = zip(self.size, spans(self.kernel, self.dilation), strict=True)
        return self.padding_mode == "circular" and all(span <= size for size, span in reach)

    def macs(self, channels: int, filters: int) -> int:
        """Count the multiply-accumulates of c, h or g per example.

        Parameters
        ----------
        channels, filters : int
            Number of channels of the input and of the output.

        Returns
        -------
        int
            The count, the same for all three operations.
        """
        per_position = filters * (channels // self.groups) * math.prod(self.kernel)
        return per_position * math.prod(self.output)


def spans(kernel: Integers, dilation: Integers) -> Integers:
    """Compute how many input positions a dilated kernel spans along each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))


def per_axis(name: str, value: int | Sequence[int], axes: int, minimum: int = 1) -> Integers:
    """Normalise one integer, or one per axis, to a checked tuple."""
    if isinstance(value, bool):
        raise UserTypeError(f"{name}: {value!r}; expected an integer, or {axes} of them")
    try:
        if isinstance(value, Sequence) and not isinstance(value, str):
            entries = tuple(operator.index(entry) for entry in value)
        else:
            entries = (operator.index(value),) * axes
    except TypeError:
        raise UserTypeError(
            f"{name}: {value!r} is not an integer or a sequence of integers; "
            f"expected one integer, or {axes}"
        ) from None
    if len(entries) != axes:
        raise UserError(
            f"{name}: {value!r} has {len(entries)} entries for {axes} spatial axes; "
            f"expected one integer, or {axes}"
        )
    if min(entries) < minimum:
        raise UserError(f"{name}: {value!r} is too small; expected at least {minimum}")
    if max(entries) > LARGEST:
        raise UserError(f"{name}: {value!r} is too large; expected at most {LARGEST}")
    return entries


def per_side(
    padding: Padding, size: Integers, kernel: Integers, stride: Integers, dilation: Integers
) -> tuple[tuple[int, int], ...]:
    """Normalise padding to a pair (before, after) per axis."""
    if padding is None or isinstance(padding, bool):
        raise UserTypeError(f"padding: {padding!r}; expected {PADDINGS}")
    reach = tuple(span - 1 for span in spans(kernel, dilation))
    if isinstance(padding, str):
        return _named_padding(padding, size, reach, stride)
    entries: Sequence[Any] = padding if isinstance(padding, Sequence) else (padding,) * len(kernel)
    if len(entries) != len(kernel):
        raise UserError(
            f"padding: {padding!r} has {len(entries)} entries for {len(kernel)} spatial axes; "
            f"expected {PADDINGS}"
        )
    sides = []
    for entry in entries:
        before, after = per_axis("padding", entry, 2, minimum=0)
        sides.append((before, after))
    return tuple(sides)


def _named_padding(
    padding: str, size: Integers, reach: Integers, stride: Integers
) -> tuple[tuple[int, int], ...]:
    if padding in SIZED:
        # as much as ceil(size / stride) output positions need, and no more
        totals = [
            max((-(-n // s) - 1) * s + r + 1 - n, 0)
            for n, s, r in zip(size, stride, reach, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        return tuple(halves if padding == "same_upper" else [(b, a) for a, b in halves])
    # With (kernel - 1) * dilation zeros, the odd one at the end, "same" gives ceil(size / stride)
    # output positions for every size and stride.
    named = {
        "valid": tuple((0, 0) for _ in reach),
        "same": tuple((r // 2, r - r // 2) for r in reach),
        "full": tuple((r, r) for r in reach),
        "causal": tuple((r, 0) for r in reach),
    }
    if padding not in named:
        raise UserError(f"padding: {padding!r} is unknown; expected {PADDINGS}")
    return named[padding]


def resolve(
    *,
    size: Sequence[int],
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    tile: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Geometry:
    """Normalise and check the arguments of `c`, `h` and `g` that determine their geometry.

    Parameters
    ----------
    size : sequence of int
        Input size along each spatial axis; its length is the number of axes.
    kernel, stride, dilation, tile : int or sequence of int
        One integer for all axes, or one per axis.
    padding : str, int or sequence
        As in `c`.
    groups : int
        Number of groups into which the channels are divided.
    padding_mode : str
        As in `c`.

    Returns
    -------
    Geometry
        The resolved geometry.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, the kernel exceeds the padded input, or the tile exceeds the
        output. The message names the argument, its value and what was expected.
    """
    named = {
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "tile": tile,
    }
    try:
        return _resolve(tuple(size), *named.values(), groups, padding_mode)
    except TypeError:  # a list, which cannot be hashed, or an invalid value
        hashable = [_hashable(name, value) for name, value in named.items()]
        return _resolve(tuple(size), *hashable, groups, padding_mode)


def _hashable(name: str, value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_hashable(name, entry) for entry in value)
    if not isinstance(value, Hashable):
        raise UserTypeError(
            f"{name}: {value!r} is neither an integer nor a sequence; "
            "expected an integer, or a tuple or list of integers"
        )
    return value


@lru_cache(maxsize=1024, typed=True)  # typed: 1.0 and True must not be found under 1
def _resolve(
    size: Integers,
    kernel: int | Integers,
    stride: int | Integers,
    padding: Padding,
    dilation: int | Integers,
    tile: int | Integers,
    groups: int,
    padding_mode: str,
) -> Geometry:
    axes = len(size)
    sizes = per_axis("size", size, axes)
    kernels = per_axis("kernel", kernel, axes)
    strides = per_axis("stride", stride, axes)
    dilations = per_axis("dilation", dilation, axes)
    check_choice("padding_mode", padding_mode, LONGEST_PADDING)
    geometry = Geometry(
        size=sizes,
        kernel=kernels,
        stride=strides,
        padding=per_side(padding, sizes, kernels, strides, dilations),
        dilation=dilations,
        tile=per_axis("tile", tile, axes),
        groups=per_axis("groups", groups, 1)[0],
        padding_mode=padding_mode,
    )
    for axis, span in enumerate(spans(kernels, dilations)):
        before, after = geometry.padding[axis]
        longest = sizes[axis] + LONGEST_PADDING[padding_mode]
        if max(before, after) > longest:
            raise UserError(
                f"padding: {before} and {after} along axis {axis} exceed {longest:g}, the most "
                f"that padding_mode {padding_mode!r} has for a size of {sizes[axis]}"
            )
        if sizes[axis] + before + after < span:
            raise UserError(
                f"kernel: {kernels[axis]} along axis {axis} covers {span} positions "
                f"(dilation {dilations[axis]}), but the input has only {sizes[axis]} and "
                f"{before} + {after} of padding; expected a smaller kernel or more padding"
            )
        if geometry.tile[axis] > geometry.output[axis]:
            raise UserError(
                f"tile: {geometry.tile[axis]} along axis {axis} is larger than the output, which "
                f"has {geometry.output[axis]} positions; expected at most {geometry.output[axis]}, "
                "which makes the kernel local"
            )
    if math.prod(geometry.padded) > MOST_POSITIONS:
        raise UserError(
            f"padding: with {padding!r} and dilation {dilations}, the padded input would have the "
            f"size {geometry.padded}; expected less"
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
    """Resolve the size that `h` returns: an input size with the given output size."""
    named = {"size": size, "stride": stride, "padding": padding, "dilation": dilation}
    try:
        return _transposed_size(output, kernel, *named.values())
    except TypeError:  # as in `resolve`
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
    possible = []  # with stride s, s input sizes share one output size
    if padding in SIZED:
        possible = [range((n - 1) * s + 1, n * s + 1) for n, s in zip(output, strides, strict=True)]
    else:
        sides = per_side(padding, output, kernel, strides, dilations)
        for out, step, (before, after), span in zip(
            output, strides, sides, spans(kernel, dilations), strict=True
        ):
            smallest = (out - 1) * step + span - before - after
            possible.append(range(max(smallest, 1), smallest + step))
    if size is None:
        if any(len(sizes) != 1 for sizes in possible):
            raise UserError(
                f"size: not determined by stride {strides} and G's size {output}; "
                f"expected {_listing(possible)}"
            )
        return tuple(sizes[0] for sizes in possible)
    wanted = per_axis("size", size, axes)
    if any(n not in sizes for n, sizes in zip(wanted, possible, strict=True)):
        raise UserError(
            f"size: {wanted} has no output of size {output} with kernel {kernel}, "
            f"stride {strides}; expected {_listing(possible)}"
        )
    return wanted


def _listing(possible: Sequence[range]) -> str:
    """Put the possible sizes of each axis into words."""
    words = []
    for sizes in possible:
        if len(sizes) == 0:
            words.append("(none: the padding is too large)")
        elif len(sizes) <= 4:
            words.append(" or ".join(str(n) for n in sizes))
        else:
            words.append(f"{sizes[0]} to {sizes[-1]}")
    return " by ".join(words)
