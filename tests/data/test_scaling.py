"""Scaling: arrays become examples, and come back in their own units."""

from __future__ import annotations

import json

import numpy as np
import pytest

import convae
from convae import Scaling
from convae.errors import UserError


@pytest.fixture
def model() -> convae.Autoencoder:
    return convae.Autoencoder((2, 9), [convae.Layer(filters=2, kernel=3)])


HOW = Scaling("NLC", "range", (1.0, -4.0), (2.0, 0.5))


def test_channels_are_scaled_each_by_its_own(rng) -> None:
    values = rng.random((3, 9, 2))
    x = HOW(values)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:, 0], (values[:, :, 0] - 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(x[:, 1], (values[:, :, 1] + 4) / 0.5, rtol=1e-6)
    np.testing.assert_allclose(HOW.undo(x), values, atol=1e-6)
    np.testing.assert_array_equal(HOW(values[1]), x[1:2])  # one example, without N


def test_large_values_keep_their_differences() -> None:
    values = 1e9 + np.arange(8.0)[None]
    x = Scaling("NL", "range", (1e9,), (7.0,))(values)
    np.testing.assert_allclose(x[0, 0], np.arange(8) / 7, rtol=1e-6)


def test_integers_do_not_wrap_around() -> None:
    x = Scaling("NL", "range", (0.0,), (255.0,))(np.array([[0, 255]], np.uint8))
    assert x.tolist() == [[[0, 1]]]
    x = Scaling("NL", "range", (100.0,), (1.0,))(np.array([[0, 200]], np.uint8))
    assert x.tolist() == [[[-100, 100]]]


@pytest.mark.parametrize("shape", [(9,), (3, 9, 2, 2), (3, 9, 3)])
def test_arrays_of_another_shape_are_refused(shape) -> None:
    with pytest.raises(UserError, match="array: its shape"):
        HOW(np.zeros(shape))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"layout": "LNC"}, "layout"),
        ({"kind": "none"}, "kind"),
        ({"offset": [float("nan"), 0]}, "offset"),
        ({"offset": 3}, "offset"),
        ({"offset": []}, "offset, spread: 0 and 2"),
        ({"spread": [1.0]}, "offset, spread: 2 and 1"),
        ({"spread": [1.0, 0.0]}, "spread"),
        ({"spread": [1.0, float("inf")]}, "spread"),
        ({"spread": "ab"}, "spread"),
    ],
)
def test_wrong_rules_are_refused(wrong: dict, name: str) -> None:
    with pytest.raises(UserError, match=name):
        Scaling(**{**HOW.plain(), **wrong})


def test_a_models_file_keeps_it(model, tmp_path) -> None:
    model.metadata["arrays"] = json.loads(json.dumps(HOW.plain()))
    model.save(tmp_path / "model.safetensors")
    assert Scaling.of_model(convae.load(tmp_path / "model.safetensors")) == HOW


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (None, "no run has trained it on arrays"),
        ({**HOW.plain(), "offset": [0.0], "spread": [1.0]}, "wrongly: 1 channels"),
        ({**HOW.plain(), "layout": "NHWC"}, "wrongly: layout NHWC"),
        ({**HOW.plain(), "tile": [5]}, r"wrongly: windows of \(5,\)"),
        ({**HOW.plain(), "tile": 0}, "wrongly: tile: 0"),
        ({**HOW.plain(), "kind": 1}, "wrongly: kind"),
        ({"kind": "range"}, "wrongly"),
        ([1, 2], "wrongly"),
    ],
)
def test_what_a_models_file_says_is_checked(model, known, message: str) -> None:
    if known is not None:
        model.metadata["arrays"] = known
    with pytest.raises(UserError, match=message):
        Scaling.of_model(model)
