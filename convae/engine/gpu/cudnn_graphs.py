"""c, h and g of shared kernels as cuDNN's graphs; neither CuPy nor a card is needed to build one.

Batches are examples first, channels last in memory, (N, *size, C), and kernels (O, *kernel, C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from convae.engine.geometry import Geometry

FUSED = ("identity", "relu", "sigmoid", "tanh")
"""Activations that cuDNN computes behind c and h, after a bias by channel."""

FUSED_SLOPES = ("relu",)
"""Activations by whose slope cuDNN multiplies behind c and h."""


@dataclass(frozen=True)
class Product:
    """A bare c, h or g, or one with a bias and an activation, as cuDNN sees it.

    Parameters
    ----------
    operation : {"c", "h", "g"}
        What is computed.
    geometry : Geometry
        Its sizes; shared kernels and zeros as padding.
    examples, channels, filters : int
        Sizes of the batches.
    dtype : str
        Type of the stored factors.
    output : str
        Type of the stored result; sums are float32.
    tf32 : bool
        Whether the factors of float32 products may be rounded to TF32.
    activation : str, optional
        One of `FUSED`, behind a bias by channel; None for neither.
    has_slope : bool
        Whether the result is multiplied by the slope of ReLU, which is read from its outputs H.
    """

    operation: str
    geometry: Geometry
    examples: int
    channels: int
    filters: int
    dtype: str
    output: str
    tf32: bool = False
    activation: str | None = None
    has_slope: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes in cuDNN's convention: channels second, at least two spatial axes."""
        geometry = self.geometry
        one = (1,) if geometry.axes == 1 else ()
        return {
            "V": (self.examples, self.channels, *one, *geometry.size),
            "Z": (self.examples, self.filters, *one, *geometry.output),
            "K": (self.filters, self.channels // geometry.groups, *one, *geometry.kernel),
        }


class Lowered(NamedTuple):
    """A product as a cuDNN graph, its inputs (the bias or H last) and its output."""

    graph: Any
    inputs: tuple[Any, ...]
    output: Any


def strides(shape: Sequence[int]) -> list[int]:
    """Compute the strides for a shape with channels second when they are last in memory."""
    _, channels, *positions = shape
    steps = [channels * prod(positions[axis + 1 :]) for axis in range(len(positions))]
    return [channels * prod(positions), 1, *steps]


def lower(product: Product, **device: Any) -> Lowered:
    """Express a product as a cuDNN graph and query its plans, the likely fastest first."""
    import cudnn

    types = cudnn.data_type
    storage = {"float32": types.FLOAT, "float16": types.HALF, "bfloat16": types.BFLOAT16}
    graph = cudnn.pygraph(
        io_data_type=storage[product.dtype],
        intermediate_data_type=types.FLOAT,
        compute_data_type=types.FLOAT,
        **device,
    )

    def tensor(name: str, shape: Sequence[int], dtype: str) -> Any:
        steps = strides(shape)
        return graph.tensor(name=name, dim=list(shape), stride=steps, data_type=storage[dtype])

    names, result, node = _roles(graph, product.operation)
    shapes = product.shapes
    inputs = [tensor(name, shapes[name], product.dtype) for name in names.values()]
    output = node(**dict(zip(names, inputs, strict=True)), **_how(product.geometry))
    shape = shapes[result]
    output.set_dim(list(shape))
    if product.activation is not None:
        inputs.append(tensor("bias", (1, shape[1], *(1 for _ in shape[2:])), "float32"))
        output = graph.bias(input=output, bias=inputs[-1])
        if product.activation != "identity":
            output = getattr(graph, product.activation)(input=output)
    if product.has_slope:
        inputs.append(tensor("H", shape, product.dtype))
        output = graph.relu_backward(loss=output, input=inputs[-1])
    output.set_output(True).set_dim(list(shape)).set_stride(strides(shape))
    output.set_data_type(storage[product.output])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A])
    unwanted = [cudnn.numerical_note.NONDETERMINISTIC]
    if product.dtype == "float32" and not product.tf32:
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
