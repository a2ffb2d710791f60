"""Errors against sums written out in the test."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae import engine
from convae.data.corruption import Corruption, Use
from convae.data.pictures import to_floats
from convae.data.splits import InMemory
from convae.report.evaluation import measure, measure_quality


@pytest.fixture
def splits(rng) -> tuple[InMemory, InMemory]:
    return tuple(
        InMemory(rng.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)) for count in (50, 13)
    )


def test_errors_weigh_every_image_alike(splits) -> None:
    model = convae.Autoencoder((1, 4, 4), [convae.Layer(2, 3)], loss="bce", dtype="float64")
    x = splits[1].pixels / 255
    R = model.reconstruct(x)
    errors = measure(model, splits[1], batch_size=5)
    assert errors.input_mse == 0
    assert errors.mse == pytest.approx(((R - x) ** 2).mean())
    assert errors.loss == pytest.approx(-(x * np.log(R) + (1 - x) * np.log(1 - R)).mean())


def test_errors_are_against_the_clean_images(rng) -> None:
    split = InMemory(rng.integers(0, 256, (30, 1, 6, 6), dtype=np.uint8))
    corruption = Corruption("masking", 0.5)
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)])
    x = to_floats(split.pixels, engine.backend_for("cpu"), "float32")
    noisy = corruption(x, Use.TEST, 0)
    errors = measure(model, split, 30, Use.TEST, corruption)
    assert errors.input_mse == pytest.approx(((noisy - x) ** 2).mean(), rel=1e-5)
    assert errors.mse == pytest.approx(((model.reconstruct(noisy) - x) ** 2).mean(), rel=1e-5)
    measured = measure_quality(model, split, 30, Use.TEST, corruption)
    assert measured["test_mse"] == pytest.approx(errors.mse)
    assert measured["test_loss"] == pytest.approx(errors.loss)
    assert measured["input_mse"] == pytest.approx(errors.input_mse)
    decibels = -10 * np.log10(((noisy - x) ** 2).mean(axis=(1, 2, 3)))
    assert measured["input_psnr"] == pytest.approx(decibels.mean(), rel=1e-5)


def test_without_noise_the_input_has_no_quality_of_its_own(splits) -> None:
    model = convae.Autoencoder((1, 4, 4), [convae.Layer(2, 3)])
    measured = measure_quality(model, splits[1], batch_size=5)
    assert set(measured) == {"test_loss", "test_mse", "test_psnr", "test_ssim", "input_mse"}
    assert measured["input_mse"] == 0
