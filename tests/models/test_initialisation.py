"""Starts from data: exact inverses, PCA, projections; and what is drawn at random."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

import convae
from convae import engine
from convae.configuration import INITIALISATIONS
from convae.errors import UserError, UserTypeError
from convae.models import frames
from convae.models.initialisation import fit_output, initialise
from tests.helpers import ShortStorage, device_of


def L(filters: int, kernel: Any, stride: Any = 1, padding: Any = "same", **more: Any) -> dict:
    return {"filters": filters, "kernel": kernel, "stride": stride, "padding": padding, **more}


def top(filters: int, **more: Any) -> dict:
    more = {"activation": "identity", "visible_bias": "position", **more}
    return L(filters, "input", padding="valid", **more)


LOSSLESS = {
    "patches": ((3, 8, 8), [L(24, 2, 2), L(96, 2, 2), top(192)]),
    "one axis": ((1, 16), [L(4, 2, 2), L(8, 4, 2), top(16)]),
    "one axis, odd": ((1, 15), [L(4, 3, 2), L(16, 5, 2)]),
    "three axes": ((2, 8, 8, 6), [L(32, (3, 2, 4), 2), L(256, 2, 2)]),
    "overlapping, more filters": ((1, 8, 8), [L(16, 4, 2), L(40, 3, 1)]),
    "sizes that strides do not divide": ((1, 7, 7), [L(8, 3, 2), L(33, 3, 2)]),
    "local, tiled": (
        (1, 8, 8),
        [L(8, 4, 2, sharing="local"), L(32, 2, 2, sharing="tiled", tile=2)],
    ),
    "tiled, local": (
        (1, 8, 8),
        [L(8, 4, 2, sharing="tiled", tile=2), L(32, 2, 2, sharing="local")],
    ),
    "groups": ((4, 8, 8), [L(32, 4, 2, groups=2), L(128, 2, 2, groups=4)]),
    "groups of odd numbers": ((4, 8, 8), [L(34, 4, 2, groups=2), L(138, 2, 2)]),
    "groups that part pairs": ((2, 4, 4), [L(18, 2, 2), L(144, 2, 2, groups=6)]),
    "rectifiers": (
        (1, 8, 8),
        [L(8, 4, 2, activation="leaky_relu"), L(32, 2, 2, activation="softplus"), L(32, 1)],
    ),
    "linear": ((1, 8, 8), [L(4, 2, 2, activation="identity"), L(16, 2, 2, activation="identity")]),
    "mirrored edges": ((1, 8, 8), [L(8, 4, 2, padding_mode="reflect"), L(32, 2, 2)]),
    "dilation": ((1, 8, 8), [L(8, 3, 1, dilation=3)]),
    "biases": (
        (1, 8, 8),
        [L(8, 4, 2, hidden_bias="none"), L(32, 2, 2, hidden_bias="position", visible_bias="none")],
    ),
    "biases by position": (
        (1, 8, 8),
        [L(8, 4, 2, visible_bias="position"), L(32, 2, 2, hidden_bias="position")],
    ),
    "untied": ((1, 8, 8), [L(8, 4, 2, tied=False), L(32, 2, 2)]),
}


@pytest.mark.parametrize("method", ["pca", "parseval"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_without_compression_nothing_is_lost(name: str, method: str, rng) -> None:
    shape, layers = LOSSLESS[name]
    model = convae.Autoencoder(shape, layers, output_activation="identity", dtype="float64")
    initialise(model, method, rng.random((60, *shape)))
    unseen = rng.standard_normal((5, *shape))  # not even of the same kind
    assert np.abs(model.reconstruct(unseen) - unseen).max() < 1e-10
    model.parameters["0.kernel"][0] *= -1  # a filter that is no longer the other's negative
    assert np.abs(model.reconstruct(unseen) - unseen).max() > 1e-3


@pytest.mark.parametrize("fewer", [[L(6, 2, 2)], [L(8, 3, 2, dilation=2)], [L(8, 4, 2, "valid")]])
def test_where_it_cannot_be_exact_it_is_not(fewer, rng) -> None:
    model = convae.Autoencoder((1, 9, 9), fewer, output_activation="identity", dtype="float64")
    x = rng.random((60, 1, 9, 9))
    initialise(model, "pca", x)
    assert np.abs(model.reconstruct(x) - x).max() > 1e-3


def smooth(rng: np.random.Generator, count: int, channels: int, side: int) -> np.ndarray:
    """Images whose neighbours resemble each other, as in photographs, around a mean image."""
    noise = rng.standard_normal((count, channels, side, side))
    images = noise.cumsum(axis=2).cumsum(axis=3) / side
    return 0.5 + 0.2 * images + 0.3 * rng.random((channels, side, side))


@pytest.mark.parametrize("code", [1, 7, 30])
def test_a_deep_stack_starts_as_pca(code: int, xp: ModuleType, rng) -> None:
    x, unseen = (smooth(rng, count, 3, 8) for count in (200, 50))
    model = convae.Autoencoder(
        (3, 8, 8),
        [L(24, 4, 2), L(96, 4, 2), top(code)],
        output_activation="identity",
        dtype="float64",
        device=device_of(xp),
    )
    initialise(model, "pca", xp.asarray(x))
    pca = PCA(code, svd_solver="full").fit(x.reshape(200, -1))
    flat = unseen.reshape(50, -1)
    expected = pca.inverse_transform(pca.transform(flat)).reshape(unseen.shape)
    reconstructed = engine.to_numpy(model.reconstruct(xp.asarray(unseen)))
    assert np.abs(reconstructed - expected).max() < 1e-8


def test_a_code_of_more_numbers_than_images_starts_at_pca_of_all(rng) -> None:
    x = smooth(rng, 20, 1, 8)
    model = convae.Autoencoder((1, 8, 8), [L(8, 2, 2), top(40)], "identity", dtype="float64")
    initialise(model, "pca", x)
    assert np.abs(model.reconstruct(x) - x).max() < 1e-10


def test_long_patches_are_decomposed_without_their_moments(rng, monkeypatch) -> None:
    x = smooth(rng, 100, 1, 12)
    layers = [L(8, 2, 2), top(5)]
    results = []
    for largest in (frames.LARGEST_MOMENTS, 100):
        monkeypatch.setattr(frames, "LARGEST_MOMENTS", largest)
        model = convae.Autoencoder((1, 12, 12), layers, "identity", dtype="float64")
        initialise(model, "pca", x)
        results.append(model.reconstruct(x))
    assert np.abs(results[0] - results[1]).max() < 1e-8
    full = [L(8, 2, 2), top(144)]
    model = convae.Autoencoder((1, 12, 12), full, "identity", dtype="float64")
    initialise(model, "pca", x)
    assert np.abs(model.reconstruct(x) - x).max() < 1e-10


def test_fewer_filters_project_on_the_leading_directions_of_patches(rng) -> None:
    x = smooth(rng, 300, 1, 8)
    model = convae.Autoencoder((1, 8, 8), [L(4, 2, 2)], "identity", dtype="float64")
    initialise(model, "pca", x)
    centred = x - x.mean()
    patches = centred.reshape(300, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)
    Vt = np.linalg.svd(patches, full_matrices=False)[2]
    kept = patches @ Vt[:2].T @ Vt[:2]
    lost = ((patches - kept) - (patches - kept).mean()) ** 2  # a visible bias by channel
    assert ((model.reconstruct(x) - x) ** 2).mean() == pytest.approx(lost.mean(), rel=1e-6)


def test_parseval_differs_from_pca_and_with_the_seed(rng) -> None:
    x = smooth(rng, 100, 1, 8)
    model = convae.Autoencoder((1, 8, 8), [L(8, 4, 2), top(4)], "identity", dtype="float64")

    def error(method: str, seed: int) -> float:
        initialise(model, method, x, seed=seed)
        return float(((model.reconstruct(x) - x) ** 2).mean())

    assert error("pca", 0) == pytest.approx(error("pca", 1), rel=1e-9)
    assert error("parseval", 0) != pytest.approx(error("parseval", 1), rel=1e-3)
    assert error("parseval", 0) > 2 * error("pca", 0)
    assert error("parseval", 0) == error("parseval", 0)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "softplus"])
def test_an_output_activation_is_met_half_way(name: str, rng) -> None:
    x = smooth(rng, 200, 1, 8).clip(0, 1)
    model = convae.Autoencoder((1, 8, 8), [L(8, 4, 2), top(64)], name, dtype="float64")
    initialise(model, "pca", x)
    assert ((model.reconstruct(x) - x) ** 2).mean() < 0.05 * x.var()


def test_a_sigmoid_starts_lower_than_pca_on_black_and_white(rng) -> None:
    x = (smooth(rng, 300, 1, 8) > 0.6).astype("float64")
    errors = {}
    for name in ("identity", "sigmoid"):
        model = convae.Autoencoder((1, 8, 8), [L(8, 4, 2), top(8)], name, dtype="float64")
        initialise(model, "pca", x)
        errors[name] = ((model.reconstruct(x) - x) ** 2).mean()
    assert errors["sigmoid"] < 0.9 * errors["identity"]


def test_the_fit_finds_the_line_that_made_the_values(rng) -> None:
    model = convae.Autoencoder((2, 4, 4), [L(4, 1)])
    R = rng.standard_normal((50, 2, 4, 4))
    shift = np.array([0.3, -0.7])
    x = 1 / (1 + np.exp(-(2.5 * R + shift[:, None, None])))
    found = fit_output(model.output_activation, R, x)
    assert found.scale == pytest.approx(2.5, rel=1e-4)
    assert found.shift == pytest.approx(shift, rel=1e-4)


def test_images_without_contrast_give_a_start_all_the_same() -> None:
    for output in ("identity", "sigmoid"):
        model = convae.Autoencoder((1, 8, 8), [L(8, 4, 2), top(3)], output)
        initialise(model, "pca", np.full((5, 1, 8, 8), 0.25, "float32"))
        R = model.reconstruct(np.full((2, 1, 8, 8), 0.25, "float32"))
        assert np.abs(R - 0.25).max() < 1e-3


def test_unused_filters_are_not_dead(rng) -> None:
    x = rng.random((40, 1, 8, 8))
    model = convae.Autoencoder((1, 8, 8), [L(9, 2, 2)], "identity", dtype="float64")
    initialise(model, "pca", x)
    _, gradients = model.loss_and_gradients(x, target=rng.random(x.shape))
    assert (np.abs(gradients["0.kernel"]).reshape(9, -1).max(axis=1) > 0).all()


def test_other_activations_start_finite(rng) -> None:
    layers = [L(8, 4, 2, activation="tanh"), L(16, 2, 2, activation="sigmoid"), top(4)]
    model = convae.Autoencoder((1, 8, 8), layers)
    x = rng.random((50, 1, 8, 8), dtype="float32")
    initialise(model, "pca", x)
    assert ((model.reconstruct(x) - x) ** 2).mean() < 2 * x.var()


def test_he_has_glorots_mean_variance_and_orthogonal_its_own() -> None:
    model = convae.Autoencoder((16, 12, 12), [L(32, 3, 1), L(64, 3, 2)], seed=1)
    for method in ("he", "orthogonal"):
        initialise(model, method)
        K = model.parameters["1.kernel"]
        fans = 32 * 9, 64 * 9 / 4
        assert K.var() == pytest.approx(2 / np.mean(fans), rel=0.05)
        rows = K.reshape(64, -1)
        products = rows @ rows.T
        mutual = np.abs(products - np.diag(np.diag(products))).max() / products[0, 0]
        assert (mutual < 1e-5) == (method == "orthogonal")
        assert not model.parameters["1.hidden_bias"].any()


def test_a_model_is_made_by_he() -> None:
    first, second = (convae.Autoencoder((1, 8, 8), [L(8, 3)], seed=3) for _ in range(2))
    initialise(second, "orthogonal")
    initialise(second, "he")
    assert (first.flat_parameters == second.flat_parameters).all()


def test_wrong_arguments_are_named(rng) -> None:
    model = convae.Autoencoder((1, 8, 8), [L(8, 3)])
    with pytest.raises(UserError, match=r"method: 'xavier'.*pca"):
        initialise(model, "xavier")
    with pytest.raises(UserError, match="images: none given"):
        initialise(model, "pca")
    with pytest.raises(UserTypeError, match="float64"):
        initialise(model, "pca", rng.random((5, 1, 8, 8)))
    with pytest.raises(UserError, match="shape"):
        initialise(model, "parseval", np.zeros((5, 1, 9, 9), "float32"))
    spoilt = np.zeros((5, 1, 8, 8), "float32")
    spoilt[2, 0, 3, 3] = np.nan
    before = model.flat_parameters.copy()
    with pytest.raises(UserError, match="images: some values are not finite"):
        initialise(model, "pca", spoilt)
    with pytest.raises(UserError, match="seed"):
        initialise(model, "he", seed=-1)
    assert (model.flat_parameters == before).all()


def test_every_method_works_with_short_storage(rng) -> None:
    model = convae.Autoencoder((1, 8, 8), [L(8, 2, 2)], storage="float16", backend=ShortStorage())
    for method in INITIALISATIONS:
        initialise(model, method, rng.random((20, 1, 8, 8), dtype="float32"))
        assert np.isfinite(model.flat_parameters).all()
