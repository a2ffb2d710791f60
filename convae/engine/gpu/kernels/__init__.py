"""Source of our CUDA kernels, and their compile-time constants.

They are launched by `convae.engine.gpu.ways`. Nothing here needs CuPy or a GPU, so tests can
compile the kernels on any machine.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from convae.engine.geometry import Geometry
from convae.engine.program import Problem

STORAGE = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
"""C++ type of array elements, by dtype; sums are always float."""

HEADERS = {"float16": "cuda_fp16.h", "bfloat16": "cuda_bf16.h"}

ACTIVATIONS = ("identity", "relu", "leaky_relu", "sigmoid", "tanh", "softplus")
"""Activations by the numbers that `products.cu` gives them; LEAK is leaky_relu's slope."""

LOSSES = {"mse": 1, "bce": 2}
"""Losses by the numbers that `products.cu` gives them."""

TENSOR = {"float16": 1, "bfloat16": 2, "float32": 3}
"""The element type of products on tensor cores: half, bfloat16, TF32."""

CONVOLUTIONS = ("products", "narrow", "around")
"""Files that `convolution.cu` precedes; `sums.cu` precedes all."""

MOST_POSITIONS = 2**31
"""Positions of a batch, examples included, that `products.cu` can count."""

THREADS = 256
"""Threads per block, in all kernels."""

ROWS, COLUMNS, DEPTH = 64, 64, 16
"""What a block of `products.cu` computes."""

NARROW = 4
"""The most channels of a group for which `narrow.cu` is meant."""


def source(name: str, dtype: str = "float32", **constants: object) -> str:
    """Prepend the compile-time constants to a kernel file."""
    lines = [f"#include <{HEADERS[dtype]}>"] if dtype in HEADERS else []
    lines += [f"#define {key} {value}" for key, value in {"T": STORAGE[dtype], **constants}.items()]
    files = ["sums", *(["convolution"] if name in CONVOLUTIONS else []), name]
    texts = [(Path(__file__).parent / f"{file}.cu").read_text() for file in files]
    return "\n".join([*lines, *texts])


def kernel_steps(K_shape: tuple[int, ...], geometry: Geometry) -> tuple[int, int, int, int]:
    """Return the distances in a kernel's memory of filters, tile indices, channels and elements."""
    C, O = K_shape[-2:]  # (*tile, *kernel, C, O)
    return 1, prod(geometry.kernel) * C * O, O, C * O


def convolution_constants(problem: Problem, tensor: int = 0) -> dict[str, Any]:
    """Return the constants of a problem for `products.cu`."""
    geometry, K_shape = problem.geometry, _kernel_shape(problem)
    channels, filters = channels_and_filters(problem)
    bias = problem.shape("bias")
    activation, slope, loss = problem["activation"], problem["slope"], problem["loss"]
    leaks = [f.slope for f in (activation, slope) if f is not None and f.name == "leaky_relu"]
    missing = (1,) * (3 - geometry.axes)
    fields = [
        (*missing, *entries)
        for entries in (geometry.size, geometry.output, geometry.kernel, geometry.stride)
    ]
    fields.append((*(0 for _ in missing), *(before for before, _ in geometry.padding)))
    fields += [(*missing, *geometry.dilation), (*missing, *geometry.tile)]
    steps = ", ".join(map(str, kernel_steps(K_shape, geometry)))
    bias_tile = (1, 1, 1) if bias is None or len(bias) == 1 else (*missing, *bias[1:])
    arrays = ", ".join(map(_initialiser, fields))
    numbers = f"{channels}, {filters}, {geometry.groups}, {steps}, {_initialiser(bias_tile)}"
    target = problem.dtype("target") if loss is not None else "float32"
    return {
        "GEOMETRY": f"{{{arrays}, {numbers}}}",
        "TENSOR": tensor,
        "BIAS": int(bias is not None),
        "EXTRA": int(problem.shape("extra") is not None),
        "ACTIVATION": 0 if activation is None else ACTIVATIONS.index(activation.name),
        "SLOPE": 0 if slope is None else 1 + ACTIVATIONS.index(slope.name),
        "LOSS": 0 if loss is None else LOSSES[loss.name],
        "LOSS_T": STORAGE[target],
        "VISIBLE": int(problem.operation != "c"),
        "LEAK": f"{(*leaks, 0.0)[0]}f",
    }


def suits_products(problem: Problem) -> bool:
    """Tell whether `products.cu` covers a convolution and what stands behind it."""
    if problem.operation not in ("c", "h", "error", "g"):
        return False
    zeros = problem.geometry.padding_mode == "zeros"
    sizes = [prod(shape[:-1]) for role, shape, _ in problem.arrays if role in ("V", "G", "Z", "E")]
    dtypes = {dtype for role, _, dtype in problem.arrays if role != "J"}
    functions = [f for f in (problem["activation"], problem["slope"]) if f is not None]
    known = all(f.name in ACTIVATIONS for f in functions)
    known &= problem["loss"] is None or problem["loss"].name in LOSSES
    return zeros and known and dtypes <= {*STORAGE} and max(sizes) < MOST_POSITIONS


def channels_and_filters(problem: Problem) -> tuple[int, int]:
    """Return the channels of the visible and of the hidden side of a convolution."""
    batches = {"c": ("V", "Z"), "h": ("V", "G"), "error": ("E", "G"), "g": ("V", "G")}
    visible, hidden = (problem.shape(role) for role in batches[problem.operation])
    assert visible is not None
    assert hidden is not None
    return visible[-1], hidden[-1]


def _kernel_shape(problem: Problem) -> tuple[int, ...]:
    shape = problem.shape("dK" if problem.operation == "g" else "K")
    assert shape is not None
    return shape


def _initialiser(entries: tuple[int, ...]) -> str:
    return "{" + ", ".join(map(str, entries)) + "}"
