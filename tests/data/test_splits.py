"""Splits in batches, and pictures of any kind as pixels."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from convae import engine
from convae.data.pictures import Preprocessing, to_floats
from convae.data.splits import InMemory, Streamed, shuffled
from tests.helpers import device_of, pixels_of


def test_batches_hold_every_image_once(rng) -> None:
    split = InMemory(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1))
    batches = list(split.batches(4, shuffled(split, rng)))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    order = np.concatenate(batches).ravel().tolist()
    assert order != sorted(order)
    assert sorted(order) == list(range(10))


def test_batches_can_be_skipped(rng) -> None:
    """As a resumed epoch does: the order is that of the whole."""
    split = InMemory(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1))
    order = shuffled(split, rng)
    whole = list(split.batches(4, order))
    rest = list(split.batches(4, order, skip=1))
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[1:]]


def test_selected_images_keep_their_labels(rng) -> None:
    split = InMemory(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10) * 10)
    some = split.select(np.array([7, 2]))
    assert some.pixels.ravel().tolist() == [7, 2]
    assert some.labels.tolist() == [70, 20]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_streamed_images_are_those_of_the_dataset(rng, workers: int) -> None:
    pixels = rng.integers(0, 256, (10, 6, 5), dtype=np.uint8)
    dataset = [(Image.fromarray(image), 0) for image in pixels]
    chosen = np.array([3, 1, 4, 9, 5])
    split = Streamed(dataset, chosen, Preprocessing(channels=1), workers)
    assert split.shape == (1, 6, 5)
    assert (pixels_of(split)[:, 0] == pixels[chosen]).all()
    order = shuffled(split, rng)
    (_, last) = split.batches(3, order)
    assert (last[:, 0] == pixels[chosen][order[3:]]).all()
    assert (pixels_of(split.select(np.array([4])))[0, 0] == pixels[5]).all()


def test_to_floats_scales_and_puts_channels_innermost(xp: ModuleType, rng) -> None:
    batch = rng.integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    floats = to_floats(batch, engine.backend_for(device_of(xp)), "float64")
    assert isinstance(floats, xp.ndarray)
    np.testing.assert_allclose(engine.to_numpy(floats), batch / 255, rtol=1e-15)
    assert floats.transpose(0, 2, 3, 1).flags.c_contiguous


def test_to_floats_leaves_codes_as_they_are(rng) -> None:
    codes = rng.standard_normal((5, 3, 4, 6), dtype="float32")
    assert (to_floats(codes, engine.backend_for("cpu"), "float32") == codes).all()
