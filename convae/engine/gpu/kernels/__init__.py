"""Source of the custom CUDA kernels, and their compile-time constants.

They are launched by `convae.engine.gpu.cuda`. `source` needs neither CuPy nor a GPU, so tests can
compile the kernels on any machine.
"""

from __future__ import annotations

from pathlib import Path

from convae.engine.geometry import Geometry

STORAGE = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
"""C++ type of array elements, by dtype; sums are always float."""

HEADERS = {"float16": "cuda_fp16.h", "bfloat16": "cuda_bf16.h"}

THREADS = 128
"""Threads per block."""

LARGEST_BLOCK = 1024
"""Maximum number of threads per block."""

FILTERS = 4
"""Filters computed by one thread; `edges.cu` needs a multiple of it."""

SHARED_FLOATS = 12_000
"""Floats that fit into a block's default shared memory."""


def source(name: str, dtype: str = "float32", **constants: object) -> str:
    """Prepend the compile-time constants to a kernel file."""
    lines = [f"#include <{HEADERS[dtype]}>"] if dtype in HEADERS else []
    constants = {"T": STORAGE[dtype], "THREADS": THREADS, "FILTERS": FILTERS, **constants}
    lines += [f"#define {key} {value}" for key, value in constants.items()]
    return "\n".join([*lines, (Path(__file__).parent / f"{name}.cu").read_text()])


def family_constants(geometry: Geometry, channels: int, filters: int) -> dict[str, str]:
    """Return the constants of a convolution for `family.cu`, which supports every geometry."""
    missing = 3 - geometry.axes
    before = tuple(before for before, _ in geometry.padding)
    fields = [
        (filling,) * missing + tuple(entries)
        for filling, entries in (
            (1, geometry.size),
            (1, geometry.output),
            (1, geometry.kernel),
            (1, geometry.stride),
            (0, before),
            (1, geometry.dilation),
            (1, geometry.tile),
        )
    ]
    arrays = ", ".join("{" + ", ".join(map(str, field)) + "}" for field in fields)
    return {"GEOMETRY": f"{{{arrays}, {channels}, {filters}, {geometry.groups}}}"}


def suits_edges(geometry: Geometry, channels: int, filters: int) -> bool:
    """Tell whether `edges.cu` supports a convolution: 2-D, shared kernels, up to 4 channels."""
    elements = geometry.kernel[0] * geometry.kernel[-1] * channels
    return (
        geometry.axes == 2
        and geometry.groups == 1
        and {*geometry.tile, *geometry.dilation} == {1}
        and channels <= 4
        and filters % FILTERS == 0
        and elements * filters <= SHARED_FLOATS
        and filters // FILTERS * geometry.kernel[0] <= LARGEST_BLOCK
    )


def edges_constants(geometry: Geometry, channels: int, filters: int) -> dict[str, int]:
    """Return the constants of a 2-D convolution for `edges.cu`."""
    pairs = {
        ("K1", "K2"): geometry.kernel,
        ("S1", "S2"): geometry.stride,
        ("B1", "B2"): tuple(before for before, _ in geometry.padding),
        ("H", "W"): geometry.size,
        ("OH", "OW"): geometry.output,
    }
    constants = {"C": channels, "O": filters}
    for names, values in pairs.items():
        constants |= dict(zip(names, values, strict=True))
    return constants
