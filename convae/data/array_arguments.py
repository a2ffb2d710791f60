"""Arrays named on the command line, in batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from convae.data.array_files import ENDINGS, TABLES, Stack, check_numbers, read_stacks, role
from convae.data.arrays import Arrays, count, place
from convae.data.layouts import Layout, Values
from convae.data.named_files import WHOLE, Arguments, OfDataset, Shard, Source
from convae.data.pictures import reason
from convae.data.scaling import Scaling
from convae.data.sources import named, read_parts
from convae.errors import UserError, counted


class Chunk(NamedTuple):
    """Some examples of an array, one after the other.

    Those whose values are all finite, and which of them these are; and how many there are in all.
    """

    x: Values
    numbers: Values
    examples: int


class ArrayArguments(Arguments):
    """The arrays that some arguments name; see `Arguments`.

    Parameters
    ----------
    arguments : iterable of str
        Files, folders, patterns and names of datasets.
    scaling : Scaling
        How they become examples.
    shape : (C, *size) tuple of int
        Shape of an example, as the model takes it.
    root : str
        The folder in which torchvision looks for datasets.
    shard : Shard
        Which part of them is wanted; of files, which are not divided, and neither are datasets.
    """

    what = "arrays"

    def __init__(
        self,
        arguments: Iterable[str],
        scaling: Scaling,
        shape: tuple[int, ...],
        root: str,
        shard: Shard = WHOLE,
    ) -> None:
        self.scaling = scaling
        self._shape = shape
        super().__init__(arguments, root, shard)

    def units(self, source: Source) -> int:
        """See `Arguments`."""
        return 1 if isinstance(source, OfDataset) else super().units(source)

    def part(self, source: Source, first: int, last: int) -> Source:
        """See `Arguments`."""
        if isinstance(source, OfDataset):
            return source if first < last else []
        return super().part(source, first, last)

    @property
    def endings(self) -> Collection[str]:
        """See `Arguments`."""
        return ENDINGS

    def dataset(self, name: str, root: str) -> Arrays:
        """See `Arguments`."""
        test = read_parts(named(name, root)).test
        if not isinstance(test, Arrays):
            raise UserError(f"{name!r} holds pictures, and the model takes arrays")
        return test

    def total(self) -> None:
        """See `Arguments`; it is not known before all files are read."""

    def batches(self, size: int) -> Iterator[tuple[list[str], Values]]:
        """Iterate over all examples once: their names, and floats (N, C, *size), scaled."""
        for stack in self.stacks():
            layout = self.layout_of(stack)
            start = 0
            for chunk in self.chunks(stack, size):
                if len(chunk.numbers):
                    names = [place(stack, start + int(n), layout) for n in chunk.numbers]
                    yield names, chunk.x
                start += chunk.examples

    def stacks(self) -> Iterator[Stack]:
        """Iterate over all arrays that fit the model; others are unreadable."""
        for stacks in self.files():
            yield from stacks

    def files(self) -> Iterator[list[Stack]]:
        """Iterate over the files, or datasets, that have arrays which fit the model."""
        for source in self.sources:
            for name, stacks in self._read(source):
                fitting = []
                are_classes = [role(stack.key or stack.path.stem)[1] for stack in stacks]
                for stack, is_class in zip(stacks, are_classes, strict=True):
                    whole = stack.dtype.kind in "biuUS"  # as classes are; accel_y.npy has floats
                    if is_class and (whole or not all(are_classes)):
                        self.left_out.append(f"{name}: the classes in {stack.key or 'it'}")
                        continue
                    try:
                        self._check(stack)
                    except UserError as error:
                        if is_class:
                            self.left_out.append(f"{name}: the classes in {stack.key or 'it'}")
                        else:
                            self.unreadable.append((name, reason(error)))
                        continue
                    fitting.append(stack)
                if fitting:
                    yield fitting

    def _read(self, source: Source) -> Iterator[tuple[str, Sequence[Stack]]]:
        """Read the arrays of files, one by one, or those of a dataset."""
        if isinstance(source, OfDataset):
            yield source.name, source.examples.stacks
            return
        for path in self.existing(source):
            is_table = path.suffix.lower() in TABLES
            try:
                stacks = read_stacks(path, None, self.scaling.columns or None, with_labels=False)
            except (OSError, UserError) as error:
                if is_table and role(path.stem)[1]:
                    self.left_out.append(f"{path}: the classes in it")
                else:
                    self.unreadable.append((str(path), reason(error)))
                continue
            yield str(path), stacks

    def layout_of(self, stack: Stack) -> Layout:
        """Return the order of an array's axes: the model's, with or without N."""
        letters = self.scaling.layout.lstrip("N")
        return Layout(letters if len(stack.shape) == len(letters) else f"N{letters}")

    def _check(self, stack: Stack) -> None:
        """Refuse an array whose examples the model does not take."""
        check_numbers(stack)
        layout = self.layout_of(stack)
        if layout.axes == len(stack.shape):
            shape = layout.shape_of(stack.shape)
            if shape == self._shape or (self.scaling.tile and shape[0] == self._shape[0]):
                return
        if self.scaling.tile:
            raise UserError(
                f"its shape {stack.shape} is not that of recordings of "
                f"{counted(self._shape[0], 'channel')} in the layout {self.scaling.layout}"
            )
        raise UserError(
            f"its shape {stack.shape} is not that of examples {self._shape} (channels, "
            f"*positions) in the layout {self.scaling.layout}"
        )

    def chunks(self, stack: Stack, size: int) -> Iterator[Chunk]:
        """Iterate over an array's examples, scaled, in their order, at most `size` at a time."""
        layout = self.layout_of(stack)
        values = layout.examples(stack.open())
        for start in range(0, count(stack, layout), size):
            x = self.scaling.scaled(values[start : start + size])
            finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
            for number in np.flatnonzero(~finite):
                name = place(stack, start + int(number), layout)
                self.unreadable.append((name, "values that are not finite, or far too large"))
            yield Chunk(x[finite], np.flatnonzero(finite), len(x))
