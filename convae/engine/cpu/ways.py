"""The compiled way of computing a program's nodes on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby

import numpy as np

from convae.engine import biases
from convae.engine.arrays import Array
from convae.engine.backend import Elementwise, channels_last
from convae.engine.cpu import convolution, padding, pooling
from convae.engine.cpu.buffers import empty
from convae.engine.cpu.calls import Calls, Line, joined, place
from convae.engine.cpu.convolution import NOTHING, Behind
from convae.engine.cpu.division import Table
from convae.engine.cpu.rows import Field, Kind, Number, Operation
from convae.engine.geometry import Geometry
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
        self._extended: dict[tuple[int, ...], Array] = {}  # by the shape

    def suits(self, problem: Problem) -> bool:
        """Tell whether it can compute a problem."""
        if problem.operation == "bias_gradient":
            return len(problem.shape("db") or ()) == 1
        if problem.operation in ("pool", "unpool"):
            return True
        if problem.operation not in ("c", "h", "g", "error", "take"):
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
        V, before = self._extend(arrays["V"], problem.geometry)
        product = convolution.c(arrays["K"], V, Z, problem.geometry.inner, behind)
        return _activated(problem, [*before, *repeat, product], Z)

    def _h(self, problem: Problem, arrays: Arrays) -> Run:
        V = arrays["V"]
        behind, repeat = _behind(problem, arrays, V)
        return _activated(problem, [*repeat, *self._transposed(problem, arrays, V, behind)], V)

    def _error(self, problem: Problem, arrays: Arrays) -> Run:
        E, J, count = arrays["E"], arrays["J"], problem["count"]
        behind, repeat = _behind(problem, arrays, E)
        *others, last = self._transposed(problem, arrays, E, behind)

        def compare(sums: Array) -> None:
            J[...] = sums.sum() / count

        assert isinstance(last, Calls)
        last.after.append(compare)
        return together([*repeat, *others, last])

    def _g(self, problem: Problem, arrays: Arrays) -> Run:
        V, before = self._extend(arrays["V"], problem.geometry)
        product = convolution.g(arrays["G"], V, arrays["dK"], problem.geometry.inner)
        return together([*before, product])

    def _transposed(self, problem: Problem, arrays: Arrays, V: Array, behind: Behind) -> list[Run]:
        """Write h to V, with what is behind it, by way of its padding if that is of copies."""
        geometry, where = problem.geometry, (arrays["K"], arrays["G"])
        if geometry.padding_mode == "zeros":
            return [convolution.h(*where, V, geometry, behind, self._turned)]
        W = self._room(V, geometry)
        product = convolution.h(*where, W, geometry.inner, known=self._turned)
        return [product, padding.fold(V, W, geometry), convolution.finish(V, behind)]

    def _extend(self, V: Array, geometry: Geometry) -> tuple[Array, list[Run]]:
        """Return what c and g read, and what pads it by copies, if it has to be."""
        if geometry.padding_mode == "zeros":
            return V, []
        W = self._room(V, geometry)
        return W, [padding.extend(V, W, geometry)]

    def _room(self, V: Array, geometry: Geometry) -> Array:
        """Return room for V with its padding: nodes leave nothing there for others."""
        shape = len(V), *geometry.inner.size, V.shape[-1]
        if shape not in self._extended:
            self._extended[shape] = empty(shape, V.dtype)
        return self._extended[shape]

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


def _behind(problem: Problem, arrays: Arrays, D: Array) -> tuple[Behind, list[Calls]]:
    """Return what is behind a product, and what repeats its biases before every run."""
    if "H" in arrays or "extra" in arrays:
        slope = problem["slope"]
        is_identity = slope is None or slope.derivative is None
        where = {Field.H: arrays.get("H", D)}
        if "extra" in arrays:
            where[Field.EXTRA] = arrays["extra"]
        derivative = UNCHANGED if is_identity else slope.quadratic
        return Behind(Kind.SLOPE, where, {Number.DERIVATIVE: derivative}), []
    f = problem["activation"]
    if f is None:
        return NOTHING, []
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


def _repeated(bias: Array | None, D: Array) -> tuple[Array, list[Calls]]:
    """Return a buffer with the biases of consecutive elements of D, and what fills it."""
    C, size = D.shape[-1], D.shape[1:-1]
    if bias is None:
        return np.zeros(PATTERN, D.dtype), []
    if bias.ndim == 1:
        buffer = np.empty(-(-PATTERN // C) * C, D.dtype)
        fields: dict[int, int] = {Field.COUNT: buffer.size, Field.COLUMNS: C}
        line = Line(Operation.REPEAT, {Field.D: buffer, Field.A: bias}, fields)
        return buffer, [Calls(D.dtype, [[line]])]
    buffer = np.empty((*size, C), D.dtype)

    def fill() -> None:
        spread: Array = biases.spread(bias, size)
        buffer[...] = channels_last(spread[None])[0]

    return buffer, [Calls(D.dtype, [], before=[fill])]


def _activated(problem: Problem, runs: list[Run], D: Array) -> Run:
    """Put together what a node has to do, and apply an activation that is array code."""
    f = problem["activation"]
    return together(runs if f is None or _is_fused(f) else [*runs, partial(f.function, np, D)])


@dataclass
class Steps:
    """Calls, and what Python does between them."""

    runs: list[Run]

    def __call__(self) -> None:
        """Do all of it, in order."""
        for run in self.runs:
            run()

    def describe(self) -> str:
        """Say how the products among them are computed."""
        found = (run.describe() for run in self.runs if isinstance(run, Calls))
        return "; ".join(filter(None, found))


def together(runs: Iterable[Run]) -> Run:
    """Put together what is done one after the other; calls that are neighbours are one."""
    each = (run.runs if isinstance(run, Steps) else [run] for run in runs)
    found: list[Run] = []
    for _, neighbours in groupby(chain(*each), lambda run: isinstance(run, Calls)):
        group = list(neighbours)
        calls = [run for run in group if isinstance(run, Calls)]
        found += [joined(calls)] if calls else group
    return found[0] if len(found) == 1 else Steps(found)


class Fused:
    """Runs a program; the calls of consecutive nodes are one, with nothing for Python between."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable
        self._run = together(run for _, _, run in executable.calls)
        self._entries: dict[str, tuple[Table, Table]] = {}  # of arrays that were moved
        self._places: dict[str, int] = {}  # where they lie

    def __call__(self) -> None:
        """Compute every node, in order."""
        self._run()

    def move(self, name: str, array: Array) -> bool:
        """Have an array, and what lies in it, lie elsewhere from now on, if all is compiled."""
        calls = self._run
        if not isinstance(calls, Calls):
            return False
        if name not in self._entries:  # while every array has a place of its own
            own = self._executable.arrays[name]
            self._entries[name], self._places[name] = calls.written.entries(own), place(own)
        there = place(array)
        calls.written.rows[self._entries[name]] += there - self._places[name]
        self._places[name] = there
        return True
