"""What training gives, and how soon: python -m benchmarks.quality [presets|time] [root=FOLDER] ...

`presets` trains on each dataset with nothing but a code size given, five seeds, and tabulates the
error before training, at the end, and PCA's. `time` measures how long it takes until the test error
passes given levels, beside the same architecture in PyTorch with its usual initialisation for
rectifiers (He's), tied and untied. Further arguments choose rows by their names, or are overrides,
such as trainer.epochs=6. Results are kept after every row.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn

import convae
import convae.app.entry  # the types of the configuration's keys
from benchmarks.measure import keep, table
from benchmarks.peers import Peer
from convae.app.overrides import CONFIGS, hydra_of_its_own
from convae.configuration import Config
from convae.data.datasets import load_dataset
from convae.data.splits import Splits, shuffled
from convae.report.baselines import Baselines
from convae.report.evaluation import measure
from convae.training.build import build_model, build_parts, build_step
from convae.training.choices import choose
from convae.training.start import start

SEEDS = range(5)

USUAL_RATE = 1e-3
"""Adam's usual learning rate, with which PyTorch is tried beside the preset's."""


@dataclass(frozen=True)
class Row:
    """A dataset, as overrides; in {root} are MNIST, FashionMNIST and folders of pictures."""

    code: int
    overrides: tuple[str, ...]
    levels: tuple[float, ...] = ()


def folder(name: str, *more: str) -> tuple[str, ...]:
    """Pictures in a folder."""
    return ("dataset=imagefolder", f"dataset.root={{root}}/{name}", *more)


ROWS = {
    "digits": Row(16, ("dataset=digits",)),
    "MNIST": Row(32, ("dataset=mnist", "dataset.root={root}"), (0.0050, 0.0040, 0.0030)),
    "Fashion-MNIST": Row(32, ("dataset=fashionmnist", "dataset.root={root}")),
    "photos": Row(128, ("dataset=photos",)),
    "5,085 of CIFAR-10": Row(128, folder("cifar10-subset")),
    "the same at 64 pixels": Row(256, folder("cifar10-subset", "dataset.image_size=64")),
    "45,000 of CIFAR-10": Row(128, folder("cifar10-jpeg", "dataset.holdout=0.1")),
}


@dataclass(frozen=True)
class Task:
    """Which rows, where their images are, and what is changed of every run."""

    rows: tuple[str, ...]
    root: str
    changes: tuple[str, ...]

    def overrides(self, row: Row, seed: int) -> list[str]:
        """Write the overrides of a run."""
        given = [override.format(root=self.root) for override in row.overrides]
        own = [f"code={row.code}", f"seed={seed}", "trainer.embeddings=0"]
        return [*given, *own, *self.changes]

    def command(self, part: str) -> str:
        """Write the command that repeats it."""
        rows = [shlex.quote(row) for row in self.rows]
        words = ["python -m benchmarks.quality", part, "root=FOLDER", *rows, *self.changes]
        return " ".join(words)


def composed(overrides: Sequence[str]) -> Config:
    """Compose a configuration, as the command line does."""
    with hydra_of_its_own(), initialize_config_module(CONFIGS, version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides=list(overrides)))
    assert isinstance(config, Config)
    return config


def preset(overrides: Sequence[str]) -> dict[str, float]:
    """Do a run, and return its figures with the error before training and the seconds it took."""
    config = composed(overrides)
    data = load_dataset(config.dataset, config.seed)
    config = choose(config, data).config
    model = build_model(config, data.train.shape)
    start(model, config, data)
    first = measure(model, data.test, 256).mse
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        result = convae.train([*overrides, f"hydra.run.dir={directory}/run"])
    seconds = time.perf_counter() - begun
    return {**result.figures, "start": first, "seconds": seconds}


def presets(task: Task) -> None:
    """Tabulate what the presets give."""
    header = ["images, code", "before training", "at the end", "PCA", "at the end / PCA"]
    header += ["largest checkerboard", "seconds a run"]
    rows = []
    for name in task.rows or ROWS:
        runs = [preset(task.overrides(ROWS[name], seed)) for seed in SEEDS]
        ratios = [run["test_mse"] / run["pca_mse"] for run in runs]
        rows.append(
            [
                f"{name}, {ROWS[name].code}",
                spread([run["start"] for run in runs]),
                spread([run["test_mse"] for run in runs]),
                spread([run["pca_mse"] for run in runs]),
                f"{np.mean(ratios):.3f} (at most {max(ratios):.3f})",
                f"{max(run['checkerboard'] for run in runs):.4f}",
                f"{np.mean([run['seconds'] for run in runs]):.0f}",
            ]
        )
        note = (
            "Mean squared error on the test images, mean of five seeds (least to most); a seed "
            "also decides which images are held out where a dataset has no test images. Only the "
            "code's size was given. The checkerboard is by how much an amplitude of the strides' "
            "frequencies exceeds its neighbours on a grey picture, in units of the range [0, 1]."
        )
        keep("quality_presets", task.command("presets"), f"{note}\n\n{table(header, rows)}")


def spread(values: Sequence[float]) -> str:
    """Format a mean with its range."""
    return f"{np.mean(values):.5f} ({min(values):.5f} to {max(values):.5f})"


@dataclass
class Curve:
    """Test errors after each epoch, and the seconds of training until then."""

    errors: list[float]
    seconds: list[float]

    def reaches(self, level: float) -> tuple[int, float] | None:
        """Return the epoch and the second at which an error at or below a level is measured."""
        for epoch, (error, seconds) in enumerate(zip(self.errors, self.seconds, strict=True)):
            if error <= level:
                return epoch, seconds
        return None


Step = Callable[[np.ndarray[Any, Any]], object]
Contestant = tuple[Step, Callable[[], float], Callable[[float], None]]
"""A step on a batch in [0, 1], the test error, and what sets the learning rate."""


def ours(config: Config, data: Splits) -> Contestant:
    """Do what `convae.train` does, without its reports."""
    model = build_model(config, data.train.shape)
    start(model, config, data)
    parts = build_parts(config)
    step = build_step(config, model, parts)

    def set_rate(rate: float) -> None:
        parts.optimizer.learning_rate = rate

    return step, lambda: measure(model, data.test, 256).mse, set_rate


def theirs(config: Config, data: Splits, tied: bool) -> Contestant:
    """Train the same architecture in PyTorch: He's initialisation, autograd and AdamW.

    With what Conv2d does by itself, variances are a sixth of He's: five layers then pass on nothing
    but their biases, and on MNIST the output stays black.
    """
    for layer in config.model.layers:
        layer.tied = tied
    module = Peer(build_model(config, data.train.shape))
    torch.manual_seed(config.seed)
    for name, parameter in module.named_parameters():
        if name.endswith("kernel"):
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
    module = module.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        module.parameters(), weight_decay=config.optimizer.weight_decay or 0, fused=True
    )

    def step(x: np.ndarray[Any, Any]) -> object:
        images = torch.from_numpy(x)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(module(images), images)
        loss.backward()
        optimizer.step()
        return loss.item()

    def error() -> float:
        squares, count = 0.0, 0
        with torch.inference_mode():
            for pixels in data.test.batches(256):
                x = torch.from_numpy(pixels.astype("float32") / 255)
                squares += float(((module(x) - x) ** 2).sum(dtype=torch.float64))
                count += x.numel()
        return squares / count

    def set_rate(rate: float) -> None:
        optimizer.param_groups[0]["lr"] = rate

    return step, error, set_rate


def train(config: Config, data: Splits, build: Callable[..., Contestant], rate: float) -> Curve:
    """Train for the configuration's epochs, the same images in the same order for everyone."""
    begun = time.perf_counter()
    step, error, set_rate = build(config, data)
    spent = time.perf_counter() - begun
    parts = build_parts(config)
    size, epochs = config.trainer.batch_size, config.trainer.epochs
    assert size is not None
    assert epochs is not None
    each = -(-len(data.train) // size)
    rng = np.random.default_rng(config.seed)
    curve = Curve([error()], [spent])
    for epoch in range(epochs):
        begun = time.perf_counter()
        for batch, pixels in enumerate(data.train.batches(size, shuffled(data.train, rng))):
            done = epoch * each + batch
            factor = parts.schedule.factor(done, epochs * each, each)
            set_rate(rate * factor)
            changed = parts.augmentation(pixels, done)
            step(images(changed))
        spent += time.perf_counter() - begun
        curve.errors.append(error())
        curve.seconds.append(spent)
    return curve


def images(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scale pixels to [0, 1]."""
    return np.ascontiguousarray(pixels, np.float32) / np.float32(255)


CONTESTANTS: dict[str, Callable[..., Contestant]] = {
    "convae": ours,
    "PyTorch, tied": partial(theirs, tied=True),
    "PyTorch, untied": partial(theirs, tied=False),
}


def runs(config: Config) -> Iterator[tuple[str, float]]:
    """Name who takes part, with which learning rates."""
    rate = config.optimizer.learning_rate
    assert rate is not None
    yield "convae", rate
    for who in ("PyTorch, tied", "PyTorch, untied"):
        yield from ((who, each) for each in dict.fromkeys((rate, USUAL_RATE)))


def best(curves: Mapping[tuple[str, float], list[Curve]]) -> dict[str, list[Curve]]:
    """Keep everyone's better learning rate, by the mean error at the end."""
    found: dict[str, list[Curve]] = {}
    for (who, _), own in curves.items():
        if who not in found or end(own) < end(found[who]):
            found[who] = own
    return found


def end(curves: Sequence[Curve]) -> float:
    """Average the errors at the end."""
    return float(np.mean([curve.errors[-1] for curve in curves]))


def levels(row: Row, data: Splits, config: Config) -> Iterator[tuple[str, float]]:
    """Name the errors to be reached."""
    model = build_model(config, data.train.shape)
    pca = Baselines.fit(model, data.train).errors(data.test)["pca_mse"]
    yield f"PCA, {pca:.4f}", pca
    yield f"half of it, {pca / 2:.4f}", pca / 2
    for level in row.levels:
        yield f"{level:.4f}", level


def time_to_quality(task: Task) -> None:
    """Tabulate how soon levels are reached; the table is kept after every seed."""
    note = (
        "Seconds of training, its preparation included, and epochs until the error on the test "
        "images passes a level: the median of the seeds that get there, and how many do. Same "
        "architecture, batches, augmentation, optimizer and schedule for all. PyTorch starts with "
        "kaiming_uniform_ for rectifiers (with its layers' own initialisation MNIST stays black), "
        f"and is tried with our learning rate and with {USUAL_RATE:g}: the better one counts."
    )
    header = ["images", "error", *CONTESTANTS]
    done: list[list[str]] = []
    for name in task.rows or ("digits", "MNIST", "5,085 of CIFAR-10"):
        curves: dict[tuple[str, float], list[Curve]] = {}
        wanted: list[tuple[str, float]] = []
        rows: list[list[str]] = []
        for seed in SEEDS:
            config = composed(task.overrides(ROWS[name], seed))
            data = load_dataset(config.dataset, seed)
            config = choose(config, data).config
            wanted = wanted or list(levels(ROWS[name], data, config))
            for who, rate in runs(config):
                curve = train(config, data, CONTESTANTS[who], rate)
                curves.setdefault((who, rate), []).append(curve)
            rows = compared(name, wanted, list(best(curves).values()))
            result = table(header, done + rows)
            keep("quality_time", task.command("time"), f"{note}\n\n{result}")
        done += rows


def compared(
    name: str, wanted: Sequence[tuple[str, float]], curves: Sequence[Sequence[Curve]]
) -> list[list[str]]:
    """Format a row for each level, and one for the errors at the end; curves by contestants."""
    rows = [[name, label, *(reached(own, level) for own in curves)] for label, level in wanted]
    ends = [spread([curve.errors[-1] for curve in own]) for own in curves]
    return [*rows, [name, "error at the end", *ends]]


def reached(curves: Sequence[Curve], level: float) -> str:
    """Format when, in the median, and how often a level is reached."""
    found = [reach for curve in curves if (reach := curve.reaches(level)) is not None]
    if not found:
        return "never"
    epoch, seconds = (float(np.median([reach[n] for reach in found])) for n in (0, 1))
    return f"{seconds:.0f} s, epoch {epoch:.0f} ({len(found)} of {len(curves)})"


def main() -> None:
    """Read the command line."""
    words = sys.argv[1:]
    root = next((word[5:] for word in words if word.startswith("root=")), "data")
    parts = [word for word in words if word in ("presets", "time")] or ["presets", "time"]
    rows = tuple(word for word in words if word in ROWS)
    changes = tuple(word for word in words if "=" in word and not word.startswith("root="))
    unknown = [w for w in words if "=" not in w and w not in (*parts, *rows)]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; rows are {', '.join(ROWS)}")
    task = Task(rows, root, changes)
    if "presets" in parts:
        presets(task)
    if "time" in parts:
        time_to_quality(task)


if __name__ == "__main__":
    main()
