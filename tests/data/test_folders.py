"""Folders as people have them: links, by-products, other files, halves under several names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convae
from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.data.folders import find_pictures, part_folders
from convae.data.splits import InMemory, Splits, Streamed
from convae.errors import UserError
from tests.helpers import pixels_of, write_pictures

needs_rights = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator reads every folder"
)


def load(root: Path, **config: object) -> Splits:
    return load_dataset(
        DatasetConfig(**{"name": "ImageFolder", "root": str(root), "workers": 0, **config})
    )


def test_every_ending_that_can_be_read_is_found_and_others_are_counted(tmp_path) -> None:
    image = Image.new("RGB", (8, 8), (10, 200, 30))
    for ending in ("png", "JPG", "gif", "avif", "jp2", "webp", "tiff", "bmp", "ppm", "mpo"):
        image.save(tmp_path / f"picture.{ending}")
    for name in ("notes.txt", "more.txt", "film.mpg", "LICENSE", ".DS_Store"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    found = find_pictures(tmp_path)
    assert len(found.files) == 10
    assert dict(found.left_out) == {
        "files ending in .txt": 2,
        "files ending in .mpg": 1,
        "files without ending": 1,
        "hidden files": 1,
        "hidden folders or by-products of systems": 1,
        "links to pictures that are there already": 0,
    }
    assert "links" not in found.describe_left_out()


def test_links_to_folders_are_followed_once(tmp_path) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    write_pictures(store / "cats", 3)
    write_pictures(root / "dogs", 2)
    (root / "cats").symlink_to(store / "cats")
    (root / "dogs" / "above").symlink_to(root)
    (root / "again").symlink_to(root / "dogs")
    found = find_pictures(root)
    assert [str(path.relative_to(root)) for path in found.files] == [
        *(f"cats/{n:03}.png" for n in range(3)),
        *(f"dogs/{n:03}.png" for n in range(2)),
    ]
    assert found.left_out["links to folders that are there already"] == 2


def test_folders_that_link_to_each_other_are_searched_once(tmp_path) -> None:
    names = [f"class{n}" for n in range(12)]
    for name in names:
        write_pictures(tmp_path / name, 1)
        for other in names:
            if other != name:
                (tmp_path / name / other).symlink_to(tmp_path / other)
    found = find_pictures(tmp_path)
    assert len(found.files) == 12
    assert found.left_out["links to folders that are there already"] == 12 * 11


def test_a_link_out_of_the_root_is_followed_but_not_back_in(tmp_path) -> None:
    write_pictures(tmp_path / "all" / "root" / "a", 2)
    write_pictures(tmp_path / "all" / "b", 3)
    (tmp_path / "all" / "root" / "out").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "root" / "beside").symlink_to(tmp_path / "all" / "b")
    found = find_pictures(tmp_path / "all" / "root")
    assert len(found.files) == 5
    assert found.left_out["links to folders that are there already"] == 1


def test_two_links_to_a_picture_are_one_picture(tmp_path) -> None:
    write_pictures(tmp_path / "store", 2)
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "same.png").symlink_to(tmp_path / "store" / "000.png")
    found = find_pictures(tmp_path / "root")
    assert [path.parent.name for path in found.files] == ["a"]
    assert found.left_out["links to pictures that are there already"] == 1


def test_pictures_beside_halves_are_refused(tmp_path) -> None:
    write_pictures(tmp_path / "Train", 12)
    write_pictures(tmp_path, 1)
    with pytest.raises(UserError, match=r"beside Train/, .* it holds 000\.png"):
        load(tmp_path)


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_names_that_are_no_text_are_shown_escaped(tmp_path, memory_mb: int) -> None:
    write_pictures(tmp_path, 12)
    for name in (b"odd\xff\n.png", b"broken\xff.png"):
        (tmp_path / "000.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        write_pictures(tmp_path, 1)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/broken\xff.png")).write_text("no picture")
    with pytest.raises(UserError, match=r"broken\\udcff\.png: not a picture"):
        load(tmp_path, memory_mb=memory_mb, strict=True)
    data = load(tmp_path, memory_mb=memory_mb)
    assert any("broken\\udcff.png" in note for note in data.notes)
    assert all(data.fingerprints().values())
    "".join(data.notes).encode()


def test_links_to_nothing_and_pipes_are_named(tmp_path) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    unreadable = dict(find_pictures(tmp_path).unreadable)
    assert unreadable[str(tmp_path / "gone.png")] == "a link to nothing"
    assert unreadable[str(tmp_path / "pipe.png")] == "not a file"


@needs_rights
def test_folders_that_cannot_be_read_are_named(tmp_path) -> None:
    write_pictures(tmp_path / "closed", 2)
    write_pictures(tmp_path / "open", 12)
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(UserError, match=r"closed: Permission denied"):
            load(tmp_path, strict=True)
        assert any("closed" in note for note in load(tmp_path).notes)
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_an_error_of_the_walk_is_not_swallowed(tmp_path, monkeypatch) -> None:
    """As above, for those who run the tests as the administrator."""
    write_pictures(tmp_path / "closed", 2)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find_pictures(tmp_path).unreadable == [(str(tmp_path / "closed"), "Permission denied")]


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Train", "Valid", "Test"), ("training", "VALIDATION", "testing")],
)
def test_halves_are_known_by_their_usual_names(tmp_path, names: tuple[str, ...]) -> None:
    for name, count in zip(names, (10, 3, 4), strict=True):
        write_pictures(tmp_path / name / "class", count)
    splits = load(tmp_path)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [10, 3, 4]


def test_two_names_for_one_half_are_refused(tmp_path) -> None:
    for name in ("train", "val", "valid"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"holds val and valid, which mean the same"):
        part_folders(tmp_path)


def test_folders_of_runs_are_left_out(tmp_path) -> None:
    write_pictures(tmp_path / "a", 3)
    write_pictures(tmp_path / "outputs" / "run", 2)
    (tmp_path / "outputs" / "run" / ".hydra").mkdir()
    write_pictures(tmp_path / "other", 1)
    (tmp_path / "other" / "best.safetensors").touch()
    (tmp_path / ".hydra").mkdir()  # a run in the root itself
    Image.new("L", (4, 4)).save(tmp_path / "reconstructions.png")
    found = find_pictures(tmp_path)
    assert [path.parent.name for path in found.files] == ["a"] * 3
    assert found.left_out["folders of runs"] == 2
    assert found.left_out["pictures of a run"] == 1


def test_many_loose_pictures_make_a_short_message(tmp_path) -> None:
    write_pictures(tmp_path / "train", 1)
    write_pictures(tmp_path, 50)
    with pytest.raises(UserError, match=r"it holds 000.png, .*004.png and 45 more") as error:
        load(tmp_path)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("normal", [[3], [2]])
def test_folders_are_no_numbers(tmp_path, normal: list) -> None:
    for name in ("01", "02", "03", "2"):
        write_pictures(tmp_path / name, 12)
    if normal == [3]:
        with pytest.raises(
            UserError, match=r"dataset.normal: \[3\] is not a list of classes among 01"
        ):
            load(tmp_path, normal=normal, holdout=0.3)
        return
    data = load(tmp_path, normal=normal, holdout=0.3)
    assert set(data.train.labels) == {3}
    assert "normal, and trained on: 2" in data.notes


def test_streamed_files_that_were_replaced_are_noticed(tmp_path) -> None:
    for index in range(12):
        Image.new("L", (8, 8), 200).save(tmp_path / f"{index:02}.bmp")
    before = load(tmp_path, memory_mb=0).fingerprints()
    assert load(tmp_path, memory_mb=0).fingerprints() == before
    Image.new("L", (8, 8), 100).save(tmp_path / "05.bmp")  # of the same size
    assert load(tmp_path, memory_mb=0).fingerprints() != before


def test_workers_leave_signals_to_the_run(tmp_path) -> None:
    write_pictures(tmp_path, 12)
    script = f"""
import os, signal
from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
data = load_dataset(DatasetConfig("ImageFolder", {str(tmp_path)!r}, memory_mb=0, workers=1))
signal.signal(signal.SIGTERM, lambda *_: print("received", flush=True))
batches = data.train.batches(1)
next(batches)
os.killpg(os.getpgid(0), signal.SIGTERM)
print(1 + sum(len(batch) for batch in batches), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True
    )
    assert done.stdout.split() == ["received", "10"], done.stderr


def test_valid_and_invalid_may_be_classes(tmp_path) -> None:
    for name in ("valid", "invalid"):
        write_pictures(tmp_path / name, 12)
    assert load(tmp_path).classes == ("invalid", "valid")


def test_test_images_without_training_images_are_no_class(tmp_path) -> None:
    for name in ("test", "val"):
        write_pictures(tmp_path / name, 12)
    with pytest.raises(UserError, match=r"holds test/ and val/, but no train/"):
        load(tmp_path)


def test_pictures_linked_into_two_halves_are_refused(tmp_path) -> None:
    write_pictures(tmp_path / "train", 12)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "same.png").symlink_to(tmp_path / "train" / "003.png")
    with pytest.raises(
        UserError, match=r"links put 1 picture, such as .*003\.png.*train and the test"
    ):
        load(tmp_path)


def test_what_was_found_and_left_out_is_reported(tmp_path) -> None:
    write_pictures(tmp_path / "cats", 12)
    write_pictures(tmp_path / "dogs", 8)
    (tmp_path / "birds").mkdir()
    (tmp_path / "cats" / "list.csv").write_text("")
    assert load(tmp_path).notes == (
        f"{tmp_path}: 20 picture files in 2 classes: cats 12, dogs 8",
        "without pictures: birds",
        "left out: files ending in .csv (1)",
        "21 files: 20 read as pictures, 1 left out as something else",
    )


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_conversions_are_reported_summed_up(tmp_path, memory_mb: int) -> None:
    for index in range(12):
        Image.new("L", (10 + index, 10), index).save(tmp_path / f"{index:02}.png")
    Image.new("RGBA", (10, 10), (9, 9, 200, 100)).save(tmp_path / "zz.png")
    notes = load(tmp_path, image_size=8, memory_mb=memory_mb).notes
    assert "1 picture in colour, 12 in grey: all are read in colour" in notes[1]
    assert "of mode L converted to colour: 12" in notes
    assert "scaled to 8x8 pixels: 13" in notes
    assert "with transparent parts, put on white: 1" in notes
    assert any(
        note.startswith("cropped") and note.endswith("52% of a picture: 11") for note in notes
    )


def test_the_range_of_16_bits_is_the_datasets(tmp_path) -> None:
    for index in range(20):
        level = np.full((8, 8), 200 * index, np.uint16)
        Image.fromarray(level).save(tmp_path / f"{index:02}.png")
    data = load(tmp_path)
    assert data.how is not None
    assert data.how.white == 4095
    assert any("brightest value of 16 bits is 3,800: white is 4,095" in note for note in data.notes)
    levels = np.concatenate([pixels_of(s) for s in (data.train, data.validation, data.test)])
    assert levels.max() == round(3800 / 4095 * 255)


@pytest.mark.parametrize(("largest", "white"), [(1.0, 1.0), (38.0, 38.0)])
def test_the_range_of_floats_is_the_datasets(tmp_path, largest: float, white: float) -> None:
    for index in range(20):
        level = np.full((8, 8), largest * index / 19, np.float32)
        Image.fromarray(level).save(tmp_path / f"{index:02}.tif")
    data = load(tmp_path)
    assert data.how is not None
    assert data.how.levels == (0.0, white)
    assert any(f"0 is black, {white:g} is white" in note for note in data.notes)
    found = [pixels_of(s).max(axis=(1, 2, 3)) for s in (data.train, data.validation, data.test)]
    expected = np.rint(np.arange(20) / 19 * 255)
    assert sorted(np.concatenate(found).tolist()) == expected.tolist()


@pytest.fixture
def partly_broken(tmp_path) -> Path:
    write_pictures(tmp_path / "a", 20)
    for name in ("003", "017"):
        damaged = tmp_path / "a" / f"{name}.png"
        damaged.write_bytes(damaged.read_bytes()[:40])
    (tmp_path / "a" / "wrong.dds").write_bytes(
        b"DDS " + (124).to_bytes(4, "little") + b"\x07" * 120
    )
    return tmp_path


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_all_broken_pictures_are_listed_before_training(partly_broken, memory_mb: int) -> None:
    with pytest.raises(UserError) as error:
        load(partly_broken, memory_mb=memory_mb, strict=True)
    for part in (
        "3 images cannot",
        "003.png: ",
        "017.png: ",
        "wrong.dds: ",
        "dataset.strict=false",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_broken_pictures_are_skipped(partly_broken, memory_mb: int) -> None:
    data = load(partly_broken, memory_mb=memory_mb)
    assert isinstance(data.train, InMemory if memory_mb else Streamed)
    levels = np.concatenate([pixels_of(s) for s in (data.train, data.validation, data.test)])
    assert sorted(levels[:, 0, 0, 0]) == [5 * n for n in range(20) if n not in (3, 17)]
    assert sum("skipped, as it cannot be read: " in note for note in data.notes) == 3
    assert data.notes[-1] == "21 files: 18 read as pictures, 3 that cannot be read"


def test_streams_can_go_unchecked(partly_broken) -> None:
    data = load(partly_broken, memory_mb=0, check=False)
    parts = (data.train, data.validation, data.test)
    assert data.notes[-1] == "21 files: 21 taken for pictures"
    with pytest.raises(UserError, match=r"image .* cannot be read .*; repair or remove"):
        [pixels_of(split) for split in parts]
    with pytest.raises(UserError, match=r"dataset.strict: .* dataset.check=true"):
        DatasetConfig(strict=True, check=False)


def test_a_dataset_of_broken_pictures_only_says_so(tmp_path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match="none of the training examples can be read"):
        load(tmp_path)


@pytest.fixture
def any_state(tmp_path) -> Path:
    """A folder as people have them, of 31 files and a link to itself."""
    root = tmp_path / "parts"
    rng = np.random.default_rng(0)

    def picture(name: str, mode: str = "RGB", size: tuple[int, int] = (20, 16), **how: Any) -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).convert(mode).save(path, **how)
        return path

    for n in range(12):
        picture(f"a/deep/er/{n}.png")
    for name in ("LOUD.JPG", "b/Mixed.Png", "b/gr\u00f6\u00dfe, \u732b.png", "b/a,b;c.jpeg"):
        picture(name)
    picture("b/print.jpg", "CMYK")
    picture("b/dot.png", size=(1, 1))
    picture("b/wide.png", size=(8000, 500))
    frames = [Image.new("P", (9, 9), n) for n in range(3)]
    frames[0].save(root / "b/moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(root / "b/deep.png")
    (root / "empty" / "nothing").mkdir(parents=True)
    cut = picture("b/cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-200])
    (root / "b/zero.jpg").write_bytes(b"")
    (root / "b/text.png").write_text("no picture")
    (root / "b/notes.txt").write_text("notes")
    for name in (".DS_Store", "a/._1.png", "Thumbs.db"):
        (root / name).write_bytes(b"hidden")
    picture(".ipynb_checkpoints/1-checkpoint.png")
    picture("__MACOSX/2.png")
    (root / "a" / "loop").symlink_to(root)
    return root


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_a_folder_in_any_state_is_read_and_accounted_for(any_state, memory_mb: int) -> None:
    data = load(any_state, image_size=16, memory_mb=memory_mb, holdout=0.2)
    images = np.concatenate([pixels_of(s) for s in (data.train, data.validation, data.test)])
    assert images.shape == (21, 3, 16, 16)
    assert data.notes[-1] == (
        "28 files: 21 read as pictures, 3 that cannot be read, 4 left out as something else"
    )
    broken = [note for note in data.notes if note.startswith("skipped, as it cannot be read: ")]
    assert [Path(note.split(": ")[1].split(" (")[0]).name for note in broken] == [
        "cut.jpg", "text.png", "zero.jpg",
    ]  # fmt: skip
    (left_out,) = (note for note in data.notes if note.startswith("left out: "))
    assert "hidden folders or by-products of systems (2)" in left_out
    assert "links to folders that are there already (1)" in left_out


def test_a_folder_in_any_state_trains(any_state, tmp_path) -> None:
    given = ["dataset=imagefolder", f"dataset.root={any_state}", "dataset.image_size=[12,16]"]
    given += ["dataset.fit=pad", "dataset.holdout=0.2", "trainer.epochs=1", "dataset.workers=0"]
    result = convae.train([*given, f"hydra.run.dir={tmp_path / 'run'}"])
    assert result.figures["test_mse"] < 0.5
    assert "28 files: 21 read as pictures" in (tmp_path / "run" / "train.log").read_text()
