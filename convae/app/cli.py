"""The command line ``convae``: train a model, and use it."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from convae.app import gpu
from convae.app.arguments import command
from convae.app.array_outputs import reconstruct_arrays
from convae.app.outputs import CLASS, PictureFolder, codes_file, csv_file, refuse_foreign
from convae.app.summary import read_figures
from convae.app.work import Work, model_of
from convae.data.array_arguments import ArrayArguments
from convae.data.datasets import load_dataset
from convae.data.named_files import Shard
from convae.data.sources import named
from convae.engine import backend_for, to_numpy
from convae.errors import UserError, check_range
from convae.export.formats import EXPORTERS, export, form_of
from convae.files import discard_unfinished, printable, write_bytes
from convae.models.autoencoder import Autoencoder
from convae.models.checks import STORAGES
from convae.models.classifier import Classifier
from convae.report.anomaly import Detector
from convae.report.describe import describe, settings, singular_values
from convae.report.overlays import map_figure
from convae.report.pictures import filter_grid, picture, png
from convae.report.probe import LINEAR, compare_features
from convae.report.scores import SCORES
from convae.version import __version__

MISTAKES = (UserError, OSError, MemoryError)
"""What a user can put right: shown as a message. Everything else keeps its traceback."""

OVERWRITE = "Replace existing files that convae did not write."

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """Commands whose user errors end in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; SIGTERM leaves nothing half-written."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _end)
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(141)  # the reader of a pipe has closed it
        except MISTAKES as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train and use convolutional autoencoders with tied weights.

    RUN is the folder of a run, whose best model is used, or a model's file. IMAGES are
    files, folders, patterns in quotes ("photos/*.jpg"), the name of a dataset (mnist: its test
    images), or - to read file names from standard input.
    """


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a model: [GROUP=OPTION] [KEY=VALUE] ... [-m].

    The same as train.py in the repository, from any folder; --config-dir adds a folder with
    configuration files of your own, --help lists everything that can be configured.

    \b
    convae train trainer.epochs=20
    convae train dataset=mnist dataset.root=data model=deep trainer=short
    convae train -m seed=1,2,3
    """
    from convae.app import entry  # here, since importing Hydra takes time

    entry.main(arguments)


def _end(number: int, frame: object) -> NoReturn:
    """End the process at once: an exception could be swallowed where the signal arrives."""
    discard_unfinished()
    os._exit(128 + number)


def _shard(context: click.Context, parameter: click.Parameter, value: str) -> Shard:
    """Read a part K/N of the images."""
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(
            f"--shard: {value!r} is no part; expected K/N with K from 1 to N, such as 3/16"
        )
    return Shard(int(match[1]), int(match[2]))


def with_model(command: Command) -> Command:
    """Add the argument RUN and the device."""
    command = click.option(
        "--device",
        type=click.Choice(["cpu", "gpu", "auto"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto uses a GPU where one works.",
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
            help="Images at a time.",
        ),
        click.option(
            "--shard",
            callback=_shard,
            metavar="K/N",
            default="1/1",
            help="Only part K of N of the images: 3/16. Results follow each other.",
        ),
        click.option("--overwrite", is_flag=True, help=OVERWRITE),
        click.argument("images", nargs=-1, required=True),
    ):
        command = option(command)
    return with_model(command)


def to_table(name: str) -> Callable[[Command], Command]:
    """Add the option for where a table goes."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path("-"),
        help=f"{name}; standard output by default.",
    )


@main.command()
@with_images
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="codes.npy or .parquet"
)
def encode(output: Path, **how: Any) -> None:
    """Write the codes of images, or of arrays.

    A .npy file holds an array (N, *code shape); beside it, a file ending in .images.txt (or
    .signals.txt, .volumes.txt) lists the images line by line. A .parquet file has the columns
    image (signal, volume) and code.

    \b
    convae encode outputs/RUN photos -o codes.npy
    convae encode outputs/RUN mnist --root data -o codes.parquet
    """
    work = Work(**how)
    work.targets.check(output)
    with codes_file(output, work.model.code_shape, work.model.dtype, work.kind) as file:
        for names, x in work.batches():
            file.add(names, to_numpy(work.model.encode(x)))
    work.report(f"codes of the shape {work.model.code_shape} in {output}")


@main.command()
@with_images
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the results, or a file.",
)
def reconstruct(output: Path, **how: Any) -> None:
    """Write reconstructions: of images PNG files, of arrays files of the same format.

    A model that was trained to remove noise writes clean ones. Arrays come back in their own units;
    of a single file, or picture, -o may name the file for them.

    \b
    convae reconstruct outputs/RUN noisy/*.png -o clean
    find scans -name '*.png' | convae reconstruct outputs/RUN - -o clean
    convae reconstruct outputs/RUN new.npy -o clean.npy
    """
    work = Work(**how)
    work.require_decoder()
    if isinstance(work.images, ArrayArguments):
        reconstruct_arrays(work, output)
        work.report(f"reconstructions in {output}")
        return
    if output.suffix.lower() == ".png":
        work.single(output)
        for _, R in work.reconstructed():
            write_bytes(work.targets.check(output), png(picture(R)))
    else:
        written = PictureFolder(output, work.targets)
        for name, R in work.reconstructed():
            written.add(name, picture(R))
    work.report(f"reconstructions in {output}")


@main.command()
@with_images
@to_table("scores.csv")
@click.option(
    "--maps",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for pictures: image, reconstruction, difference.",
)
@click.option("--score", "name", type=click.Choice([*SCORES]), help="Which; by default the run's.")
@click.option("--threshold", type=float, help="An image of a higher score is an anomaly.")
@click.option(
    "--quantile", type=float, help="The threshold, as a quantile of the run's validation scores."
)
def score(
    output: Path,
    maps: Path | None,
    name: str | None,
    threshold: float | None,
    quantile: float | None,
    **how: Any,
) -> None:
    """Write the score of each image: how unusual it is for the model.

    Columns: image (or signal, volume), the score by its name, and anomaly, 1 if it exceeds the
    threshold: by default the run's (trainer.threshold_quantile, of its validation images' scores).
    Maps show image, reconstruction, and where it is unusual.

    \b
    convae score outputs/RUN new/*.png -o scores.csv --maps maps
    convae score outputs/RUN parts --quantile 0.999 -o scores.csv
    convae score outputs/RUN parts | sort -t, -k2 -g -r | head
    """
    if threshold is not None and quantile is not None:
        raise UserError("--threshold, --quantile: both say what an anomaly is; give one of them")
    if threshold is not None:
        check_range("--threshold", threshold)
    if quantile is not None:
        check_range("--quantile", quantile, over=0, at_most=1)
    work = Work(**how)
    work.require_decoder()
    work.targets.check(output)
    detector = Detector.of_model(work.model)
    chosen = detector.choose(name)
    if quantile is not None:
        threshold = detector.threshold(chosen, quantile)
    elif threshold is None:
        threshold = detector.own_threshold(chosen)
    written = None if maps is None else PictureFolder(maps, work.targets)
    if threshold is None:
        click.echo(
            f"the model of {how['run']} has no threshold for score={chosen}, so there is no column "
            "anomaly; --quantile or --threshold sets one",
            err=True,
        )
    anomalies = 0
    with csv_file(output) as table:
        table.writerow([work.kind, chosen, *([] if threshold is None else ["anomaly"])])
        for image, x, R, unusual, value in work.passed(detector, chosen, maps is not None):
            # a score that is NaN is no smaller than the threshold
            anomalous = [] if threshold is None else [int(not value <= threshold)]
            anomalies += sum(anomalous)
            table.writerow([printable(image), f"{value:.6g}", *anomalous])
            if written is not None:
                written.add(image, map_figure(x, R, unusual, detector.top(chosen, unusual)))
    above = "" if threshold is None else f"; {anomalies:,} above the threshold {threshold:.4g}"
    work.report(f"scores in {'standard output' if str(output) == '-' else output}{above}")


@main.command("classify")
@with_images
@to_table("classes.csv")
def classify_images(output: Path, **how: Any) -> None:
    """Write the class of each image, by a model that was trained with task=classify.

    Columns: image (or signal, volume), class, and the probability that the model gives it.

    \b
    convae classify outputs/RUN new/*.png -o classes.csv
    """
    work = Work(**how)
    model = work.model
    if not isinstance(model, Classifier):
        raise UserError(f"RUN: {str(how['run'])!r} is no classifier's; train with task=classify")
    work.targets.check(output)
    names_of = dict(enumerate(model.metadata.get("classes", ())))
    with csv_file(output) as table:
        table.writerow([work.kind, CLASS, "probability"])
        for names, x in work.batches():
            P = to_numpy(model.probabilities(x))
            for image, number, largest in zip(names, P.argmax(axis=1), P.max(axis=1), strict=True):
                found = names_of.get(int(number), number)
                table.writerow([printable(image), printable(str(found)), f"{largest:.6g}"])
    work.report(f"classes in {'standard output' if str(output) == '-' else output}")


@main.command("export")
@with_model
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help=OVERWRITE)
def export_model(run: Path, device: str, target: Path, overwrite: bool) -> None:
    """Export the model to other runtimes: TARGET ends in .onnx, .pt2 or .safetensors.

    It takes images and gives codes and reconstructions; of a classifier probabilities, of a model
    that pools or has winners codes only. Of sparse coding it is the decoder. The file's results are
    compared with the model's; the largest difference is printed and recorded in its metadata.

    \b
    convae export outputs/RUN model.onnx
    convae export outputs/RUN state_dict.safetensors
    """
    model = model_of(run, device)
    if not overwrite and target.suffix in EXPORTERS:
        refuse_foreign(target)
    error = export(model, target)
    form = form_of(model)
    what = f"{form.takes} to {' and '.join(form.names)}"
    click.echo(f"{target}: {what}; results differ from the model's by {error:.1e} at most")


@main.command()
@with_model
@click.option(
    "--filters",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG file for a picture of the first layer's filters.",
)
@click.option("--overwrite", is_flag=True, help=OVERWRITE)
@click.option(
    "--plan",
    type=click.IntRange(1),
    metavar="EXAMPLES",
    help="Also how the CPU computes a training step of so many examples.",
)
def show(run: Path, device: str, filters: Path | None, overwrite: bool, plan: int | None) -> None:
    """Show a model: its layers, its configuration and the figures of its run.

    \b
    convae show outputs/RUN --filters filters.png
    convae show outputs/RUN --plan 128
    """
    if filters is not None and filters.suffix.lower() != ".png":
        raise UserError(f"--filters: {filters} is not a .png file")
    if filters is not None and not overwrite:
        refuse_foreign(filters)
    model = model_of(run, device)
    click.echo(describe(model))
    click.echo(f"output {model.output_activation.name}, loss {model.objective}, seed {model.seed}")
    if own := settings(model):
        click.echo(own)
    for index, layer in enumerate(model.layers):
        stated = {k: v for k, v in layer.spec.configuration().items() if v is not None}
        click.echo(f"layer {index}: {', '.join(f'{k}={v}' for k, v in stated.items())}")
    if not isinstance(model, Classifier):
        click.echo("\n".join(singular_values(model)))
    overrides = run / ".hydra" / "overrides.yaml"
    if overrides.is_file():
        from omegaconf import OmegaConf  # here, since importing it takes time

        click.echo(f"trained with: {command(map(str, OmegaConf.load(overrides)))}")
    for name, value in read_figures(run).items():
        click.echo(f"{name}: {value:.5g}")
    if plan is not None:
        if not isinstance(model, Autoencoder):
            raise UserError("--plan: only autoencoders have one")
        click.echo("\n".join(model.plan(plan)))
    if filters is not None:
        picture = filter_grid(model.parameters["0.kernel"], model.layers[0].geometry.axes)
        write_bytes(filters, png(picture))
        click.echo(f"filters: {filters}")


@main.command("report")
@with_model
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page; report.html in the run's folder by default.",
)
@click.option("--score", type=click.Choice([*SCORES]), help="Which; by default the run's.")
@click.option("--overwrite", is_flag=True, help=OVERWRITE)
def write_report(
    run: Path, device: str, output: Path | None, score: str | None, overwrite: bool
) -> None:
    """Write a page about a finished run: figures, curves, the most unusual test images.

    One HTML file that needs no other. The run's data are read again.

    \b
    convae report outputs/RUN
    convae report outputs/RUN --score ssim -o ssim.html
    """
    from convae.app.reporting import report  # here, since its imports take time

    output = run / "report.html" if output is None else output
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"-o {output}: is not an .html file")
    if not overwrite:
        refuse_foreign(output)
    write_bytes(output, report(run, model_of(run, device), score).encode())
    click.echo(f"report: {output}")


@main.command()
@with_model
@click.option("--dataset", required=True, help="Name of a dataset with labels, such as mnist.")
@click.option("--root", default="data", show_default=True, help="Folder of torchvision's datasets.")
@click.option(
    "--limit",
    type=click.IntRange(10),
    default=10_000,
    show_default=True,
    help="Training images, at most; validation images are among them.",
)
@click.option(
    "--classifier",
    type=click.Choice([*LINEAR]),
    default="logistic",
    show_default=True,
    help="The linear one.",
)
@click.option(
    "--pool",
    type=click.IntRange(1),
    default=1,
    help="Take the maxima of windows of so many positions along each axis of a code.",
)
@click.option(
    "--stride", type=click.IntRange(1), help="Positions between windows; by default, all."
)
def probe(
    run: Path,
    device: str,
    dataset: str,
    root: str,
    limit: int,
    classifier: str,
    pool: int,
    stride: int | None,
) -> None:
    """Classify images by their codes, beside PCA of equal size and raw pixels.

    Accuracies on the dataset's test images: "linear" of logistic regression on standardised
    features, or of a linear support vector machine, "neighbours" of the vote of the 5 nearest
    training images.

    \b
    convae probe outputs/RUN --dataset mnist --root data
    convae probe outputs/RUN --dataset mnist --classifier svm --pool 5 --stride 3 --limit 60000
    """
    if stride is not None and pool == 1:
        raise UserError("--stride: is for windows; say how large they are with --pool")
    model = model_of(run, device)
    positions = model.code_shape[1:]
    if pool > max(positions):
        sides = "x".join(map(str, positions))
        raise UserError(f"--pool: {pool}, but codes have {sides} positions; choose less")
    data = load_dataset(named(dataset, root))
    found_features = compare_features(model, data, limit, classifier, pool, stride or pool)
    header = f"{'features':<10}{'numbers':>9}{'linear':>10}{'neighbours':>12}\n"
    for found in found_features:
        click.echo(
            f"{header}{found.features:<10}{found.numbers:>9,}{found.linear:>10.2%}"
            f"{found.neighbours:>12.2%}"
        )
        header = ""


@main.command("gpu")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option(
    "--batch-size", type=click.IntRange(1), default=128, show_default=True, help="Images of a step."
)
@click.option("--tf32", is_flag=True, help="Let factors be rounded to TF32.")
@click.option("--storage", type=click.Choice(STORAGES), help="Type of the stored activations.")
def show_gpu(run: Path | None, batch_size: int, tf32: bool, storage: str | None) -> None:
    """Show the GPU, and which ways of computing were found right on it.

    With RUN, those of a training step of its model; what has not been tried on this card is
    tried first. Without, all that were ever tried on it.

    \b
    convae gpu
    convae gpu outputs/RUN --batch-size 512 --tf32
    """
    gpu.require_gpu()
    for line in gpu.card_lines():
        click.echo(line)
    if run is None:
        lines = gpu.known_lines()
    else:
        model = model_of(run, "cpu")
        if not isinstance(model, Autoencoder):
            raise UserError(f"RUN: {str(run)!r} is no autoencoder's: only these have such a step")
        backend = backend_for("gpu", tf32=tf32)
        again = Autoencoder(**model.configuration(), storage=storage, backend=backend)
        lines = gpu.step_lines(again, batch_size)
    for line in lines:
        click.echo(line)
