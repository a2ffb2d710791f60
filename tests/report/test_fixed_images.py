"""The test images that a run shows again and again."""

from __future__ import annotations

import numpy as np

import convae
from convae.data.corruption import Corruption
from convae.report.fixed_images import FixedImages


def test_they_are_the_first_test_images(noise) -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)])
    x, given = FixedImages(noise.test, 3, Corruption()).images(model)
    np.testing.assert_allclose(x, noise.test.pixels[:3] / np.float32(255), rtol=1e-6)
    assert given is None


def test_their_noise_is_the_same_every_time(noise) -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)])
    fixed = FixedImages(noise.test, 3, Corruption("masking", 0.5))
    x, given = fixed.images(model)
    assert (given != x).any()
    assert all((a == b).all() for a, b in zip(fixed.images(model), (x, given), strict=True))
