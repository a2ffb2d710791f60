"""Max-pooling with switches as calls, see `convae.engine.backend.Backend`.

Batches are ``(N, *size, C)``: F before pooling, and of its windows P and the switches, numbers of
the same type.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu.calls import Calls, Template
from convae.engine.cpu.convolution import NOTHING, Behind, divided
from convae.engine.cpu.division import three
from convae.engine.cpu.rows import Field, Operation
from convae.engine.cpu.threads import in_pool
from convae.engine.geometry import Integers


def pool(F: Array, P: Array, switches: Array, window: Integers) -> Calls:
    """Write the largest of each window of F to P, and which it is."""
    return _calls(Operation.POOL, F, P, switches, window)


def take(F: Array, P: Array, switches: Array, window: Integers, behind: Behind = NOTHING) -> Calls:
    """Write what the switches point at, of each window of F, to P."""
    return _calls(Operation.TAKE, F, P, switches, window, behind)


def unpool(F: Array, P: Array, switches: Array, window: Integers) -> Calls:
    """Write P to where the switches point, and zeros elsewhere."""
    return _calls(Operation.UNPOOL, F, P, switches, window)


def compute(operation: str, arrays: tuple[Array, Array, Array], window: Integers) -> None:
    """Do one of them, of arrays F, P and switches with elements."""
    shapes = tuple(array.shape for array in arrays)
    _template(operation, shapes, arrays[0].dtype, window, in_pool())(*arrays)


@lru_cache(maxsize=64)
def _template(
    operation: str, shapes: tuple[tuple[int, ...], ...], dtype: np.dtype[np.generic],
    window: Integers, is_in_pool: bool,
) -> Template:  # fmt: skip
    """Write the calls of an operation once for all arrays of these shapes."""
    F, P, switches = arrays = [np.empty(shape, dtype) for shape in shapes]
    write = {"pool": pool, "take": take, "unpool": unpool}[operation]
    return Template(write(F, P, switches, window), arrays, ())


def _calls(
    operation: Operation, F: Array, P: Array, switches: Array, window: Integers,
    behind: Behind = NOTHING,
) -> Calls:  # fmt: skip
    """Divide the lines of windows among threads."""
    size, windows = three(F.shape[1:-1]), three(window)
    lines = len(F) * size[0] // windows[0] * (size[1] // windows[1])
    fields: dict[int, int] = {Field.CHANNELS: F.shape[-1], Field.SPAN: P.size // lines}
    for axis in range(3):
        fields |= {Field.SIZE + axis: size[axis], Field.STRIDE + axis: windows[axis]}
    written, read = (F, P) if operation == Operation.UNPOOL else (P, F)
    arrays = {Field.D: written, Field.A: read, Field.B: switches}
    return Calls(F.dtype, [divided(operation, arrays, fields, lines, behind)])
