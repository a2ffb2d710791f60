"""Files are written whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convae.files import atomic, write_bytes


@pytest.fixture
def earlier(tmp_path) -> Path:
    path = tmp_path / "file.bin"
    write_bytes(path, b"earlier")
    return path


def test_a_file_appears_when_it_is_complete(tmp_path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic(path) as file:
        file.write(b"half ")
        assert not path.exists()
        file.write(b"whole")
    assert path.read_bytes() == b"half whole"
    assert os.listdir(path.parent) == ["file.bin"]


def test_an_earlier_file_is_replaced_at_the_end(earlier: Path) -> None:
    with atomic(earlier) as file:
        file.write(b"later")
        file.flush()
        assert earlier.read_bytes() == b"earlier"
    assert earlier.read_bytes() == b"later"


def write_half(path: Path, error: BaseException) -> None:
    with atomic(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_earlier_file_and_nothing_else(earlier: Path, kind: type) -> None:
    with pytest.raises(kind, match="in between"):
        write_half(earlier, kind("in between"))
    assert earlier.read_bytes() == b"earlier"
    assert os.listdir(earlier.parent) == [earlier.name]


def test_an_error_leaves_nothing_where_there_was_nothing(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "file.bin", ZeroDivisionError())
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named_by_its_file(earlier: Path, full_disk) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(earlier, b"later")
    assert caught.value.filename == str(earlier)
    assert earlier.read_bytes() == b"earlier"
    assert os.listdir(earlier.parent) == [earlier.name]


def test_a_file_that_cannot_be_renamed_leaves_nothing(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_bytes(tmp_path / "folder", b"content")
    assert os.listdir(tmp_path) == ["folder"]


def test_permissions_follow_the_umask(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file.bin", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file.bin").stat().st_mode & 0o777 == 0o640


def test_files_can_be_read_back_and_sought_while_they_are_written(tmp_path) -> None:
    with atomic(tmp_path / "file.bin") as file:
        file.write(b"0123")
        file.seek(1)
        assert file.read(2) == b"12"
