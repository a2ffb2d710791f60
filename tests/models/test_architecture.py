"""The stack that is chosen for a shape: it halves, makes the code asked for, and starts as PCA."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from sklearn.decomposition import PCA

import convae
from convae.errors import UserError, UserTypeError
from convae.models import architecture
from convae.models.architecture import MOST, SMALLEST, choose_layers, code_size
from convae.models.initialisation import initialise

SHAPES = [
    (1, 1),
    (3, 2),
    (2, 13),
    (1, 1000),
    (1, 1, 1),
    (3, 1, 1),
    (1, 2, 2),
    (1, 1, 9),
    (1, 3, 5),
    (2, 5, 5),
    (1, 4, 100),
    (3, 7, 9),
    (1, 28, 28),
    (3, 64, 48),
    (3, 224, 224),
    (1, 1, 1, 1),
    (1, 4, 4, 4),
    (2, 9, 8, 7),
    (1, 2, 17, 3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_models_for_all_shapes_build_and_make_the_code_asked_for(shape, rng) -> None:
    for code in {1, min(5, prod(shape))}:
        layers = choose_layers(shape, code)
        model = convae.Autoencoder(shape, layers)
        x = rng.random((2, *shape), dtype="float32")
        assert model.encode(x).shape == (2, code, *(1 for _ in shape[1:]))
        assert model.reconstruct(x).shape == x.shape
        for layer in model.layers[:-1]:
            geometry = layer.geometry
            assert all(k % s == 0 for k, s in zip(geometry.kernel, geometry.stride, strict=True))
            assert max(geometry.stride) == 2
            assert layer.spec.filters <= MOST
        assert max(model.layers[-1].input_shape[1:]) <= SMALLEST or code > 1


@pytest.fixture
def down_to_four(monkeypatch) -> None:
    """Stacks that can be worked by hand, whatever the constants are."""
    numbers = {"SMALLEST": 4, "FIRST": 32, "MOST": 192, "NUMBERS_PER_CODE": 6}
    for name, value in numbers.items():
        monkeypatch.setattr(architecture, name, value)


@pytest.mark.parametrize(
    ("shape", "code", "filters", "sizes"),
    [
        ((1, 1, 1), None, [1], []),
        ((1, 4, 4), None, [8], []),
        ((1, 8, 8), None, [32, 16], [(4, 4)]),
        ((1, 28, 28), None, [32, 64, 128, 64], [(14, 14), (7, 7), (4, 4)]),
        ((1, 28, 28), 784, [32, 64, 128, 784], [(14, 14), (7, 7), (4, 4)]),
        ((3, 32, 32), None, [32, 96, 192, 128], [(16, 16), (8, 8), (4, 4)]),
        ((3, 32, 32), 256, [32, 96, 192, 256], [(16, 16), (8, 8), (4, 4)]),
        ((3, 32, 32), 257, [32, 96, 257], [(16, 16), (8, 8)]),
        ((3, 32, 32), 3000, [32, 96, 3000], [(16, 16), (8, 8)]),
        ((1, 5, 3), 2, [32, 2], [(3, 3)]),
        ((1, 3, 20), 2, [32, 64, 128, 2], [(3, 10), (3, 5), (3, 3)]),
        ((1, 16), 2, [32, 64, 2], [(8,), (4,)]),
        ((2, 8, 8, 8), 10, [32, 10], [(4, 4, 4)]),
    ],
)
def test_stacks_worked_by_hand(down_to_four, shape, code, filters, sizes) -> None:
    """32 filters or two for each number of the signal, as long as 6 numbers per code are left.

    96 of 192 filters carry numbers: 1,536 of them at 4x4 positions.
    """
    model = convae.Autoencoder(shape, choose_layers(shape, code))
    assert [layer.spec.filters for layer in model.layers] == filters
    assert [layer.output_shape[1:] for layer in model.layers[:-1]] == sizes


def test_axes_that_are_short_already_are_not_halved(down_to_four) -> None:
    first, *_ = choose_layers((1, 3, 20))
    assert (first.kernel, first.stride) == ((3, 4), (1, 2))


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((1, 8, 8), 16),
        ((1, 28, 28), 64),
        ((3, 32, 32), 128),
        ((3, 224, 224), 1024),
        ((1, 1, 1), 1),
        ((3, 1, 1), 3),
        ((1, 2, 2), 4),
        ((1, 4096), 128),
    ],
)
def test_the_code_is_twice_the_root_of_the_values(shape, code: int) -> None:
    assert code_size(shape) == code
    assert choose_layers(shape)[-1].filters == code


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((1, 8, 8), 7),
        ((1, 28, 28), None),
        ((3, 16, 16), 5),
        ((1, 7, 9), 6),
        ((1, 3, 20), 4),
        ((2, 37), 3),
        ((1, 9, 8, 7), 5),
    ],
)
def test_the_start_is_pca(down_to_four, shape, code, rng) -> None:
    layers = choose_layers(shape, code)
    x, unseen = (
        rng.random((count, *shape)).cumsum(axis=-1) / shape[-1] for count in (120, 20)
    )  # neighbours resemble each other
    model = convae.Autoencoder(shape, layers, output_activation="identity", dtype="float64")
    initialise(model, "pca", x)
    assert len(model.layers) > 1
    pca = PCA(layers[-1].filters, svd_solver="full").fit(x.reshape(120, -1))
    expected = pca.inverse_transform(pca.transform(unseen.reshape(20, -1)))
    assert np.abs(model.reconstruct(unseen).reshape(20, -1) - expected).max() < 1e-8


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 3), (1, 8, 8), (3, 7, 5), (1, 30), (1, 6, 5, 4)]
)
def test_a_code_as_large_as_the_image_starts_without_loss(down_to_four, shape, rng) -> None:
    layers = choose_layers(shape, prod(shape))
    model = convae.Autoencoder(shape, layers, output_activation="identity", dtype="float64")
    initialise(model, "pca", rng.random((2 * prod(shape) + 1, *shape)))
    unseen = rng.random((5, *shape))
    assert np.abs(model.reconstruct(unseen) - unseen).max() < 1e-9


@pytest.mark.parametrize(
    ("shape", "code", "kind", "says"),
    [
        (
            (1, 8, 8),
            65,
            UserError,
            r"code: 65 is out of range; .* 1 and at most 64",
        ),
        ((1, 8, 8), 0, UserError, "code: 0 is out of range"),
        ((1, 8, 8), 2.5, UserTypeError, "code: 2.5 is not an integer"),
        ((1, 8, 8), True, UserTypeError, "code: True is not an integer"),
        ((8,), None, UserError, r"input_shape: \(8,\) is not \(channels, \*positions\)"),
        ((1, 2, 3, 4, 5), None, UserError, r"input_shape: \(1, 2, 3, 4, 5\) is not"),
        ((1, 0, 8), None, UserError, "input_shape: .*0"),
        ((1, -8, 8), None, UserError, "input_shape: .*-8"),
        ((1, 8.0, 8), None, UserTypeError, "input_shape: .*8.0"),
        ((1, "8", 8), 3, UserTypeError, "input_shape: .*'8'"),
        (28, None, UserError, r"input_shape: 28 is not \(channels, \*positions\)"),
        (None, None, UserError, "input_shape: None is not"),
    ],
)
def test_what_is_no_shape_or_code_is_named(shape, code, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says):
        choose_layers(shape, code)
