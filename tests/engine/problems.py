"""Random convolutions of the whole family, drawn by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

Integers = tuple[int, ...]


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

    def arrays(self, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw K, V and G."""
        rng = np.random.default_rng(self.seed)
        shapes = (self.K_shape, self.V_shape, self.G_shape)
        K, V, G = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        return K, V, G


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
