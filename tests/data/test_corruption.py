"""Noise: its distribution, its repeatability, and what it leaves alone."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from convae import engine
from convae.data.corruption import CORRUPTIONS, Corruption, Use
from convae.data.pictures import to_floats
from tests.helpers import device_of


@pytest.fixture
def grey(xp: ModuleType):
    """A batch of mid-grey images in the memory order of training."""
    return to_floats(
        np.full((50, 3, 20, 20), 128, np.uint8), engine.backend_for(device_of(xp)), "float32"
    )


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
        ("salt", 0.1, "corruption.name: 'salt' is unknown; expected one of none, gaussian"),
        ("masking", 1.1, "corruption.amount of 'masking': 1.1 is out of range; .* at most 1"),
        ("gaussian", -1, "corruption.amount of 'gaussian': -1 is out of range; .* at least 0"),
        ("none", 0.5, "corruption.amount: 0.5, but there is no noise; choose"),
        ("gaussian", float("nan"), "corruption.amount of 'gaussian': nan"),
    ],
)
def test_bad_values_are_refused_by_name(name: str, amount: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Corruption(name, amount)
