"""Dead filters, the two halves of a tied gradient, and the self-check."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae.engine import ArrayBackend
from convae.report.diagnostics import dead_filters, self_check, tied_halves
from tests.helpers import STACKS, build


def test_dead_filters_are_those_that_never_change(rng) -> None:
    H = rng.random((5, 4, 3, 3))
    H[:, 1] = 0
    H[:, 3] = 0.5
    assert dead_filters(H) == 2
    H[2, 3, 1, 1] = 0.6
    assert dead_filters(H) == 1


def test_norms_and_cosine_make_up_the_whole_gradient(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2])
    x = rng.random((4, 2, 6, 5))
    gradients, halves = tied_halves(model, x, x)
    _, whole = model.loss_and_gradients(x)
    for index, half in halves.items():
        e, d = half["encoder"], half["decoder"]
        length = np.sqrt(e * e + d * d + 2 * e * d * half["cosine"])  # the law of cosines
        assert np.linalg.norm(whole[f"{index}.kernel"]) == pytest.approx(length, rel=1e-9)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, whole[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_self_check_passes_for_every_sharing(dtype: str) -> None:
    for sharing in ({}, {"sharing": "tiled", "tile": 2}, {"sharing": "local"}):
        layers = [convae.Layer(6, 3, stride=2, padding="same", **sharing), convae.Layer(3, "input")]
        self_check(convae.Autoencoder((3, 12, 9), layers, dtype=dtype), 32)


@pytest.mark.parametrize("operation", ["c", "h", "g"])
def test_the_self_check_finds_a_backend_that_computes_wrong(operation: str) -> None:
    right = getattr(ArrayBackend, operation)

    def wrong(self: ArrayBackend, *arguments: object) -> np.ndarray:
        return right(self, *arguments) * np.float32(1.001)

    backend = type("Faulty", (ArrayBackend,), {operation: wrong})()
    layers = [convae.Layer(4, 3, padding="same")]
    self_check(convae.Autoencoder((1, 8, 8), layers, backend=ArrayBackend()), 32)
    with pytest.raises(RuntimeError, match="self_check: on layer 0"):
        self_check(convae.Autoencoder((1, 8, 8), layers, backend=backend), 32)


def test_the_self_check_names_the_layer() -> None:
    class Faulty(ArrayBackend):
        def h(self, K, G, geometry):
            return super().h(K, G, geometry) * (1 if geometry.size == (8, 8) else 1.01)

    layers = [convae.Layer(4, 3, padding="same", stride=2), convae.Layer(4, 3)]
    with pytest.raises(RuntimeError, match="self_check: on layer 1"):
        self_check(convae.Autoencoder((1, 8, 8), layers, backend=Faulty()), 32)
