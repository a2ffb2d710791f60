"""The command line ``convae``: what one does with a trained model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from tqdm import tqdm

from convae import checkpoint
from convae.anomaly import image_errors
from convae.autoencoder import Autoencoder
from convae.build import describe
from convae.datasets import load_dataset, named
from convae.engine import Array, to_numpy
from convae.export import export
from convae.images import Images
from convae.outputs import codes_file, csv_file, printable
from convae.pictures import error_maps, filter_grid, grid, png, reconstruction_grid
from convae.probe import probe as compare_descriptions
from convae.saved import BEST, load
from convae.splits import to_floats
from convae.version import __version__

MISTAKES = (ModuleNotFoundError, OSError, RuntimeError, TypeError, ValueError)
"""What a user can put right: shown as a message, not as a traceback."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """Commands whose mistakes end in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            sys.exit(141)  # the reader of a pipe has seen enough
        except MISTAKES as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Use a trained convolutional autoencoder.

    RUN is the folder of a run, of which the best model is taken, or a model's file. IMAGES are
    files, folders, patterns in quotes ("photos/*.jpg"), the name of a dataset (mnist: its test
    images), or - to read file names from the standard input.
    """


def with_model(command: Command) -> Command:
    """Add the argument RUN and the device."""
    command = click.option(
        "--device",
        type=click.Choice(["cpu", "gpu", "auto"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto takes a GPU where one works.",
    )(command)
    return click.argument("run", type=click.Path(path_type=Path))(command)


def with_images(command: Command) -> Command:
    """Add the argument IMAGES, and how they are read."""
    for option in (
        click.option(
            "--root", default="data", show_default=True, help="Folder of torchvision's datasets."
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            default=256,
            show_default=True,
            help="At a time.",
        ),
        click.argument("images", nargs=-1, required=True),
    ):
        command = option(command)
    return with_model(command)


class Work:
    """Pictures on their way through a model.

    Parameters
    ----------
    run : Path
        The model.
    device : str
        Where it computes.
    images : tuple of str
        The command's arguments.
    root : str
        Folder of torchvision's datasets.
    batch_size : int
        Pictures at a time.
    """

    def __init__(
        self, run: Path, device: str, images: tuple[str, ...], root: str, batch_size: int
    ) -> None:
        self.model = model_of(run, device)
        if "-" in images:
            listed = [name for line in sys.stdin if (name := line.rstrip("\r\n"))]
            if not listed:
                raise ValueError("IMAGES: the standard input names no files")
            images = (*(name for name in images if name != "-"), *listed)
        self.images = Images(images, self.model.input_shape, root)
        self.batch_size = batch_size
        self.done = 0

    def batches(self) -> Iterator[tuple[list[str], Array]]:
        """Walk through the pictures, as arrays on the model's device, with a progress bar."""
        with tqdm(total=len(self.images), unit=" images", disable=None) as bar:
            for names, pixels in self.images.batches(self.batch_size):
                yield names, to_floats(pixels, self.model.xp, self.model.dtype)
                self.done += len(names)
                bar.update(len(names))

    def report(self, what: str) -> None:
        """Say what was done, what was converted, and what could not be read: then exit with 1."""
        images = self.images
        click.echo(f"{self.done:,} images: {what}", err=True)
        for conversion, count in images.conversions.most_common():
            click.echo(f"  {count:,} {conversion}", err=True)
        if images.unreadable:
            click.echo(f"{len(images.unreadable):,} could not be read:", err=True)
            for name, reason in images.unreadable:
                click.echo(f"  {name}: {reason}", err=True)
            sys.exit(1)


@main.command()
@with_images
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="codes.npy or .parquet"
)
def encode(output: Path, **how: Any) -> None:
    """Write the codes of images.

    A .npy file holds an array (N, *code shape); beside it, a file that ends in .images.txt names
    the images line by line. A .parquet file has the columns image and code.

    \b
    convae encode outputs/RUN photos -o codes.npy
    convae encode outputs/RUN mnist --root data -o codes.parquet
    """
    work = Work(**how)
    with codes_file(output, work.model.code_shape, work.model.dtype) as file:
        for names, x in work.batches():
            file.add(names, to_numpy(work.model.encode(x)))
    work.report(f"codes of the shape {work.model.code_shape} in {output}")


@main.command()
@with_images
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the pictures.",
)
def reconstruct(output: Path, **how: Any) -> None:
    """Write what the model makes of images, as PNG files.

    A model that was trained to remove noise gives clean pictures.

    \b
    convae reconstruct outputs/RUN noisy/*.png -o clean
    find scans -name '*.png' | convae reconstruct outputs/RUN - -o clean
    """
    work = Work(**how)
    written = Pictures(output, work.images)
    for names, x in work.batches():
        for name, R in zip(names, to_numpy(work.model.reconstruct(x)), strict=True):
            written.add(name, grid(R[None], columns=1, enlarge=False))
    work.report(f"reconstructions in {output}")


@main.command()
@with_images
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("-"),
    help="scores.csv; the standard output if not given.",
)
@click.option(
    "--maps",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for pictures: image, reconstruction, where they differ.",
)
def score(output: Path, maps: Path | None, **how: Any) -> None:
    """Write the reconstruction error of each image: how unusual it is to the model.

    Columns: image, error (mean squared, images in [0, 1]), and anomaly, 1 if the error is beyond
    the run's threshold, a quantile of the errors of its validation images.

    \b
    convae score outputs/RUN new/*.png -o scores.csv --maps maps
    convae score outputs/RUN parts | sort -t, -k2 -g -r | head
    """
    work = Work(**how)
    threshold = figures(how["run"]).get("threshold")
    written = None if maps is None else Pictures(maps, work.images)
    beyond = 0
    with csv_file(output) as table:
        table.writerow(["image", "error", *([] if threshold is None else ["anomaly"])])
        for names, x in work.batches():
            R = work.model.reconstruct(x)
            heat = error_maps(x, R)
            for n, (name, error) in enumerate(zip(names, image_errors(x, R), strict=True)):
                anomalous = [] if threshold is None else [int(error > threshold)]
                beyond += sum(anomalous)
                table.writerow([printable(name), f"{error:.6g}", *anomalous])
                if written is not None:
                    one = slice(n, n + 1)
                    written.add(name, reconstruction_grid(x[one], R[one], heat[one]))
    said = "" if threshold is None else f"; {beyond:,} beyond the threshold {threshold:.4g}"
    work.report(f"scores in {'the standard output' if str(output) == '-' else output}{said}")


@main.command("export")
@with_model
@click.argument("target", type=click.Path(path_type=Path))
def export_model(run: Path, device: str, target: Path) -> None:
    """Write the model for other runtimes: TARGET ends in .onnx, .pt2 or .safetensors.

    The file's results are compared with the model's; the largest difference is printed and kept in
    the file's metadata.

    \b
    convae export outputs/RUN model.onnx
    convae export outputs/RUN state_dict.safetensors
    """
    error = export(model_of(run, device), target)
    click.echo(f"{target}: results differ from the model's by {error:.1e} at most")


@main.command()
@with_model
@click.option(
    "--filters",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG file for a picture of the first layer's filters.",
)
def show(run: Path, device: str, filters: Path | None) -> None:
    """Show a model: its layers, its configuration, what came of its run.

    \b
    convae show outputs/RUN --filters filters.png
    """
    if filters is not None and filters.suffix.lower() != ".png":
        raise ValueError(f"--filters: {filters} will be a PNG file; let its name end in .png")
    model = model_of(run, device)
    click.echo(describe(model))
    click.echo(f"output {model.output_activation.name}, loss {model.loss.name}, seed {model.seed}")
    for index, layer in enumerate(model.layers):
        stated = {k: v for k, v in layer.layer.configuration().items() if v is not None}
        click.echo(f"layer {index}: {', '.join(f'{k}={v}' for k, v in stated.items())}")
    overrides = run / ".hydra" / "overrides.yaml"
    if overrides.is_file():
        said = [line.removeprefix("- ") for line in overrides.read_text().splitlines()]
        click.echo(
            f"trained with: python train.py {' '.join(w for w in said if w != '[]')}".rstrip()
        )
    for name, value in figures(run).items():
        click.echo(f"{name}: {value:.5g}")
    if filters is not None:
        picture = filter_grid(model.parameters["0.kernel"], model.layers[0].geometry.axes)
        checkpoint.write_bytes(filters, png(picture))
        click.echo(f"filters: {filters}")


@main.command()
@with_model
@click.option("--dataset", required=True, help="Name of a dataset with labels, such as mnist.")
@click.option("--root", default="data", show_default=True, help="Folder of torchvision's datasets.")
@click.option(
    "--limit", type=click.IntRange(10), default=10_000, show_default=True, help="Training images."
)
def probe(run: Path, device: str, dataset: str, root: str, limit: int) -> None:
    """Classify images from their codes, beside PCA of equal size and raw pixels.

    Logistic regression on each of the three; accuracy on the dataset's test images.

    \b
    convae probe outputs/RUN --dataset mnist --root data
    """
    model = model_of(run, device)
    data = load_dataset(named(dataset, root))
    header = f"{'features':<10}{'numbers':>9}{'accuracy':>10}\n"
    for name, size, accuracy in compare_descriptions(model, data, limit):
        click.echo(f"{header}{name:<10}{size:>9,}{accuracy:>10.2%}")
        header = ""


def model_of(run: Path, device: str) -> Autoencoder:
    """Load the model of a run, or of a file."""
    if not run.exists():
        raise FileNotFoundError(f"RUN: there is nothing at {str(run)!r}")
    if run.is_dir() and not (run / BEST).is_file():
        raise FileNotFoundError(f"RUN: {str(run)!r} holds no {BEST}; give the folder of a run")
    return load(run, device=device)


class Pictures:
    """A folder of results, in which each picture has the place that its source had in its own.

    Parameters
    ----------
    folder : Path
        Made if missing.
    images : Images
        The sources.

    Raises
    ------
    ValueError
        If it is the sources' own folder.
    """

    def __init__(self, folder: Path, images: Images) -> None:
        if images.folder is not None and folder.resolve() == images.folder.resolve():
            raise ValueError(f"{folder} is the folder of the images themselves; name another one")
        self._folder, self._images = folder, images
        self._taken: set[str] = set()

    def add(self, name: str, picture: np.ndarray[Any, Any]) -> None:
        """Write a picture as PNG: another ending is kept, a name that is taken gets a number."""
        place = self._images.place(name)
        stem = place.stem if place.suffix == ".png" else place.name
        path, number = self._folder / place.with_name(f"{stem}.png"), 1
        while str(path).lower() in self._taken:  # some file systems know no capitals
            number += 1
            path = self._folder / place.with_name(f"{stem}_{number}.png")
        self._taken.add(str(path).lower())
        checkpoint.write_bytes(path, png(picture))


def figures(run: Path) -> dict[str, float]:
    """Read the figures of a run's summary; none for a model's file, or an unfinished run."""
    file = run / "summary.json"
    if not file.is_file():
        return {}
    try:
        found = {name: float(value) for name, value in json.loads(file.read_text()).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}); remove it to go on without it") from None
    return found
