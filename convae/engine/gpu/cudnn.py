"""cuDNN's execution plans for c, h and g of shared kernels, as ways of a program.

A problem is lowered to a cuDNN graph; each of the first plans that cuDNN's heuristics propose is a
way of its own, to be certified and timed. cuDNN wants the channels of a kernel last, (O, *kernel,
C), and knows few of the fusions that the recipe needs: our kernels reorder K before a plan and dK
behind it, and finish what stands behind a product, in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil, prod
from typing import Any

import numpy as np

from convae.engine.gpu import kernels
from convae.engine.gpu.cudnn_graphs import FUSED, FUSED_SLOPES, Lowered, Product, lower
from convae.engine.gpu.launching import compiled, in_order, launch, with_loss
from convae.engine.program import Problem
from convae.engine.program.arithmetic import Arrays, Run

ALIGNMENT = 16
"""Bytes of which cuDNN expects addresses to be multiples."""

PLANS, FUSED_PLANS = 4, 2
"""How many of the proposed plans are tried: cuDNN takes long to compile those that fuse."""


class CudnnPlan:
    """One of the plans that cuDNN proposes, with our kernels around it.

    Parameters
    ----------
    index : int
        Which of them.
    fused : bool
        Whether cuDNN computes bias and activation, or the slope, too.
    short_sums : bool
        Whether g's result is stored in the type of its factors, as PyTorch's autocast stores it.
    tensor_cores : bool
        Whether the factors of float32 products are rounded to TF32.
    """

    def __init__(
        self, index: int, fused: bool = False, short_sums: bool = False, tensor_cores: bool = False
    ) -> None:
        self.index, self.fused, self.short_sums = index, fused, short_sums
        self.tensor_cores = tensor_cores
        kind = " fused" if fused else " with short sums" if short_sums else ""
        precision = " on tensor cores" if tensor_cores else ""
        self.name = f"cuDNN{kind}{precision}, plan {index}"

    def suits(self, problem: Problem) -> bool:
        """See `Way`."""
        if not kernels.suits_products(problem) or set(problem.geometry.tile) != {1}:
            return False
        dtype = kernels.factor_dtype(problem)
        K_shape = problem.shape("dK" if problem.operation == "g" else "K") or ()
        is_shared = len(K_shape) == problem.geometry.axes + 2
        # types of two bytes are for tensor cores anyway, with one set of plans
        fits = is_shared and self.tensor_cores <= (dtype == "float32")
        if self.short_sums and (problem.operation != "g" or dtype != "bfloat16"):
            return False  # sums of float16 would overflow
        return fits and _is_aligned(problem) and (not self.fused or self._fuses(problem))

    @staticmethod
    def _fuses(problem: Problem) -> bool:
        if problem.operation not in ("c", "h") or problem.shape("extra") is not None:
            return False
        f, slope, bias = problem["activation"], problem["slope"], problem.shape("bias")
        if slope is not None:
            is_alone = bias is None and (f is None or f.name == "identity")
            return is_alone and slope.name in FUSED_SLOPES
        return bias is not None and len(bias) == 1 and f is not None and f.name in FUSED

    def records(self, problem: Problem) -> bool:
        """See `Way`."""
        return True

    def prepare(self, problem: Problem) -> None:
        """Compile what stands around a plan; may be called by any thread."""
        self._around(problem).compile()

    def _around(self, problem: Problem) -> Any:
        product = self.product(problem)
        own = {"SUM_T": kernels.STORAGE[product.output]}
        constants = kernels.convolution_constants(problem) | own
        return compiled("around", product.dtype, tuple(constants.items()))

    def product(self, problem: Problem) -> Product:
        """Describe what cuDNN computes of a problem."""
        channels, filters = kernels.channels_and_filters(problem)
        operation = kernels.product_of(problem)
        dtype = kernels.factor_dtype(problem)
        output = dtype if operation != "g" or self.short_sums else "float32"
        if problem.operation == "error":
            output = "float32"  # for the loss
        examples = (problem.shape("G" if operation in "hg" else "V") or (0,))[0]
        has_slope = self.fused and problem["slope"] is not None
        activation = problem["activation"].name if self.fused and not has_slope else None
        types = (dtype, output, self.tensor_cores, activation, has_slope)
        return Product(operation, problem.geometry, examples, channels, filters, *types)

    def build(self, problem: Problem, arrays: Arrays) -> Run:
        """See `Way`; RuntimeError if cuDNN proposes no such plan."""
        import cupy

        product = self.product(problem)
        dtype, geometry = product.dtype, product.geometry
        around = self._around(problem)
        elements = prod(product.shapes["K"])
        copy = cupy.empty(elements, product.output if product.operation == "g" else dtype)
        blocks = ceil(elements / kernels.THREADS)
        channels = product.channels // geometry.groups
        shape = tuple(map(np.int32, (prod(geometry.kernel), channels, product.filters)))
        if product.operation == "g":
            inputs = [arrays["V"], arrays["G"]]
            plan = self._plan(product, inputs, copy)
            scale = np.float32(problem["scale"] or 1)
            order = around.get_function("reorder_sums")
            return in_order(plan, launch(order, blocks, copy, arrays["dK"], *shape, scale))
        order = around.get_function("reorder")
        before = launch(order, blocks, arrays["K"], copy, *shape)
        role = {"c": "Z", "h": "V", "error": "E"}[problem.operation]
        batch = arrays["V" if product.operation == "c" else "G"]
        out = arrays[role]
        if problem.operation == "error":
            out = cupy.empty(out.shape, np.float32)
        fused = ["H"] if product.has_slope else ["bias"] if product.activation else []
        plan = self._plan(product, [batch, copy, *(arrays[name] for name in fused)], out)
        if self.fused or not _has_more(problem):
            return in_order(before, plan)
        blocks = min(ceil(out.size / kernels.THREADS), 65_535)
        given, size = (out, arrays[role]), (np.int64(out.size),)
        behind = with_loss(problem, arrays, around, "finish_all", blocks, given, size)
        return in_order(before, plan, behind)

    def _plan(self, product: Product, inputs: Sequence[Any], output: Any) -> Run:
        """Return what runs this way's plan in the current stream."""
        import cudnn
        import cupy

        handle, proposed = _handle(), _proposed(product)
        graph, index = proposed.lowered.graph, proposed.index(self.index)
        memory = workspace(graph.get_workspace_size_plan_at_index(index))
        tensors = (*proposed.lowered.inputs, proposed.lowered.output)
        arrays = (*inputs, output)
        pointers = {t: array.data.ptr for t, array in zip(tensors, arrays, strict=True)}

        def run(kept: Sequence[Any] = arrays) -> None:
            cudnn.set_stream(handle=handle, stream=cupy.cuda.get_current_stream().ptr)
            graph.execute_plan_at_index(pointers, memory.data.ptr, index, handle=handle)

        return run


class Proposed:
    """The plans that cuDNN proposes for a product; each is built once.

    Parameters
    ----------
    lowered : Lowered
        The product.
    """

    def __init__(self, lowered: Lowered) -> None:
        self.lowered = lowered
        self._left = iter(range(lowered.graph.get_execution_plan_count()))
        self._built: list[int] = []

    def index(self, place: int) -> int:
        """Return cuDNN's number of a plan, counting those that can be built; they are in order.

        RuntimeError if there are fewer.
        """
        import cudnn

        while len(self._built) <= place:
            index = next(self._left, None)
            if index is None:
                raise RuntimeError(f"cuDNN has {len(self._built)} plans for it")
            try:
                self.lowered.graph.build_plan_at_index(index)
            except (RuntimeError, cudnn.cudnnGraphNotSupportedError):
                continue  # not with the wanted numbers
            self._built.append(index)
        return self._built[place]


_workspaces: list[Any] = []


def workspace(size: int) -> Any:
    """Return memory for a plan; plans share it, since they run one after the other."""
    import cupy

    if not _workspaces or _workspaces[-1].size < size:
        _workspaces[:] = [cupy.empty(max(size, 1), "uint8")]  # plans keep what they were given
    return _workspaces[-1]


def plans() -> list[CudnnPlan]:
    """List cuDNN's ways; none where it is not installed."""
    if version() is None:
        return []
    found = []
    for tensor_cores in (False, True):
        for fused, short_sums in ((False, False), (True, False), (False, True)):
            if not (short_sums and tensor_cores):
                kinds = (fused, short_sums, tensor_cores)
                most = FUSED_PLANS if fused else PLANS
                found += [CudnnPlan(index, *kinds) for index in range(most)]
    return found


@cache
def version() -> str | None:
    """Return the versions of cuDNN and its frontend; None where one is missing."""
    try:
        import cudnn

        return f"{cudnn.backend_version()}, frontend {cudnn.__version__}"
    except (ImportError, OSError, RuntimeError):
        return None


def _is_aligned(problem: Problem) -> bool:
    """Tell whether batches that lie behind others of their size begin at multiples of 16 bytes."""
    batches = [(s, d) for role, s, d in problem.arrays if role in ("V", "G", "Z", "E", "H")]
    return all(prod(s) * np.dtype(d).itemsize % ALIGNMENT == 0 for s, d in batches)


def _has_more(problem: Problem) -> bool:
    """Tell whether anything stands behind a product."""
    f = problem["activation"]
    is_plain = (f is None or f.name == "identity") and problem["slope"] is None
    has_arrays = any(problem.shape(role) is not None for role in ("bias", "extra", "target"))
    return not is_plain or has_arrays


def _proposed(product: Product) -> Proposed:
    """Lower a product once for all of its plans; RuntimeError if cuDNN has none for it."""
    found = _tried(product)
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


@cache
def _tried(product: Product) -> Proposed | str:
    """Lower a product, or return why cuDNN has no plans for it."""
    import cudnn

    try:
        return Proposed(lower(product, handle=_handle()))
    except cudnn.cudnnGraphNotSupportedError as error:
        return f"cuDNN: {str(error).strip().partition(chr(10))[0]}"


@cache
def _handle() -> Any:
    import cudnn

    return cudnn.create_handle()
