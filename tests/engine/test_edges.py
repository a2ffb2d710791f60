"""Padding: every mode against PyTorch, names against ONNX, and exact adjoints."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

import convae
from convae import engine
from convae.engine.edges import extend, fold
from convae.errors import UserError
from tests.helpers import error

MODES = ("reflect", "replicate", "circular")


def torch_c(
    K: np.ndarray, V: np.ndarray, pairs: list[tuple[int, int]], mode: str, **how
) -> np.ndarray:
    flat = [n for pair in reversed(pairs) for n in pair]
    padded = functional.pad(torch.tensor(V), flat, mode)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[V.ndim - 3]
    return convolve(padded, torch.tensor(K), **how).numpy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("size", "kernel", "pairs", "how"),
    [
        ((9,), (4,), [(3, 2)], {"stride": 2}),
        ((7, 6), (3, 4), [(1, 1), (2, 1)], {}),
        ((7, 8), (3, 3), [(4, 4), (3, 5)], {"stride": 2, "dilation": 2}),
        ((4, 5, 6), (3, 3, 3), [(1, 2), (2, 2), (3, 1)], {"stride": (1, 2, 3)}),
    ],
)
def test_modes_are_pytorchs(xp: ModuleType, rng, mode: str, size, kernel, pairs, how) -> None:
    K, V = rng.standard_normal((4, 3, *kernel)), rng.standard_normal((2, 3, *size))
    Z = engine.c(xp.asarray(K), xp.asarray(V), padding=pairs, padding_mode=mode, **how)
    expected = torch_c(K, V, pairs, mode, **how)
    assert error(Z, expected) < 1e-13
    G = xp.asarray(rng.standard_normal(expected.shape))
    how = how | {"padding": pairs, "padding_mode": mode}
    assert engine.trilinear_error(xp.asarray(K), xp.asarray(V), G, **how) < 1e-14


@given(
    mode=st.sampled_from(MODES),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    tile=st.integers(0, 2),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
)
def test_h_and_g_are_exact_adjoints(mode, size, kernel, stride, tile, before, after) -> None:
    rng = np.random.default_rng(0)
    how = {"stride": stride, "padding": ((before, after), (after, before)), "padding_mode": mode}
    output = engine.resolve(size=size, kernel=kernel, **how).output
    tiles = (tile, tile) if tile and tile <= min(output) else ()
    K = rng.standard_normal((3, *tiles, 2, kernel, kernel))
    V, G = rng.standard_normal((2, 2, *size)), rng.standard_normal((2, 3, *output))
    assert engine.trilinear_error(K, V, G, **how) < 1e-13


@pytest.mark.parametrize("name", ["same_upper", "same_lower"])
@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_by_name_is_onnxs(rng, name: str, size: int, stride: int, kernel: int) -> None:
    K = rng.standard_normal((3, 2, kernel, kernel), dtype="float32")
    V = rng.standard_normal((2, 2, size, size + 1), dtype="float32")
    node = helper.make_node(
        "Conv",
        ["V", "K"],
        ["Z"],
        auto_pad=name.upper(),
        strides=[stride] * 2,
        kernel_shape=[kernel] * 2,
    )
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "VKZ"]
    model = helper.make_model(helper.make_graph([node], "c", values[:2], values[2:]))
    (expected,) = ReferenceEvaluator(model).run(None, {"V": V, "K": K})
    Z = engine.c(K, V, stride=stride, padding=name)
    assert Z.shape == (2, 3, -(-size // stride), -(-(size + 1) // stride))
    assert error(Z, expected) < 1e-6
    R = engine.h(K, Z, stride=stride, padding=name, size=V.shape[2:])
    assert R.shape == V.shape
    assert engine.trilinear_error(K, V, Z, stride=stride, padding=name) < 1e-6


def test_sizes_of_same_by_name_are_listed() -> None:
    K, G = np.ones((1, 1, 3)), np.ones((1, 1, 4))
    with pytest.raises(UserError, match=r"size: .* expected 10 or 11 or 12"):
        engine.h(K, G, stride=3, padding="same_upper")
    assert engine.h(K, G, padding="same_upper").shape == (1, 1, 4)


def test_causal_outputs_do_not_see_what_comes_later(rng) -> None:
    K, V = rng.standard_normal((2, 3, 4)), rng.standard_normal((1, 3, 20))
    Z = engine.c(K, V, padding="causal", dilation=2)
    assert Z.shape == (1, 2, 20)
    V[:, :, 11] += 1
    changed = (engine.c(K, V, padding="causal", dilation=2) != Z).any(axis=(0, 1))
    assert np.flatnonzero(changed).tolist() == [11, 13, 15, 17]
    assert engine.trilinear_error(K, V, rng.standard_normal(Z.shape), padding="causal") < 1e-14


@pytest.mark.parametrize(
    ("mode", "padding", "most"),
    [("reflect", 4, "3"), ("circular", 5, "4"), ("reflect", (0, 9), "3")],
)
def test_more_padding_than_there_is_to_copy_is_refused(
    mode: str, padding: object, most: str
) -> None:
    pairs = [padding] if isinstance(padding, tuple) else padding
    with pytest.raises(UserError, match=rf"padding: .* exceed {most}, the most that padding_mode"):
        engine.c(np.ones((1, 1, 2)), np.ones((1, 1, 4)), padding=pairs, padding_mode=mode)


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"padding_mode: 'mirror' is unknown; expected one of zeros"
    ):
        engine.c(np.ones((1, 1, 2)), np.ones((1, 1, 4)), padding_mode="mirror")


def test_padding_keeps_the_engines_memory_order(rng) -> None:
    geometry = engine.resolve(size=(6, 7), kernel=3, padding=2, padding_mode="reflect")
    V = rng.random((6, 7, 3, 5)).transpose(3, 2, 0, 1)  # examples innermost, as the CPU has them
    padded = extend(V, geometry)
    assert padded.shape == (5, 3, 10, 11)
    assert padded.transpose(2, 3, 1, 0).flags.c_contiguous
    assert fold(padded, geometry).transpose(2, 3, 1, 0).flags.c_contiguous


# ---- empty batches


def test_empty_batches_have_empty_results(xp: ModuleType) -> None:
    K, V, G = xp.ones((4, 3, 3, 3)), xp.ones((0, 3, 8, 8)), xp.ones((0, 4, 6, 6))
    assert engine.c(K, V).shape == G.shape
    assert engine.h(K, G).shape == V.shape
    dK = engine.g(G, V, kernel=3)
    assert dK.shape == K.shape
    assert not dK.any()
    assert engine.g(G, V, kernel=3, tile=2).shape == (4, 2, 2, 3, 3, 3)
    for arguments in ((K[:0], V), (K, V[:, :0])):
        with pytest.raises(UserError, match="shape"):
            engine.c(*arguments)


def test_models_encode_empty_batches_and_train_on_none(xp: ModuleType) -> None:
    model = convae.Autoencoder(
        (1, 8, 8), [convae.Layer(4, 3)], device="gpu" if xp is not np else "cpu"
    )
    x = xp.empty((0, 1, 8, 8), "float32")
    H = model.encode(x)
    assert H.shape == (0, 4, 6, 6)
    assert model.decode(H).shape == model.reconstruct(x).shape == x.shape
    assert [codes.shape for codes in model.codes(x)] == [H.shape]
    with pytest.raises(UserError, match="at least one example"):
        model.loss_and_gradients(x)


# ---- in models


LAYERS = [
    {"filters": 4, "kernel": 3, "stride": 2, "padding": "same", "padding_mode": "reflect"},
    {
        "filters": 3,
        "kernel": 2,
        "padding": 2,
        "padding_mode": "circular",
        "sharing": "tiled",
        "tile": 2,
    },
    {"filters": 2, "kernel": 3, "padding": "full", "padding_mode": "replicate", "sharing": "local"},
]


def test_gradients_of_padded_layers_are_autograds(rng) -> None:
    model = convae.Autoencoder((2, 7, 8), LAYERS, dtype="float64", seed=1)
    x = rng.random((3, 2, 7, 8))
    loss, gradients = model.loss_and_gradients(x)
    module = convae.to_torch(model)
    _, R = module(torch.tensor(x))
    assert error(model.reconstruct(x), R.detach().numpy()) < 1e-13
    J = ((R - torch.tensor(x)) ** 2).mean()
    J.backward()
    assert J.item() == pytest.approx(loss, rel=1e-12)
    for name, parameter in module.named_parameters():
        assert error(gradients[name], parameter.grad.numpy()) < 1e-12, name
