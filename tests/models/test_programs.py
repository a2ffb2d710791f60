"""The recipe as a program gives the gradients of the recipe as functions, and of differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convae
from convae import Layer
from convae.engine import ArrayBackend
from convae.engine.backend import channels_second
from convae.engine.program import Executable, Memory, Portable
from convae.models.gradient_program import GradientProgram
from convae.models.penalties import NONE, Penalty
from convae.models.programs import ReconstructionProgram, given_arrays
from tests.problems import part_of_examples, stacks

SIGMOIDS = [
    Layer(4, 3, stride=2, padding="same", activation="sigmoid"),
    Layer(5, 3, padding="same", activation="tanh", tied=False),
    Layer(3, "input", activation="sigmoid", visible_bias="position"),
]


def executable(
    model: convae.Autoencoder, x: np.ndarray, target: np.ndarray | None, penalty: Penalty = NONE
) -> Executable:
    """Bind a model's program to fresh memory, and load a batch."""
    program = GradientProgram(model, len(x), penalty, target is not None).program
    portable = Portable(ArrayBackend())
    bound = Executable(program, given_arrays(model), lambda problem: portable, Memory(np))
    channels_second(bound.arrays["x"])[...] = x
    if target is not None:
        channels_second(bound.arrays["target"])[...] = target
    return bound


def check(
    model: convae.Autoencoder, rng, penalty: Penalty = NONE, has_target: bool = False, N: int = 3
) -> None:
    for array in model.parameters.values():
        array[...] = 0.3 * rng.standard_normal(array.shape)
    x = rng.random((N, *model.input_shape))
    target = rng.random(x.shape) if has_target else None
    J, gradients = model.loss_and_gradients(x, target, penalty)
    model.flat_gradients[...] = np.nan
    bound = executable(model, x, target, penalty)
    bound()
    np.testing.assert_allclose(float(bound.arrays["J"]), J, rtol=1e-12)
    for name, expected in gradients.items():
        scale = np.abs(expected).max() + 1e-12
        assert np.abs(model.gradients[name] - expected).max() < 1e-10 * scale, name


@part_of_examples(0.4)
@given(data=st.data())
def test_stacks_of_every_kind(data: st.DataObject) -> None:
    shape, stack, loss = data.draw(stacks())
    model = convae.Autoencoder(shape, stack, loss=loss, dtype="float64")
    check(model, np.random.default_rng(0), has_target=data.draw(st.booleans()))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode: str, rng) -> None:
    stack = [Layer(3, 3, padding="same", padding_mode=mode), Layer(4, 2, stride=2)]
    check(convae.Autoencoder((2, 6, 5), stack, dtype="float64"), rng)


@pytest.mark.parametrize(
    "penalty",
    [
        Penalty(l1=0.3),
        Penalty(kl=0.3),
        Penalty(contractive=0.1),
        Penalty(weight_decay=0.1),
        Penalty(l1=0.2, kl=0.3, contractive=0.1, weight_decay=0.1),
    ],
    ids=str,
)
def test_penalties(penalty: Penalty, rng) -> None:
    model = convae.Autoencoder((2, 8, 8), SIGMOIDS, dtype="float64")
    check(model, rng, penalty, has_target=True)


def test_the_contractive_penalty_without_curvature(rng) -> None:
    model = convae.Autoencoder((1, 6, 6), [Layer(3, 3), Layer(2, 2)], dtype="float64")
    check(model, rng, Penalty(contractive=0.2))


def test_gradients_are_those_of_differences(rng) -> None:
    """Along random directions, without any other code of ours."""
    model = convae.Autoencoder((1, 6, 5), SIGMOIDS[:1], dtype="float64")
    model.flat_parameters[...] = 0.3 * rng.standard_normal(model.flat_parameters.shape)
    bound = executable(model, rng.random((4, 1, 6, 5)), None, Penalty(l1=0.1, weight_decay=0.2))
    bound()
    gradient = model.flat_gradients.copy()
    start = model.flat_parameters.copy()
    for name in model.parameters:
        direction = np.zeros_like(start)
        view = model.views(direction)[name]
        view[...] = rng.standard_normal(view.shape)
        values = []
        for step in (1e-5, -1e-5):
            model.flat_parameters[...] = start + step * direction
            bound()
            values.append(float(bound.arrays["J"]))
        slope = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6, err_msg=name)


def test_both_halves_of_a_tied_gradient_are_one_g() -> None:
    tied, untied = (
        convae.Autoencoder((1, 8, 8), [Layer(2, 3, tied=tied)]) for tied in (True, False)
    )
    for model, count in ((tied, 1), (untied, 2)):
        nodes = GradientProgram(model, 2, NONE, False).program.nodes
        assert [node.operation for node in nodes].count("g") == count


@pytest.mark.parametrize(("up", "down"), [(True, True), (True, False), (False, True)])
def test_decoders_write_where_codes_lay_that_nobody_needs(up: bool, down: bool, rng) -> None:
    model = convae.Autoencoder((2, 8, 7), SIGMOIDS, dtype="float64", backend=ArrayBackend())
    program, portable = ReconstructionProgram(model, 3, up, down).program, Portable(ArrayBackend())
    bound = Executable(program, given_arrays(model), lambda problem: portable, Memory(np))
    arrays, x = bound.arrays, rng.random((3, 2, 8, 7))
    for k in (1, 2):
        assert np.shares_memory(arrays[f"D{k}"], arrays[f"H{k}"]) == (up and down)
    assert not np.shares_memory(arrays["D0"], arrays["x"])
    if up and down:
        channels_second(arrays["x"])[...] = x
        bound()
        np.testing.assert_allclose(channels_second(arrays["D0"]), model.reconstruct(x), rtol=1e-12)
