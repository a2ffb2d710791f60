"""Folders of pictures or arrays: which files are found in them, and how they are divided."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from convae.data.pictures import open_picture
from convae.errors import UserError, counted

BY_PRODUCTS = ("__MACOSX", "@eaDir")
"""Folders with copies that macOS and network storage make."""

RUN_MARKS = (".hydra", "best.safetensors", "last.safetensors")
"""What the folder of a run holds."""

RUN_PICTURES = ("reconstructions.png", "learning_rate.png")
"""Pictures that a run leaves in its folder."""

RECOGNISED_ONLY = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow recognises and cannot read by itself."""

MOST_NAMES = 5
"""Names in a message, at most."""

PART_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of folders, in any case, that hold the parts of a dataset."""

PART_OF = {name: part for part, names in PART_FOLDERS.items() for name in names}
"""The parts by these names."""

MASKS = ("ground_truth",)
"""Names of folders, in any case, beside those of the parts, with masks of what is anomalous, as in
MVTec AD (Bergmann et al. 2019)."""


@dataclass
class Found:
    """What a folder holds.

    Parameters
    ----------
    files : list of Path
        The files looked for, at any depth, in the order of their names.
    left_out : collections.Counter
        Other files, by kind.
    unreadable : list of (str, str)
        Files and folders that cannot be read, and why.
    unreadable_files : int
        How many of these are files.
    seen : int
        All files that were looked at.
    """

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    unreadable_files: int = 0
    seen: int = 0

    @property
    def others(self) -> int:
        """How many files are no pictures, or there already."""
        return self.seen - len(self.files) - self.unreadable_files

    def describe_left_out(self) -> str:
        """Put what was left out into words; empty if nothing was."""
        counts = self.left_out.most_common()
        return ", ".join(f"{kind} ({count:,})" for kind, count in counts if count)


def endings() -> set[str]:
    """Return the endings of files that may be pictures, such as ".png"."""
    Image.init()
    return {
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in {*Image.OPEN, "MPO"} - set(RECOGNISED_ONLY)  # the JPEG plugin opens MPO files
    }


def find_pictures(root: Path) -> Found:
    """Search a folder for pictures; see `find_files`."""
    return find_files(root, endings())


def find_files(root: Path, known: Collection[str]) -> Found:
    """Search a folder at any depth, through links to other folders too, each folder once.

    What is looked for are files of known endings. Hidden files, and what systems and tools leave
    beside pictures, such as ``.ipynb_checkpoints``, ``._picture.png`` and ``__MACOSX``, are left
    out.
    """
    found, visited = Found(), set[str]()
    waiting = [str(root)]
    while waiting:
        links: list[str] = []
        for start in waiting:  # what is really there comes first, links to more of it later
            _walk(start, known, found, visited, links)
        waiting = []
        for link in sorted(links):
            real = os.path.realpath(link)
            if real in visited or _is_above(real, link):
                found.left_out["links to folders that are there already"] += 1
            else:
                waiting.append(link)
    found.files = _each_once(sorted(found.files), found.left_out)
    return found


def _walk(
    start: str, known: Collection[str], found: Found, visited: set[str], links: list[str]
) -> None:
    """Search a folder for files, and for links to other folders."""

    def cannot_read(error: OSError) -> None:
        found.unreadable.append((str(error.filename), error.strerror or type(error).__name__))

    for folder, subfolders, files in os.walk(start, onerror=cannot_read):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        is_run = any(name in (*subfolders, *files) for name in RUN_MARKS)
        if is_run and folder != start:
            subfolders.clear()
            found.left_out["folders of runs"] += 1
            continue
        for name in tuple(subfolders):
            if is_by_product(name):
                subfolders.remove(name)
                found.left_out["hidden folders or by-products of systems"] += 1
            elif os.path.islink(os.path.join(folder, name)):
                links.append(os.path.join(folder, name))
        found.seen += len(files)
        for name in files:
            path, ending = Path(folder, name), os.path.splitext(name)[1].lower()
            if is_by_product(name):
                found.left_out["hidden files"] += 1
            elif ending not in known:
                kind = f"files ending in {ending}" if ending else "files without ending"
                found.left_out[kind] += 1
            elif is_run and name in RUN_PICTURES:
                found.left_out["pictures of a run"] += 1
            elif problem := problem_of(path):
                found.unreadable.append((str(path), problem))
                found.unreadable_files += 1
            else:
                found.files.append(path)


def _is_above(real: str, link: str) -> bool:
    """Tell whether a folder holds the link to it."""
    return os.path.realpath(os.path.dirname(link)).startswith(os.path.join(real, ""))


def _each_once(paths: list[Path], left_out: Counter[str]) -> list[Path]:
    """Leave out further links to a picture: copies could end in different halves of a dataset."""
    chosen: dict[str, Path] = {}
    reals = [os.path.realpath(path) for path in paths]
    for path, real in zip(paths, reals, strict=True):
        if real not in chosen or os.path.abspath(path) == real:
            chosen[real] = path
    left_out["links to pictures that are there already"] += len(paths) - len(chosen)
    return [path for path, real in zip(paths, reals, strict=True) if chosen[real] is path]


def problem_of(path: Path) -> str | None:
    """Say why a path cannot be read as a file; None if it seems that it can."""
    try:
        return None if stat.S_ISREG(path.stat().st_mode) else "not a file"
    except OSError as error:
        is_dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
        return "a link to nothing" if is_dangling else error.strerror or type(error).__name__


def is_by_product(name: str) -> bool:
    """Tell whether the name of a file or folder is hidden or that of a system's by-product."""
    return name.startswith(".") or name in BY_PRODUCTS


def is_masks(folder: Path) -> bool:
    """Tell whether a folder beside those of the parts holds masks."""
    return folder.name.lower() in MASKS


def part_folders(root: Path, known: Collection[str] | None = None) -> dict[str, Path]:
    """Return the folders of a dataset's parts; only "train", the root itself, if it has no halves.

    Files of known endings, by default those of pictures, are what it holds.
    Raises `UserError` if there are other folders beside them, or two for the same part.
    """
    known = endings() if known is None else known
    entries = sorted(path for path in root.iterdir() if not is_by_product(path.name))
    folders = [path for path in entries if path.is_dir()]
    found: dict[str, Path] = {}
    others = [path.name for path in entries if path.suffix.lower() in known and path.is_file()]
    for folder in folders:
        part = PART_OF.get(folder.name.lower())
        if is_masks(folder):
            continue
        if part is None:
            others.append(folder.name)
        elif part in found:
            raise UserError(
                f"dataset.root: {str(root)!r} holds {found[part].name} and {folder.name}, which "
                "mean the same; move one into the other"
            )
        else:
            found[part] = folder
    if "train" not in found:
        others += [folder.name for folder in folders if is_masks(folder)]
        if found and not others:
            names = " and ".join(f"{folder.name}/" for folder in found.values())
            raise UserError(
                f"dataset.root: {str(root)!r} holds {names}, but no train/; add it, or rename them "
                "if they are classes"
            )
        return {"train": root}
    if others:
        raise UserError(
            f"dataset.root: beside {found['train'].name}/, {str(root)!r} may hold val/ and test/, "
            f"and nothing else; it holds {_some(others)}. Move them elsewhere, or into these"
        )
    return {part: found[part] for part in PART_FOLDERS if part in found}


def _some(names: list[str]) -> str:
    """List some names."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


@dataclass(frozen=True)
class PictureFiles:
    """Picture files and their classes, as torchvision's folder datasets have them.

    Parameters
    ----------
    samples : sequence of (str, int)
        Path and class of each.
    """

    samples: Sequence[tuple[str, int]]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Open one picture."""
        path, label = self.samples[index]
        return open_picture(path), label


def class_of(path: Path, folder: Path) -> str:
    """Name the subfolder that contains a picture; "." for the folder itself."""
    first, *rest = path.relative_to(folder).parts
    return first if rest else "."


def refuse_shared(files: Mapping[str, Sequence[Path]], what: str) -> None:
    """Refuse files that links put into two parts of a dataset."""
    of_part = {part: {os.path.realpath(path) for path in paths} for part, paths in files.items()}
    parts = list(of_part)
    for n, first in enumerate(parts):
        for second in parts[n + 1 :]:
            if shared := of_part[first] & of_part[second]:
                raise UserError(
                    f"dataset.root: links put {counted(len(shared), what)}, such as "
                    f"{min(shared)!r}, among the {first} and the {second} examples; remove them "
                    "from one of these"
                )
