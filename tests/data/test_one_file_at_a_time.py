"""One picture, or one argument, that cannot be read does not keep the others from being read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convae.data.image_arguments import ImageArguments
from convae.data.pictures import Preprocessing
from tests.helpers import write_pictures

HOW = Preprocessing(3, (12, 12))


def names_read(images: ImageArguments) -> list[str]:
    return [name for names, _ in images.batches(4) for name in names]


@pytest.fixture
def good(tmp_path) -> list[str]:
    write_pictures(tmp_path / "good", 3)
    return sorted(str(path) for path in (tmp_path / "good").rglob("*.png"))


def test_errors_of_any_decoder_are_the_files_own(tmp_path, good) -> None:
    dds = tmp_path / "wrong.dds"
    dds.write_bytes(b"DDS " + (124).to_bytes(4, "little") + b"\x07" * 120)
    tiff = tmp_path / "pages.tiff"
    page = Image.fromarray(np.zeros((12, 12, 3), np.uint8))
    page.save(tiff, save_all=True, append_images=[page])
    tiff.write_bytes(tiff.read_bytes()[:-40])  # the second page's directory is cut
    images = ImageArguments([good[0], str(dds), good[1], str(tiff), good[2]], HOW, "data")
    read = names_read(images)
    assert [name for name in read if name in good] == good
    assert str(dds) in dict(images.unreadable)


@pytest.mark.parametrize("missing", ["gone.png", "n" * 5000 + ".png", "empty"])
def test_arguments_that_name_nothing_are_listed(tmp_path, good, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    argument = str(tmp_path / missing)
    images = ImageArguments([good[0], argument, good[1]], HOW, "data")
    assert names_read(images) == good[:2]
    assert [name for name, _ in images.unreadable] == [argument]
    with pytest.raises(OSError):  # noqa: PT011 - of whatever kind, if there is nothing else
        ImageArguments([argument], HOW, "data")
