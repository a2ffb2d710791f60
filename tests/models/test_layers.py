"""Layers: shapes of their parameters, initial values, and arguments that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae import Layer
from convae.errors import UserError, UserTypeError


def test_natural_biases_are_the_books() -> None:
    shapes = {}
    for sharing, tile in (("shared", None), ("tiled", 2), ("local", None)):
        layer = Layer(3, 3, stride=2, padding="same", sharing=sharing, tile=tile)
        model = convae.Autoencoder((1, 8, 8), [layer])
        names = ("kernel", "hidden_bias", "visible_bias")
        shapes[sharing] = [model.parameters[f"0.{name}"].shape for name in names]
    assert shapes == {
        "shared": [(3, 1, 3, 3), (3,), (1,)],
        "tiled": [(3, 2, 2, 1, 3, 3), (3, 2, 2), (1, 4, 4)],
        "local": [(3, 4, 4, 1, 3, 3), (3, 4, 4), (1, 8, 8)],
    }


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [("channel", (3,)), ("tiled", (3, 1, 1)), ("position", (3, 4, 4)), ("none", None)],
)
def test_biases_can_be_shared_in_every_way(sharing: str, expected: tuple | None) -> None:
    layer = Layer(3, 3, stride=2, padding="same", hidden_bias=sharing)
    parameters = convae.Autoencoder((1, 8, 8), [layer]).parameters
    found = parameters["0.hidden_bias"].shape if "0.hidden_bias" in parameters else None
    assert found == expected


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2), ("tanh", 1)])
def test_initial_kernels_have_their_variance(activation: str, gain: float) -> None:
    """64 filters over 16 channels, 5x5, stride 1: fan_in 400, fan_out 1600."""
    model = convae.Autoencoder((16, 12, 12), [Layer(64, 5, padding="same", activation=activation)])
    assert model.parameters["0.kernel"].var() == pytest.approx(gain / 1000, rel=0.03)
    assert not model.parameters["0.hidden_bias"].any()


def test_an_untied_layer_has_a_kernel_for_each_direction() -> None:
    layer = convae.Autoencoder((1, 8, 8), [Layer(4, 3, tied=False)]).layers[0]
    K, decoder = layer.parameters["kernel"], layer.parameters["decoder_kernel"]
    assert layer.decoder_kernel == "decoder_kernel"
    assert K.shape == decoder.shape
    assert (decoder != K).all()


def test_an_input_kernel_leaves_no_positions() -> None:
    assert Layer(4, "input").geometry((2, 7, 5)).output == (1, 1)


def test_configuration_makes_an_equal_layer() -> None:
    layer = Layer(4, (3, 2), stride=2, padding=((1, 0), (0, 2)), groups=2, tied=False)
    assert Layer(**layer.configuration()) == layer


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"stride": 0}, UserError, "layers.0.stride: 0 is too small"),
        ({"kernel": 9}, UserError, "layers.0.kernel: 9 along axis 0 covers 9"),
        ({"kernel": "all"}, UserError, "layers.0.kernel: 'all' is unknown"),
        ({"filters": 0}, UserError, "layers.0.filters: 0 is too small"),
        ({"filters": 2.5}, UserTypeError, "layers.0.filters: 2.5 is not an integer"),
        ({"activation": "rel"}, UserError, "layers.0.activation: 'rel' is unknown; .*relu"),
        ({"groups": 3}, UserError, "layers.0.groups: 3 does not divide the 4 filters"),
        ({"groups": 4}, UserError, "layers.0.groups: 4 does not divide the 2 input channels"),
        ({"sharing": "none"}, UserError, "layers.0.sharing: 'none' is unknown"),
        ({"sharing": "tiled"}, UserError, "layers.0.tile: None"),
        ({"tile": 2}, UserError, "layers.0.tile: 2 .*'shared'"),
        ({"sharing": "tiled", "tile": 7}, UserError, "layers.0.tile: 7 .* 6 positions"),
        ({"hidden_bias": "some"}, UserError, "layers.0.hidden_bias: 'some' is unknown"),
        ({"tied": "yes"}, UserTypeError, "layers.0.tied: 'yes'"),
        ({"typo": 1}, UserTypeError, "layers: 'typo' is not an argument .*filters"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(
    changes: dict, kind: type, says: str
) -> None:
    with pytest.raises(kind, match=says):
        convae.Autoencoder((2, 8, 8), [{"filters": 4, "kernel": 3, **changes}])


def test_the_layer_at_fault_is_named() -> None:
    with pytest.raises(UserError, match=r"layers.1.kernel: 7 along axis 0"):
        convae.Autoencoder((1, 8, 8), [Layer(4, 3), Layer(4, 7)])


def test_live_parameters_are_views_of_the_models() -> None:
    model = convae.Autoencoder((1, 8, 8), [Layer(4, 3)])
    for name, array in model.layers[0].parameters.items():
        assert np.shares_memory(array, model.flat_parameters), name
