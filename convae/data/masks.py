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
from PIL import Image, ImageOps
from tqdm import tqdm

from convae.data.folders import endings, is_masks
from convae.data.pictures import Preprocessing, open_picture, reason
from convae.errors import UserError
from convae.files import printable

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

MARKED = 127
"""What is brighter is anomalous, if anything is; else what is not black, as numbers of classes."""

ALIKE = 0.02
"""How far a mask's ratio of sides may be from its picture's, relatively."""


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
            pixels, _ = how(_marks(image))
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


def _marks(image: Image.Image) -> Image.Image:
    """Make a mask, of whatever mode and values, black and white."""
    upright = ImageOps.exif_transpose(image)
    levels = np.asarray(upright).astype(np.float64)
    if upright.mode not in ("1", "L", "F") and not upright.mode.startswith("I"):
        black = Image.new("RGBA", upright.size, "black")
        coloured = Image.alpha_composite(black, upright.convert("RGBA")).convert("RGB")
        levels = np.asarray(coloured).max(axis=2).astype(np.float64)  # red is as bright as white
    highest = levels.max()
    limit = MARKED if MARKED < highest < 256 else (highest / 2 if highest >= 256 else 0)
    return Image.fromarray(np.where(levels > limit, 255, 0).astype(np.uint8))


def check_masks(files: Sequence[str], masks: Sequence[Path | None]) -> None:
    """Refuse masks that mark nothing, or that are of other shapes than their pictures.

    Raises `UserError` with the mask's name.
    """
    with tqdm(masks, desc="looking at masks", unit=" masks", disable=None, leave=False) as bar:
        for file, mask in zip(files, bar, strict=True):
            if mask is None:
                continue
            try:
                with open_picture(mask) as image:
                    marks = _marks(image)
                with open_picture(file) as picture:
                    size = ImageOps.exif_transpose(picture).size
            except MemoryError:
                raise
            except Exception as error:  # of a decoder
                raise UserError(
                    f"dataset: mask {printable(str(mask))!r}: {reason(error)}"
                ) from error
            if not marks.getextrema()[1]:
                raise UserError(
                    f"dataset: mask {printable(str(mask))!r} marks nothing: all of it is black; "
                    "mark what is anomalous, or move its picture to the normal ones"
                )
            ratio = marks.width / marks.height * size[1] / size[0]
            if abs(ratio - 1) > ALIKE:
                raise UserError(
                    f"dataset: mask {printable(str(mask))!r} is {marks.width}x{marks.height}, and "
                    f"its picture, as it is stored or turned, {size[0]}x{size[1]}; bring the mask "
                    "to the picture's shape"
                )
