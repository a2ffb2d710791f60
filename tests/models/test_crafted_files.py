"""Damaged and crafted model files: an error that names the file, before anything big is made."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest

import convae
from convae.errors import UserError
from convae.models import checkpoint


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    convae.Autoencoder((1, 8, 8), [convae.Layer(3, 3, stride=2), convae.Layer(2, "input")]).save(
        path
    )
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [{"filters": 10**9, "kernel": 3}]},
        {"layers": [{"filters": 10**9, "kernel": 3}, {"filters": 10**9, "kernel": "input"}]},
        {"layers": 5},
        {"layers": [7]},
        {"layers": [{"filters": 3, "kernel": 3, "from_the_future": True}]},
        {"layers": None},
        {"input_shape": "large"},
        {"input_shape": [1, 10**12]},
        {"output_activation": 3},
        {"dtype": "float128"},
        {"seed": -1},
        {"further": 1},
    ],
    ids=str,
)
def test_crafted_descriptions_are_refused(saved, change: dict) -> None:
    arrays, description = checkpoint.read(saved)
    checkpoint.write(saved, arrays, {"model": {**description["model"], **change}})
    with pytest.raises(UserError, match=r"damaged|dtype|seed|input_shape"):
        convae.load(saved)


@pytest.mark.parametrize("field", ["layers", "input_shape", "output_activation"])
def test_missing_fields_are_refused(saved, field: str) -> None:
    arrays, description = checkpoint.read(saved)
    model = copy.deepcopy(description["model"])
    del model[field]
    checkpoint.write(saved, arrays, {"model": model})
    with pytest.raises(UserError, match=f"damaged.*{field}"):
        convae.load(saved)


@pytest.mark.slow
def test_300_damaged_files_are_refused_or_right(saved) -> None:
    """Bits flipped, bytes cut, inserted or repeated: never another model, never a traceback."""
    content, expected = saved.read_bytes(), convae.load(saved).flat_parameters.copy()
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 5))):
            place = draw.randrange(len(damaged))
            kind = draw.choice(("flip", "cut", "insert", "repeat"))
            if kind == "flip":
                damaged[place] ^= 1 << draw.randrange(8)
            elif kind == "cut":
                del damaged[place : place + draw.randrange(1, 200)]
            elif kind == "insert":
                damaged[place:place] = draw.randbytes(draw.randrange(1, 50))
            else:
                damaged[place:place] = damaged[place : place + 64]
            if not damaged:
                break
        saved.write_bytes(bytes(damaged))
        try:
            found = convae.load(saved).flat_parameters
        except UserError as error:
            refused += str(saved) in str(error)
        else:
            np.testing.assert_array_equal(found, expected)
    assert refused > 290
