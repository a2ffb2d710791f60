"""The compiled way of computing a program's nodes on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np

from convae.engine import biases
from convae.engine.arrays import Array
from convae.engine.backend import Elementwise, channels_last
from convae.engine.cpu import convolution, pooling
from convae.engine.cpu.calls import Calls, Line, joined, place
from convae.engine.cpu.convolution import NOTHING, Behind
from convae.engine.cpu.division import Table
from convae.engine.cpu.rows import Field, Kind, Number, Operation
from convae.engine.program import Executable, Problem
from convae.engine.program.arithmetic import Arrays, Run

PATTERN = 512
"""Elements to which biases by channel are repeated, at least, so that passes have long rows."""

UNCHANGED = (1.0, 0.0, 0.0, 1.0)
"""The derivative of the identity, as `Elementwise.quadratic` writes it."""


class Compiled:
    """c, h, g and pooling with what is behind them, and the sums of bias gradients.

    One of them serves the nodes of one program, in their order.
    """

    name, tensor_cores = "compiled", False

    def __init__(self) -> None:
        self._turned: convolution.Turned = {}

    def suits(self, problem: Problem) -> bool:
        """Tell whether it can compute a problem."""
        if problem.operation == "bias_gradient":
            return len(problem.shape("db") or ()) == 1
        if problem.operation in ("pool", "unpool"):
            return True
        if problem.operation not in ("c", "h", "g", "error", "take"):
            return False
        if problem.operation != "take" and problem.geometry.padding_mode != "zeros":
            return False
        if problem.operation == "error":
            f_out = problem["activation"]
            return problem["loss"].name == "mse" and _is_fused(f_out) and bool(f_out.quadratic)
        slope = problem["slope"]
        return slope is None or slope.derivative is None or slope.quadratic is not None

    def records(self, problem: Problem) -> bool:
        """Tell whether a CUDA graph can record it."""
        return False

    def build(self, problem: Problem, arrays: Arrays) -> Run:
        """Return what computes a problem on these arrays."""
        build: Callable[[Problem, Arrays], Run] = getattr(self, f"_{problem.operation}")
        return build(problem, arrays)

    def _c(self, problem: Problem, arrays: Arrays) -> Run:
        Z = arrays["Z"]
        behind, repeat = _behind(problem, arrays, Z)
        product = convolution.c(arrays["K"], arrays["V"], Z, problem.geometry, behind)
        return _whole(problem, repeat, product, Z)

    def _h(self, problem: Problem, arrays: Arrays) -> Run:
        V = arrays["V"]
        behind, repeat = _behind(problem, arrays, V)
        where = arrays["K"], arrays["G"], V
        product = convolution.h(*where, problem.geometry, behind, self._turned)
        return _whole(problem, repeat, product, V)

    def _error(self, problem: Problem, arrays: Arrays) -> Run:
        E, J, count = arrays["E"], arrays["J"], problem["count"]
        behind, repeat = _behind(problem, arrays, E)
        where = arrays["K"], arrays["G"], E
        product = convolution.h(*where, problem.geometry, behind, self._turned)

        def compare(sums: Array) -> None:
            J[...] = sums.sum() / count

        product.after.append(compare)
        return _whole(problem, repeat, product, E)

    def _g(self, problem: Problem, arrays: Arrays) -> Run:
        return convolution.g(arrays["G"], arrays["V"], arrays["dK"], problem.geometry)

    def _pool(self, problem: Problem, arrays: Arrays) -> Run:
        return pooling.pool(arrays["F"], arrays["P"], arrays["switches"], problem["window"])

    def _take(self, problem: Problem, arrays: Arrays) -> Run:
        behind, _ = _behind(problem, arrays, arrays["P"])
        where = arrays["F"], arrays["P"], arrays["switches"]
        return pooling.take(*where, problem["window"], behind)

    def _unpool(self, problem: Problem, arrays: Arrays) -> Run:
        return pooling.unpool(arrays["F"], arrays["P"], arrays["switches"], problem["window"])

    def _bias_gradient(self, problem: Problem, arrays: Arrays) -> Run:
        G, db = arrays["G"], arrays["db"]
        fields: dict[int, int] = {Field.COUNT: G.size // len(db), Field.COLUMNS: len(db)}
        where = {Field.D: db, Field.A: G}
        line = Line(Operation.SUM, where, fields, scratch=len(db) + PATTERN)
        return Calls(G.dtype, [[line]])


def _is_fused(f: Elementwise) -> bool:
    return f.slope is not None or f.name == "sigmoid"


def _behind(problem: Problem, arrays: Arrays, D: Array) -> tuple[Behind, Calls | None]:
    """Return what is behind a product, and what repeats its biases before every run."""
    if "H" in arrays or "extra" in arrays:
        slope = problem["slope"]
        is_identity = slope is None or slope.derivative is None
        where = {Field.H: arrays.get("H", D)}
        if "extra" in arrays:
            where[Field.EXTRA] = arrays["extra"]
        derivative = UNCHANGED if is_identity else slope.quadratic
        return Behind(Kind.SLOPE, where, {Number.DERIVATIVE: derivative}), None
    f = problem["activation"]
    if f is None:
        return NOTHING, None
    is_sigmoid = f.name == "sigmoid"
    buffer, repeat = _repeated(arrays.get("bias"), D)
    where, numbers = {Field.BIAS: buffer}, {Number.SLOPE: 1.0 if f.slope is None else f.slope}
    kind = Kind.SIGMOID if is_sigmoid else Kind.LINEAR
    if problem.operation == "error":
        kind = Kind.SIGMOID_ERROR if is_sigmoid else Kind.ERROR
        where[Field.TARGET] = arrays["target"]
        numbers[Number.DERIVATIVE] = f.quadratic
        numbers[Number.SCALE] = 2 * (problem["scale"] or 1) / problem["count"]
    return Behind(kind, where, numbers), repeat


def _repeated(bias: Array | None, D: Array) -> tuple[Array, Calls | None]:
    """Return a buffer with the biases of consecutive elements of D, and what fills it."""
    C, size = D.shape[-1], D.shape[1:-1]
    if bias is None:
        return np.zeros(PATTERN, D.dtype), None
    if bias.ndim == 1:
        buffer = np.empty(-(-PATTERN // C) * C, D.dtype)
        fields: dict[int, int] = {Field.COUNT: buffer.size, Field.COLUMNS: C}
        line = Line(Operation.REPEAT, {Field.D: buffer, Field.A: bias}, fields)
        return buffer, Calls(D.dtype, [[line]])
    buffer = np.empty((*size, C), D.dtype)

    def fill() -> None:
        spread: Array = biases.spread(bias, size)
        buffer[...] = channels_last(spread[None])[0]

    return buffer, Calls(D.dtype, [], before=[fill])


def _whole(problem: Problem, repeat: Calls | None, product: Calls, D: Array) -> Run:
    """Put together what a node has to do."""
    f = problem["activation"]
    calls = product if repeat is None else joined([repeat, product])
    if f is None or _is_fused(f):
        return calls

    def run() -> None:
        calls()
        f.function(np, D)

    return run


class Fused:
    """Runs a program; the calls of consecutive nodes are one, with nothing for Python between."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable
        self._steps: list[Run] = []
        for _, group in groupby(executable.calls, lambda call: isinstance(call[2], Calls)):
            runs = [run for _, _, run in group]
            calls = [run for run in runs if isinstance(run, Calls)]
            self._steps += [joined(calls)] if calls else runs
        self._entries: dict[str, tuple[Table, Table]] = {}  # of arrays that were moved
        self._places: dict[str, int] = {}  # where they lie

    def __call__(self) -> None:
        """Compute every node, in order."""
        for step in self._steps:
            step()

    def move(self, name: str, array: Array) -> bool:
        """Have an array, and what lies in it, lie elsewhere from now on, if all is compiled."""
        calls = self._steps[0]
        if len(self._steps) > 1 or not isinstance(calls, Calls):
            return False
        if name not in self._entries:  # while every array has a place of its own
            own = self._executable.arrays[name]
            self._entries[name], self._places[name] = calls.written.entries(own), place(own)
        there = place(array)
        calls.written.rows[self._entries[name]] += there - self._places[name]
        self._places[name] = there
        return True
