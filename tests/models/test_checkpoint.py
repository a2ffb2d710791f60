"""Files on disk: written whole or not at all, and refused clearly when they are not ours."""

from __future__ import annotations

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

import convae
from convae.models import checkpoint


@pytest.fixture
def arrays(rng) -> dict[str, np.ndarray]:
    return {"a": rng.random((3, 2)), "b": rng.random(4).astype("float32")[::2]}


def test_what_is_written_is_read(tmp_path, arrays) -> None:
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, arrays, {"x": [1, None, "é"]})
    read, description = checkpoint.read(path)
    assert description == {"x": [1, None, "é"]}
    assert read.keys() == arrays.keys()
    assert all((read[name] == arrays[name]).all() for name in arrays)
    assert not os.stat(path).st_mode & 0o111


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path, arrays, request) -> None:
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, arrays, {})
    before = path.read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, {"a": arrays["a"] + 1}, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def damaged(kind: str, content: bytes) -> bytes:
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "header flipped": content[:9] + bytes([content[9] ^ 255]) + content[10:],
        "text": b"hello",
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "truncated", "header flipped", "text"])
def test_damaged_files_are_refused(tmp_path, kind: str) -> None:
    model = convae.Autoencoder((1, 8, 8), [convae.Layer(2, 3)])
    path = tmp_path / "model.safetensors"
    model.save(path)
    path.write_bytes(damaged(kind, path.read_bytes()))
    with pytest.raises(ValueError, match=r"path: .*damaged or no safetensors file"):
        convae.load(path)


def test_files_of_others_are_refused(tmp_path, arrays) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": arrays["a"]}, path)
    with pytest.raises(ValueError, match="convae did not write it"):
        checkpoint.read(path)


@pytest.mark.parametrize("what", ["array", "description"])
def test_changed_bytes_are_noticed(tmp_path, arrays, what: str) -> None:
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, arrays, {"word": "seven"})
    content = path.read_bytes()
    changed = content[:-1] + bytes([content[-1] ^ 1])
    if what == "description":
        changed = content.replace(b"seven", b"eleve")
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"damaged .*digest"):
        checkpoint.read(path)


def test_equal_contents_have_equal_files(tmp_path, arrays) -> None:
    for name in ("one", "two"):
        checkpoint.write(tmp_path / name, arrays, {"x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
