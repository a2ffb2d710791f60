"""c, h and g against their definition, PyTorch, and numbers worked by hand."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convae import engine
from convae.engine import definition
from convae.engine.cpu import threads
from tests.helpers import by_pytorch, error
from tests.problems import Problem, problems

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def assert_close(actual, expected, dtype: str = "float64") -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    assert error(actual, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(problem=problems())
def test_operations_equal_their_definition(xp: ModuleType, problem: Problem, dtype: str) -> None:
    K, V, G = (xp.asarray(array) for array in problem.arrays(dtype))
    how, size = problem.how, problem.V_shape[2:]
    results = (
        engine.c(K, V, **how),
        engine.h(K, G, size=size, **how),
        engine.g(G, V, kernel=problem.kernel, tile=problem.tile, **how),
    )
    for actual, expected in zip(results, problem.by_definition(dtype), strict=True):
        assert_close(actual, expected, dtype)


@given(problem=problems(sharings=("shared",)))
def test_shared_operations_equal_pytorch(xp: ModuleType, problem: Problem) -> None:
    expected = by_pytorch(*problem.arrays(), **problem.how)
    K, V, G = (xp.asarray(array) for array in problem.arrays())
    results = (
        engine.c(K, V, **problem.how),
        engine.h(K, G, size=V.shape[2:], **problem.how),
        engine.g(G, V, kernel=problem.kernel, **problem.how),
    )
    for actual, wanted in zip(results, expected, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize("size", [7, 8])
def test_h_returns_each_size_that_the_stride_permits(xp: ModuleType, rng, size: int) -> None:
    K, G = rng.standard_normal((3, 2, 3, 3)), rng.standard_normal((2, 3, 4, 4))
    expected = torch.nn.functional.conv_transpose2d(
        torch.tensor(G), torch.tensor(K), stride=2, padding=1, output_padding=size - 7
    )
    R = engine.h(xp.asarray(K), xp.asarray(G), stride=2, padding=1, size=size)
    assert_close(R, expected.numpy())


def test_worked_example_of_the_transpose(xp: ModuleType) -> None:
    x = xp.arange(1.0, 10).reshape(1, 1, 3, 3)
    K = xp.arange(1.0, 5).reshape(1, 1, 2, 2)
    expected = [[1, 4, 7, 6], [7, 23, 33, 24], [19, 53, 63, 42], [21, 52, 59, 36]]
    assert engine.to_numpy(engine.h(K, x))[0, 0].tolist() == expected


def test_worked_example_of_the_input_gradient(xp: ModuleType, rng) -> None:
    """Kernel 3, stride 2, padding 1: zeros between and around the gradient, then rot180(K)."""
    K, G = rng.standard_normal((1, 1, 3, 3)), rng.standard_normal((1, 1, 3, 3))
    stuffed = np.zeros((1, 1, 7, 7))
    stuffed[..., 1:6:2, 1:6:2] = G
    expected = definition.c(K[..., ::-1, ::-1], stuffed, (1, 1), ((0, 0), (0, 0)), (1, 1))
    turned = engine.c(engine.rot180(xp.asarray(K)), xp.asarray(stuffed))
    assert_close(engine.h(xp.asarray(K), xp.asarray(G), stride=2, padding=1, size=5), expected)
    assert_close(turned, expected)


def test_worked_example_of_the_kernel_jacobian(xp: ModuleType) -> None:
    """A 3x3 input and a 2x2 kernel: row (j, k) of the Jacobian is the window at (j, k)."""
    V = xp.arange(1.0, 10).reshape(1, 1, 3, 3)
    jacobian = [[1, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]]
    for position, row in enumerate(jacobian):
        G = xp.zeros((1, 1, 2, 2))
        G.reshape(-1)[position] = 1
        assert engine.to_numpy(engine.g(G, V, kernel=2)).ravel().tolist() == row


def test_c_does_not_flip_and_rot180_does(xp: ModuleType) -> None:
    V = xp.asarray([[[1.0, 10.0, 100.0]]])
    K = xp.asarray([[[1.0, 2.0]]])
    assert engine.to_numpy(engine.c(K, V)).tolist() == [[[21, 210]]]
    assert engine.to_numpy(engine.c(engine.rot180(K), V)).tolist() == [[[12, 120]]]


@given(problem=problems(sharings=("shared",)))
def test_tile_one_is_the_shared_kernel_to_the_bit(xp: ModuleType, problem: Problem) -> None:
    K, V, G = (xp.asarray(array) for array in problem.arrays("float32"))
    ones = (1,) * (V.ndim - 2)
    tiled = K.reshape(K.shape[0], *ones, *K.shape[1:])
    size, how = V.shape[2:], problem.how
    assert (engine.c(tiled, V, **how) == engine.c(K, V, **how)).all()
    assert (engine.h(tiled, G, size=size, **how) == engine.h(K, G, size=size, **how)).all()
    shared = engine.g(G, V, kernel=problem.kernel, **how)
    assert (
        engine.g(G, V, kernel=problem.kernel, tile=1, **how) == shared.reshape(tiled.shape)
    ).all()


@given(problem=problems(sharings=("local",), axes=2))
def test_local_operations_equal_unfold_and_einsum(xp: ModuleType, problem: Problem) -> None:
    """A kernel for every position, through PyTorch's unfold: nothing of ours is used."""
    K, V, G = problem.arrays()
    K_t, V_t = (torch.tensor(array, requires_grad=True) for array in (K, V))
    (top, bottom), (left, right) = problem.padding
    padded = torch.nn.functional.pad(V_t, (left, right, top, bottom))
    columns = torch.nn.functional.unfold(
        padded, problem.kernel, dilation=problem.dilation, stride=problem.stride
    )
    rows, cols = problem.G_shape[2:]
    filters, groups = K.shape[0] // problem.groups, problem.groups
    columns = columns.reshape(len(V), groups, -1, rows, cols)
    kernels = K_t.reshape(groups, filters, rows, cols, -1)
    Z_t = torch.einsum("ngeyx,gfyxe->ngfyx", columns, kernels).reshape(problem.G_shape)
    Z_t.backward(torch.tensor(G))
    K, V, G = (xp.asarray(array) for array in (K, V, G))
    assert_close(engine.c(K, V, **problem.how), Z_t.detach().numpy())
    assert_close(engine.h(K, G, size=V.shape[2:], **problem.how), V_t.grad.numpy())
    dK = engine.g(G, V, kernel=problem.kernel, tile=problem.tile, **problem.how)
    assert_close(dK, K_t.grad.numpy())


@given(problem=problems(sharings=("tiled",)))
def test_local_kernels_can_repeat_a_tile(problem: Problem) -> None:
    """Position j of a tiled kernel uses j % t: the same kernel spread over all positions."""
    K, V, _ = problem.arrays()
    local = K
    for axis, positions in enumerate(problem.G_shape[2:], start=1):
        local = local.take(np.arange(positions) % K.shape[axis], axis=axis)
    assert_close(engine.c(local, V, **problem.how), engine.c(K, V, **problem.how))


@pytest.mark.parametrize("memory", ["C", "examples last", "every second", "backwards"])
def test_memory_order_does_not_matter(xp: ModuleType, rng, memory: str) -> None:
    K, V = rng.standard_normal((4, 3, 3, 3)), rng.standard_normal((5, 3, 8, 8))
    arrange = {
        "C": lambda a: a,
        "examples last": lambda a: xp.ascontiguousarray(a.transpose(1, 2, 3, 0)).transpose(
            3, 0, 1, 2
        ),
        "every second": lambda a: xp.repeat(a, 2, axis=3)[..., ::2],
        "backwards": lambda a: xp.ascontiguousarray(a[..., ::-1])[..., ::-1],
    }[memory]
    how = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
    Z = definition.c(K, V, **how)
    V_x, K_x, Z_x = (arrange(xp.asarray(array)) for array in (V, K, Z))
    V_h, dK = definition.h(K, Z, (8, 8), **how), definition.g(Z, V, K.shape, **how)
    assert_close(engine.c(K_x, V_x, **how), Z)
    assert_close(engine.h(K_x, Z_x, size=8, **how), V_h)
    assert_close(engine.g(Z_x, V_x, kernel=3, **how), dK)


def test_arguments_are_not_changed(xp: ModuleType, rng) -> None:
    shapes = ((4, 3, 3, 3), (5, 3, 8, 8), (5, 4, 6, 6))
    K, V, G = (xp.asarray(rng.standard_normal(shape)) for shape in shapes)
    before = [array.copy() for array in (K, V, G)]
    engine.c(K, V)
    engine.h(K, G)
    engine.g(G, V, kernel=3)
    assert all((a == b).all() for a, b in zip((K, V, G), before, strict=True))


@given(examples=st.integers(65, 140))
def test_chunks_of_the_batch_do_not_show(examples: int) -> None:
    rng = np.random.default_rng(examples)
    K, V = rng.standard_normal((4, 2, 3, 3)), rng.standard_normal((examples, 2, 6, 6))
    how = {"stride": (1, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 1)}
    assert examples > threads.LARGEST_CHUNK
    Z = engine.c(K, V, **how)
    assert_close(Z, definition.c(K, V, **how))
    assert_close(engine.h(K, Z, size=6, **how), definition.h(K, Z, (6, 6), **how))
    assert_close(engine.g(Z, V, kernel=3, **how), definition.g(Z, V, K.shape, **how))


K0, V0 = np.zeros((4, 2, 3, 3)), np.zeros((1, 2, 5, 5))
G0 = np.zeros((1, 4, 3, 3))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: engine.c(K0, V0.astype("float32")),
            TypeError,
            "dtype: K is float64, V is",
        ),
        (lambda: engine.c(K0.astype(int), V0.astype(int)), TypeError, "dtype: int64 .*float32"),
        (lambda: engine.c(K0, V0.tolist()), TypeError, "V: got builtins.list"),
        (lambda: engine.c(K0, V0[0, 0]), ValueError, r"V: shape \(5, 5\)"),
        (lambda: engine.c(K0, V0[:, :0]), ValueError, r"V: shape \(\d+, 0, 5, 5\)"),
        (lambda: engine.c(K0[0], V0), ValueError, r"K: shape \(2, 3, 3\) has 3 axes"),
        (lambda: engine.c(K0[:, :1], V0), ValueError, "V: 2 channels, but K takes 1"),
        (lambda: engine.c(K0, V0, stride=0), ValueError, "stride: 0 is too small"),
        (lambda: engine.c(K0, V0, stride=1.5), TypeError, "stride: 1.5 is not an integer"),
        (lambda: engine.c(K0, V0, stride={1: 1}), TypeError, "stride: {1: 1} is neither"),
        (lambda: engine.c(K0, V0, stride=np.array([1, 1])), TypeError, "stride: array"),
        (lambda: engine.c(K0, V0, stride=(1, 1, 1)), ValueError, r"stride: \(1, 1, 1\) has 3"),
        (lambda: engine.c(K0, V0, dilation=3), ValueError, "kernel: 3 along axis 0 covers 7"),
        (lambda: engine.c(K0, V0, padding="some"), ValueError, "padding: 'some' is unknown"),
        (lambda: engine.c(K0, V0, padding=-1), ValueError, "padding: -1 is too small"),
        (lambda: engine.c(K0, V0, padding=(1, 1, 1)), ValueError, "padding: .* has 3 entries"),
        (lambda: engine.c(K0, V0, groups=3), ValueError, "groups: 3 does not divide the 4 filters"),
        (lambda: engine.c(K0, V0, groups=0), ValueError, "groups: 0 is too small"),
        (
            lambda: engine.c(np.zeros((4, 4, 4, 2, 3, 3)), V0),
            ValueError,
            "tile: 4 along axis 0 is larger than the output, which has 3",
        ),
        (lambda: engine.h(K0, G0, stride=2), ValueError, "size: .*7 or 8 by 7 or 8"),
        (lambda: engine.h(K0, G0, stride=2, size=9), ValueError, r"size: \(9, 9\) .* 7 or 8"),
        (lambda: engine.h(K0, G0, size=4), ValueError, "size: .*5 by 5"),
        (lambda: engine.h(K0, G0[:, :3]), ValueError, "G: 3 channels, but K has 4 filters"),
        (lambda: engine.h(K0, G0, padding=5), ValueError, "the padding is too large"),
        (lambda: engine.g(G0, V0, kernel=2), ValueError, r"G: shape .*\(N, 4, 4, 4\)"),
        (lambda: engine.g(G0, V0, kernel=3, groups=4), ValueError, "4 does not divide V's 2"),
        (lambda: engine.g(G0, V0, kernel=6), ValueError, "kernel: 6 along axis 0"),
        (lambda: engine.g(G0, V0[..., 0], kernel=3), ValueError, "G: shape .* V's"),
        (lambda: engine.rot180(np.zeros(3)), ValueError, "axes: -1 spatial axes"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, error, says: str) -> None:
    with pytest.raises(error, match=says):
        call()
