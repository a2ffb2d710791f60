"""The checkerboard of a constant picture: found where it is planted, and only there."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae.models.initialisation import initialise
from convae.report.spectrum import checkerboard


def model_of(kernel: int, stride: int) -> convae.Autoencoder:
    layers = [convae.Layer(filters=1, kernel=kernel, stride=stride, activation="identity")]
    model = convae.Autoencoder((1, 16, 16), layers, "identity", dtype="float64")
    model.parameters["0.visible_bias"][...] = 0.5
    model.parameters["0.kernel"][...] = 0
    return model


def test_a_planted_checkerboard_has_its_amplitude() -> None:
    model = model_of(2, 2)
    assert checkerboard(model) == 0
    K = model.parameters["0.kernel"]
    K[0, 0] = [[0.1, 0], [0, 0.1]]  # R = 0.5 + 0.1 z where both indices are even or both odd
    z = 2 * 0.1 * 0.5
    assert checkerboard(model) == pytest.approx(0.1 * z / 2)


def test_coarser_patterns_of_several_strides_are_seen() -> None:
    layers = [convae.Layer(filters=1, kernel=2, stride=2, activation="identity")] * 2
    model = convae.Autoencoder((1, 16, 16), layers, "identity", dtype="float64")
    model.flat_parameters[...] = 0
    model.parameters["0.kernel"][...] = 1
    model.parameters["1.kernel"][0, 0, 0, 0] = 0.05  # one of the four blocks of each period of 4
    z = 0.05 * (4 * 0.5)
    board = np.zeros((16, 16))
    board.reshape(4, 2, 2, 4, 2, 2)[:, 0, :, :, 0, :] = 0.05 * z
    expected = np.abs(np.fft.fft2(board)).ravel()[1:].max() / 256
    assert checkerboard(model) == pytest.approx(expected)


def test_patterns_that_are_no_stride_apart_do_not_count() -> None:
    model = model_of(4, 4)
    rows = np.arange(16)
    bias = 0.5 + 0.2 * np.sin(2 * np.pi * rows / 16)  # one period on the whole picture
    layers = [convae.Layer(filters=1, kernel=4, stride=4, visible_bias="position")]
    smooth = convae.Autoencoder((1, 16, 16), layers, "identity", dtype="float64")
    smooth.parameters["0.kernel"][...] = 0
    smooth.parameters["0.visible_bias"][...] = bias[None, :, None]
    assert checkerboard(smooth) < 1e-12
    assert checkerboard(model) == 0


def test_a_picture_of_all_frequencies_is_no_checkerboard() -> None:
    layers = [convae.Layer(filters=1, kernel=2, stride=2, visible_bias="position")]
    model = convae.Autoencoder((1, 16, 16), layers, "identity", dtype="float64")
    model.parameters["0.kernel"][...] = 0
    model.parameters["0.visible_bias"][0, 5, 6] = 1  # one point: equal amplitudes everywhere
    assert checkerboard(model) < 1e-12


def test_nothing_strided_has_none() -> None:
    model = convae.Autoencoder((1, 9), [convae.Layer(filters=3, kernel=3, padding="same")])
    assert checkerboard(model) == 0


def test_a_start_from_data_has_none_and_a_random_one_has(rng) -> None:
    layers = [
        convae.Layer(filters=16, kernel=4, stride=2, padding="same"),
        convae.Layer(filters=32, kernel=4, stride=2, padding="same"),
    ]
    model = convae.Autoencoder((1, 16, 16), layers, "identity", dtype="float64")
    x = rng.random((100, 1, 16, 16))
    initialise(model, "pca", x)
    assert checkerboard(model) < 1e-10
    initialise(model, "he")
    assert checkerboard(model) > 1e-3
