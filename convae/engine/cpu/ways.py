"""The compiled way of computing a program's nodes on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from convae.engine import biases
from convae.engine.arrays import Array
from convae.engine.backend import Elementwise
from convae.engine.cpu import pointwise, products
from convae.engine.cpu.convolution import bind_c, bind_g, bind_h, nothing
from convae.engine.cpu.products import Behind
from convae.engine.geometry import Geometry
from convae.engine.program import Problem
from convae.engine.program.arithmetic import Arrays, Run

UNCHANGED = (1.0, 0.0, 0.0, 1.0)
"""The derivative of the identity, as `Elementwise.quadratic` writes it."""


class Compiled:
    """c, h and g with what is behind them in the same pass, and the sums of bias gradients."""

    name, tensor_cores = "compiled", False

    def suits(self, problem: Problem) -> bool:
        """Tell whether it can compute a problem."""
        if problem.operation == "bias_gradient":
            return len(problem.shape("db") or ()) == 1
        if problem.operation not in ("c", "h", "g", "error"):
            return False
        if problem.geometry.padding_mode != "zeros":
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
        Z, geometry = arrays["Z"], problem.geometry
        prepare, behind = _behind(problem, arrays, Z)
        bound = bind_c(arrays["K"], arrays["V"], Z, geometry, behind)
        return _in_order(prepare, bound, _unfused(problem, Z))

    def _h(self, problem: Problem, arrays: Arrays) -> Run:
        V, geometry = arrays["V"], problem.geometry
        prepare, behind = _behind(problem, arrays, V)
        bound = bind_h(arrays["K"], arrays["G"], V, geometry, behind)
        return _in_order(prepare, bound, _unfused(problem, V))

    def _error(self, problem: Problem, arrays: Arrays) -> Run:
        E, J, count = arrays["E"], arrays["J"], problem["count"]
        prepare, behind = _behind(problem, arrays, E)
        bound = bind_h(arrays["K"], arrays["G"], E, problem.geometry, behind)

        def compare() -> None:
            J[...] = bound() / count

        return _in_order(prepare, compare, None)

    def _g(self, problem: Problem, arrays: Arrays) -> Run:
        return _in_order(None, bind_g(arrays["G"], arrays["V"], arrays["dK"], problem.geometry), None)

    def _bias_gradient(self, problem: Problem, arrays: Arrays) -> Run:
        G, db = arrays["G"].reshape(-1), arrays["db"]

        def run() -> None:
            db[...] = pointwise.channel_sums(G, len(db))

        return run


def _is_fused(f: Elementwise) -> bool:
    return f.slope is not None or f.name == "sigmoid"


def _behind(problem: Problem, arrays: Arrays, D: Array) -> tuple[Run | None, Behind]:
    """Return what is behind a product, and what has to be done before every run."""
    dtype = D.dtype
    number = dtype.type
    none = nothing(dtype)
    if "H" in arrays or "extra" in arrays:
        slope = problem["slope"]
        derivative = UNCHANGED if slope is None or slope.derivative is None else slope.quadratic
        found = none._replace(kind=products.SLOPE, derivative=tuple(map(number, derivative)))
        H = arrays["H"] if "H" in arrays else D
        return None, found._replace(
            H=H.reshape(-1), extra=arrays["extra"].reshape(-1) if "extra" in arrays else none.extra
        )
    f = problem["activation"]
    if f is None:
        return None, none
    is_sigmoid = f.name == "sigmoid"
    kind = products.SIGMOID if is_sigmoid else products.LINEAR
    if problem.operation == "error":
        kind = products.SIGMOID_ERROR if is_sigmoid else products.ERROR
    repeated, prepare = _repeated(arrays.get("bias"), D)
    found = none._replace(kind=kind, bias=repeated, slope=number(1 if f.slope is None else f.slope))
    if problem.operation == "error":
        scale = 2 * (problem["scale"] or 1) / problem["count"]
        found = found._replace(
            target=arrays["target"].reshape(-1),
            derivative=tuple(map(number, f.quadratic)),
            scale=number(scale),
        )
    return prepare, found


def _repeated(bias: Array | None, D: Array) -> tuple[Array, Run | None]:
    """Return a buffer with the biases of consecutive elements of D, and what fills it."""
    C, size = D.shape[-1], D.shape[1:-1]
    if bias is None:
        return np.zeros(pointwise.PATTERN, D.dtype), None
    if bias.ndim == 1:
        buffer = np.empty((-(-pointwise.PATTERN // C), C), D.dtype)

        def fill() -> None:
            buffer[...] = bias

    else:
        buffer = np.empty((*size, C), D.dtype)

        def fill() -> None:
            buffer[...] = np.moveaxis(biases.spread(bias, size), 0, -1)

    return buffer.reshape(-1), fill


def _unfused(problem: Problem, D: Array) -> Run | None:
    """Return what applies an activation that no compiled pass has."""
    f = problem["activation"]
    if f is None or _is_fused(f):
        return None
    return lambda: f.function(np, D)


def _in_order(*parts: Callable[[], object] | None) -> Run:
    """Do one after the other what there is."""
    steps = [part for part in parts if part is not None]

    def run() -> None:
        for step in steps:
            step()

    return run if len(steps) > 1 else steps[0]
