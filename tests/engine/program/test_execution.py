"""Programs, their memory, and how they are bound."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from convae import engine
from convae.engine import ArrayBackend
from convae.engine.program import Executable, Memory, Portable, Problem, Program
from convae.models.activations import RELU
from convae.models.losses import MSE

PORTABLE = Portable(ArrayBackend())


def squares() -> Program:
    """A program that squares what it is given."""
    program = Program()
    program.array("x", (3,), "float64", given=True)
    program.array("y", (3,), "float64")
    program.do("square", K="x", write={"squares": "y"})
    return program


def bound(program: Program, memory: Memory | None = None, **given: np.ndarray) -> Executable:
    return Executable(program, given, lambda problem: PORTABLE, memory or Memory(np))


def test_a_program_computes_its_nodes() -> None:
    executable = bound(squares(), x=np.array([1.0, 2.0, 3.0]))
    executable()
    assert executable.arrays["y"].tolist() == [1, 4, 9]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "x: missing"),
        ({"x": np.ones(4)}, r"x: float64 \(4,\); expected float64 \(3,\)"),
        ({"x": np.ones(3, "float32")}, "x: float32"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(given: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bound(squares(), **given)


def test_halves_are_parts_of_one_batch() -> None:
    program = Program()
    program.halves("pair", "first", "second", (2, 5), "float32")
    arrays = bound(program).arrays
    arrays["first"][...], arrays["second"][...] = 1, 2
    assert arrays["pair"][:, 0].tolist() == [1, 1, 2, 2]


def test_programs_share_memory_where_it_fits() -> None:
    memory = Memory(np)
    large = memory.take("a", (4, 3), "float32")
    assert np.shares_memory(memory.take("a", (2, 3), "float32"), large)
    assert not np.shares_memory(memory.take("a", (2, 3), "float64"), large)
    assert not np.shares_memory(memory.take("b", (2, 3), "float32"), large)
    larger = memory.take("a", (5, 3), "float32")
    assert larger.shape == (5, 3)
    assert not np.shares_memory(larger, large)


def test_constants_are_filled() -> None:
    program = Program()
    program.array("ones", (2, 2), "float64", filling=1.0)
    assert bound(program).arrays["ones"].tolist() == [[1, 1], [1, 1]]


def test_a_problem_is_the_same_in_every_process() -> None:
    """Functions have other addresses there, so their names have to do."""
    geometry = engine.resolve(size=(4, 4), kernel=3)
    settings = (("activation", RELU), ("geometry", geometry), ("loss", MSE))
    problem = Problem("error", (("V", (2, 4, 4, 1), "float32"),), ("V",), (), settings)
    assert "0x" not in str(problem)
    assert "V 2x4x4x1 float32" in str(problem)
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert problem["activation"] is RELU
    assert problem["bias"] is None


def test_equal_nodes_are_one_problem() -> None:
    program = squares()
    program.array("z", (3,), "float64")
    program.do("square", K="x", write={"squares": "z"})
    assert len(list(program.problems())) == 1
