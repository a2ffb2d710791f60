"""Random convolutions and layers of the whole family, drawn by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from convae import Autoencoder, Layer
from convae.engine import Geometry, definition, resolve

Integers = tuple[int, ...]


def part_of_examples(part: float) -> settings:
    """Draw only a part of the profile's examples, where each takes long."""
    return settings(max_examples=max(3, round(part * settings.default.max_examples)))


@dataclass(frozen=True)
class Problem:
    """Shapes and arguments of one convolution; padding as pairs."""

    K_shape: Integers
    V_shape: Integers
    G_shape: Integers
    kernel: Integers
    tile: Integers | None
    stride: Integers
    padding: tuple[tuple[int, int], ...]
    dilation: Integers
    groups: int
    seed: int

    @property
    def how(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    @property
    def geometry(self) -> Geometry:
        return resolve(size=self.V_shape[2:], kernel=self.kernel, tile=self.tile or 1, **self.how)

    def arrays(self, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw K, V and G."""
        rng = np.random.default_rng(self.seed)
        shapes = (self.K_shape, self.V_shape, self.G_shape)
        K, V, G = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        return K, V, G

    def by_definition(self, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """c, h and g of these arrays, computed in float64 by the sums that define them."""
        K, V, G = (array.astype("float64") for array in self.arrays(dtype))
        return (
            definition.c(K, V, **self.how),
            definition.h(K, G, self.V_shape[2:], **self.how),
            definition.g(G, V, self.K_shape, **self.how),
        )


@st.composite
def problems(
    draw: st.DrawFn, sharings: tuple[str, ...] = ("shared", "tiled", "local"), axes: int = 0
) -> Problem:
    axes = axes or draw(st.integers(1, 3))
    largest = (9, 6, 4)[axes - 1]
    groups = draw(st.integers(1, 3))
    filters = groups * draw(st.integers(1, 2))
    channels = draw(st.integers(1, 2))
    size, kernel, stride, padding, dilation, output, tile = [], [], [], [], [], [], []
    sharing = draw(st.sampled_from(sharings))
    for _ in range(axes):
        k, s, d = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        span = (k - 1) * d + 1
        n = draw(st.integers(max(1, span - before - after), largest + span - 1))
        out = (n + before + after - span) // s + 1
        size.append(n)
        kernel.append(k)
        stride.append(s)
        dilation.append(d)
        padding.append((before, after))
        output.append(out)
        tile.append(out if sharing == "local" else draw(st.integers(1, out)))
    examples = draw(st.sampled_from([1, 2, 3, 16, 32, 96]))  # the CPU's blocks are of 16 or 32
    tiles = () if sharing == "shared" else tuple(tile)
    return Problem(
        K_shape=(filters, *tiles, channels, *kernel),
        V_shape=(examples, channels * groups, *size),
        G_shape=(examples, filters, *output),
        kernel=tuple(kernel),
        tile=tiles or None,
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=groups,
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@dataclass(frozen=True)
class Edge:
    """A convolution of few channels, for the kernels that are written for these."""

    channels: int
    size: Integers
    filters: int
    kernel: Integers
    stride: Integers

    @property
    def geometry(self) -> Geometry:
        return resolve(size=self.size, kernel=self.kernel, stride=self.stride, padding="same")

    def __str__(self) -> str:
        return f"{self.channels}x{self.size} {self.filters}@{self.kernel}/{self.stride}"


EDGES = [
    Edge(1, (28, 28), 32, (5, 5), (2, 2)),
    Edge(3, (9, 12), 8, (4, 3), (3, 1)),
    Edge(2, (7, 5), 4, (1, 2), (2, 3)),
]

MODES = ("zeros", "reflect", "replicate", "circular")

BIASES = ("natural", "channel", "tiled", "position", "none")


@st.composite
def layers(draw: st.DrawFn, input_shape: Integers, groups: int = 1) -> Layer:
    """Draw a layer that fits an input."""
    size = input_shape[1:]
    sharing = draw(st.sampled_from(["shared", "tiled", "local"]))
    kernel = [draw(st.integers(1, min(3, n))) for n in size]
    stride = [draw(st.integers(1, 2)) for _ in size]
    padding = draw(st.sampled_from(["valid", "same", 1]))
    output = resolve(size=size, kernel=kernel, stride=stride, padding=padding).output
    tile = [draw(st.integers(1, min(2, n))) for n in output] if sharing == "tiled" else None
    return Layer(
        filters=2 * groups,
        kernel=kernel,
        stride=stride,
        padding=padding,
        groups=groups,
        activation=draw(st.sampled_from(["tanh", "softplus", "identity"])),
        sharing=sharing,
        tile=tile,
        hidden_bias=draw(st.sampled_from(BIASES)),
        visible_bias=draw(st.sampled_from(BIASES)),
        tied=draw(st.booleans()),
    )


@st.composite
def stacks(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Layer], str]:
    """Shape of an image, two layers of any kind that fit it, and a loss."""
    axes = draw(st.integers(1, 3))
    shape = (2, *(draw(st.integers(3, (8, 6, 4)[axes - 1])) for _ in range(axes)))
    first = draw(layers(shape, groups=draw(st.integers(1, 2))))
    first = draw(varied(first, shape))
    lower = Autoencoder(shape, [first], dtype="float64")
    second = draw(layers(lower.code_shape))
    second = draw(varied(second, lower.code_shape))
    return shape, [first, second], draw(st.sampled_from(["mse", "bce"]))


@st.composite
def varied(draw: st.DrawFn, layer: Layer, input_shape: Integers) -> Layer:
    """Let a layer pool and pad by copies, or leave it as it is."""
    mode = draw(st.sampled_from(MODES)) if min(input_shape[1:]) > 1 else "zeros"
    windows = [[w for w in (1, 2, 3) if n % w == 0] for n in layer.geometry(input_shape).output]
    window = tuple(draw(st.sampled_from(found)) for found in windows)
    return replace(layer, padding_mode=mode, pool=window if draw(st.booleans()) else 1)
