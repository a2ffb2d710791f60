"""Waiting without the lock of the interpreter."""

from __future__ import annotations

from convae.engine.arrays import Array
from convae.engine.cpu.jit import compiled
from convae.engine.cpu.llvm import current


@compiled
def changes(counters: Array, index: int, seen: int, turns: int) -> bool:
    """Watch a counter that threads share for some turns; tells whether it is another than seen."""
    while turns > 0 and current(counters, index) == seen:
        turns -= 1
    return turns > 0
