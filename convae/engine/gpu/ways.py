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
from convae.engine.gpu.kernels import edges
from convae.engine.gpu.launching import (
    compiled,
    in_order,
    launch,
    pointer,
    resident,
    with_loss,
)
from convae.engine.program import Problem, Way
from convae.engine.program.arithmetic import Arrays, Run
from convae.engine.updates import Moments, Momentum

SPLIT_BLOCKS = 512
"""Blocks among which g's examples are divided at most: a few for each multiprocessor."""

PART_TERMS = 128
"""Terms of g that a block adds up at least."""

RESERVED = 3 << 10
"""Shared memory that the driver and what is added up over a block take."""

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
        build = {"c": self._c, "h": self._h, "g": self._g}[kernels.product_of(problem)]
        return build(problem, arrays)

    def prepare(self, problem: Problem) -> None:
        """Compile what it needs; may be called by any thread."""
        self._module(problem).compile()

    def _tensor(self, problem: Problem) -> int:
        return kernels.TENSOR[kernels.factor_dtype(problem)] if self.tensor_cores else 0

    def _module(self, problem: Problem) -> Any:
        constants = kernels.product_constants(problem, self._tensor(problem))
        file, dtype = kernels.product_of(problem), kernels.factor_dtype(problem)
        return compiled(file, dtype, tuple(constants.items()))

    def _c(self, problem: Problem, arrays: Arrays) -> Run:
        geometry, N = problem.geometry, len(arrays["V"])
        _, filters = kernels.channels_and_filters(problem)
        rows, columns = kernels.block_of(problem, self._tensor(problem))
        row_blocks = ceil(N * prod(geometry.repeats) / rows)
        across = ceil(filters // geometry.groups / columns)
        blocks = prod(geometry.tile) * geometry.groups * row_blocks * across
        optional = (arrays.get("bias"), arrays.get("extra"), arrays.get("H"))
        given = (arrays["K"], arrays["V"], arrays["Z"], *map(pointer, optional))
        function = self._module(problem).get_function("c")
        return launch(function, blocks, *given, np.int32(N), np.int32(row_blocks))

    def _h(self, problem: Problem, arrays: Arrays) -> Run:
        geometry, N = problem.geometry, len(arrays["G"])
        channels, _ = kernels.channels_and_filters(problem)
        rows, columns = kernels.block_of(problem, self._tensor(problem))
        row_blocks = ceil(N * prod(kernels.input_repeats(geometry)) / rows)
        across = ceil(channels // geometry.groups / columns)
        blocks = prod(kernels.input_period(geometry)) * geometry.groups * row_blocks * across
        return with_loss(
            problem,
            arrays,
            self._module(problem),
            "h",
            blocks,
            (arrays["K"], arrays["G"], arrays["E" if problem.operation == "error" else "V"]),
            (np.int32(N), np.int32(row_blocks)),
        )

    def _g(self, problem: Problem, arrays: Arrays) -> Run:
        geometry, N = problem.geometry, len(arrays["V"])
        channels, filters = kernels.channels_and_filters(problem)
        rows, columns = kernels.block_of(problem, self._tensor(problem))
        elements = prod(geometry.kernel) * channels // geometry.groups
        tiles = ceil(elements / rows) * ceil(filters // geometry.groups / columns)
        products = prod(geometry.tile) * geometry.groups * tiles
        size = arrays["dK"].size
        most = min(ceil(N * prod(geometry.repeats) / PART_TERMS), PART_BYTES // (4 * size))
        splits = max(1, min(most, SPLIT_BLOCKS // products))
        parts = cupy.empty(splits * size, np.float32)
        numbers = np.int32(N), np.int32(splits)
        module = self._module(problem)
        sums = launch(
            module.get_function("g"),
            products * splits,
            *(arrays["G"], arrays["V"], parts, *numbers),
        )
        return in_order(sums, add_parts(problem, module, parts, arrays["dK"], splits))


class Narrow:
    """h to few channels: one thread for each repeat, instead of nearly empty blocks."""

    name, tensor_cores = "narrow", False

    def suits(self, problem: Problem) -> bool:
        """See `Way`."""
        is_h = problem.operation in ("h", "error") and kernels.suits_products(problem)
        return is_h and kernels.box_of(problem) is not None

    def records(self, problem: Problem) -> bool:
        """See `Way`."""
        return True

    def prepare(self, problem: Problem) -> None:
        """Compile what it needs; may be called by any thread."""
        self._module(problem).compile()

    def build(self, problem: Problem, arrays: Arrays) -> Run:
        """See `Way`."""
        geometry = problem.geometry
        box = kernels.box_of(problem)
        assert box is not None
        repeats = kernels.input_repeats(geometry)
        boxes = prod(ceil(n / b) for n, b in zip(repeats, box[-geometry.axes :], strict=True))
        blocks = len(arrays["G"]) * geometry.groups * boxes
        out = arrays["E" if problem.operation == "error" else "V"]
        given = (arrays["K"], arrays["G"], out)
        return with_loss(problem, arrays, self._module(problem), "narrow_h", blocks, given, ())

    @staticmethod
    def _module(problem: Problem) -> Any:
        constants = kernels.narrow_constants(problem)
        return compiled("narrow", kernels.factor_dtype(problem), tuple(constants.items()))


class Edges:
    """c, h and g of few channels on tensor cores, without unfolding and without empty columns."""

    name, tensor_cores = "edges", True

    def __init__(self) -> None:
        card = cupy.cuda.Device().attributes
        self._room = card["MaxSharedMemoryPerBlockOptin"] - RESERVED
        self._multiprocessors = card["MultiProcessorCount"]

    def suits(self, problem: Problem) -> bool:
        """See `Way`."""
        return edges.suits_edges(problem, self._room)

    def records(self, problem: Problem) -> bool:
        """See `Way`."""
        return True

    def prepare(self, problem: Problem) -> None:
        """Compile what it needs; may be called by any thread."""
        self._module(problem).compile()

    def build(self, problem: Problem, arrays: Arrays) -> Run:
        """See `Way`."""
        edge = edges.edge_of(problem, self._room)
        assert edge is not None
        name, module = f"edge_{kernels.product_of(problem)}", self._module(problem)
        shared = edge.shared_bytes
        function = module.get_function(name)
        blocks = min(edge.boxes, self._multiprocessors * resident(function, shared))
        N = np.int32(kernels.examples(problem))
        if name == "edge_c":
            optional = map(pointer, (arrays.get("bias"), arrays.get("extra"), arrays.get("H")))
            given = (arrays["K"], arrays["V"], arrays["Z"], *optional, N)
            return launch(function, blocks, *given, shared_bytes=shared)
        if name == "edge_h":
            given = (arrays["K"], arrays["G"], arrays["E" if "E" in arrays else "V"])
            return with_loss(problem, arrays, module, name, blocks, given, (N,), shared)
        dK, filters = arrays["dK"], kernels.channels_and_filters(problem)[1]
        blocks = max(1, min(blocks, PART_BYTES // (4 * dK.size)))
        parts = cupy.empty(blocks * dK.size, np.float32)
        grid = (blocks, ceil(filters / edges.shares_of_g(problem).filters))
        sums = launch(function, grid, arrays["G"], arrays["V"], parts, N, shared_bytes=shared)
        return in_order(sums, add_parts(problem, module, parts, dK, blocks))

    def _module(self, problem: Problem) -> Any:
        dtype = kernels.factor_dtype(problem)
        constants = edges.edge_constants(problem, kernels.TENSOR[dtype], self._room)
        return compiled(f"edge_{kernels.product_of(problem)}", dtype, tuple(constants.items()))


def add_parts(problem: Problem, module: Any, parts: Any, dK: Any, count: int) -> Run:
    """Return what adds up the parts of a g."""
    scale = np.float32(problem["scale"] or 1)
    blocks = ceil(dK.size / kernels.summed_places(count))
    return launch(module.get_function("add"), blocks, parts, dK, np.int32(count), scale)


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
        width = 16 // G.itemsize
        name, vectors = ("channel_sums", C) if C % width else ("wide_channel_sums", C // width)
        lines = max(1, kernels.THREADS // vectors)
        blocks = min(SPLIT_BLOCKS, ceil(rows / (8 * lines)))
        parts = cupy.empty(blocks * C, np.float32)
        function, grid = module.get_function(name), (blocks, ceil(vectors / kernels.THREADS))
        sums = launch(function, grid, G, parts, np.int64(rows), np.int32(C))
        numbers = np.int32(blocks), np.int32(C), scale
        added = ceil(C / kernels.summed_places(blocks))
        return in_order(sums, launch(module.get_function("add"), added, parts, db, *numbers))

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
    return [*cudnn.plans(), Edges(), Tiles(True), Narrow(), Tiles(), Passes()]


def candidates(problem: Problem, among: Sequence[Way], tf32: bool) -> list[Way]:
    """List the ways that suit a problem; `tf32` allows float32 factors to be rounded to TF32.

    Of cuDNN's plans only those that round them are tried then.
    """
    suited = [way for way in among if way.suits(problem) and (tf32 or not rounds(way, problem))]
    plans = [way for way in suited if isinstance(way, cudnn.CudnnPlan)]
    rounding = [way for way in plans if rounds(way, problem)]
    return [way for way in suited if way not in plans or way in (rounding or plans)]


def rounds(way: Way, problem: Problem) -> bool:
    """Tell whether a way rounds float32 factors."""
    is_float32 = any(dtype == "float32" for role, _, dtype in problem.arrays if role in "GV")
    return way.tensor_cores and is_float32
