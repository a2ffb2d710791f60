"""Pictures in tar files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convae
from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.data.shards import expand, find_shards
from convae.data.splits import TOGETHER, InMemory, Streamed, shuffled
from convae.errors import UserError


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def png(value: int, size: tuple[int, int] = (10, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "png")
    return file.getvalue()


def write(folder: Path, shards: int, pictures: int = 6, classes: bool = True) -> str:
    """Write shards whose pictures are numbered by their grey; returns their common name."""
    for shard in range(shards):
        with tarfile.open(folder / f"s-{shard:02d}.tar", "w") as archive:
            for n in range(pictures):
                number = shard * pictures + n
                add(archive, f"{number:04d}.png", png(number))
                if classes:
                    add(archive, f"{number:04d}.cls", str(number % 3).encode())
                add(archive, f"{number:04d}.json", b"{}")
    return str(folder / f"s-{{00..{shards - 1:02d}}}.tar")


def values(batches) -> list[int]:
    return [int(image[0, 0, 0]) for batch in batches for image in batch]


def test_names_with_braces() -> None:
    assert expand("a.tar") == ["a.tar"]
    assert expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand("{x,y}-{1..2}") == ["x-1", "x-2", "y-1", "y-2"]
    with pytest.raises(UserError, match=r"dataset.root: \{3..1\} counts downwards"):
        expand("a-{3..1}.tar")


@pytest.mark.parametrize("memory_mb", [0, 64])
@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_classes_and_parts(tmp_path, memory_mb: int, workers: int) -> None:
    root = write(tmp_path, 5)
    (tmp_path / "test").mkdir()
    test = write(tmp_path / "test", 1)
    config = DatasetConfig("WebDataset", root, test={"shards": test}, workers=workers)
    config.memory_mb, config.holdout = memory_mb, 0.2
    data = load_dataset(config)
    assert isinstance(data.train, Streamed if memory_mb == 0 else InMemory)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 6, 6)
    for part in (data.train, data.validation, data.test):
        found = values(part.batches(4))
        assert part.labels.tolist() == [value % 3 for value in found]
    everything = values(data.train.batches(5)) + values(data.validation.batches(5))
    assert sorted(everything) == list(range(30))
    assert f"{root}: 30 pictures in 5 shards" in data.notes
    assert "left out: 30 .json" in data.notes


def test_patterns_and_folders_name_shards(tmp_path) -> None:
    whole = find_shards(write(tmp_path, 3))
    for name in (str(tmp_path), str(tmp_path / "s-*.tar")):
        assert find_shards(name).fingerprint() == whole.fingerprint()
    assert whole.name(7).endswith("s-01.tar/0007.png")


def test_images_come_from_a_few_shards_at_a_time(tmp_path) -> None:
    shards = 3 * TOGETHER
    config = DatasetConfig("WebDataset", write(tmp_path, shards), memory_mb=0, workers=0)
    train = load_dataset(config).train
    order = shuffled(train, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(len(train)))
    turns = train.shards[order]
    first = set(turns[: len(turns) // 3].tolist())
    assert len(first) <= TOGETHER + 1
    assert first != set(range(TOGETHER))  # which are drawn
    assert len(set(turns[:12].tolist())) > 3
    assert (order == shuffled(train, np.random.default_rng(0))).all()
    assert (order != shuffled(train, np.random.default_rng(1))).any()


def test_a_stream_is_taken_up_where_it_was(tmp_path) -> None:
    config = DatasetConfig("WebDataset", write(tmp_path, 4), memory_mb=0, workers=2)
    train = load_dataset(config).train
    order = shuffled(train, np.random.default_rng(0))
    whole = list(train.batches(4, order))
    rest = list(train.batches(4, order, skip=3))
    assert len(rest) == len(whole) - 3
    assert all((a == b).all() for a, b in zip(rest, whole[3:], strict=True))


def test_what_cannot_be_read(tmp_path) -> None:
    root = write(tmp_path, 3)
    (tmp_path / "s-01.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset.root: 1 shard of 3 missing, .*s-01.tar"):
        find_shards(root)
    content = (tmp_path / "s-00.tar").read_bytes()
    for wrong, why in (
        (content[:1500], "cut off"),
        (content[:2048], "cut off"),  # between two members
        (b"no tar file" * 100, "invalid header|truncated"),
        (b"", "empty"),
    ):
        (tmp_path / "s-01.tar").write_bytes(wrong)
        with pytest.raises(UserError, match=rf"the shard '.*s-01.tar' cannot be read \(.*({why})"):
            find_shards(root)
    with tarfile.open(tmp_path / "s-01.tar", "w:gz") as archive:
        add(archive, "a.png", png(1))
    with pytest.raises(UserError, match="not compressed"):
        find_shards(root)
    with tarfile.open(tmp_path / "s-01.tar", "w") as archive:
        add(archive, "a.png", png(1))
        add(archive, "a.cls", b"cat")
    with pytest.raises(UserError, match=r"s-01\.tar' cannot be read"):
        find_shards(root)
    for pattern, says in (
        ("https://example.org/a-{00..03}.tar", "dataset.root: 'https.*is an address"),
        (str(tmp_path / "t-*.tar"), "no shards are named by"),
    ):
        with pytest.raises((UserError, FileNotFoundError), match=says):
            find_shards(pattern)


def test_broken_pictures_are_named_and_left_out(tmp_path) -> None:
    root = write(tmp_path, 2)
    with tarfile.open(tmp_path / "s-01.tar", "w") as archive:
        add(archive, "a.png", png(1))
        add(archive, "b.png", png(1)[:40])
    data = load_dataset(DatasetConfig("WebDataset", root, memory_mb=0, workers=0))
    assert any(note.startswith("skipped") and "s-01.tar/b.png" in note for note in data.notes)
    assert data.train.labels is None
    assert "left out: 6 .json, 6 classes, as not all samples have one" in data.notes
    with pytest.raises(UserError, match=r"s-01.tar/b.png"):
        load_dataset(DatasetConfig("WebDataset", root, memory_mb=0, workers=0, strict=True))


def test_a_shard_that_changes_is_noticed(tmp_path) -> None:
    root = write(tmp_path, 2)
    before = load_dataset(DatasetConfig("WebDataset", root, memory_mb=0, workers=0))
    with (tmp_path / "s-01.tar").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match=r"s-01\.tar has become shorter"):
        list(before.train.batches(4))


def test_a_run_on_shards(tmp_path) -> None:
    root = write(tmp_path, 4)
    words = ("dataset=webdataset", f"dataset.root={root}", "dataset.memory_mb=0", "debug=fast")
    quoted = [word if "=/" not in word else word.replace("=", '="', 1) + '"' for word in words]
    result = convae.train([*quoted, "model=linear", f"hydra.run.dir={tmp_path / 'run'}"])
    assert np.isfinite(result.figures["test_mse"])


@pytest.mark.parametrize("test", [{"root": "x"}, {}, {"shards": 3}])
def test_test_shards_are_named_by_shards(tmp_path, test: dict) -> None:
    config = DatasetConfig("WebDataset", write(tmp_path, 1), test=test)
    with pytest.raises(UserError, match=r"dataset.test: .* expected \{shards: "):
        load_dataset(config)


def test_large_jpegs_are_decoded_at_a_reduced_size(tmp_path) -> None:
    from convae.data.pictures import Preprocessing, open_picture

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(small).resize((640, 640), Image.Resampling.BILINEAR).save(tmp_path / "a.jpg")
    how = Preprocessing(3, (32, 32))
    with open_picture(tmp_path / "a.jpg") as image:
        pixels, _ = how(image)
        assert image.size == (80, 80)
    with open_picture(tmp_path / "a.jpg") as image:
        whole, _ = how(image.convert("RGB"))
    assert np.abs(pixels.astype(float) - whole).mean() < 2
