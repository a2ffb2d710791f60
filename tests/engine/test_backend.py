"""The backends: how they are chosen, and what each computes, against definition and PyTorch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given

from convae import engine
from convae.engine import ArrayBackend, Backend, backend_for
from convae.errors import DeviceError, UserError, UserTypeError
from convae.models.activations import ACTIVATIONS
from tests.helpers import TORCH_ACTIVATIONS, ShortStorage, device_of, error
from tests.problems import Problem, problems

BACKENDS = {"array": ArrayBackend(), "numpy": backend_for("cpu")}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


# ---- the choice


def test_backend_of_a_device_and_of_its_arrays_is_one_object(xp: ModuleType) -> None:
    found = backend_for(device_of(xp))
    assert (
        found is backend_for(device_of(xp)) is backend_for(xp.zeros(3)) is backend_for(xp.ones(1))
    )
    assert found.xp is xp
    assert found.device == device_of(xp)


def test_auto_takes_the_gpu_where_one_works() -> None:
    expected = "cpu" if engine.missing_gpu() else "gpu"
    assert backend_for("auto") is backend_for(expected)


def test_tf32_has_a_backend_of_its_own(xp: ModuleType) -> None:
    if xp is np:
        with pytest.raises(DeviceError, match="tf32: only a GPU has it"):
            backend_for("cpu", tf32=True)
        return
    exact, rounded = backend_for("gpu"), backend_for("gpu", tf32=True)
    assert rounded is backend_for("gpu", tf32=True) is not exact
    assert rounded.tolerance["float32"] > exact.tolerance["float32"]
    assert rounded.tolerance["float64"] == exact.tolerance["float64"]


@pytest.mark.parametrize(
    ("where", "kind", "says"),
    [
        ("tpu", UserError, "device: 'tpu' is unknown; expected one of cpu, gpu, auto"),
        ([1.0], UserTypeError, "got builtins.list"),
        (None, UserTypeError, "got builtins.NoneType"),
    ],
)
def test_what_is_neither_device_nor_array_is_refused(where, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says):
        backend_for(where)


# ---- c, h and g


@given(problem=problems())
def test_operations_equal_the_definition(backend: Backend, problem: Problem) -> None:
    K, V, G = problem.arrays()
    results = (
        backend.c(K, V, problem.geometry),
        backend.h(K, G, problem.geometry),
        backend.g(G, V, K.shape, problem.geometry),
    )
    for actual, expected in zip(results, problem.by_definition(), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == "float64"
        assert error(actual, expected) < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_short_arrays_are_summed_in_float32(xp: ModuleType, dtype: str, tolerance: float) -> None:
    """Sums of many small numbers, which would stop growing if they were stored short, too."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    rng = np.random.default_rng(0)
    backend = ShortStorage() if xp is np else backend_for("gpu")
    shapes = ((8, 16, 3, 3), (40, 16, 9, 9), (40, 8, 5, 5))
    K, V, G = (rng.random(shape).astype(dtype) for shape in shapes)
    wide = [torch.tensor(array.astype("float64"), requires_grad=True) for array in (K, V, G)]
    Z = torch.nn.functional.conv2d(wide[1], wide[0], stride=2, padding=1)
    Z.backward(wide[2])
    geometry = engine.resolve(size=(9, 9), kernel=3, stride=2, padding="same")
    K, V, G = (xp.asarray(array) for array in (K, V, G))
    results = (
        backend.c(K, V, geometry),
        backend.h(K, G, geometry),
        backend.g(G, V, K.shape, geometry),
    )
    assert [array.dtype for array in results] == [dtype, dtype, "float32"]
    for actual, expected in zip(results, (Z, wide[1].grad, wide[0].grad), strict=True):
        assert error(actual, expected.detach().numpy()) < tolerance


# ---- the passes between them


def channels_last(array: np.ndarray) -> np.ndarray:
    """Lay a batch (N, C, *size) out as c and h return it: channels innermost."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


LAYOUTS = {"channels last": channels_last, "C": np.ascontiguousarray}


def passes(backend: Backend, name: str, dtype: str, layout: str) -> dict[str, np.ndarray]:
    """Every pass of a backend on the same numbers, by the name of its result."""
    rng, f = np.random.default_rng(0), ACTIVATIONS[name]
    z, x = (3 * rng.standard_normal((7, 5, 3, 2)).astype(dtype) for _ in range(2))
    z[0, 0, 0, :] = 200, -200
    b = rng.standard_normal(5).astype(dtype)
    z, x = LAYOUTS[layout](z), LAYOUTS[layout](x)
    z_t, b_t = (torch.tensor(array, requires_grad=True) for array in (z, b))
    H_t = TORCH_ACTIVATIONS[name](z_t + b_t[:, None, None])
    J_t = torch.nn.functional.mse_loss(H_t, torch.tensor(x))
    J_t.backward()

    H = backend.activate(z.copy(order="K"), b, f)
    J, E = backend.squared_error(H, x, f, H.size)
    dZ = backend.activation_gradient((H - x) * np.asarray(2 / H.size, dtype), H, f)
    db, by_position = (backend.bias_gradient(E, by_position=each) for each in (False, True))
    y = x.copy(order="K")
    backend.axpy(0.3, z, y)
    expected = {
        "H": H_t.detach().numpy(),
        "J": np.asarray(J_t.item()),
        "E": z_t.grad.numpy(),
        "dZ": z_t.grad.numpy(),
        "db": b_t.grad.numpy(),
        "db by position": z_t.grad.numpy().sum(axis=0),
        "y": x + 0.3 * z,
    }
    found = {
        "H": H,
        "J": np.asarray(J),
        "E": E,
        "dZ": dZ,
        "db": db,
        "db by position": by_position,
        "y": y,
    }
    tolerance = {"float32": (1e-5, 1e-6), "float64": (1e-12, 1e-15)}[dtype]
    for key, actual in found.items():
        assert actual.dtype == (dtype if key != "J" else "float64"), key
        np.testing.assert_allclose(actual, expected[key], *tolerance, err_msg=key)
    return found


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_passes_equal_pytorch_and_each_other(name: str, dtype: str, layout: str) -> None:
    portable, compiled = (passes(each, name, dtype, layout) for each in BACKENDS.values())
    tolerance = {"float32": 2e-6, "float64": 1e-14}[dtype]
    for key, actual in compiled.items():
        assert error(actual, portable[key]) < tolerance, key


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rectifiers_keep_what_is_not_finite(backend: Backend, name: str, layout: str) -> None:
    z = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, -1.0], "float32").reshape(6, 1, 1)
    expected = TORCH_ACTIVATIONS[name](torch.tensor(z)).numpy()
    found = backend.activate(LAYOUTS[layout](z.copy()), np.zeros(1, "float32"), ACTIVATIONS[name])
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found[0, 0, 0])


def test_activation_adds_a_bias_for_every_position(backend: Backend, rng) -> None:
    Z, b = rng.standard_normal((4, 3, 2, 5)), rng.standard_normal((3, 2, 5))
    expected = np.tanh(Z + b)
    assert error(backend.activate(Z, b, ACTIVATIONS["tanh"]), expected) < 1e-15
    bare = backend.activate(Z.copy(), None, ACTIVATIONS["relu"])
    assert (bare == np.maximum(Z, 0)).all()


# ---- memory, and the division of a batch


def test_kernels_lie_filters_last(backend: Backend) -> None:
    flat = np.arange(2 * 3 * 4 * 5)
    K = backend.kernel_view(flat, (2, 3, 4, 5), 2)  # O, C, *kernel
    assert np.shares_memory(K, flat)
    assert (flat.reshape(4, 5, 3, 2).transpose(3, 2, 0, 1) == K).all()


@pytest.mark.parametrize("channels", [1, 3, 16, 17])
def test_batches_keep_their_numbers_in_any_order(backend: Backend, channels: int, rng) -> None:
    x = rng.random((6, channels, 4, 5))
    for order in (x, x[:, ::-1], x[..., ::-1], np.moveaxis(x, 3, 2), np.moveaxis(x, 2, 0)):
        assert (backend.arrange(order) == order).all()


def test_batches_without_numbers_are_arranged_where_they_lie(backend: Backend) -> None:
    empty = backend.empty_batch((6, 3, 4, 5), "float32")
    assert empty.shape == (6, 3, 4, 5)
    assert empty.dtype == "float32"
    assert backend.xp.shares_memory(backend.arrange(empty), empty)


@pytest.mark.parametrize("examples", [1, 2, 3, 10, 31, 32, 100, 1000])
@pytest.mark.parametrize(("work", "numbers"), [(1, 1), (10_000, 300), (10**9, 10**6)])
@pytest.mark.parametrize("parameters", [0, 10**6])
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.usefixtures("divided")
def test_chunks_cover_the_batch_once(
    backend: Backend, examples: int, work: int, numbers: int, parameters: int, is_compiled: bool
) -> None:
    chunks = backend.divide(examples, work, numbers, parameters, is_compiled)
    assert np.concatenate([np.arange(examples)[chunk] for chunk in chunks]).tolist() == list(
        range(examples)
    )
    doubled = backend.map(lambda chunk: 2 * chunk.start, chunks)
    assert doubled == [2 * chunk.start for chunk in chunks]
