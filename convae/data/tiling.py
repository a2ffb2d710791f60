"""Pictures, and arrays, of any size as tiles of one size, in a grid that covers them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from convae.errors import UserError, check_range

Values: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tiling:
    """A grid of tiles.

    Parameters
    ----------
    tile : tuple of int
        Positions of a tile along each axis.
    overlap : int
        Positions that neighbours share, along each axis.

    Raises
    ------
    UserError
        If a tile has no positions, or neighbours share all of them.
    """

    tile: tuple[int, ...]
    overlap: int = 0

    def __post_init__(self) -> None:
        """Check the sizes, which may come from a file."""
        if not isinstance(self.tile, list | tuple) or not self.tile:
            raise UserError(f"tile: {self.tile!r} is not a size for each axis")
        for side in self.tile:
            check_range("tile", side, at_least=1, integer=True)
        check_range("overlap", self.overlap, at_least=0, below=min(self.tile), integer=True)
        object.__setattr__(self, "tile", tuple(self.tile))

    @classmethod
    def along(cls, axes: int, tile: Any, overlap: int) -> Tiling:
        """Return tiles of so many axes, whose sides are a number or a list of as many."""
        sides = list(tile) if isinstance(tile, list | tuple) else [tile] * axes
        if len(sides) != axes:
            raise UserError(f"tile: {sides} has {len(sides)} numbers; expected {axes}, or one")
        return cls(tuple(sides), overlap)

    def starts(self, size: tuple[int, ...]) -> list[list[int]]:
        """List where tiles begin along each axis; the last one ends with the picture."""
        found = []
        for side, tile in zip(size, self.tile, strict=True):
            if side < tile:
                raise UserError(
                    f"its {'x'.join(map(str, size))} positions are less than a tile of "
                    f"{'x'.join(map(str, self.tile))}"
                )
            places = [*range(0, side - tile + 1, tile - self.overlap)]
            if places[-1] != side - tile:
                places.append(side - tile)
            found.append(places)
        return found

    def places(self, size: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Iterate over the first positions of all tiles, row by row."""
        return product(*self.starts(size))

    def at_least(self, pixels: Values) -> Values:
        """Continue a picture (C, *size) that is smaller than a tile, by its last positions."""
        missing = [max(0, t - n) for t, n in zip(self.tile, pixels.shape[1:], strict=True)]
        edges = [(0, 0), *((0, n) for n in missing)]
        return np.pad(pixels, edges, mode="edge") if any(missing) else pixels

    def cut(self, pixels: Values) -> Values:
        """Cut a picture (C, *size) into tiles: -> (n, C, *tile)."""
        return np.stack([self.take(pixels, place) for place in self.places(pixels.shape[1:])])

    def take(self, pixels: Values, place: tuple[int, ...]) -> Values:
        """Take one tile of a picture (C, *size): -> (C, *tile), a view."""
        where = (slice(at, at + side) for at, side in zip(place, self.tile, strict=True))
        return pixels[(slice(None), *where)]


class TileStore:
    """Tiles that are collected in memory, or beyond a limit in a file without a name.

    Parameters
    ----------
    limit : int
        Bytes that are kept in memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Values] = []
        self._size = self._count = 0
        self._file: Any = None

    def add(self, tiles: Values) -> None:
        """Add tiles (n, C, *tile) of uint8."""
        self._count += len(tiles)
        self._size += tiles.nbytes
        self._kept.append(tiles)
        if self._file is None and self._size > self._limit:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed when it is mapped)
        if self._file is not None:
            for part in self._kept:
                self._file.write(np.ascontiguousarray(part).data)
            self._shape = tiles.shape[1:]
            self._kept.clear()

    @property
    def on_disk(self) -> bool:
        """Whether the tiles are in a file."""
        return self._file is not None

    def tiles(self) -> Values:
        """Return all tiles (N, C, *tile), in memory or mapped into it."""
        if self._file is None:
            return np.concatenate(self._kept)
        self._file.flush()
        shape = (self._count, *self._shape)
        mapped: Values = np.memmap(self._file, np.uint8, "r", shape=shape)
        self._file.close()  # the map keeps it
        return mapped
