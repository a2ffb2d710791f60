"""Convolution as an operator and as a matrix, against the sums that define it and dense algebra."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from convae import UserError, engine
from convae.engine import definition, to_numpy
from tests.problems import Problem, part_of_examples, problems

MODES = ("reflect", "replicate", "circular")


def dense(A: Any) -> np.ndarray:
    return (A.get() if hasattr(A, "get") else A).toarray()


@given(problem=problems())
def test_matrix_multiplies_as_c_is_defined(xp: ModuleType, problem: Problem) -> None:
    K, V, G = problem.arrays()
    Z, R, _ = problem.by_definition()
    A = dense(engine.matrix(xp.asarray(K), problem.V_shape[2:], **problem.how))
    assert A.shape == (Z[0].size, V[0].size)
    np.testing.assert_allclose(V.reshape(len(V), -1) @ A.T, Z.reshape(len(V), -1), atol=1e-12)
    np.testing.assert_allclose(G.reshape(len(V), -1) @ A, R.reshape(len(V), -1), atol=1e-12)


@given(problem=problems())
@part_of_examples(0.5)
def test_operator_multiplies_as_the_matrix(xp: ModuleType, problem: Problem) -> None:
    K, V, G = (xp.asarray(array) for array in problem.arrays())
    arguments = K, problem.V_shape[2:]
    A, operator = (
        dense(engine.matrix(*arguments, **problem.how)),
        engine.operator(*arguments, **problem.how),
    )
    columns, others = (array.reshape(len(array), -1).T for array in (V, G))
    for found, expected in (
        (operator.matmat(columns), A @ to_numpy(columns)),
        (operator.matvec(columns[:, 0]), A @ to_numpy(columns[:, 0])),
        (operator.rmatmat(others), A.T @ to_numpy(others)),
        (operator.rmatvec(others[:, 0]), A.T @ to_numpy(others[:, 0])),
    ):
        np.testing.assert_allclose(to_numpy(found), expected, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", ["same", 3, [[0, 2], [3, 1]]])
def test_matrix_of_padding_that_copies(rng, mode: str, padding: Any) -> None:
    how = {"padding": padding, "padding_mode": mode, "stride": 2}
    K, V = rng.standard_normal((2, 3, 3, 3)), rng.standard_normal((4, 3, 6, 5))
    A = engine.matrix(K, (6, 5), **how)
    Z = engine.c(K, V, **how)
    np.testing.assert_allclose(V.reshape(4, -1) @ A.T, Z.reshape(4, -1), atol=1e-12)


def test_matrix_is_sparse_and_repeats_the_kernel() -> None:
    A = engine.matrix(np.array([[[1.0, 2.0, 3.0]]]), size=5)
    expected = [[1, 2, 3, 0, 0], [0, 1, 2, 3, 0], [0, 0, 1, 2, 3]]
    assert A.toarray().tolist() == expected
    assert A.nnz == 9


def test_matrix_of_a_tiled_kernel_alternates() -> None:
    K = np.array([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # one filter, two kernels in turn, one channel
    A = engine.matrix(K, size=(4,))
    assert A.toarray().tolist() == [[1, 2, 0, 0], [0, 3, 4, 0], [0, 0, 1, 2]]


@given(problem=problems())
@part_of_examples(0.5)
def test_largest_singular_value(xp: ModuleType, problem: Problem) -> None:
    K = xp.asarray(problem.arrays()[0])
    size = problem.V_shape[2:]
    found = engine.largest_singular_value(K, size, tolerance=1e-12, **problem.how)
    A = dense(engine.matrix(K, size, **problem.how))
    exact = np.linalg.norm(A, 2)
    assert exact * (1 - 1e-3) <= found <= exact * (1 + 1e-12)


def test_largest_singular_value_of_an_orthogonal_map() -> None:
    K = np.eye(4).reshape(4, 1, 2, 2)
    assert engine.largest_singular_value(K, (8, 8), stride=2) == pytest.approx(1, abs=1e-12)
    assert engine.largest_singular_value(0 * K, (8, 8), stride=2) == 0


def test_scipy_solves_with_the_operator(rng) -> None:
    from scipy.sparse.linalg import lsqr, svds

    K = rng.standard_normal((3, 2, 3))
    operator = engine.operator(K, size=9, padding="same")
    A = engine.matrix(K, size=9, padding="same").toarray()
    z = rng.standard_normal(len(A))
    solution = lsqr(operator, z, atol=1e-14, btol=1e-14)[0]
    np.testing.assert_allclose(solution, np.linalg.lstsq(A, z, rcond=None)[0], atol=1e-8)
    (largest,) = svds(operator, k=1, return_singular_vectors=False, random_state=0)
    assert largest == pytest.approx(np.linalg.norm(A, 2))


def test_vectors_of_another_type_are_converted() -> None:
    K = np.ones((1, 1, 3), "float32")
    operator = engine.operator(K, size=5)
    assert operator.dtype == "float32"
    assert operator.matvec(np.ones(5)).dtype == "float32"
    assert engine.matrix(K, size=5).dtype == "float32"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((2, 2), "kernel: 3 along axis 0"),
        ((5, 5, 5), "K: shape"),
        (0, "size: 0 is too small"),
        ((), "expected 1 to 3 spatial axes"),
    ],
)
def test_sizes_that_do_not_fit(size: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.matrix(np.ones((1, 1, 3, 3)), size)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tolerance": 0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"iterations": 0}, "iterations"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_of_the_iteration(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.largest_singular_value(np.ones((1, 1, 3)), 5, **how)


def test_a_kernel_that_is_not_finite() -> None:
    with pytest.raises(UserError, match="K: has values"):
        engine.largest_singular_value(np.full((1, 1, 3), np.nan), 5)


def test_definition_agrees_on_a_worked_example() -> None:
    """The Jacobian of docs/linear_maps.md, entry by entry."""
    K = np.arange(1.0, 5).reshape(1, 1, 2, 2)
    A = engine.matrix(K, size=(3, 3)).toarray()
    for column, unit in enumerate(np.eye(9).reshape(9, 1, 1, 3, 3)):
        one = definition.c(K, unit, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
        np.testing.assert_array_equal(A[:, column], one.ravel())
