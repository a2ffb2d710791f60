"""A program bound to memory and to ways of computing its nodes: a list of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from types import ModuleType
from typing import Protocol

import numpy as np

from convae.engine.arrays import Array
from convae.engine.program.arithmetic import Arrays, Run
from convae.engine.program.nodes import Problem, Program


class Way(Protocol):
    """How a problem can be computed.

    Attributes
    ----------
    name : str
        What it is called.
    tensor_cores : bool
        Whether it uses tensor cores, which round float32 factors to TF32.
    """

    name: str
    tensor_cores: bool

    def suits(self, problem: Problem) -> bool:
        """Tell whether it can compute a problem."""

    def records(self, problem: Problem) -> bool:
        """Tell whether a CUDA graph can record it."""

    def build(self, problem: Problem, arrays: Arrays) -> Run:
        """Return what computes a problem on these arrays."""


class Memory:
    """Memory for the arrays of programs that run one after the other, such as those of two batches.

    Programs share it: what one left in an array means nothing to the next.
    """

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp
        self._blocks: dict[str, Array] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array; one of the same name and type lies in the same place, if it fits."""
        size = prod(shape)
        key = f"{name} {dtype}"
        if key not in self._blocks or self._blocks[key].size < size:
            self._blocks[key] = self._xp.empty(size, dtype)
        return self._blocks[key][:size].reshape(shape)


class Executable:
    """A program, ready to run.

    Parameters
    ----------
    program : Program
        What is computed.
    given : mapping
        The caller's arrays by name, as the program declares them.
    choose : callable
        Returns the way of computing a problem.
    memory : Memory
        Where the other arrays lie.

    Attributes
    ----------
    arrays : dict
        All arrays by name.
    calls : list of (Problem, Way, callable)
        The nodes, in order.

    Raises
    ------
    ValueError
        If a given array is missing or has another shape or type than declared.
    """

    def __init__(
        self,
        program: Program,
        given: Mapping[str, Array],
        choose: Callable[[Problem], Way],
        memory: Memory,
    ) -> None:
        self.program = program
        self.arrays: dict[str, Array] = {}
        for name, array in self._place(given, memory):
            slot = program.slots[name]
            if array.shape != slot.shape or array.dtype != np.dtype(slot.dtype):
                raise ValueError(
                    f"{name}: {array.dtype} {array.shape}; expected {slot.dtype} {slot.shape}"
                )
            self.arrays[name] = array
        self.calls: list[tuple[Problem, Way, Run]] = []
        for node in program.nodes:
            problem = program.problem(node)
            way = choose(problem)
            arrays = {role: self.arrays[name] for role, name in node.arrays.items()}
            self.calls.append((problem, way, way.build(problem, arrays)))

    def _place(self, given: Mapping[str, Array], memory: Memory) -> Iterator[tuple[str, Array]]:
        """Find each array's memory; owners come before their parts."""
        for name, slot in self.program.slots.items():
            if slot.given:
                if name not in given:
                    raise ValueError(f"{name}: missing among the given arrays")
                yield name, given[name]
            elif slot.owner is not None:
                yield name, self.arrays[slot.owner][slot.start : slot.start + slot.shape[0]]
            else:
                array = memory.take(name, slot.shape, slot.dtype)
                if slot.filling is not None:
                    array[...] = slot.filling
                yield name, array

    def __call__(self) -> None:
        """Compute every node, in order."""
        for _, _, run in self.calls:
            run()
