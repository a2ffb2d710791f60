"""Splits of arrays, mapped into memory where they are files, and how they are scaled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np

from convae.data.array_files import Stack
from convae.data.layouts import Layout, Values
from convae.data.scaling import Scaling
from convae.data.splits import InMemory, Labels, Order, Split, digest, signature
from convae.data.tiling import Tiling
from convae.errors import UserError

CHUNK_BYTES = 2**24
"""Memory for the arrays that are looked at together."""


MOST_CHANNELS = 4
"""Channels whose scaling is reported."""


@dataclass(frozen=True)
class Statistics:
    """Of each example and channel (N, C): the range, the mean and the variance."""

    low: Values
    high: Values
    mean: Values
    variance: Values

    def of(self, indices: Values) -> Statistics:
        """Select those of some examples."""
        fields = self.low, self.high, self.mean, self.variance
        return Statistics(*(field[indices] for field in fields))

    @classmethod
    def measured(cls, examples: Values) -> Statistics:
        """Measure examples (N, C, *size)."""
        positions = tuple(range(2, examples.ndim))
        x = examples.astype(np.float64)
        return cls(x.min(positions), x.max(positions), x.mean(positions), x.var(positions))

    @classmethod
    def joined(cls, parts: Sequence[Statistics]) -> Statistics:
        """Join those of several groups of examples."""
        names = ("low", "high", "mean", "variance")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def scaling(self, layout: str, kind: str, columns: Sequence[str] = ()) -> Scaling:
        """Choose the scaling that examples like these need; constant channels become 0."""
        offset, top = self.low.min(axis=0), self.high.max(axis=0)
        spread = top - offset
        if kind == "standard":
            offset = self.mean.mean(axis=0)
            spread = np.sqrt(self.variance.mean(axis=0) + self.mean.var(axis=0))
        spread = np.where(spread > 0, spread, 1.0)
        for channel in np.flatnonzero(~(np.isfinite(spread) & np.isfinite(offset))):
            raise UserError(
                f"dataset: channel {channel} has values from {self.low[:, channel].min():.4g} to "
                f"{self.high[:, channel].max():.4g}, too far apart to be scaled; remove outliers"
            )
        return Scaling(layout, kind, offset.tolist(), spread.tolist(), tuple(columns))


@dataclass(frozen=True)
class Arrays:
    """A split of examples in arrays, mapped into memory where they are files of their own.

    Parameters
    ----------
    stacks : sequence of Stack
        The arrays.
    layout : Layout
        The order of their axes.
    indices : (N,) ndarray of int
        Which of all their examples belong to the split.
    scaling : Scaling, optional
        How they are scaled; as they are if not given.
    labels : (N,) ndarray of int, optional
        Their classes.
    statistics : Statistics, optional
        Of these examples.
    tiling : Tiling, optional
        The windows that examples of any size are cut into; `indices` then has an entry for each.
    places : (N, axes) ndarray of int, optional
        Where the windows begin.
    """

    stacks: Sequence[Stack]
    layout: Layout
    indices: Values
    scaling: Scaling | None = None
    labels: Labels | None = None
    statistics: Statistics | None = None
    tiling: Tiling | None = None
    places: Values | None = None

    @property
    def files(self) -> None:
        """See `Split`; files may hold many examples."""

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Split`."""
        channels, *size = self.layout.shape_of(self.stacks[0].shape)
        return (channels, *(size if self.tiling is None else self.tiling.tile))

    @property
    def recordings(self) -> Labels | None:
        """The example that each window is of, numbered; None where examples are whole."""
        return None if self.tiling is None else np.unique(self.indices, return_inverse=True)[1]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.indices)

    def select(self, indices: Values) -> Arrays:
        """See `Split`."""
        return replace(
            self,
            indices=self.indices[indices],
            labels=None if self.labels is None else self.labels[indices],
            statistics=None if self.statistics is None else self.statistics.of(indices),
            places=None if self.places is None else self.places[indices],
        )

    def ends(self, fraction: float) -> tuple[Order, Order]:
        """Divide the windows of every example by time, or their first axis: all but its end, it.

        Returns their positions; windows on both sides are in neither.
        """
        assert self.tiling is not None
        assert self.places is not None
        starts, side = self.places[:, 0], self.tiling.tile[0]
        last = np.zeros(self.indices.max() + 1, np.int64)
        np.maximum.at(last, self.indices, starts + side)
        limits = np.round(last * (1 - fraction)).astype(np.int64)[self.indices]
        return np.flatnonzero(starts + side <= limits), np.flatnonzero(starts >= limits)

    def fingerprint(self) -> str:
        """See `Split`; of mapped files their names, sizes and ends, since reading takes long."""
        parts: list[Any] = [str(self.scaling), self.indices.tobytes()]
        if self.places is not None:
            parts += [str(self.tiling), self.places.tobytes()]
        for stack in self.stacks:
            mapped = stack.values is None
            parts += signature(stack.path) if mapped else [np.ascontiguousarray(stack.values).data]
        return digest(*parts)

    def batches(self, size: int, order: Order | None = None, skip: int = 0) -> Iterator[Values]:
        """See `Split`; floats, scaled."""
        order = np.arange(len(self)) if order is None else order
        for start in range(skip * size, len(order), size):
            yield self.take(order[start : start + size])

    @cached_property
    def _starts(self) -> Values:
        """Numbers of the stacks' first examples among all."""
        return np.cumsum([0, *(count(stack, self.layout) for stack in self.stacks)])

    def without_values(self) -> Arrays:
        """Return the same without arrays in memory, to name examples."""
        stacks = [replace(stack, values=None, labels=None) for stack in self.stacks]
        return replace(self, stacks=stacks, labels=None, statistics=None)

    def name(self, position: int) -> str:
        """Name an example by its file, its number there, and where a window begins."""
        number = int(self.indices[position])
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        name = place(self.stacks[which], number - int(self._starts[which]), self.layout)
        return name if self.places is None else named_window(name, self.places[position])

    def take(self, positions: Values) -> Values:
        """Read some examples: -> (M, C, *size), of float32 if they are scaled."""
        wanted = self.indices[positions]
        starts = self._starts
        which = np.searchsorted(starts, wanted, side="right") - 1
        parts = []
        order = np.argsort(wanted, kind="stable")  # files are read from their beginnings
        for number in np.unique(which):
            chosen = order[which[order] == number]
            rows = wanted[chosen] - starts[number]
            values = self.layout.examples(np.asarray(self.stacks[number].open()))
            if self.tiling is None or self.places is None:
                examples = values[rows]
            else:
                places = self.places[positions[chosen]].tolist()
                cut = zip(rows, places, strict=True)
                examples = np.stack([self.tiling.take(values[row], at) for row, at in cut])
            parts.append(examples if self.scaling is None else self.scaling.scaled(examples))
        read = np.concatenate(parts)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return read[back]

    def scaled(self, scaling: Scaling, limit: int) -> Split:
        """Scale the examples; so many bytes of floats are kept in memory."""
        split = replace(self, scaling=scaling, statistics=None)
        if 4 * len(self) * prod(self.shape) > limit:
            return split
        pixels: Values = np.empty((len(self), *self.shape), np.float32)
        done = 0
        for batch in split.batches(max(1, CHUNK_BYTES // (8 * prod(self.shape)))):
            pixels[done : done + len(batch)] = batch
            done += len(batch)
        return InMemory(pixels, self.labels)


def count(stack: Stack, layout: Layout) -> int:
    """Return how many examples an array holds."""
    return stack.shape[0] if layout.has_examples else 1


def scale(
    parts: Sequence[Arrays], kind: str | None, memory_mb: int
) -> tuple[Scaling, list[Split], list[str]]:
    """Scale the parts of a dataset as its first one, the training examples, needs it.

    Each is kept in memory if so many MiB are enough for it. Returns notes, too.
    """
    train = parts[0]
    assert train.statistics is not None
    columns = train.stacks[0].columns
    scaling = train.statistics.scaling(train.layout.letters, kind or "range", columns)
    if train.tiling is not None:
        scaling = replace(scaling, tile=train.tiling.tile, overlap=train.tiling.overlap)
    splits = [part.scaled(scaling, memory_mb * 2**20) for part in parts]
    names = ("0", "1") if scaling.kind == "range" else ("mean 0", "deviation 1")
    shown = [
        f"{low:.4g} to {low + spread:.4g}"
        if scaling.kind == "range"
        else f"{low:.4g} +- {spread:.4g}"
        for low, spread in zip(scaling.offset, scaling.spread, strict=True)
    ]
    of = "" if len(shown) == 1 else " by channel"
    some = ", ".join(shown[:MOST_CHANNELS]) + (" ..." if len(shown) > MOST_CHANNELS else "")
    notes = [f"scaled{of} to {names[0]} and {names[1]}, from the training examples' {some}"]
    if mapped := [split for split in splits if isinstance(split, Arrays)]:
        size = sum(4 * len(split) * prod(split.shape) for split in mapped) / 2**20
        notes.append(f"{size:,.0f} MiB are read from the files while training (dataset.memory_mb)")
    return scaling, splits, notes


def place(stack: Stack, number: int, layout: Layout) -> str:
    """Name an example: by its file, and its number where this has several."""
    return f"{stack.name}/{number:05d}" if layout.has_examples else stack.name


def pieces(stack: Stack, layout: Layout, tiling: Tiling | None) -> Iterator[Piece]:
    """Iterate over an array's examples, or their windows, in parts of `CHUNK_BYTES`.

    Raises `UserError` if its examples are smaller than a window.
    """
    values, number = layout.examples(np.asarray(stack.open())), count(stack, layout)
    shape = layout.shape_of(stack.shape)
    if tiling is None:
        size = max(1, CHUNK_BYTES // (8 * prod(shape)))
        for first in range(0, number, size):
            examples = values[first : first + size]
            yield Piece(first + np.arange(len(examples)), None, examples)
        return
    places = np.array(list(tiling.places(shape[1:])))
    size = max(1, CHUNK_BYTES // (8 * shape[0] * prod(tiling.tile)))
    for one in range(number):
        for first in range(0, len(places), size):
            some = places[first : first + size]
            windows = np.stack([tiling.take(values[one], at) for at in some.tolist()])
            yield Piece(np.full(len(some), one), some, windows)


class Piece(NamedTuple):
    """Some examples (M, C, *size) of an array: their numbers (M,), and places (M, axes)."""

    numbers: Values
    places: Values | None
    examples: Values

    def names(self, stack: Stack, layout: Layout, which: Values) -> list[str]:
        """Name some of them; windows by where they begin, too."""
        found = []
        for n in which.tolist():
            name = place(stack, int(self.numbers[n]), layout)
            found.append(name if self.places is None else named_window(name, self.places[n]))
        return found


def named_window(name: str, at: Iterable[int]) -> str:
    """Name a window, or a tile, by what it is of and where it begins."""
    return f"{name}@{','.join(str(int(n)) for n in at)}"
