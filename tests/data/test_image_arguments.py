"""Pictures of all sorts, from files, folders, patterns and datasets."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convae.data.image_arguments import ImageArguments
from convae.data.named_files import Shard
from convae.data.pictures import Preprocessing

HOW = Preprocessing(1, (8, 8))


def read(images: ImageArguments, size: int = 4) -> tuple[list[str], np.ndarray]:
    batches = list(images.batches(size))
    names = [name for batch, _ in batches for name in batch]
    return names, np.concatenate([pixels for _, pixels in batches])


@pytest.fixture
def odd(tmp_path) -> Path:
    """A folder with what people have in their folders."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    whole = Image.fromarray(colours)
    whole.save(tmp_path / "photo.jpg")
    content = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "corrupt.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("not a picture by its ending")
    (tmp_path / "text.png").write_text("not a picture by its content")
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(deep).save(tmp_path / "sixteen.png")
    whole.convert("CMYK").save(tmp_path / "cmyk.jpg")
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    (tmp_path / "sub").mkdir()
    frames[0].save(tmp_path / "sub" / "animated.gif", save_all=True, append_images=frames[1:])
    return tmp_path


def test_odd_files_are_converted_or_listed(odd) -> None:
    images = ImageArguments([str(odd)], HOW, "data")
    names, pixels = read(images)
    found = {Path(name).name: image for name, image in zip(names, pixels, strict=True)}
    assert set(found) == {"photo.jpg", "sixteen.png", "cmyk.jpg", "animated.gif"}
    assert {Path(name).name for name, _ in images.unreadable} == {
        "corrupt.jpg",
        "empty.png",
        "text.png",
    }
    assert images.total() == 7
    assert (found["animated.gif"] == 10).all()
    assert (found["sixteen.png"].ravel() == np.rint(np.arange(64) * 1024 / 257)).all()
    assert set(images.conversions.lines()) == {
        "of 16 bits, whose range from 0 to 65,535 became black to white: 1",
        "with several frames or pages, of which the first is used: 1",
        "of mode CMYK converted to grey: 1",
        "of mode P converted to grey: 1",
        "of mode RGB converted to grey: 1",
        "scaled to 8x8 pixels: 2",
        "cropped at the sides to the shape that the model takes, by up to 33% of a picture: 2",
    }
    assert images.left_out == [f"{odd}: files ending in .txt (1)"]


def test_patterns_files_and_their_places(odd) -> None:
    images = ImageArguments([str(odd / "s*.png"), str(odd / "sub" / "animated.gif")], HOW, "data")
    names, _ = read(images)
    assert [str(images.place(name)) for name in names] == ["sixteen.png", "sub/animated.gif"]


def test_a_dataset_by_name() -> None:
    images = ImageArguments(["Digits"], Preprocessing(3, (10, 12)), "data")
    names, pixels = read(images, 100)
    assert pixels.shape == (180, 3, 10, 12)
    assert names[7] == "digits/00007"
    assert str(images.place(names[7])) == "digits/00007"
    assert images.conversions.counts["of mode L converted to colour"] == 180


@pytest.mark.parametrize(
    ("argument", "error", "says"),
    [
        ("{}/nothing", FileNotFoundError, "no pictures in the folder"),
        ("{}/*.tif", FileNotFoundError, "nothing matches"),
        ("{}/missing.png", FileNotFoundError, "there is no file"),
        ("nosuch", ValueError, "'nosuch' is neither a file, a folder, nor a dataset"),
    ],
)
def test_arguments_that_name_nothing_are_refused(
    tmp_path, argument: str, error: type, says: str
) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(error, match=says):
        ImageArguments([argument.format(tmp_path)], HOW, "data")


def test_ten_times_the_pictures_take_the_same_memory(tmp_path) -> None:
    peaks = []
    for count in (100, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for index in range(count):
            Image.new("L", (40, 40), index % 256).save(folder / f"{index}.bmp")
        images = ImageArguments([str(folder)], Preprocessing(1, (40, 40)), "data")
        tracemalloc.start()
        assert sum(len(names) for names, _ in images.batches(16)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_patterns_go_through_no_links_and_no_hidden_folders(tmp_path) -> None:
    for folder in ("a", "b", ".hidden"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / folder / "x.png")
    for here, there in (("a", "b"), ("b", "a")):
        (tmp_path / here / "other").symlink_to(tmp_path / there)
    images = ImageArguments([str(tmp_path / "**" / "*.png")], HOW, "data")
    names, _ = read(images)
    assert [str(Path(name).relative_to(tmp_path)) for name in names] == ["a/x.png", "b/x.png"]


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_parts_follow_each_other(tmp_path, count: int) -> None:
    """Of files and a dataset together; parts of fewer units than there are parts are empty."""
    for n in range(7):
        Image.new("L", (10, 12), n).save(tmp_path / f"{n}.png")
    arguments = [str(tmp_path / "0.png"), "digits", str(tmp_path / "[1-6].png")]
    how = Preprocessing(1, (10, 12))
    whole = list(ImageArguments(arguments, how, "data").batches(1))
    parts, totals = [], []
    for number in range(1, count + 1):
        part = ImageArguments(arguments, how, "data", Shard(number, count))
        parts += list(part.batches(1))
        totals.append(part.total())
    assert sum(totals) == len(whole)
    assert max(totals) - min(totals) <= 1
    assert [names for names, _ in parts] == [names for names, _ in whole]
    for (_, a), (_, b) in zip(parts, whole, strict=True):
        assert (a == b).all()
