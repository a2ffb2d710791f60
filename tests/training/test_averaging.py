"""The moving average of the parameters, against its own formula."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae.training.averaging import MovingAverage


def test_the_average_follows_its_formula(rng) -> None:
    model = convae.Autoencoder((1, 4, 4), [convae.Layer(2, 3)], dtype="float64")
    average = MovingAverage(model, 0.9)
    expected = model.flat_parameters.copy()
    for step in range(1, 200):
        model.flat_parameters[...] = rng.standard_normal(model.flat_parameters.size)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.flat_parameters
    np.testing.assert_allclose(average.parameters, expected, rtol=1e-12)


def test_the_model_borrows_the_average_and_gets_its_own_parameters_back() -> None:
    model = convae.Autoencoder((1, 4, 4), [convae.Layer(2, 3)])
    average = MovingAverage(model, 0.9)
    average.parameters[...] = 7
    own = model.flat_parameters.copy()
    with average.in_place():
        assert (model.parameters["0.kernel"] == 7).all()
    assert (model.flat_parameters == own).all()


@pytest.mark.parametrize("decay", [0, 1, -0.5])
def test_decays_that_average_nothing_are_refused(decay: float) -> None:
    model = convae.Autoencoder((1, 4, 4), [convae.Layer(2, 3)])
    expected = f"decay: {decay} is out of range; expected a number over 0 and below 1"
    with pytest.raises(ValueError, match=expected):
        MovingAverage(model, decay)
