"""Pictures read from disk, beside a plain DataLoader: python -m benchmarks.streaming FOLDER.

Reads all pictures of a folder of classes, shuffled, in batches, as a run that streams does
(`convae.data.splits.Streamed`), from files and from shards, and with torchvision's ImageFolder,
Resize and PILToTensor in PyTorch's DataLoader, in turns, with 0, 1 and 2 workers. Saves a table of
images per second and of how much memory the process gained after the first batches in
benchmarks/results.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import convae
from benchmarks.measure import keep, table
from convae.configuration import DatasetConfig
from convae.data.folders import PictureFiles, find_pictures
from convae.data.pictures import Preprocessing
from convae.data.shards import find_shards
from convae.data.splits import Streamed, shuffled

SIDE, BATCH = 64, 128
ROUNDS = 3
PER_SHARD = 5_000
WARM = 20
"""Batches after which time and memory are measured."""


def ours(files: list[Path], workers: int) -> Iterator[Any]:
    """Stream as a run does."""
    config = DatasetConfig(name="ImageFolder", image_size=SIDE)
    dataset = PictureFiles([(str(path), 0) for path in files])
    how = Preprocessing(3, config.size)
    split = Streamed(dataset, np.arange(len(files)), how, workers)
    return split.batches(BATCH, shuffled(split, np.random.default_rng(0)))


def shards(folder: Path, workers: int) -> Iterator[Any]:
    """Stream the same pictures from tar files, as a run does."""
    how = Preprocessing(3, (SIDE, SIDE))
    dataset = find_shards(str(folder))
    split = Streamed(dataset, np.arange(len(dataset)), how, workers)
    return split.batches(BATCH, shuffled(split, np.random.default_rng(0)))


def pack(files: list[Path], folder: Path) -> None:
    """Write pictures into shards."""
    for number, start in enumerate(range(0, len(files), PER_SHARD)):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as archive:
            for n, path in enumerate(files[start : start + PER_SHARD], start):
                archive.add(path, f"{n:08d}{path.suffix}")


def training_rate() -> float:
    """Measure how many such images a second the model trains on that is chosen for them."""
    model = convae.Autoencoder((3, SIDE, SIDE), convae.choose_layers((3, SIDE, SIDE)))
    step = convae.TrainingStep(model, convae.AdamW(1e-3))
    x = np.random.default_rng(0).random((BATCH, 3, SIDE, SIDE), dtype="float32")
    for _ in range(3):
        step(x)
    start = time.perf_counter()
    for _ in range(WARM):
        step(x)
    return WARM * BATCH / (time.perf_counter() - start)


def plain(folder: Path, workers: int) -> Iterator[Any]:
    """Stream with what torchvision and PyTorch bring."""
    change = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.PILToTensor()])
    dataset = datasets.ImageFolder(str(folder), change)
    return iter(DataLoader(dataset, BATCH, shuffle=True, num_workers=workers))


def rate(batches: Iterator[Any]) -> tuple[float, float]:
    """Read everything: images per second, and MiB gained, after the first batches."""
    for _, _ in zip(range(WARM), batches, strict=False):
        pass
    images, before, start = 0, resident(), time.perf_counter()
    for batch in batches:
        images += len(batch[0]) if isinstance(batch, list) else len(batch)
    return images / (time.perf_counter() - start), resident() - before


def resident() -> float:
    """Return the largest memory that the process has had, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Measure and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="pictures, in a subfolder for each class")
    folder = parser.parse_args().folder
    files = find_pictures(folder).files
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch)
        pack(files, packed)
        rows = [measure(files, folder, packed, workers) for workers in (0, 1, 2)]
    text = (
        f"{len(files):,} pictures, read to {SIDE}x{SIDE} pixels in batches of {BATCH}: medians of "
        f"{ROUNDS} turns; the ratio is the median of those of each turn. Shards are tar files of "
        f"{PER_SHARD:,}. The model that is chosen for such pictures trains on "
        f"{training_rate():,.0f} of them a second, from memory.\n\n"
    )
    header = ["workers", "ours, images/s", "shards", "DataLoader", "ours / DataLoader"]
    header.append("MiB gained, ours")
    command = " ".join(["python -m benchmarks.streaming", *sys.argv[1:]])
    keep("streaming", command, text + table(header, rows))


def measure(files: list[Path], folder: Path, packed: Path, workers: int) -> list[str]:
    """Measure all ways with so many workers, in turns: a row of the table."""
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "ours": lambda n=workers: ours(files, n),  # type: ignore[misc]
        "shards": lambda n=workers: shards(packed, n),  # type: ignore[misc]
        "plain": lambda n=workers: plain(folder, n),  # type: ignore[misc]
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    gained = 0.0
    for _ in range(ROUNDS):
        for name, make in ways.items():
            found, more = rate(make())
            rates[name].append(found)
            gained = max(gained, more) if name == "ours" else gained
    median = {name: statistics.median(values) for name, values in rates.items()}
    both = zip(rates["ours"], rates["plain"], strict=True)
    ratio = statistics.median(a / b for a, b in both)
    numbers = (f"{median[name]:,.0f}" for name in ways)
    return [str(workers), *numbers, f"{ratio:.2f}", f"{gained:.0f}"]


if __name__ == "__main__":
    main()
