"""The compiled c, h and g: whole blocks of examples, all counts of rows, and their bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convae import engine
from convae.engine import definition, gemm
from tests.helpers import by_pytorch, error
from tests.problems import part_of_examples

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@st.composite
def cases(draw: st.DrawFn):
    """Shapes of K, V and G, stride and padding, dtype and seed."""
    axes = draw(st.integers(1, 3))
    size = [draw(st.integers(1, (20, 9, 5)[axes - 1])) for _ in range(axes)]
    padding = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(axes))
    largest = [min(6, n + sum(sides)) for n, sides in zip(size, padding, strict=True)]
    kernel = [draw(st.integers(1, n)) for n in largest]
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    channels, filters = draw(st.integers(1, 19)), draw(st.integers(1, 40))
    examples = draw(st.sampled_from([32, 64, 160]))
    output = engine.resolve(size=size, kernel=kernel, stride=stride, padding=padding).output
    shapes = (
        (filters, channels, *kernel),
        (examples, channels, *size),
        (examples, filters, *output),
    )
    dtype = draw(st.sampled_from(["float32", "float64"]))
    return shapes, stride, padding, dtype, draw(st.integers(0, 2**32 - 1))


@part_of_examples(0.5)
@given(case=cases())
def test_operations_equal_pytorch(case) -> None:
    shapes, stride, padding, dtype, seed = case
    rng = np.random.default_rng(seed)
    K, V, G = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    how = {"stride": stride, "padding": padding}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("c", "h", "g"):
            patch.delattr(gemm, name)  # whoever calls them fails
        Z = engine.c(K, V, **how)
        R = engine.h(K, G, size=V.shape[2:], **how)
        dK = engine.g(G, V, kernel=K.shape[2:], **how)
    for actual, expected in zip((Z, R, dK), by_pytorch(K, V, G, stride, padding), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == dtype
        assert error(actual, expected) < TOLERANCE[dtype]


WORKLOADS = [(1, 28, 32, 5, 2), (32, 14, 64, 3, 2), (3, 32, 64, 5, 2), (64, 16, 128, 3, 2)]


@pytest.mark.parametrize(("channels", "side", "filters", "kernel", "stride"), WORKLOADS)
def test_single_precision_is_as_good_as_can_be(
    rng, channels: int, side: int, filters: int, kernel: int, stride: int
) -> None:
    K = rng.standard_normal((filters, channels, kernel, kernel), dtype="float32")
    V = rng.standard_normal((32, channels, side, side), dtype="float32")
    reach = kernel - 1
    padding = ((reach // 2, reach - reach // 2),) * 2
    how = {"stride": (stride, stride), "padding": padding}
    Z = engine.c(K, V, **how)
    results = (Z, engine.h(K, Z, size=side, **how), engine.g(Z, V, kernel=kernel, **how))
    for actual, expected in zip(results, by_pytorch(K, V, Z, **how), strict=True):
        assert error(actual, expected) < 1e-6


def test_a_position_that_meets_padding_alone_is_zero() -> None:
    K, V = np.ones((3, 2, 2, 2)), np.ones((16, 2, 1, 1))
    how = {"stride": (1, 1), "padding": ((3, 3), (3, 3)), "dilation": (1, 1)}
    Z = engine.c(K, V, **how)
    assert (definition.c(K, V, **how) == Z).all()
