"""Masks: pictures that mark what is anomalous in test pictures, as MVTec AD has them.

They stand in a folder ``ground_truth`` beside ``test``, in the subfolders of their pictures, under
the picture's name or that with ``_mask``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from convae.data.folders import endings, is_masks
from convae.data.pictures import Preprocessing, open_picture, reason
from convae.errors import UserError
from convae.files import printable

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

MARKED = 127
"""What is brighter is anomalous."""


def find_masks(
    root: Path, test: Path, files: Sequence[str], normal: Sequence[bool]
) -> list[Path | None] | None:
    """Find the masks of test pictures; None for normal ones, and for all if there are no masks.

    Raises `UserError` if an anomalous picture has none, and others have.
    """
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and is_masks(path)]
    if not folders:
        return None
    known = sorted(endings())
    masks = [
        None if is_normal else _mask_of(Path(file), test, folders[0], known)
        for file, is_normal in zip(files, normal, strict=True)
    ]
    missing = [
        file
        for file, mask, is_normal in zip(files, masks, normal, strict=True)
        if mask is None and not is_normal
    ]
    if missing:
        raise UserError(
            f"dataset.root: {str(folders[0])!r} has no mask for {printable(missing[0])!r}"
            f"{f' and {len(missing) - 1:,} more' if len(missing) > 1 else ''}; add it, as in "
            f"{Path(missing[0]).stem}_mask.png, or rename the folder to do without masks"
        )
    return masks


def _mask_of(file: Path, test: Path, folder: Path, known: Sequence[str]) -> Path | None:
    place = folder / file.relative_to(test).parent
    for stem in (f"{file.stem}_mask", file.stem):
        for ending in (file.suffix, *known):
            if (place / f"{stem}{ending}").is_file():
                return place / f"{stem}{ending}"
    return None


def read_mask(path: Path | None, how: Preprocessing, shape: tuple[int, ...]) -> Mask:
    """Read a mask as its picture was read: -> (rows, columns) of bool; nothing is marked in None.

    Raises `UserError` if it cannot be read, or has another size.
    """
    if path is None:
        return np.zeros(shape, bool)
    how = replace(how, channels=1, background="black")
    try:
        with open_picture(path) as image:
            pixels, _ = how(image)
    except MemoryError:
        raise
    except Exception as error:  # of a decoder
        raise UserError(f"dataset: mask {printable(str(path))!r}: {reason(error)}") from error
    if pixels.shape[1:] != shape:
        raise UserError(
            f"dataset: mask {printable(str(path))!r} is {pixels.shape[1:]} (rows, columns), and "
            f"its picture {shape}"
        )
    marked: Mask = pixels[0] > MARKED
    return marked
