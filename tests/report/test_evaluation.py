"""Errors and baselines against sums written out in the test."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae import engine
from convae.data.corruption import Corruption, Use
from convae.data.pictures import to_floats
from convae.data.splits import InMemory
from convae.report.evaluation import mean_image_error, measure, pca_error


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


def test_mean_image(splits) -> None:
    train, test = splits
    mean = (train.pixels / 255).mean(axis=0)
    expected = ((test.pixels / 255 - mean) ** 2).mean()
    assert mean_image_error(train, test) == pytest.approx(expected)


@pytest.mark.parametrize("components", [1, 5, 15])
def test_pca_is_the_projection_on_the_leading_directions(splits, components: int) -> None:
    rows, test = (split.pixels.reshape(len(split), -1) / 255 for split in splits)
    mean = rows.mean(axis=0)
    directions = np.linalg.svd(rows - mean)[2][:components]
    kept = (test - mean) @ directions.T @ directions + mean
    assert pca_error(*splits, components) == pytest.approx(((kept - test) ** 2).mean(), rel=1e-3)


def test_pca_with_a_component_for_every_pixel_loses_nothing(splits) -> None:
    assert pca_error(*splits, 16) == 0


def test_errors_are_against_the_clean_images(rng) -> None:
    split = InMemory(rng.integers(0, 256, (30, 1, 6, 6), dtype=np.uint8))
    corruption = Corruption("masking", 0.5)
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)])
    x = to_floats(split.pixels, engine.backend_for("cpu"), "float32")
    noisy = corruption(x, Use.TEST, 0)
    errors = measure(model, split, 30, Use.TEST, corruption)
    assert errors.input_mse == pytest.approx(((noisy - x) ** 2).mean(), rel=1e-5)
    assert errors.mse == pytest.approx(((model.reconstruct(noisy) - x) ** 2).mean(), rel=1e-5)
    assert pca_error(split, split, 36, corruption) == pytest.approx(errors.input_mse, rel=1e-5)
