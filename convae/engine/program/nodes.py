"""Programs: named arrays, and nodes that compute some of them from others.

Arrays lie in memory as a program says: batches are examples first and channels last,
``(N, *size, C)``, and kernels filters last, ``(*tile, *kernel, C, O)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from convae.engine.geometry import Geometry


@dataclass(frozen=True)
class Slot:
    """An array of a program.

    Parameters
    ----------
    shape : tuple of int
        Its shape, in the order of its memory.
    dtype : str
        Type of its elements.
    owner : str, optional
        The array of whose memory it is a part, along the first axis.
    start : int
        Where the part begins.
    given : bool
        Whether its memory is the caller's, such as the parameters'.
    filling : float, optional
        A constant that it holds from the beginning.
    """

    shape: tuple[int, ...]
    dtype: str
    owner: str | None = None
    start: int = 0
    given: bool = False
    filling: float | None = None


@dataclass(frozen=True)
class Problem:
    """What a node has to compute, without regard to where its arrays lie.

    Parameters
    ----------
    operation : str
        Name of a function of `convae.engine.program.arithmetic`.
    arrays : tuple of (role, shape, dtype)
        What it works on.
    written : tuple of str
        Roles that it overwrites, whatever they held.
    updated : tuple of str
        Roles whose values it changes.
    settings : tuple of (name, value)
        Everything else; values can be hashed.
    """

    operation: str
    arrays: tuple[tuple[str, tuple[int, ...], str], ...]
    written: tuple[str, ...]
    updated: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]

    def __getitem__(self, name: str) -> Any:
        """Return a setting, None where there is none."""
        return dict(self.settings).get(name)

    def shape(self, role: str) -> tuple[int, ...] | None:
        """Return the shape of an array, None where there is none."""
        return next((shape for name, shape, _ in self.arrays if name == role), None)

    def dtype(self, role: str) -> str:
        """Return the type of an array's elements."""
        return next(dtype for name, _, dtype in self.arrays if name == role)

    @property
    def geometry(self) -> Geometry:
        """The sizes of a convolution."""
        geometry: Geometry = self["geometry"]
        return geometry

    def __str__(self) -> str:
        """Write all of it, the same in every process."""
        settings = (f"{name}={getattr(value, 'name', value)}" for name, value in self.settings)
        return ", ".join((self.title, *settings))

    @property
    def title(self) -> str:
        """The operation with its arrays."""
        arrays = ", ".join(
            f"{role} {'x'.join(map(str, shape)) or 'number'} {dtype}"
            for role, shape, dtype in self.arrays
        )
        return f"{self.operation}({arrays})"


@dataclass(frozen=True)
class Node:
    """An operation on a program's arrays.

    Parameters
    ----------
    operation : str
        What is computed.
    arrays : mapping
        The arrays' names by their roles.
    written, updated : tuple of str
        As in `Problem`.
    settings : mapping
        Everything else.
    """

    operation: str
    arrays: Mapping[str, str]
    written: tuple[str, ...]
    updated: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass
class Program:
    """Arrays by name, and the nodes that work on them, in order."""

    slots: dict[str, Slot] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def array(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        *,
        given: bool = False,
        filling: float | None = None,
    ) -> str:
        """Declare an array, and return its name."""
        assert name not in self.slots, name
        self.slots[name] = Slot(tuple(shape), dtype, given=given, filling=filling)
        return name

    def halves(
        self, name: str, first: str, second: str, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, str]:
        """Declare two batches (N, ...) that lie one behind the other as a batch of 2N."""
        N = shape[0]
        self.array(name, (2 * N, *shape[1:]), dtype)
        for part, start in ((first, 0), (second, N)):
            self.slots[part] = Slot(tuple(shape), dtype, owner=name, start=start)
        return first, second

    def part(self, name: str, owner: str) -> str:
        """Name the whole of an array in another way."""
        slot = self.slots[owner]
        self.slots[name] = Slot(slot.shape, slot.dtype, owner=owner)
        return name

    def do(
        self,
        operation: str,
        *,
        write: Mapping[str, str] | None = None,
        update: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        **read: str | None,
    ) -> None:
        """Append a node: arrays by role; a role that is None is left out."""
        arrays = {role: name for role, name in read.items() if name is not None}
        arrays |= {**(write or {}), **(update or {})}
        for name in arrays.values():
            assert name in self.slots, name
        given = {key: value for key, value in (settings or {}).items() if value is not None}
        self.nodes.append(Node(operation, arrays, tuple(write or ()), tuple(update or ()), given))

    def problem(self, node: Node) -> Problem:
        """Describe what a node has to compute."""
        slots = ((role, self.slots[name]) for role, name in node.arrays.items())
        arrays = tuple((role, slot.shape, slot.dtype) for role, slot in slots)
        settings = tuple(sorted(node.settings.items()))
        return Problem(node.operation, arrays, node.written, node.updated, settings)

    def problems(self) -> Iterator[Problem]:
        """List the different problems of the nodes."""
        yield from dict.fromkeys(map(self.problem, self.nodes))
