"""Which algorithm the NumPy backend chooses for a problem."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from convae import engine
from convae.engine.cpu.backend import compiled_operation

PLAIN = {"size": (8, 8), "kernel": 3, "stride": 2, "padding": "same"}


def chosen(
    operation: str, channels: int, filters: int, examples: int, itemsize: int, **how: Any
) -> str:
    """The module that computes an operation; "gemm" where nothing compiled does."""
    geometry = engine.resolve(**how)
    found = compiled_operation(operation, geometry, channels, filters, examples, itemsize)
    if found is None:
        return "gemm"
    function = found.func if isinstance(found, partial) else found
    return function.__module__.rpartition(".")[2]


@pytest.mark.parametrize("operation", ["c", "h", "g"])
@pytest.mark.parametrize(("examples", "itemsize"), [(32, 4), (16, 8), (96, 4)])
def test_whole_blocks_of_few_channels_are_computed_directly(
    operation: str, examples: int, itemsize: int
) -> None:
    for how in (PLAIN, {**PLAIN, "tile": 1}):
        assert chosen(operation, 1, 32, examples, itemsize, **how) == "direct"


@pytest.mark.parametrize("operation", ["c", "h", "g"])
@pytest.mark.parametrize(
    ("examples", "other"),
    [(16, {}), (33, {}), (32, {"groups": 2}), (64, {"dilation": 2}), (96, {"tile": (1, 2)})],
    ids=str,
)
def test_everything_else_is_a_matrix_product(operation: str, examples: int, other: dict) -> None:
    assert chosen(operation, 64, 64, examples, 4, **{**PLAIN, **other}) == "gemm"


@pytest.mark.parametrize("operation", ["c", "h", "g"])
@pytest.mark.parametrize(
    ("channels", "filters", "how", "expected"),
    [
        (64, 64, {"size": (16, 16), "kernel": 3, "padding": "same"}, "winograd"),
        (32, 64, {"size": (16, 16), "kernel": 5, "padding": "same", "stride": 2}, "winograd"),
        (1, 64, {"size": (16, 16), "kernel": 3, "padding": "same"}, "direct"),
        (64, 64, {"size": (16, 16), "kernel": 1, "padding": "same"}, "direct"),
        (64, 64, {"size": (6, 6, 6), "kernel": 3, "padding": "same"}, "direct"),
        (64, 64, {"size": (3, 3), "kernel": 3}, "direct"),  # one output leaves nothing to share
    ],
)
def test_many_channels_are_worth_winograd(
    operation: str, channels: int, filters: int, how: dict, expected: str
) -> None:
    assert chosen(operation, channels, filters, 64, 4, **how) == expected
