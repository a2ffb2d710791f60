"""Noise: its distribution, its repeatability, and what it leaves alone."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

import convae
from convae import engine
from convae.data.corruption import CORRUPTIONS, Corruption, Use
from convae.data.splits import InMemory, to_floats
from convae.report.evaluation import measure, pca_error


@pytest.fixture
def grey(xp: ModuleType):
    """A batch of mid-grey images in the memory order of training."""
    return to_floats(np.full((50, 3, 20, 20), 128, np.uint8), xp, "float32")


def test_gaussian_noise_has_its_deviation_and_stays_in_range(grey) -> None:
    small = engine.to_numpy(Corruption("gaussian", 0.1)(grey, Use.TEST, 0)) - 128 / 255
    assert small.std() == pytest.approx(0.1, rel=0.02)
    assert abs(small.mean()) < 0.002
    large = engine.to_numpy(Corruption("gaussian", 5)(grey, Use.TEST, 0))
    assert large.min() == 0
    assert large.max() == 1


def test_masking_and_salt_and_pepper_replace_their_fraction(grey) -> None:
    masked = engine.to_numpy(Corruption("masking", 0.3)(grey, Use.TEST, 0))
    assert (masked == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert set(np.unique(masked)) == {np.float32(0), engine.to_numpy(grey).max()}
    mixed = engine.to_numpy(Corruption("salt_and_pepper", 0.4)(grey, Use.TEST, 0))
    assert (mixed == 0).mean() == pytest.approx(0.2, abs=0.01)
    assert (mixed == 1).mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "none"])
def test_noise_depends_on_seed_use_and_index_alone(grey, name: str) -> None:
    before = grey.copy()
    corruption = Corruption(name, 0.5, seed=1)
    noisy = corruption(grey, Use.TRAINING, 7)
    assert noisy.dtype == grey.dtype
    assert noisy.strides == grey.strides
    assert (grey == before).all()
    assert (corruption(grey, Use.TRAINING, 7) == noisy).all()
    for other in (
        corruption(grey, Use.TRAINING, 8),
        corruption(grey, Use.TEST, 7),
        Corruption(name, 0.5, seed=2)(grey, Use.TRAINING, 7),
    ):
        assert (other != noisy).any()


def test_no_corruption_is_the_image_itself(grey) -> None:
    assert Corruption()(grey, Use.TEST, 0) is grey
    assert Corruption("gaussian", 0)(grey, Use.TEST, 0) is grey
    assert not Corruption("masking", 0)


@pytest.mark.parametrize(
    ("name", "amount", "says"),
    [
        ("salt", 0.1, "corruption.name: 'salt' is unknown; use one of none, gaussian"),
        ("masking", 1.1, "corruption.amount: 1.1 .*fraction of the values, from 0 to 1"),
        ("gaussian", -1, "corruption.amount: -1 .*standard deviation"),
        ("none", 0.5, "corruption.amount: 0.5 .*nothing"),
        ("gaussian", float("nan"), "corruption.amount: nan"),
    ],
)
def test_bad_values_are_refused_by_name(name: str, amount: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Corruption(name, amount)


def test_errors_are_against_the_clean_images(rng) -> None:
    split = InMemory(rng.integers(0, 256, (30, 1, 6, 6), dtype=np.uint8))
    corruption = Corruption("masking", 0.5)
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)])
    x = to_floats(split.pixels, np, "float32")
    noisy = corruption(x, Use.TEST, 0)
    errors = measure(model, split, 30, Use.TEST, corruption)
    assert errors.input_mse == pytest.approx(((noisy - x) ** 2).mean(), rel=1e-5)
    assert errors.mse == pytest.approx(((model.reconstruct(noisy) - x) ** 2).mean(), rel=1e-5)
    assert pca_error(split, split, 36, corruption) == pytest.approx(errors.input_mse, rel=1e-5)
