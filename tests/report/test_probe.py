"""Probes: codes, PCA and pixels of the same images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import convae
from convae.data.splits import InMemory, Splits
from convae.report.probe import compare_features, encode_all


@pytest.fixture
def stripes() -> Splits:
    """Two classes that one pixel tells apart."""
    rng = np.random.default_rng(0)

    def split(count: int) -> InMemory:
        labels = np.arange(count) % 2
        pixels = rng.integers(0, 40, (count, 1, 6, 6), dtype=np.uint8)
        pixels[:, 0, 2, 3] += (200 * labels).astype(np.uint8)
        return InMemory(pixels, labels)

    return Splits("stripes", split(60), split(10), split(20))


def test_codes_are_rows_of_numbers(stripes: Splits) -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3, stride=3)])
    x = (stripes.test.pixels / 255).astype("float32")
    expected = model.encode(x).reshape(20, -1)
    np.testing.assert_allclose(encode_all(model, stripes.test, 7), expected, rtol=1e-5)


def test_pixels_tell_the_classes_apart(stripes: Splits) -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, "input", activation="identity")])
    K = model.parameters["0.kernel"]
    K[...] = 0
    K[0, 0, 2, 3] = 1  # the code is the pixel itself
    found = {accuracy.features: accuracy for accuracy in compare_features(model, stripes, 50)}
    numbers = {name: accuracy.numbers for name, accuracy in found.items()}
    assert numbers == {"codes": 2, "PCA": 2, "pixels": 36}
    assert found["codes"].linear == found["codes"].neighbours == 1
    assert all(accuracy.linear > 0.8 for accuracy in found.values())
    assert all(accuracy.neighbours > 0.8 for accuracy in found.values())
    K[...] = 0  # the code is nothing
    first = next(compare_features(model, stripes, 50))
    assert first.linear == first.neighbours == 0.5


def test_neighbours_see_features_in_their_own_scale(stripes: Splits) -> None:
    """One pixel tells the classes apart; standardised, the noise of 35 others would hide it."""
    rng = np.random.default_rng(1)

    def split(count: int) -> InMemory:
        labels = np.arange(count) % 2
        pixels = rng.integers(0, 6, (count, 1, 6, 6), dtype=np.uint8)
        pixels[:, 0, 0, 0] += (40 * labels).astype(np.uint8)
        return InMemory(pixels, labels)

    data = Splits("faint", split(40), split(10), split(100))
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, "input")])
    found = {accuracy.features: accuracy for accuracy in compare_features(model, data, 40)}
    assert found["pixels"].neighbours == 1


def test_what_cannot_be_classified_is_refused(stripes: Splits) -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)])
    unlabelled = replace(stripes, test=InMemory(stripes.test.pixels))
    with pytest.raises(ValueError, match="stripes has no labels"):
        next(compare_features(model, unlabelled, 50))
    other = convae.Autoencoder((1, 8, 8), [convae.Layer(2, 3)])
    with pytest.raises(ValueError, match=r"\(1, 6, 6\), the model's \(1, 8, 8\)"):
        next(compare_features(other, stripes, 50))
