"""Reconstructions of arrays, in files like those that they were read from."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from convae.app.outputs import free
from convae.app.work import Work, finite
from convae.data.array_arguments import ArrayArguments
from convae.data.array_files import ENDINGS, Stack
from convae.data.layouts import Values
from convae.data.tables import arrow
from convae.errors import UserError
from convae.files import atomic


def reconstruct_arrays(work: Work, output: Path) -> None:
    """Write reconstructions, in the units, the layout and the format of their arrays.

    The output is a folder; or, for a single file, a file of the same ending. Examples that are not
    finite have no reconstruction: NaN stands in their place.
    """
    assert isinstance(work.images, ArrayArguments)
    is_file = output.suffix.lower() in ENDINGS
    if is_file:
        work.single(output)
    else:
        work.targets.check_folder(output, _array)
    taken: set[str] = set()
    with work.bar:
        for stacks in work.images.files():
            path = stacks[0].path
            name = _array(work.images.place(str(path)))
            if is_file and output.suffix.lower() != name.suffix:
                raise UserError(
                    f"-o {output}: the arrays come from a {name.suffix} file; write another"
                )
            target = output if is_file else free(output / name, taken)
            _write(work, work.targets.check(target), name.suffix, stacks)


def _array(place: Path) -> Path:
    """Name the file that is made from a file of arrays."""
    return place.with_suffix(place.suffix.lower() or ".npy")


def _write(work: Work, target: Path, ending: str, stacks: list[Stack]) -> None:
    """Write the reconstructions of a file's arrays."""
    with atomic(target) as file:
        if ending == ".npz":
            with zipfile.ZipFile(file, "w") as archive:
                for stack in stacks:
                    with archive.open(f"{stack.key}.npy", "w", force_zip64=True) as member:
                        _write_npy(member, work, stack)
            return
        (stack,) = stacks
        if ending == ".npy":
            _write_npy(file, work, stack)
            return
        write = _write_parquet if ending == ".parquet" else _write_csv
        write(file, np.concatenate([*_parts(work, stack)]), stack)


def _parts(work: Work, stack: Stack) -> Iterator[Values]:
    """Reconstruct an array part by part, in its own units and layout."""
    images = work.images
    assert isinstance(images, ArrayArguments)
    for chunk in images.chunks(stack, 1 if work.tiling else work.batch_size):
        R = np.full((chunk.examples, *chunk.x.shape[1:]), np.nan, images.scaling.dtype)
        if len(chunk.numbers):
            R[chunk.numbers] = finite(stack.name, work.reconstruct(chunk.x))
        work.advance(len(chunk.numbers))
        part = images.scaling.undo(R)
        yield part if images.layout_of(stack).has_examples else part[0]


def _write_npy(file: IO[bytes], work: Work, stack: Stack) -> None:
    assert isinstance(work.images, ArrayArguments)
    dtype = work.images.scaling.dtype.newbyteorder("<")
    header = {"descr": dtype.str, "fortran_order": False, "shape": stack.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for part in _parts(work, stack):
        file.write(np.ascontiguousarray(part, dtype).data)


def _write_csv(file: IO[bytes], values: Values, stack: Stack) -> None:
    delimiter = "\t" if stack.path.suffix.lower() == ".tsv" else ","
    header = ""
    if not all(name.isdigit() for name in stack.columns):
        line = io.StringIO()
        csv.writer(line, delimiter=delimiter, lineterminator="").writerow(stack.columns)
        header = line.getvalue()
    how = {"header": header, "comments": "", "encoding": "utf-8"}
    np.savetxt(file, values, "%.8g" if values.dtype == np.float32 else "%.16g", delimiter, **how)


def _write_parquet(file: IO[bytes], values: Values, stack: Stack) -> None:
    """Write columns of numbers (N, columns), or of lists (N, channels, length)."""
    pyarrow = arrow()
    columns = []
    for column in np.moveaxis(values, 1, 0):
        flat = pyarrow.array(np.ascontiguousarray(column).ravel())
        is_list = column.ndim > 1
        columns.append(
            pyarrow.FixedSizeListArray.from_arrays(flat, column.shape[1]) if is_list else flat
        )
    pyarrow.parquet.write_table(pyarrow.table(columns, names=list(stack.columns)), file)
