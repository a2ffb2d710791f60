"""Sizes against a count of the positions that fit, and against PyTorch's rules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convae.engine.geometry import per_side, resolve, transposed_size

SIZES = st.integers(1, 20)
SMALL = st.integers(1, 4)


@given(size=SIZES, kernel=SMALL, stride=SMALL, dilation=SMALL)
def test_same_padding_gives_ceil_of_size_over_stride(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    geometry = resolve(
        size=(size,), kernel=kernel, stride=stride, dilation=dilation, padding="same"
    )
    assert geometry.output == (math.ceil(size / stride),)


@given(size=SIZES, kernel=SMALL, dilation=SMALL)
def test_named_paddings_at_stride_one(size: int, kernel: int, dilation: int) -> None:
    reach = (kernel - 1) * dilation
    full = resolve(size=(size,), kernel=kernel, dilation=dilation, padding="full")
    assert full.output == (size + reach,)
    if size > reach:
        valid = resolve(size=(size,), kernel=kernel, dilation=dilation, padding="valid")
        assert valid.output == (size - reach,)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_at_stride_one_is_pytorchs(rng) -> None:
    for kernel in (2, 3, 4, 5):
        V, K = torch.tensor(rng.random((1, 1, 9))), torch.tensor(rng.random((1, 1, kernel)))
        expected = torch.nn.functional.conv1d(V, K, padding="same")
        ((before, after),) = per_side("same", (9,), (kernel,), (1,), (1,))
        padded = torch.nn.functional.pad(V, (before, after))
        assert torch.equal(torch.nn.functional.conv1d(padded, K), expected)


def test_every_form_of_padding() -> None:
    def sides(padding):
        return per_side(padding, (9, 9), (3, 5), (1, 1), (1, 1))

    assert sides("valid") == ((0, 0), (0, 0))
    assert sides("same") == ((1, 1), (2, 2))
    assert sides("full") == ((2, 2), (4, 4))
    assert sides(1) == ((1, 1), (1, 1))
    assert sides([1, 2]) == ((1, 1), (2, 2))
    assert sides([[1, 2], [3, 4]]) == ((1, 2), (3, 4))


@given(size=SIZES, kernel=SMALL, stride=SMALL, dilation=SMALL, before=SMALL, after=SMALL)
def test_transposed_size_admits_the_input_sizes_with_that_output(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    arguments = {"kernel": kernel, "stride": stride, "dilation": dilation}
    padding = [(before, after)]

    def output(n: int) -> tuple[int, ...] | None:
        try:
            return resolve(size=(n,), padding=padding, **arguments).output
        except ValueError:
            return None

    out = output(size)
    if out is None:
        return
    candidates = [n for n in range(1, 60) if output(n) == out]
    for n in range(1, 60):
        call = (out, (n,), (kernel,), stride, padding, dilation)
        if n in candidates:
            assert transposed_size(*call) == (n,)
        else:
            with pytest.raises(ValueError, match="size"):
                transposed_size(*call)


def test_macs_of_a_known_layer() -> None:
    """AlexNet's first layer: 96 filters of 3x11x11 at stride 4 on 227x227, 105,415,200 products."""
    geometry = resolve(size=(227, 227), kernel=11, stride=4)
    assert geometry.output == (55, 55)
    assert geometry.macs(3, 96) == 105_415_200
