"""Pictures of any kind become pixels, by the same rules wherever they are read.

`Preprocessing` states the rules; a run keeps them in its model's file, so that other pictures are
read as the training images were.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, ClassVar, Protocol, TypeAlias

import numpy as np
from PIL import Image, ImageColor, ImageFile, ImageOps, UnidentifiedImageError

from convae.configuration import FITS
from convae.data.tiling import Tiling
from convae.engine import Array, Backend
from convae.errors import UserError, check_choice, check_range

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

DEEP_WHITE = 65_535
"""The largest value of 16 bits."""

ARRAYS = "arrays"
"""Where a model's metadata describes the arrays that it was trained on; see `Scaling`."""

NOTICEABLE_CUT = 0.02
"""Fraction of a picture below which a crop to another shape is not worth a word."""


@dataclass
class Conversions:
    """What had to be done to pictures, summed up.

    Parameters
    ----------
    counts : collections.Counter
        Pictures by kind of conversion.
    cut : float
        The largest fraction of a picture that a crop cut off.
    tiles : int
        Tiles that they were cut into.
    on_disk : bool
        Whether these are in a file, since memory is not for so many.
    """

    counts: Counter[str] = field(default_factory=Counter)
    cut: float = 0.0
    tiles: int = 0
    on_disk: bool = False

    def add(self, other: Conversions) -> None:
        """Add those of more pictures."""
        self.counts += other.counts
        self.cut = max(self.cut, other.cut)

    def lines(self) -> list[str]:
        """Put them into words, the most frequent first."""
        cut = f", by up to {self.cut:.0%} of a picture" if self.cut else ""
        lines = [
            f"{kind}{cut if kind == CROPPED else ''}: {count:,}"
            for kind, count in self.counts.most_common()
        ]
        if self.tiles:
            where = ", in a temporary file" if self.on_disk else ""
            lines.append(f"cut into tiles: {self.tiles:,}{where}")
        return lines


BEYOND = "with values beyond those that are black and white: clipped"
PADDED = "padded at the sides, with {}, to the shape that the model takes"
STRETCHED = "stretched to the shape that the model takes"
CROPPED = "cropped at the sides to the shape that the model takes"
UPPER_BITS = "of 16 bits for each colour, of which Pillow keeps the upper 8"
SEVERAL = "with several frames or pages, of which the first is used"
TOO_BRIGHT = "brighter than all pictures of the dataset, which set white: clipped"


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes pixels.

    The first frame is turned as its camera says, put on a background where it is transparent, made
    grey or coloured, and scaled; where its shape is another, it is cropped around its centre,
    padded with the background or stretched.

    Parameters
    ----------
    channels : {1, 3}
        Grey or colour.
    size : (int, int), optional
        Rows and columns; pictures keep their own size if not given.
    background : str
        What shows through transparent pictures: a colour as Pillow names it, such as "white" or
        "#804020".
    white : int
        The value that is white in pictures of 16 bits; 65,535, or less where none of a dataset's
        pictures uses all bits.
    transposed : bool
        Whether rows and columns are exchanged in the files.
    fit : {"crop", "pad", "stretch"}
        What is done to pictures of another shape.
    tile : (int, int), optional
        Rows and columns of the tiles that pictures, of any size, are cut into.
    overlap : int
        Pixels that neighbouring tiles share.
    crop : (int, int), optional
        Rows and columns of the middle, which is all that is used of a picture of this size.
    levels : (float, float), optional
        The values that are black and white in pictures of floats, or of integers of 32 bits; if not
        given, 0 and 1, and pictures with others are refused.

    Raises
    ------
    UserError
        If a value is out of range.
    """

    KEY: ClassVar[str] = "preprocessing"
    """Where a model's metadata describes it."""

    channels: int = 3
    size: tuple[int, ...] | None = None
    background: str = "white"
    white: int = DEEP_WHITE
    transposed: bool = False
    fit: str = "crop"
    levels: tuple[float, ...] | None = None
    tile: tuple[int, ...] | None = None
    overlap: int = 0
    crop: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the values, which may come from a file."""
        if self.channels not in (1, 3):
            raise UserError(f"channels: {self.channels!r} is neither 1 (grey) nor 3 (colour)")
        if self.size is not None:
            if len(self.size) != 2:
                raise UserError(f"size: {self.size!r} is not a pair of rows and columns")
            for value in self.size:
                check_range("size", value, at_least=1, integer=True)
            object.__setattr__(self, "size", tuple(self.size))
        if self.tile is not None:
            object.__setattr__(self, "tile", Tiling(self.tile, self.overlap).tile)
        if self.crop is not None:
            if self.size is None or len(self.crop) != 2:
                raise UserError(f"crop: {self.crop!r} is not rows and columns of a size")
            for value, side in zip(self.crop, self.size, strict=True):
                check_range("crop", value, at_least=1, at_most=side, integer=True)
            object.__setattr__(self, "crop", tuple(self.crop))
        check_choice("fit", self.fit, FITS)
        check_range("white", self.white, at_least=1, at_most=DEEP_WHITE, integer=True)
        if self.levels is not None:
            if not isinstance(self.levels, list | tuple) or len(self.levels) != 2:
                raise UserError(f"levels: {self.levels!r} is not a pair of numbers")
            black, bright = self.levels
            check_range("levels", black)
            check_range("levels", bright, over=black)
            object.__setattr__(self, "levels", (float(black), float(bright)))
        try:
            if len(ImageColor.getrgb(self.background)) != 3:  # with a transparency of its own
                raise ValueError
        except (AttributeError, TypeError, ValueError):
            raise UserError(
                f"background: {self.background!r} is not a colour; expected a name such as white, "
                "or #rrggbb"
            ) from None

    def plain(self) -> dict[str, Any]:
        """Describe it in plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def of_model(cls, model: TakesPictures) -> Preprocessing:
        """Return how a model's pictures are read: as its training images were, as far as known.

        Raises `UserError` if the model takes no pictures, or its file describes this wrongly.
        """
        shape = model.input_shape
        if ARRAYS in model.metadata:
            raise UserError("the model was trained on arrays, not on pictures")
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise UserError(f"the model's input has the shape {shape}, which is not a picture's")
        known = model.metadata.get(cls.KEY) or {}
        try:
            of_model: dict[str, Any] = {"channels": shape[0], "transposed": False}
            which = [name for name in ("tile", "crop") if known.get(name)]
            of_model[which[0] if which else "size"] = shape[1:]
            return cls(**{**known, **of_model})
        except (TypeError, UserError) as error:
            raise UserError(
                f"the model's file describes its preprocessing wrongly: {error}"
            ) from None

    @property
    def tiling(self) -> Tiling | None:
        """The tiles that pictures are cut into, if they are."""
        return None if self.tile is None else Tiling(self.tile, self.overlap)

    def __call__(self, image: Image.Image) -> tuple[Pixels, Conversions]:
        """Convert a picture: -> (C, rows, columns) of uint8, and what was done to it.

        Raises `UserError` if the range of its values is unknown; Pillow raises errors of any kind.
        """
        if isinstance(image, ImageFile.ImageFile):
            image.filename = ""  # else Pillow maps the file into memory, which garbles turned TIFFs
        done = Conversions()
        if self.size is not None:  # a JPEG is decoded no larger than twice what is needed
            image.draft(None, (2 * max(self.size),) * 2)
        if _loses_bits(image):
            done.counts[UPPER_BITS] += 1
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            image.load()
            upright = ImageOps.exif_transpose(image)  # a copy, which keeps the first frame
            if _is_deep(image):
                upright = self._to_eight_bits(upright, done)
            elif _is_wide(image):
                upright = self._from_levels(upright, done)
            if _has_more(image):
                done.counts[SEVERAL] += 1
        for message in {str(warning.message) for warning in warned}:
            done.counts[f"of which Pillow warns: {message}"] += 1
        if upright.has_transparency_data:
            upright = self._on_background(upright, done)
        mode, name = ("L", "grey") if self.channels == 1 else ("RGB", "colour")
        if image.mode not in (mode, f"{mode}A", "F") and not image.mode.startswith("I"):
            done.counts[f"of mode {image.mode} converted to {name}"] += 1
        if upright.mode == "LAB":  # to grey only through colour
            upright = upright.convert("RGB")
        if upright.mode != mode:
            upright = upright.convert(mode)
        if self.size is not None and upright.size != tuple(reversed(self.size)):
            upright = self._scaled(upright, self.size, done)
        pixels = np.asarray(upright, np.uint8)
        pixels = pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)
        if self.crop is not None:
            pixels = middle(pixels[None], self.crop)[0]
        return pixels.swapaxes(1, 2) if self.transposed else pixels, done

    def _to_eight_bits(self, image: Image.Image, done: Conversions) -> Image.Image:
        """Scale 16 bits so that `white` becomes 255."""
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0:
            raise UserError("negative values, of unknown range; convert it to 8 or 16 bits")
        if levels.max() > self.white:
            done.counts[TOO_BRIGHT] += 1
        done.counts[f"of 16 bits, whose range from 0 to {self.white:,} became black to white"] += 1
        grey = np.rint(levels.clip(0, self.white) * (255 / self.white)).astype("u1")
        clear = image.info.get("transparency")
        if not isinstance(clear, int):
            return Image.fromarray(grey)
        alpha = np.where(levels == clear, 0, 255).astype("u1")
        return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])

    def _from_levels(self, image: Image.Image, done: Conversions) -> Image.Image:
        """Scale floats, or integers of 32 bits, so that `levels` become black and white."""
        black, white = self.levels or (0.0, 1.0)
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise UserError("values that are not finite")
        if values.min() < black or values.max() > white:
            if self.levels is None:
                raise UserError(
                    f"floats or 32 bits from {values.min():g} to {values.max():g}, and it is "
                    "unknown which are black and white; convert it to 8 or 16 bits"
                )
            done.counts[BEYOND] += 1
        done.counts[f"of floats or 32 bits, from {black:g} to {white:g}: black to white"] += 1
        scaled = (values.clip(black, white) - black) * (255 / (white - black))
        return Image.fromarray(np.rint(scaled).astype("u1"))

    def _on_background(self, image: Image.Image, done: Conversions) -> Image.Image:
        layer = image.convert("RGBA")
        if layer.getchannel("A").getextrema() == (255, 255):  # opaque after all
            return layer.convert("L" if image.mode in ("L", "LA") else "RGB")
        done.counts[f"with transparent parts, put on {self.background}"] += 1
        ground = Image.new("RGBA", layer.size, self.background)
        return Image.alpha_composite(ground, layer).convert("RGB")

    def _scaled(self, image: Image.Image, size: tuple[int, ...], done: Conversions) -> Image.Image:
        """Scale, and make it fit where the shapes differ."""
        rows, columns = size
        done.counts[f"scaled to {columns}x{rows} pixels"] += 1
        wanted, own = columns / rows, image.width / image.height
        cut = 1 - min(wanted / own, own / wanted)
        if cut > NOTICEABLE_CUT:
            kinds = {"crop": CROPPED, "pad": PADDED.format(self.background), "stretch": STRETCHED}
            done.counts[kinds[self.fit]] += 1
            if self.fit == "crop":
                done.cut = cut
        method = Image.Resampling.BILINEAR
        if self.fit == "stretch":
            return image.resize((columns, rows), method)
        if self.fit == "pad":
            scale = min(columns / image.width, rows / image.height)
            width, height = (max(1, round(n * scale)) for n in image.size)
            padded = Image.new(image.mode, (columns, rows), self.background)
            place = (columns - width) // 2, (rows - height) // 2
            padded.paste(image.resize((width, height), method), place)
            return padded
        return ImageOps.fit(image, (columns, rows), method)


class TakesPictures(Protocol):
    """What has to be known of a model to read pictures for it; see `Autoencoder`."""

    input_shape: tuple[int, ...]
    metadata: dict[str, Any]
    backend: Backend
    dtype: str


def read_image(path: str | os.PathLike[str], model: TakesPictures) -> Array:
    """Read a picture as the command line does: converted to what a model takes.

    Parameters
    ----------
    path : path
        A file of any format that Pillow reads.
    model : Autoencoder
        The model; if a run has trained it on pictures, its file says how they were read.

    Returns
    -------
    (1, C, H, W) ndarray
        The picture in [0, 1], of the model's dtype and on its device.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UserError
        If it is not a readable picture, or the model does not take pictures.
    """
    how = Preprocessing.of_model(model)
    try:
        with open_picture(path) as image:
            pixels, _ = how(image)
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # of a decoder
        raise UserError(f"path: {os.fspath(path)!r} cannot be read: {reason(error)}") from error
    return to_floats(pixels[None], model.backend, model.dtype)


def open_picture(path: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Open a picture file; what Pillow has to say of its size is no news to a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(path)


def to_floats(pixels: Pixels, backend: Backend, dtype: str) -> Array:
    """Scale a uint8 batch to [0, 1], as an array of the backend.

    pixels (N, C, *size); floats, of arrays or codes of pretraining, are not scaled -> (N, C, *size)
    """
    floats = backend.empty_batch(pixels.shape, dtype)
    floats[...] = backend.xp.asarray(pixels)
    if pixels.dtype == np.uint8:
        floats *= 1 / 255
    return floats


def middle(images: Pixels, size: tuple[int, ...]) -> Pixels:
    """Cut out the middle of images: (N, C, *larger) -> (N, C, *size), a view."""
    starts = [(n - side) // 2 for n, side in zip(images.shape[2:], size, strict=True)]
    where = (slice(at, at + side) for at, side in zip(starts, size, strict=True))
    return images[(slice(None), slice(None), *where)]


def reason(error: BaseException) -> str:
    """Say in one line why a picture could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def largest_level(image: Image.Image) -> int | None:
    """Return the largest value of a picture of 16 bits; None for others."""
    return int(np.asarray(image).max()) if _is_deep(image) else None


def levels_of(image: Image.Image) -> tuple[float, float] | None:
    """Return the range of a picture of floats or of 32 bits; None for others, and without one."""
    if not _is_wide(image):
        return None
    values = np.asarray(image)
    return (float(values.min()), float(values.max())) if np.isfinite(values).all() else None


def is_grey(mode: str) -> bool:
    """Tell whether pictures of one of Pillow's modes have no colour."""
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")


def _is_deep(image: Image.Image) -> bool:
    """Tell whether a picture has 16 bits per channel."""
    if image.mode.startswith("I;16"):
        return True
    bits = getattr(image, "tag_v2", {}).get(258)  # TIFF's BitsPerSample
    return image.mode == "I" and (image.format in ("PNG", "PPM") or bits == (16,))


def _is_wide(image: Image.Image) -> bool:
    """Tell whether a picture has floats, or integers of 32 bits, whose range nothing tells."""
    return image.mode in ("I", "F") and not _is_deep(image)


def _loses_bits(image: Image.Image) -> bool:
    """Tell whether a picture in colour has 16 bits per channel, of which Pillow keeps 8."""
    tiles = str(getattr(image, "tile", ""))
    deep = ";16" in tiles or (image.format == "PPM" and f"{DEEP_WHITE}" in tiles)
    return deep and not image.mode.startswith("I")


def _has_more(image: Image.Image) -> bool:
    """Tell whether a file has several frames; one whose others are damaged has."""
    try:
        return getattr(image, "n_frames", 1) > 1
    except Exception:  # of a decoder
        return True
