"""A model's arrays laid out in one flat buffer, so that an optimizer sees a single vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import TypeAlias

from convae.engine import Array, Backend

ALIGNMENT = 16
"""Each array's start is rounded up to a multiple of so many elements: 64 bytes of float32."""

SUMS_BYTES = 64 << 20
"""Memory for sums of gradients: each of several threads adds to one of them at a time."""

FEWEST_SUMS, MOST_SUMS = 4, 16
"""How many sums there are at least, whatever they take, and at most."""

Arrays: TypeAlias = Mapping[str, Array]

Gradients: TypeAlias = Sequence[Arrays]
"""For each layer its gradients by the layer's own names; what is computed is added to them."""


def views(
    backend: Backend,
    shapes: Mapping[str, tuple[int, ...]],
    flat: Array,
    axes: int,
) -> Arrays:
    """View a flat vector as named arrays, end to end.

    Parameters
    ----------
    backend : Backend
        Knows the order in which kernels lie in memory.
    shapes : mapping
        Shape of each array, in the order of the layout.
    flat : (M,) ndarray
        The vector, of the length `flat_size`.
    axes : int
        Axes of positions, of which kernels have elements.

    Returns
    -------
    mapping
        The named arrays, views on the vector; between them lie a few elements of padding. The
        mapping is read-only, the arrays are not.
    """
    found, start = {}, 0
    for name, shape in shapes.items():
        elements = flat[start : start + prod(shape)]
        if name.endswith("kernel"):
            found[name] = backend.kernel_view(elements, shape, axes)
        else:
            found[name] = elements.reshape(shape)
        start += _aligned(shape)
    return MappingProxyType(found)


def allocate(
    backend: Backend, shapes: Mapping[str, tuple[int, ...]], dtype: str, axes: int
) -> tuple[Array, Arrays]:
    """Make a zeroed vector of the length that `views` needs, with its views."""
    flat = backend.xp.zeros(flat_size(shapes), dtype)
    return flat, views(backend, shapes, flat, axes)


def flat_size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the length of the vector that `views` divides into arrays of these shapes."""
    return sum(map(_aligned, shapes.values()))


def _aligned(shape: tuple[int, ...]) -> int:
    return -(-prod(shape) // ALIGNMENT) * ALIGNMENT


def per_layer(arrays: Arrays) -> list[Arrays]:
    """Group arrays named "0.kernel" by layer, under the layers' own names for them."""
    grouped: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        index, _, own = name.partition(".")
        grouped.setdefault(index, {})[own] = array
    return list(grouped.values())


class GradientSums:
    """Sums of the gradients of a batch's chunks, which are computed in parallel.

    Parameters
    ----------
    backend : Backend
        What computes.
    allocate : callable
        Returns a flat buffer and named views on it, as the parameters have them.
    flat : (M,) ndarray
        Where the sum goes.
    named : mapping
        Named views on it.
    """

    def __init__(
        self,
        backend: Backend,
        allocate: Callable[[], tuple[Array, Arrays]],
        flat: Array,
        named: Arrays,
    ) -> None:
        self.backend, self.flat, self._allocate = backend, flat, allocate
        self._buffers = [(flat, per_layer(named))]

    def __call__(self, chunks: list[slice], compute: Callable[[slice, Gradients], Array]) -> Array:
        """Call ``compute(chunk, gradients)`` on each chunk, and return the sum of the results."""
        parts = parts_of_sums(len(chunks), self.flat.nbytes)
        while len(self._buffers) < len(parts):
            flat, named = self._allocate()
            self._buffers.append((flat, per_layer(named)))

        def compute_part(part: slice) -> Array:
            flat, gradients = self._buffers[parts.index(part)]
            flat[...] = 0
            return sum(compute(chunk, gradients) for chunk in chunks[part])

        J = sum(self.backend.map(compute_part, parts))
        add_sums(self.backend, [flat for flat, _ in self._buffers[: len(parts)]])
        return J


def parts_of_sums(chunks: int, size: int) -> list[slice]:
    """Divide so many chunks into parts that have a sum of gradients each, of so many bytes."""
    count = min(chunks, max(FEWEST_SUMS, min(MOST_SUMS, SUMS_BYTES // max(size, 1))))
    return [slice(chunks * part // count, chunks * (part + 1) // count) for part in range(count)]


def add_sums(backend: Backend, sums: list[Array]) -> None:
    """Add the others to the first one, in order."""

    def add(piece: slice) -> None:
        for other in sums[1:]:
            sums[0][piece] += other[piece]

    if len(sums) > 1:
        backend.map(add, backend.pieces(len(sums[0]), 1))
