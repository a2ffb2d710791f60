"""Ways of computing the nodes of a program on a GPU: our kernels, and cuDNN's plans.

None is used on a card before `convae.engine.gpu.certification` has found its numbers right there.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import cupy
import numpy as np

from convae.engine.gpu import cudnn, kernels
from convae.engine.gpu.launching import compiled, in_order, launch, pointer, with_loss
from convae.engine.program import Problem, Way
from convae.engine.program.arithmetic import Arrays, Run
from convae.engine.updates import Moments, Momentum

SPLIT_BLOCKS = 512
"""Blocks among which g's examples are divided at most: a few for each multiprocessor."""

PART_BYTES = 64 << 20
"""The most memory for the parts of a sum."""


class Tiles:
    """Products of our kernels: c, h and g of the whole family, with what stands behind them.

    Parameters
    ----------
    tensor_cores : bool
        Whether the products are those of tensor cores: of float32 in TF32.
    """

    def __init__(self, tensor_cores: bool = False) -> None:
        self.tensor_cores = tensor_cores
        self.name = "tensor tiles" if tensor_cores else "tiles"

    def suits(self, problem: Problem) -> bool:
        """See `Way`."""
        return kernels.suits_products(problem)

    def records(self, problem: Problem) -> bool:
        """See `Way`."""
        return True

    def build(self, problem: Problem, arrays: Arrays) -> Run:
        """See `Way`."""
        return {"c": self._c, "h": self._h, "error": self._h, "g": self._g}[problem.operation](
            problem, arrays
        )

    def _function(self, problem: Problem, name: str, file: str = "products") -> Any:
        batch = {"c": "V", "h": "G", "error": "G", "g": "V"}[problem.operation]
        dtype = problem.dtype(batch)
        tensor = kernels.TENSOR[dtype] if self.tensor_cores else 0
        constants = kernels.convolution_constants(problem, tensor)
        return compiled(file, dtype, tuple(constants.items())).get_function(name)

    def _c(self, problem: Problem, arrays: Arrays) -> Run:
        geometry, N = problem.geometry, len(arrays["V"])
        _, filters = kernels.channels_and_filters(problem)
        row_blocks = ceil(N * prod(geometry.repeats) / kernels.ROWS)
        columns = ceil(filters // geometry.groups / kernels.COLUMNS)
        blocks = prod(geometry.tile) * geometry.groups * row_blocks * columns
        optional = (arrays.get("bias"), arrays.get("extra"), arrays.get("H"))
        given = (arrays["K"], arrays["V"], arrays["Z"], *map(pointer, optional))
        return launch(
            self._function(problem, "c"), blocks, *given, np.int32(N), np.int32(row_blocks)
        )

    # the kernel of h, its file, and what a block of it computes
    _h_kernel, _h_rows, _h_columns = ("h", "products"), kernels.ROWS, kernels.COLUMNS

    def _h(self, problem: Problem, arrays: Arrays) -> Run:
        geometry, N = problem.geometry, len(arrays["G"])
        channels, _ = kernels.channels_and_filters(problem)
        period = [s * t for s, t in zip(geometry.stride, geometry.tile, strict=True)]
        repeats = prod(ceil(n / p) for n, p in zip(geometry.size, period, strict=True))
        row_blocks = ceil(N * repeats / self._h_rows)
        columns = ceil(channels // geometry.groups / self._h_columns)
        blocks = prod(period) * geometry.groups * row_blocks * columns
        out = arrays["E" if problem.operation == "error" else "V"]
        return with_loss(
            problem,
            arrays,
            self._function(problem, *self._h_kernel),
            self._function(problem, "total", self._h_kernel[1]),
            blocks,
            (arrays["K"], arrays["G"], out),
            (np.int32(N), np.int32(row_blocks)),
        )

    def _g(self, problem: Problem, arrays: Arrays) -> Run:
        geometry, N = problem.geometry, len(arrays["V"])
        channels, filters = kernels.channels_and_filters(problem)
        elements = prod(geometry.kernel) * channels // geometry.groups
        tiles = ceil(elements / kernels.ROWS) * ceil(filters // geometry.groups / kernels.COLUMNS)
        products = prod(geometry.tile) * geometry.groups * tiles
        size = arrays["dK"].size
        terms = N * prod(geometry.repeats)
        most = min(ceil(terms / (8 * kernels.DEPTH)), PART_BYTES // (4 * size))
        splits = max(1, min(most, SPLIT_BLOCKS // products))
        parts = cupy.empty(splits * size, np.float32)
        numbers = np.int32(N), np.int32(splits)
        sums = launch(
            self._function(problem, "g"),
            products * splits,
            *(arrays["G"], arrays["V"], parts, *numbers),
        )
        scale = np.float32(problem["scale"] or 1)
        add = self._function(problem, "add")
        blocks = ceil(size / kernels.THREADS)
        return in_order(sums, launch(add, blocks, parts, arrays["dK"], numbers[1], scale))


class Narrow(Tiles):
    """h to few channels: one thread for each position, instead of nearly empty tiles."""

    _h_kernel, _h_rows = ("narrow_h", "narrow"), kernels.THREADS
    _h_columns = kernels.NARROW

    def __init__(self) -> None:
        super().__init__()
        self.name = "narrow"

    def suits(self, problem: Problem) -> bool:
        """See `Way`."""
        if problem.operation not in ("h", "error") or not kernels.suits_products(problem):
            return False
        channels, _ = kernels.channels_and_filters(problem)
        return channels // problem.geometry.groups <= kernels.NARROW


class Passes:
    """Our kernels for sums over the examples and for the update."""

    name, tensor_cores = "passes", False

    def suits(self, problem: Problem) -> bool:
        """See `Way`."""
        dtypes = {dtype for _, _, dtype in problem.arrays} - {"float64"}
        if problem.operation == "bias_gradient":
            return dtypes <= {*kernels.STORAGE} and problem.dtype("db") == "float32"
        if problem.operation == "energy":
            return problem.dtype("gradients") == "float32"
        known = isinstance(problem["method"], (Moments, Momentum))
        return problem.operation == "update" and known and problem.dtype("parameters") == "float32"

    def records(self, problem: Problem) -> bool:
        """See `Way`."""
        return True

    def build(self, problem: Problem, arrays: Arrays) -> Run:
        """See `Way`."""
        if problem.operation == "bias_gradient":
            return self._bias_gradient(problem, **arrays)
        if problem.operation == "energy":
            return self._energy(**arrays)
        return self._update(problem, arrays)

    @staticmethod
    def _bias_gradient(problem: Problem, G: Any, db: Any) -> Run:
        module = compiled("passes", problem.dtype("G"))
        N, *size, C = G.shape
        scale = np.float32(problem["scale"] or 1)
        if db.ndim > 1:
            missing = (1,) * (3 - len(size))
            sizes = map(np.int32, (N, *missing, *size, C, *missing, *db.shape[1:]))
            blocks = ceil(db.size / kernels.THREADS)
            return launch(module.get_function("tile_sums"), blocks, G, db, *sizes, scale)
        rows = G.size // C
        lines = max(1, kernels.THREADS // C)
        blocks = min(SPLIT_BLOCKS, ceil(rows / (8 * lines)))
        parts = cupy.empty(blocks * C, np.float32)
        function, grid = module.get_function("channel_sums"), (blocks, ceil(C / kernels.THREADS))
        sums = launch(function, grid, G, parts, np.int64(rows), np.int32(C))
        numbers = np.int32(blocks), np.int32(C), scale
        blocks = ceil(C / kernels.THREADS)
        return in_order(sums, launch(module.get_function("add"), blocks, parts, db, *numbers))

    @staticmethod
    def _energy(gradients: Any, energy: Any) -> Run:
        module = compiled("passes", "float32")
        blocks = min(SPLIT_BLOCKS, ceil(gradients.size / (8 * kernels.THREADS)))
        parts = cupy.empty(blocks, np.float64)
        squares, total = (module.get_function(name) for name in ("squares", "total"))
        return in_order(
            launch(squares, blocks, gradients, parts, np.int64(gradients.size)),
            launch(total, 1, parts, energy, np.int32(blocks), np.float64(1)),
        )

    @staticmethod
    def _update(problem: Problem, arrays: Arrays) -> Run:
        method = problem["method"]
        constants: dict[str, Any] = {"CLIP": problem["clip"] or 0.0, "PENALTY": method.penalty}
        if isinstance(method, Momentum):
            vectors = ("velocity", "velocity")
            constants |= {"METHOD": 1, "MOMENTUM": method.momentum}
            constants["NESTEROV"] = int(method.nesterov)
        else:
            vectors = ("first_moment", "second_moment")
            constants |= {"METHOD": 2, "BETA1": method.beta1, "BETA2": method.beta2}
            constants |= {"EPSILON": method.epsilon, "DECAYS": int(method.decays)}
        parameters, numbers = arrays["parameters"], arrays["numbers"]
        return launch(
            compiled("update", "float32", tuple(constants.items())).get_function("update"),
            ceil(parameters.size / kernels.THREADS),
            *(parameters, arrays["gradients"], arrays[vectors[0]], arrays[vectors[-1]]),
            *(arrays["energy"], arrays["J"], numbers, np.int32(numbers.size - 1)),
            *(pointer(arrays.get("average")), np.int64(parameters.size)),
        )


def ways() -> list[Way]:
    """List all ways but the portable one."""
    return [*cudnn.plans(), Tiles(True), Narrow(), Tiles(), Passes()]


def candidates(problem: Problem, among: Sequence[Way], tf32: bool) -> list[Way]:
    """List the ways that suit a problem; `tf32` allows float32 factors to be rounded to TF32."""
    return [way for way in among if way.suits(problem) and (tf32 or not rounds(way, problem))]


def rounds(way: Way, problem: Problem) -> bool:
    """Tell whether a way rounds float32 factors."""
    is_float32 = any(dtype == "float32" for role, _, dtype in problem.arrays if role in "GV")
    return way.tensor_cores and is_float32
