"""Pictures in tar files, sharded as WebDataset writes them, read in place.

A shard is a plain tar file; members whose names are the same up to the first point of the last part
are one sample: ``0001.jpg`` and ``0001.cls``, the class, a number. Shards are searched once, by
their headers, and a picture is then read from where it lies: by any process, in any order.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convae.configuration import DatasetConfig
from convae.data.folders import endings
from convae.data.pictures import open_picture
from convae.data.reading import Dataset, read_dataset
from convae.data.reading_ahead import in_threads
from convae.data.splits import Labels
from convae.errors import UserError, counted
from convae.files import printable

BRACES = re.compile(r"\{([^{}]*)\}")
"""Alternatives in a name: ``{000..127}``, or ``{a,b}``."""

OPEN_FILES = 64
"""Shards that a process keeps open, at most."""

END = 2 * tarfile.BLOCKSIZE
"""Zeros at the end of a whole tar file."""

CLASS = "cls"
"""Ending of a sample's class."""


@dataclass(frozen=True)
class Shards:
    """Samples of tar files, as torchvision's datasets have them: pairs of a picture and a class.

    Parameters
    ----------
    paths : tuple of Path
        The shards.
    names : sequence of str
        What each picture is called in its shard.
    places : (N, 3) ndarray of int
        For each picture its shard, where it begins in it, and how many bytes it has.
    targets : (N,) ndarray of int, or None
        The classes, if all samples have one.
    left_out : mapping
        Members that were not used, by their endings.
    """

    paths: tuple[Path, ...]
    names: np.ndarray[Any, np.dtype[np.str_]]
    places: np.ndarray[Any, np.dtype[np.int64]]
    targets: Labels | None
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def shards(self) -> Labels:
        """The number of each picture's shard."""
        return self.places[:, 0]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Open one picture."""
        shard, start, size = map(int, self.places[index])
        content = _opened(self.paths[shard]).read(size, start)
        if len(content) < size:
            raise OSError(f"{self.paths[shard].name} has become shorter")
        label = -1 if self.targets is None else int(self.targets[index])
        return open_picture(io.BytesIO(content)), label

    def name(self, index: int) -> str:
        """Name a picture by its shard and what it is called there."""
        return f"{self.paths[int(self.shards[index])]}/{self.names[index]}"

    def fingerprint(self) -> str:
        """Return a digest that changes with the names, places and sizes of the pictures."""
        made = hashlib.blake2b("\n".join(self.names).encode(), digest_size=16)
        made.update("\n".join(path.name for path in self.paths).encode())
        made.update(self.places.tobytes())
        return made.hexdigest()


class _File:
    """A file that is open as long as this object lives; reading moves nothing that is shared."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, size: int, start: int) -> bytes:
        """Read so many bytes from a place on."""
        return os.pread(self._descriptor, size, start)

    def __del__(self) -> None:
        os.close(self._descriptor)


@lru_cache(OPEN_FILES)
def _opened(path: Path) -> _File:
    """Open a shard, or find it open: opening takes long over a network."""
    return _File(path)


def read_shards(config: DatasetConfig) -> Dataset:
    """Read the shards that `dataset.root` names, and those of `dataset.test.shards`."""
    wanted = {"train": config.root}
    if config.test is not None:
        if set(config.test) != {"shards"} or not isinstance(config.test["shards"], str):
            raise UserError(
                f"dataset.test: {config.test!r}; expected {{shards: 'test-{{000..015}}.tar'}}"
            )
        wanted["test"] = config.test["shards"]
    datasets, notes = {}, []
    for part, pattern in wanted.items():
        key = "dataset.root" if part == "train" else "dataset.test.shards"
        found = datasets[part] = find_shards(pattern, key)
        notes.append(f"{pattern}: {counted(len(found), 'picture')} in {len(found.paths)} shards")
        if found.left_out:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.left_out.items()))
            notes.append(f"left out: {kinds}")
    return read_dataset(datasets, config, [], notes)


def expand(pattern: str, key: str = "dataset.root") -> list[str]:
    """List what a name with braces stands for: ``a-{08..10}.tar`` is of three files."""
    parts = BRACES.split(pattern)
    choices = [_choices(part, key) if n % 2 else [part] for n, part in enumerate(parts)]
    return ["".join(words) for words in itertools.product(*choices)]


def _choices(text: str, key: str) -> list[str]:
    """List the alternatives of one pair of braces."""
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if ends is None:
        return text.split(",")
    first, last = int(ends[1]), int(ends[2])
    if last < first:
        raise UserError(f"{key}: {{{text}}} counts downwards; expected {{{last}..{first}}}")
    return [f"{number:0{len(ends[1])}d}" for number in range(first, last + 1)]


def find_shards(pattern: str, key: str = "dataset.root") -> Shards:
    """Find the pictures of shards; a `UserError` names a shard that cannot be read."""
    if re.match(r"\w+:", pattern) and not Path(pattern).exists():
        raise UserError(
            f"{key}: {pattern!r} is an address; shards are read from where files are, so mount "
            "them, or copy them first"
        )
    paths = [Path(name) for name in expand(pattern, key)]
    if any("*" in path.name for path in paths):
        paths = sorted(found for path in paths for found in path.parent.glob(path.name))
    elif len(paths) == 1 and paths[0].is_dir():
        paths = sorted(paths[0].glob("*.tar"))
    if not paths:
        raise FileNotFoundError(f"{key}: no shards are named by {pattern!r}; expected tar files")
    if missing := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"{key}: {counted(len(missing), 'shard')} of {len(paths)} missing, the first is "
            f"{str(missing[0])!r}"
        )
    pictures = frozenset(endings())
    searched = list(in_threads(lambda path: _search(path, pictures, key), paths))
    names, places, labels = [], [], []
    left_out: Counter[str] = Counter()
    for shard, (found, others) in enumerate(searched):
        left_out += others
        for name, start, size, label in found:
            names.append(name)
            places.append((shard, start, size))
            labels.append(label)
    if not names:
        raise UserError(f"{key}: no pictures in the shards {pattern!r}")
    targets = None
    if None not in labels:
        targets = np.array(labels, np.int64)
    elif any(label is not None for label in labels):
        left_out["classes, as not all samples have one"] = sum(x is not None for x in labels)
    where = np.array(places, np.int64)
    return Shards(tuple(paths), np.array(names), where, targets, left_out)


def _search(
    path: Path, pictures: frozenset[str], key: str
) -> tuple[list[tuple[str, int, int, int | None]], Counter[str]]:
    """Find a shard's pictures: name, place, size, class; and count what else it has."""
    found: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    others: Counter[str] = Counter()
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, slash, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                sample = f"{folder}{slash}{stem}"
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"it is cut off within {member.name}")
                last = f".{ending.rpartition('.')[2].lower()}"
                if last in pictures and sample not in found:
                    found[sample] = member.name, member.offset_data, member.size
                elif ending == CLASS:
                    content = archive.extractfile(member)
                    assert content is not None
                    labels[sample] = int(content.read())
                else:
                    others[last] += 1
        if any(_File(path).read(END, length - END)):
            raise tarfile.ReadError("it is cut off before its end")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(
            f"{key}: the shard {printable(str(path))!r} cannot be read ({error}); expected a tar "
            "file that is not compressed, whose .cls members are numbers; replace it or leave it "
            "out"
        ) from None
    return [(*place, labels.get(sample)) for sample, place in found.items()], others
