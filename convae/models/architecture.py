"""A stack of layers for images of any size, chosen from their shape and the code asked for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

from convae.engine.geometry import per_axis
from convae.errors import UserError, check_range
from convae.models.specification import Layer

KERNEL, STRIDE = 4, 2
"""Of each convolution. The stride divides the kernel: every position is met by equally many
elements, so that there is no checkerboard (Odena et al. 2016)."""

SMALLEST = 2
"""Positions along an axis down to which convolutions halve it."""

FIRST = 32
"""Filters of the first convolution; each further one has twice as many."""

MOST = 192
"""Filters of a convolution, at most."""

NUMBERS_PER_CODE = 6
"""Numbers that the uppermost convolution leaves for each number of the code, at least."""


def code_size(input_shape: Sequence[int]) -> int:
    """Propose a code: the power of two nearest to twice the root of the image's numbers.

    Parameters
    ----------
    input_shape : (C, *size) sequence of int
        Shape of one image.

    Returns
    -------
    int
        16 for 1x8x8, 64 for 1x28x28, 128 for 3x32x32, 1,024 for 3x224x224.
    """
    values = prod(input_shape)
    power = 1
    while power * sqrt(2) < 2 * sqrt(values):
        power *= 2
    return min(power, values)


def choose_layers(input_shape: Sequence[int], code: int | None = None) -> list[Layer]:
    """Choose a stack for images of a shape: convolutions that halve them, then the code.

    Each convolution has enough filters for a lossless start by `convae.initialise`, two for each
    number of its signal, as far as `MOST` allows. They go on until 2 positions are left along an
    axis, or what is left would hold fewer than 6 numbers for each number of the code.

    Parameters
    ----------
    input_shape : (C, *size) sequence of int
        Shape of one image; 1 to 3 axes of positions.
    code : int, optional
        Numbers in one image's code; by default `code_size`.

    Returns
    -------
    list of Layer
        Rectified convolutions with kernel 4 and stride 2, and one as large as its input without an
        activation, whose visible bias by position holds the mean image.

    Raises
    ------
    UserTypeError, UserError
        If the shape is no shape of images, or the code larger than one.
    """
    if not isinstance(input_shape, Sequence) or not 2 <= len(input_shape) <= 4:
        raise UserError(
            f"input_shape: {input_shape!r} is not (channels, *positions) "
            "with 1 to 3 axes of positions"
        )
    channels, *size = per_axis("input_shape", tuple(input_shape), len(input_shape))
    values = channels * prod(size)
    code = code_size(input_shape) if code is None else code
    check_range("code", code, at_least=1, at_most=values, integer=True)
    layers: list[Layer] = []
    filters, signal = FIRST, channels
    while max(size) > SMALLEST:
        halved = [n > SMALLEST for n in size]
        signal *= 2 ** sum(halved)
        width = min(max(filters, 2 * signal), MOST)
        size = [-(-n // 2) if half else n for n, half in zip(size, halved, strict=True)]
        if layers and min(width // 2, signal) * prod(size) < min(NUMBERS_PER_CODE * code, values):
            break
        layers.append(
            Layer(
                filters=width,
                kernel=[KERNEL if half else 3 for half in halved],
                stride=[STRIDE if half else 1 for half in halved],
                padding="same",
            )
        )
        filters, signal = 2 * width, min(signal, width // 2)
    code_layer = Layer(filters=code, kernel="input", activation="identity", visible_bias="position")
    return [*layers, code_layer]
