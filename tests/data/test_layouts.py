"""Layouts: each letter finds its axis, and back."""

from __future__ import annotations

import numpy as np
import pytest

from convae.data.layouts import Layout, possible
from convae.errors import UserError

SIZES = {"N": 5, "C": 3, "L": 7, "D": 4, "H": 6, "W": 8}
KNOWN = ["NL", "NCL", "NLC", "NHW", "NCHW", "NHWC", "NHCW", "NDHW", "NCDHW", "NDHWC", "NDCHW"]


@pytest.mark.parametrize("letters", KNOWN)
def test_every_axis_is_found_and_put_back(letters: str, rng) -> None:
    values = rng.random([SIZES[letter] for letter in letters])
    examples = Layout(letters).examples(values)
    ordered = "NC" + letters.replace("N", "").replace("C", "")
    expected = values if "C" in letters else values[:, None]
    if "C" in letters:
        expected = np.einsum(f"{letters.lower()}->{ordered.lower()}", values)
    np.testing.assert_array_equal(examples, expected)
    assert Layout(letters).shape_of(values.shape) == examples.shape[1:]
    np.testing.assert_array_equal(Layout(letters).back(examples), values)
    one = Layout(letters[1:]).examples(values[2])
    np.testing.assert_array_equal(one, examples[2:3])


@pytest.mark.parametrize(
    "letters",
    ["", "N", "NC", "CN", "NWH", "NHWD", "NLL", "NCCL", "NLHW", "LN", "nl", "NXL", None, 3],
)
def test_what_is_no_order_of_axes_is_refused(letters) -> None:
    with pytest.raises(UserError, match=r"layout: .* is no order of axes; expected one such as NL"):
        Layout(letters)


def test_possible_layouts() -> None:
    assert possible(2, True) == ["NL"]
    assert possible(3, True) == ["NCL", "NLC", "NHW"]
    assert possible(3, False) == ["NCL", "NLC", "NHW", "CHW", "HWC", "DHW"]
    assert possible(5, True) == ["NCDHW", "NDHWC"]
    assert possible(7, False) == []
    for axes in range(1, 6):
        assert all(Layout(letters).axes == axes for letters in possible(axes, False))
