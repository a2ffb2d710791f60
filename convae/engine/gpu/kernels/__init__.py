"""Source of our CUDA kernels, and their compile-time constants.

They are launched by `convae.engine.gpu.ways`. Nothing here needs CuPy or a GPU, so tests can
compile the kernels on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product
from math import ceil, gcd, inf, prod
from pathlib import Path
from typing import Any

from convae.engine.geometry import Geometry
from convae.engine.program import Problem

STORAGE = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
"""C++ type of array elements, by dtype; sums are always float."""

HEADERS = {"float16": "cuda_fp16.h", "bfloat16": "cuda_bf16.h"}

ACTIVATIONS = ("identity", "relu", "leaky_relu", "sigmoid", "tanh", "softplus")
"""Activations by the numbers that `convolution.cu` gives them; LEAK is leaky_relu's slope."""

LOSSES = {"mse": 1, "bce": 2}
"""Losses by the numbers that `convolution.cu` gives them."""

TENSOR = {"float16": 1, "bfloat16": 2, "float32": 3}
"""The element type of products on tensor cores: half, bfloat16, TF32."""

PRODUCTS = ("convolution", "tensor", "blocks", "products")
EDGES = ("convolution", "tensor", "edges")
BEFORE = {
    "c": PRODUCTS,
    "h": PRODUCTS,
    "g": (*PRODUCTS, "parts"),
    "narrow": ("convolution", "pairs"),
    "edge_c": (*EDGES, "patches"),
    "edge_h": (*EDGES, "pairs"),
    "edge_g": (*EDGES, "patches", "parts"),
    "around": ("convolution",),
}
"""Files that precede others; `sums.cu` precedes all."""

MOST_POSITIONS = 2**31
"""Positions of a batch, examples included, that `convolution.cu` can count."""

THREADS = 256
"""Threads per block, in all kernels."""

BLOCKS = [(256, 32), (256, 16), (128, 128), (128, 64), (128, 32), (64, 128), (64, 64), (64, 32)]
BLOCKS += [(64, 16), (32, 64), (32, 32), (32, 16)]
"""Rows and columns that `blocks.cu` can compute."""

ENOUGH = 256
"""Blocks that keep a card busy; for fewer, smaller ones are taken."""

NARROW = 4
"""The most channels of a group for which `narrow.cu` is meant."""

CHUNK = 16
"""Filters that `narrow.cu` has in shared memory at a time."""

MOST_PAIRS, MOST_SUMS = 128, 48
"""What `narrow.cu` can unroll: pairs of a kernel element and a tile index, and a thread's sums."""

SHARED_BYTES = 46 << 10
"""Shared memory that a block has, less what adding up takes."""


def source(name: str, dtype: str = "float32", **constants: object) -> str:
    """Prepend the compile-time constants to a kernel file."""
    lines = [f"#include <{HEADERS[dtype]}>"] if dtype in HEADERS else []
    lines += [f"#define {key} {value}" for key, value in {"T": STORAGE[dtype], **constants}.items()]
    files = ["sums", *BEFORE.get(name, ()), name]
    texts = [(Path(__file__).parent / f"{file}.cu").read_text() for file in files]
    return "\n".join([*lines, *texts])


def kernel_steps(K_shape: tuple[int, ...], geometry: Geometry) -> tuple[int, int, int, int]:
    """Return the distances in a kernel's memory of filters, tile indices, channels and elements."""
    C, O = K_shape[-2:]  # (*tile, *kernel, C, O)
    return 1, prod(geometry.kernel) * C * O, O, C * O


def product_constants(problem: Problem, tensor: int = 0) -> dict[str, Any]:
    """Return the constants of a problem for its product; `tensor` is one of `TENSOR`, or 0."""
    rows, columns = block_of(problem, tensor)
    return convolution_constants(problem) | {"TENSOR": tensor, "ROWS": rows, "COLUMNS": columns}


def narrow_constants(problem: Problem) -> dict[str, Any]:
    """Return the constants of a problem for `narrow.cu`."""
    box = box_of(problem)
    assert box is not None
    return convolution_constants(problem) | {"BOX": initialiser(box), "CHUNK": CHUNK}


def convolution_constants(problem: Problem) -> dict[str, Any]:
    """Return the constants of a problem for `convolution.cu`."""
    geometry, K_shape = problem.geometry, _kernel_shape(problem)
    channels, filters = channels_and_filters(problem)
    bias = problem.shape("bias")
    activation, slope, loss = problem["activation"], problem["slope"], problem["loss"]
    leaks = [f.slope for f in (activation, slope) if f is not None and f.name == "leaky_relu"]
    fields = [geometry.size, geometry.output, geometry.kernel, geometry.stride]
    fields = [three(entries) for entries in fields]
    fields.append((0,) * (3 - geometry.axes) + tuple(before for before, _ in geometry.padding))
    fields += [three(geometry.dilation), three(geometry.tile)]
    steps = ", ".join(map(str, kernel_steps(K_shape, geometry)))
    bias_tile = (1, 1, 1) if bias is None else three(bias[1:])
    arrays = ", ".join(map(initialiser, fields))
    numbers = f"{channels}, {filters}, {geometry.groups}, {steps}, {initialiser(bias_tile)}"
    target = problem.dtype("target") if loss is not None else "float32"
    return {
        "GEOMETRY": f"{{{arrays}, {numbers}}}",
        "BIAS": int(bias is not None),
        "EXTRA": int(problem.shape("extra") is not None),
        "ACTIVATION": 0 if activation is None else ACTIVATIONS.index(activation.name),
        "SLOPE": 0 if slope is None else 1 + ACTIVATIONS.index(slope.name),
        "LOSS": 0 if loss is None else LOSSES[loss.name],
        "LOSS_T": STORAGE[target],
        "VISIBLE": int(problem.operation != "c"),
        "LEAK": f"{(*leaks, 0.0)[0]}f",
    }


def block_of(problem: Problem, tensor: int = 0) -> tuple[int, int]:
    """Choose the rows and columns of a block; `tensor` is one of `TENSOR`, or 0."""
    geometry = problem.geometry
    channels, filters = (n // geometry.groups for n in channels_and_filters(problem))
    is_g, is_c = problem.operation == "g", problem.operation == "c"
    itemsize = 4 if factor_dtype(problem) == "float32" else 2
    if is_g:
        rows, columns, products = prod(geometry.kernel) * channels, filters, ENOUGH
    else:
        rows = examples(problem) * prod(geometry.repeats if is_c else input_repeats(geometry))
        columns = filters if is_c else channels
        products = prod(geometry.tile if is_c else input_period(geometry)) * geometry.groups

    def cost(block: tuple[int, int]) -> tuple[int, int, int]:
        down, across = (ceil(n / b) for n, b in zip((rows, columns), block, strict=True))
        # a thread keeps the places of all rows that it fetches in registers
        width = gcd(channels if is_c else filters, 16 // itemsize)
        fetched = 0 if is_g else block[0] * stage_of(block, tensor) // (width * THREADS)
        spilled = max(0, fetched - 8)
        idle = max(0, ENOUGH - down * across * products)
        return spilled, idle, down * across * (prod(block) + 16 * sum(block))

    most = 128 * 128 if not (is_g or tensor) else 64 * 128  # sums
    blocks = [block for block in BLOCKS if prod(block) <= most and not (is_g and block[0] > 128)]
    return min(blocks, key=cost)


def summed_places(count: int) -> int:
    """Return for how many places a block adds up so many parts, as `sums.cu` does."""
    threads = 1
    while threads < 32 and threads * 8 < count:
        threads *= 2
    return THREADS // threads


def stage_of(block: tuple[int, int], tensor: int) -> int:
    """Return how many terms a block has in shared memory at a time, as `blocks.cu` does."""
    rows, columns = block
    if tensor:
        part = min(rows, 32) * (64 if columns >= 128 else min(columns, 32))
        slices = THREADS // 32 * part // prod(block)
    else:
        part = (8 if rows >= 64 else 4) * (8 if min(block) >= 128 else 4)
        slices = THREADS * part // prod(block)
    return slices * (16 if slices == 1 else 8) * (2 if 0 < tensor < 3 else 1)


def input_period(geometry: Geometry) -> list[int]:
    """Return the inputs of each axis after which kernels repeat."""
    return [s * t for s, t in zip(geometry.stride, geometry.tile, strict=True)]


def input_repeats(geometry: Geometry) -> list[int]:
    """Return how often the kernels of h repeat along each axis."""
    return [ceil(n / p) for n, p in zip(geometry.size, input_period(geometry), strict=True)]


@cache
def box_of(problem: Problem) -> tuple[int, ...] | None:
    """Choose the box of repeats of a block of `narrow.cu`, on three axes; None if none fits."""
    geometry = problem.geometry
    channels = channels_and_filters(problem)[0] // geometry.groups
    pairs = prod(geometry.kernel) * prod(geometry.tile)
    sums = prod(input_period(geometry)) * channels
    if channels > NARROW or pairs > MOST_PAIRS or sums > MOST_SUMS:
        return None
    repeats = three(input_repeats(geometry))
    fields = (geometry.stride, geometry.tile, geometry.kernel, geometry.dilation)
    axes = list(zip(*map(three, fields), strict=True))
    around = [(k - 1) * d // s + 1 for s, _, k, d in axes]  # codes beside a box's own, at most
    room = SHARED_BYTES - 4 * pairs * channels * CHUNK
    best: tuple[int, ...] | None = None
    least = inf
    for box in product(*([n, *(1 << i for i in range(9) if 1 << i < n)] for n in repeats)):
        own = zip(box, axes, around, strict=True)
        places = prod(t * b + more for b, (_, t, _, _), more in own)
        blocks = prod(ceil(n / b) for n, b in zip(repeats, box, strict=True))
        cost = blocks * (4 * THREADS + places)
        if prod(box) <= THREADS and 4 * places * (CHUNK + 4) <= room and cost < least:
            best, least = box, cost
    return best


def three(entries: Iterable[int]) -> tuple[int, ...]:
    """Put axes of length one before those of a geometry."""
    entries = tuple(entries)
    return (*(1,) * (3 - len(entries)), *entries)


def suits_products(problem: Problem) -> bool:
    """Tell whether our kernels cover a convolution and what stands behind it."""
    if problem.operation not in ("c", "h", "error", "g"):
        return False
    zeros = problem.geometry.padding_mode == "zeros"
    sizes = [prod(shape[:-1]) for role, shape, _ in problem.arrays if role in ("V", "G", "Z", "E")]
    dtypes = {dtype for role, _, dtype in problem.arrays if role != "J"}
    functions = [f for f in (problem["activation"], problem["slope"]) if f is not None]
    known = all(f.name in ACTIVATIONS for f in functions)
    known &= problem["loss"] is None or problem["loss"].name in LOSSES
    return zeros and known and dtypes <= {*STORAGE} and max(sizes) < MOST_POSITIONS


def product_of(problem: Problem) -> str:
    """Return which product a convolution is, "c", "h" or "g"; an error is an h."""
    return "h" if problem.operation == "error" else problem.operation


def examples(problem: Problem) -> int:
    """Return the examples of the batch that a convolution multiplies."""
    shape = problem.shape(_factor(problem))
    assert shape is not None
    return shape[0]


def factor_dtype(problem: Problem) -> str:
    """Return the type of the batch that a convolution multiplies."""
    return problem.dtype(_factor(problem))


def _factor(problem: Problem) -> str:
    return "V" if problem.operation in ("c", "g") else "G"


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


def initialiser(entries: tuple[int, ...]) -> str:
    """Write integers as C++ initialises an array."""
    return "{" + ", ".join(map(str, entries)) + "}"
