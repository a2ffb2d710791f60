"""The trilinear identity: small for what is right, and large for every planted fault."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given

from convae import engine
from convae.engine import ArrayBackend, definition
from convae.engine.identity import backend_error
from tests.problems import Problem, problems

GEOMETRY = engine.resolve(size=(6, 6), kernel=3)


@pytest.fixture
def arrays(rng) -> list[np.ndarray]:
    return [rng.standard_normal(shape) for shape in ((2, 3, 3, 3), (1, 3, 6, 6), (1, 2, 4, 4))]


def faulty(operation: str, fault: Callable[[np.ndarray], np.ndarray]) -> ArrayBackend:
    """A backend one of whose operations returns something else."""
    right = getattr(ArrayBackend, operation)

    def wrong(self: ArrayBackend, *arguments: object) -> np.ndarray:
        return fault(right(self, *arguments))

    return type("Faulty", (ArrayBackend,), {operation: wrong})()


def one_nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[0] = np.nan
    return array


def meets_its_input(problem: Problem) -> bool:
    """Whether any output depends on the input, not on padding alone."""
    arguments = problem.K_shape, problem.V_shape, *problem.how.values()
    return any(True for _ in definition.terms(*arguments))


@given(problem=problems().filter(meets_its_input))
def test_identity_holds(xp: ModuleType, problem: Problem) -> None:
    K, V, G = (xp.asarray(array) for array in problem.arrays())
    assert engine.trilinear_error(K, V, G, **problem.how) < 1e-12


@given(problem=problems().filter(meets_its_input))
def test_identity_holds_for_a_backend(problem: Problem) -> None:
    assert backend_error(ArrayBackend(), *problem.arrays(), problem.geometry) < 1e-12


def test_identity_holds_where_outputs_meet_padding_alone() -> None:
    K, V, G = (np.ones(shape) for shape in ((1, 1, 1), (1, 1, 1), (1, 1, 1)))
    assert engine.trilinear_error(K, V, G, stride=2, padding=((1, 0),)) == 0


@pytest.mark.parametrize("operation", ["c", "h", "g"])
@pytest.mark.parametrize(
    "fault", [one_nan, lambda array: array * np.nan, lambda array: array + inf]
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_is_an_infinite_error(arrays, operation: str, fault) -> None:
    assert backend_error(faulty(operation, fault), *arrays, GEOMETRY) == inf


def test_zeros_without_reason_are_an_infinite_error(arrays) -> None:
    assert backend_error(faulty("c", np.zeros_like), *arrays, GEOMETRY) == inf


@pytest.mark.parametrize("operation", ["c", "h", "g"])
@pytest.mark.parametrize(
    ("fault", "least"),
    [
        (lambda array: 1.001 * array, 1e-6),
        (lambda array: -array, 1e-3),
        (lambda array: np.roll(array, 1, axis=-1), 1e-3),
    ],
    ids=["0.1% too large", "sign", "shifted"],
)
def test_finite_faults_are_noticed(arrays, operation: str, fault, least: float) -> None:
    assert backend_error(faulty(operation, fault), *arrays, GEOMETRY) > least


@pytest.mark.parametrize("operation", ["h", "g"])
def test_zeros_of_h_and_g_are_noticed(arrays, operation: str) -> None:
    assert backend_error(faulty(operation, np.zeros_like), *arrays, GEOMETRY) > 1e-3


@pytest.mark.parametrize("index", range(3), ids=["K", "V", "G"])
def test_an_argument_of_zeros_has_no_error(arrays, index: int) -> None:
    arrays[index][...] = 0
    assert engine.trilinear_error(*arrays) == 0
    assert backend_error(ArrayBackend(), *arrays, GEOMETRY) == 0


def test_nan_in_an_argument_is_an_infinite_error(arrays) -> None:
    arrays[0][0, 0, 0, 0] = np.nan
    assert engine.trilinear_error(*arrays) == inf
