"""Errors that a user can put right, and the checks that raise them."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest

from convae import errors
from convae.errors import UserError, UserTypeError, check_choice, check_range, prefixed


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.UserError, ValueError),
        (errors.UserTypeError, TypeError),
        (errors.DeviceError, RuntimeError),
        (errors.DivergenceError, FloatingPointError),
        (errors.MissingPackageError, ModuleNotFoundError),
    ],
)
def test_user_errors_are_pythons_too(kind: type, builtin: type) -> None:
    assert issubclass(kind, UserError)
    assert issubclass(kind, builtin)
    with pytest.raises(builtin, match="what came and what is expected"):
        raise kind("what came and what is expected")


BOUNDS = {
    # how: what is accepted, what is not
    "at_least": ([0, 0.0, 1e300], [-1e-300, -1]),
    "over": ([1e-300, 1], [0, 0.0, -0.0, -1]),
    "at_most": ([0, -1e300], [1e-300, 1]),
    "below": ([-1e-300, -1], [0, 0.0, -0.0, 1]),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_include_or_exclude_their_value(bound: str) -> None:
    accepted, refused = BOUNDS[bound]
    for value in accepted:
        check_range("x", value, **{bound: 0})
    for value in refused:
        with pytest.raises(UserError, match=r"x: .* is out of range; .*0"):
            check_range("x", value, **{bound: 0})


@pytest.mark.parametrize("value", [nan, inf, -inf, np.float32(nan), np.float64(inf)])
def test_what_is_not_finite_is_out_of_range(value: float) -> None:
    with pytest.raises(UserError, match=r"^x: .* is out of range; expected a number"):
        check_range("x", value)
    with pytest.raises(UserError, match="out of range"):
        check_range("x", value, at_least=0)


@pytest.mark.parametrize("value", [True, False, "1", b"1", None, [1], 1j, np.array([1.0])])
def test_what_is_not_a_number_is_a_type_error(value: object) -> None:
    for integer in (False, True):
        with pytest.raises(UserTypeError, match=r"^x: .* is not an? (number|integer)"):
            check_range("x", value, integer=integer)


@pytest.mark.parametrize("value", [1.0, 1.5, np.float64(1), Fraction(1, 2)])
def test_integers_are_asked_for_by_type(value: float) -> None:
    check_range("x", value)
    with pytest.raises(UserTypeError, match=r"x: .* is not an integer.* 1"):
        check_range("x", value, at_least=1, integer=True)


@pytest.mark.parametrize("value", [1, np.int64(1), np.uint8(1)])
def test_integers_of_numpy_are_integers(value: int) -> None:
    check_range("x", value, at_least=1, at_most=1, integer=True)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32])
def test_numbers_of_numpy_are_numbers(kind: type) -> None:
    check_range("x", kind(1), over=0, at_most=1)
    with pytest.raises(UserError, match=r"x: .*2.* is out of range"):
        check_range("x", kind(2), over=0, at_most=1)


def test_the_message_has_name_value_and_range() -> None:
    with pytest.raises(UserError) as caught:
        check_range("trainer.ema", 1.5, over=0, below=1)
    expected = "trainer.ema: 1.5 is out of range; expected a number over 0 and below 1"
    assert str(caught.value) == expected
    with pytest.raises(UserError) as caught:
        check_range("dataset.limit", 9, at_least=10, at_most=4096, integer=True)
    message = str(caught.value)
    assert message.startswith("dataset.limit: 9 is out of range; expected an integer")
    assert "at least 10" in message
    assert "at most 4096" in message


def test_choices_are_listed() -> None:
    check_choice("loss", "mse", {"mse": 1, "bce": 2})
    for value in ("l1", None, 3, ["mse"]):
        with pytest.raises(UserError) as caught:
            check_choice("loss", value, {"mse": 1, "bce": 2})
        assert str(caught.value) == f"loss: {value!r} is unknown; expected one of mse, bce"


@pytest.mark.parametrize("kind", [UserError, UserTypeError, errors.DeviceError])
def test_a_prefix_keeps_the_kind_of_error(kind: type) -> None:
    expected = r"^layers\.0\.stride: 0 is too small$"
    with pytest.raises(kind, match=expected) as caught, prefixed("layers.0."):
        raise kind("stride: 0 is too small")
    assert type(caught.value) is kind


def test_prefixes_add_up() -> None:
    with (
        pytest.raises(UserError, match=r"^model\.layers\.1\.x$"),
        prefixed("model."),
        prefixed("layers.1."),
    ):
        raise UserError("x")


def test_a_prefix_leaves_other_errors_alone() -> None:
    with pytest.raises(KeyError) as caught, prefixed("model."):
        raise KeyError("x")
    assert caught.value.args == ("x",)
    with prefixed("model."):
        pass


def test_huge_integers_are_compared_without_overflow() -> None:
    check_range("seed", 10**400, at_least=0, integer=True)
    with pytest.raises(UserError, match="out of range"):
        check_range("seed", 10**400, at_most=5, integer=True)
