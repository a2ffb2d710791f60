"""Dead filters, the two halves of a tied gradient, and the self-check."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import convae
from convae import engine
from convae.report.diagnostics import codes, dead_filters, self_check, tied_halves
from tests import untied
from tests.test_autoencoder import STACKS, build


def test_codes_end_with_the_models_code(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[3])
    x = rng.random((4, 2, 6, 5))
    found = codes(model, x)
    assert [H.shape[1:] for H in found] == [layer.output_shape for layer in model.layers]
    assert (found[-1] == model.encode(x)).all()


def test_dead_filters_are_those_that_never_change(rng) -> None:
    H = rng.random((5, 4, 3, 3))
    H[:, 1] = 0
    H[:, 3] = 0.5
    assert dead_filters(H) == 2
    H[2, 3, 1, 1] = 0.6
    assert dead_filters(H) == 1


def test_halves_are_those_of_an_untied_copy(rng) -> None:
    """With a decoder kernel of its own, autograd tells the decoder's half from the encoder's."""
    model = build(np, (2, 6, 5), STACKS[2])
    x = rng.random((4, 2, 6, 5))
    encoder, decoder = model.gradient_halves(x)
    p = untied.parameters_of(model)
    for index in range(len(model.layers)):
        p[f"{index}.decoder_kernel"] = p[f"{index}.kernel"].detach().clone().requires_grad_()
    torch.nn.functional.mse_loss(
        untied.reconstruct(model, p, torch.tensor(x)), torch.tensor(x)
    ).backward()
    for index in range(len(model.layers)):
        for half, name in ((encoder, "kernel"), (decoder, "decoder_kernel")):
            expected = p[f"{index}.{name}"].grad.numpy()
            np.testing.assert_allclose(half[f"{index}.kernel"], expected, rtol=1e-9, atol=1e-12)


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
def test_the_self_check_passes_on_every_sharing(dtype: str) -> None:
    for sharing in ({}, {"sharing": "tiled", "tile": 2}, {"sharing": "local"}):
        layers = [convae.Layer(6, 3, stride=2, padding="same", **sharing), convae.Layer(3, "input")]
        self_check(convae.Autoencoder((3, 12, 9), layers, dtype=dtype))


@pytest.mark.parametrize("broken", ["c", "h", "g"])
def test_the_self_check_finds_an_engine_that_computes_wrong(monkeypatch, broken: str) -> None:
    operation = getattr(engine.operations, broken)
    monkeypatch.setattr(
        engine.identity, broken, lambda *args, **how: operation(*args, **how) * np.float32(1.001)
    )
    model = convae.Autoencoder((1, 8, 8), [convae.Layer(4, 3, padding="same")])
    with pytest.raises(RuntimeError, match="self_check: on layer 0"):
        self_check(model)
