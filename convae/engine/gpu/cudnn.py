"""cuDNN execution plans for c, h and g of shared kernels, with fused bias and activation.

Arrays are examples first, channels last: (N, *size, C), and kernels (O, *kernel, C). c is cuDNN's
fprop, h its dgrad, g its wgrad. Each problem is lowered to a cuDNN graph once, which needs no GPU;
then its engines are timed on the GPU and the fastest is kept.

Implemented and tested by lowering for a described GPU, disabled until certified on hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import inf, prod
from typing import Any, NamedTuple

from convae.engine.arrays import Array
from convae.engine.geometry import Geometry

ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh")
"""Activations that can be fused with c and h."""

TRIALS = 5
"""Timed runs per engine; the shortest counts."""


class Problem(NamedTuple):
    """The operation that a plan computes."""

    operation: str  # "c", "h" or "g"
    geometry: Geometry  # see `suits`
    examples: int
    channels: int
    filters: int
    dtype: str  # of the stored arrays: "float32", "float16" or "bfloat16"; sums are float32
    tf32: bool = False  # whether the factors of float32 products may be rounded to TF32
    activation: str | None = None  # one of `ACTIVATIONS`, after a bias per channel; None: neither

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes in cuDNN's convention: channels second, at least two spatial axes."""
        one = (1,) if self.geometry.axes == 1 else ()
        geometry = self.geometry
        return {
            "V": (self.examples, self.channels, *one, *geometry.size),
            "Z": (self.examples, self.filters, *one, *geometry.output),
            "K": (self.filters, self.channels // geometry.groups, *one, *geometry.kernel),
        }


class Lowered(NamedTuple):
    """A problem as a cuDNN graph, with its inputs in the order of `Plan.run` and its output."""

    graph: Any
    inputs: tuple[Any, ...]
    output: Any


def suits(geometry: Geometry) -> bool:
    """Tell whether cuDNN supports a geometry."""
    return set(geometry.tile) == {1}


def strides(shape: Sequence[int]) -> list[int]:
    """Compute the strides for a shape with channels second when they are last in memory."""
    _, channels, *positions = shape
    steps = [channels * prod(positions[axis + 1 :]) for axis in range(len(positions))]
    return [channels * prod(positions), 1, *steps]


def lower(problem: Problem, **device: Any) -> Lowered:
    """Express a problem as a cuDNN graph and query its engines, the likely fastest first."""
    import cudnn

    fused = problem.activation
    if fused is not None and (problem.operation == "g" or fused not in ACTIVATIONS):
        raise ValueError(
            f"activation: {fused!r} cannot be fused with {problem.operation}; "
            f"expected c or h with one of {', '.join(ACTIVATIONS)}"
        )
    if problem.operation == "g" and problem.dtype != "float32":
        raise ValueError(f"dtype: g's sums would be stored as {problem.dtype}; expected float32")
    types = cudnn.data_type
    storage = {"float32": types.FLOAT, "float16": types.HALF, "bfloat16": types.BFLOAT16}
    graph = cudnn.pygraph(
        io_data_type=storage[problem.dtype],
        intermediate_data_type=types.FLOAT,
        compute_data_type=types.FLOAT,
        **device,
    )

    def tensor(name: str, shape: Sequence[int]) -> Any:
        dtype = types.FLOAT if name == "bias" else storage[problem.dtype]
        return graph.tensor(name=name, dim=list(shape), stride=strides(shape), data_type=dtype)

    names, result, node = _roles(graph, problem.operation)
    shapes = problem.shapes
    inputs = [tensor(name, shapes[name]) for name in names.values()]
    output = node(**dict(zip(names, inputs, strict=True)), **_how(problem.geometry))
    shape = shapes[result]
    output.set_dim(list(shape))
    if fused is not None:
        inputs.append(tensor("bias", (1, shape[1], *(1 for _ in shape[2:]))))
        output = graph.bias(input=output, bias=inputs[-1])
        if fused != "identity":
            output = getattr(graph, fused)(input=output)
    output.set_output(True).set_dim(list(shape)).set_stride(strides(shape))
    output.set_data_type(storage[problem.dtype])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    unwanted = [cudnn.numerical_note.NONDETERMINISTIC]
    if problem.dtype == "float32" and not problem.tf32:
        unwanted.append(cudnn.numerical_note.TENSOR_CORE)
    graph.deselect_numeric_notes(unwanted)
    return Lowered(graph, tuple(inputs), output)


def _roles(graph: Any, operation: str) -> tuple[dict[str, str], str, Callable[..., Any]]:
    """Return cuDNN's argument names for an operation's arrays, its result, and its node."""
    return {
        "c": ({"image": "V", "weight": "K"}, "Z", graph.conv_fprop),
        "h": ({"loss": "Z", "filter": "K"}, "V", graph.conv_dgrad),
        "g": ({"image": "V", "loss": "Z"}, "K", graph.conv_wgrad),
    }[operation]


def _how(geometry: Geometry) -> dict[str, list[int]]:
    """Convert padding, stride and dilation to cuDNN's arguments, for at least two axes."""
    missing = max(0, 2 - geometry.axes)
    return {
        "pre_padding": [0] * missing + [before for before, _ in geometry.padding],
        "post_padding": [0] * missing + [after for _, after in geometry.padding],
        "stride": [1] * missing + list(geometry.stride),
        "dilation": [1] * missing + list(geometry.dilation),
    }


class Plan:
    """The fastest engine for a problem on this GPU."""

    def __init__(self, problem: Problem) -> None:
        import cudnn
        import cupy

        self.lowered = lower(problem, handle=_handle())
        graph = self.lowered.graph
        graph.check_support()
        graph.build_plans(cudnn.build_plan_policy.ALL)
        tensors = (*self.lowered.inputs, self.lowered.output)
        arrays = [cupy.zeros(prod(t.get_dim()), problem.dtype) for t in tensors]
        if problem.activation is not None:
            arrays[-2] = arrays[-2].astype("float32")  # the bias
        times = [self._time(index, arrays) for index in range(graph.get_execution_plan_count())]
        if not times or min(times) == inf:
            raise RuntimeError(f"problem: cuDNN has no engine for {problem}")
        self.index = times.index(min(times))

    def _time(self, index: int, arrays: Sequence[Array]) -> float:
        """Time one engine in milliseconds; infinity if it cannot run."""
        import cupy

        times = []
        for _ in range(TRIALS):
            events = [cupy.cuda.Event() for _ in range(2)]
            try:
                events[0].record()
                self._execute(index, arrays)
                events[1].record()
                events[1].synchronize()
            except (RuntimeError, MemoryError):  # unsupported on this GPU, or out of memory
                return inf
            times.append(float(cupy.cuda.get_elapsed_time(*events)))
        return min(times)

    def _execute(self, index: int, arrays: Sequence[Array]) -> None:
        import cudnn
        import cupy

        handle, graph = _handle(), self.lowered.graph
        cudnn.set_stream(handle=handle, stream=cupy.cuda.get_current_stream().ptr)
        workspace = cupy.empty(max(graph.get_workspace_size_plan_at_index(index), 1), "uint8")
        tensors = (*self.lowered.inputs, self.lowered.output)
        pointers = {t: array.data.ptr for t, array in zip(tensors, arrays, strict=True)}
        graph.execute_plan_at_index(pointers, workspace.data.ptr, index, handle=handle)

    def run(self, *arrays: Array) -> None:
        """Run the plan on the inputs, in the order of `Lowered`, and the output."""
        self._execute(self.index, arrays)


plan = cache(Plan)
"""Return the cached plan for a problem, created on first use."""


@cache
def _handle() -> Any:
    import cudnn

    return cudnn.create_handle()
