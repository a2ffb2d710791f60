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


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(
    tmp_path, arrays, monkeypatch
) -> None:
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, arrays, {})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
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


def test_foreign_and_missing_files_are_refused(tmp_path, arrays) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": arrays["a"]}, path)
    with pytest.raises(ValueError, match="convae did not write it"):
        convae.load(path)
    checkpoint.write(path, arrays, {"something": "else"})
    with pytest.raises(ValueError, match="holds no model"):
        convae.load(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        convae.load(tmp_path)


def test_arrays_that_do_not_fit_their_model_are_refused(tmp_path) -> None:
    model = convae.Autoencoder((1, 8, 8), [convae.Layer(2, 3)])
    path = tmp_path / "model.safetensors"
    arrays = {name: array[:1] for name, array in model.parameters.items()}
    checkpoint.write(path, arrays, {"model": model.configuration()})
    with pytest.raises(ValueError, match="arrays do not fit the model"):
        convae.load(path)
