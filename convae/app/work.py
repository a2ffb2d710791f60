"""What the commands that take examples share: a model, and the examples on their way through it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from convae.app.outputs import Targets
from convae.data.array_arguments import ArrayArguments
from convae.data.arrays import named_window
from convae.data.image_arguments import ImageArguments
from convae.data.layouts import Values
from convae.data.named_files import Shard
from convae.data.pictures import Pixels, Preprocessing, to_floats
from convae.data.scaling import Scaling
from convae.data.splits import kind, unit
from convae.data.tiling import Tiling
from convae.engine import Array, to_numpy
from convae.errors import UserError, counted
from convae.files import printable
from convae.models.classifier import Classifier
from convae.models.loading import BEST, load
from convae.models.model import Model
from convae.report.anomaly import WITHOUT_NORMAL, Detector
from convae.report.pictures import to_bytes
from convae.report.scores import SCORES
from convae.report.whole import Whole


class Passed(NamedTuple):
    """An example that has passed through a model: (C, *size) of floats, map and score."""

    name: str
    x: Values
    R: Values
    unusual: Any
    value: float


class Work:
    """Examples on their way through a model.

    Parameters
    ----------
    run : Path
        The model.
    device : str
        Where it computes.
    images : tuple of str
        The arguments IMAGES.
    root : str
        Folder of torchvision's datasets.
    batch_size : int
        Examples at a time.
    overwrite : bool
        Whether existing files of others may be replaced.
    shard : Shard
        Which part of the examples is wanted.
    """

    def __init__(
        self,
        run: Path,
        device: str,
        images: tuple[str, ...],
        root: str,
        batch_size: int,
        overwrite: bool,
        shard: Shard,
    ) -> None:
        self.model = model_of(run, device)
        if "-" in images:
            listed = [name for line in sys.stdin if (name := line.rstrip("\r\n"))]
            if not listed:
                raise UserError("IMAGES: standard input lists no files")
            images = (*(name for name in images if name != "-"), *listed)
        self.images: ImageArguments | ArrayArguments
        self.tiling: Tiling | None = None
        if Scaling.KEY in self.model.metadata:
            scaling = Scaling.of_model(self.model)
            self.images = ArrayArguments(images, scaling, self.model.input_shape, root, shard)
            self.tiling = scaling.tiling
        else:
            how = Preprocessing.of_model(self.model)
            self.images, self.tiling = ImageArguments(images, how, root, shard), how.tiling
        self.targets = Targets(self.images, overwrite)
        self.batch_size = batch_size
        self.done = self.cut = 0
        self.kind = kind(self.model.input_shape)
        self.bar = tqdm(total=self.images.total(), unit=f" {self.kind}s", disable=None)

    def require_decoder(self) -> None:
        """Refuse a model that reconstructs nothing."""
        if isinstance(self.model, Classifier):
            raise UserError("RUN: a classifier reconstructs nothing; use convae classify")

    def batches(self) -> Iterator[tuple[list[str], Array]]:
        """Iterate over the examples, as arrays on the model's device, with a progress bar.

        Of a model of tiles over these; their names end in their first row and column.
        """
        with self.bar:
            for names, pixels in self.images.batches(self.batch_size if not self.tiling else 1):
                if self.tiling is None:
                    yield names, to_floats(pixels, self.model.backend, self.model.dtype)
                else:
                    yield from self._tiles(names[0], pixels[0])
                self.advance(len(names))

    def _tiles(self, name: str, pixels: Pixels) -> Iterator[tuple[list[str], Array]]:
        """Iterate over the tiles of a picture."""
        assert self.tiling is not None
        places = list(self.tiling.places(self.tiling.at_least(pixels).shape[1:]))
        tiles = self.tiling.cut(self.tiling.at_least(pixels))
        for start in range(0, len(tiles), self.batch_size):
            some = slice(start, start + self.batch_size)
            names = [named_window(name, place) for place in places[some]]
            self.cut += len(names)
            yield names, to_floats(tiles[some], self.model.backend, self.model.dtype)

    def passed(self, detector: Detector, score: str, with_maps: bool) -> Iterator[Passed]:
        """Pass the examples through the model, whole pictures tile by tile, with a bar.

        Of recordings each window is an example.
        """
        if self.tiling is not None and isinstance(self.images, ImageArguments):
            whole = Whole(detector, self.tiling, score, self.batch_size)
            with self.bar:
                for (name,), (pixels,) in self.images.batches(1):
                    R, unusual = whole.see(pixels) if with_maps else (pixels, None)
                    x = pixels * np.float32(unit(pixels)) if with_maps else pixels
                    yield Passed(name, x, R, unusual, whole.value(pixels))
                    self.advance(1)
            return
        for names, x in self.batches():
            seen = detector.see(x)
            values = SCORES[score].function(seen)
            maps = to_numpy(SCORES[score].map(seen)) if with_maps else [None] * len(x)
            for each in zip(names, to_numpy(x), to_numpy(seen.R), maps, values, strict=True):
                yield Passed(*each)

    def reconstructed(self) -> Iterator[tuple[str, Values]]:
        """Iterate over the reconstructions of pictures, (C, H, W) of floats or bytes, with a bar.

        Those of tiles are bytes, as they take less memory.
        """
        if self.tiling is None:
            for names, x in self.batches():
                for name, R in zip(names, to_numpy(self.model.reconstruct(x)), strict=True):
                    yield name, finite(name, R)
            return
        whole = Whole(Detector(self.model), self.tiling, WITHOUT_NORMAL, self.batch_size)
        with self.bar:
            for (name,), (pixels,) in self.images.batches(1):
                R = np.empty(pixels.shape, np.uint8)
                for band in whole.bands(pixels):
                    rows = slice(band.start, band.start + band.R.shape[1])
                    R[:, rows] = to_bytes(finite(name, band.R))
                yield name, R
                self.advance(1)

    def reconstruct(self, x: Values) -> Values:
        """Reconstruct arrays (N, C, *size), which are scaled; recordings window by window."""
        if self.tiling is None:
            given = to_floats(x, self.model.backend, self.model.dtype)
            return to_numpy(self.model.reconstruct(given))
        whole = Whole(Detector(self.model), self.tiling, WITHOUT_NORMAL, self.batch_size)
        return np.stack([whole.see(each)[0] for each in x])

    def single(self, output: Path) -> None:
        """Refuse a file for the results of several."""
        if len(self.images.inputs) != 1:
            raise UserError(
                f"-o {output}: a file is for what comes from one file, and there are "
                f"{len(self.images.inputs)}; name a folder"
            )

    def advance(self, examples: int) -> None:
        """Count examples that are done."""
        self.done += examples
        self.bar.update(examples)

    def report(self, what: str) -> None:
        """Report what was done and converted; exit with 1 if examples could not be read."""
        images = self.images
        piece = "window" if self.kind == "signal" else "tile"
        pieces = f" in {counted(self.cut, piece)}" if self.cut else ""
        click.echo(f"{counted(self.done, self.kind)}{pieces}: {what}", err=True)
        for line in images.conversions.lines():
            click.echo(f"  {line}", err=True)
        for line in images.left_out:
            click.echo(f"  left out of {printable(line)}", err=True)
        if images.unreadable:
            click.echo(f"{len(images.unreadable):,} could not be read:", err=True)
            for name, reason in images.unreadable:
                click.echo(f"  {printable(name)}: {reason}", err=True)
            sys.exit(1)


def finite(name: str, R: Values) -> Values:
    """Return a reconstruction, or refuse it."""
    if not np.isfinite(R).all():
        raise UserError(f"{name}: its reconstruction is not finite; the model has diverged")
    return R


def model_of(run: Path, device: str) -> Model:
    """Load the model of a run, or of a file."""
    if not run.exists():
        raise FileNotFoundError(f"RUN: {str(run)!r} does not exist")
    if run.is_dir() and not (run / BEST).is_file():
        raise FileNotFoundError(f"RUN: {str(run)!r} holds no {BEST}; expected the folder of a run")
    return load(run, device=device)
