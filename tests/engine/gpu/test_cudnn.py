"""Plans of cuDNN: lowered for a described H200 everywhere, computed with where there is a card."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from convae import engine
from convae.engine.gpu import cudnn as plans
from tests.helpers import by_pytorch, cupy_or_skip, error

H200 = {  # as cuDNN writes a card's properties down
    "deviceName": "NVIDIA H200",
    "deviceVer": 900,
    "driverVer": 13020,
    "cudaDeviceId": 0,
    "pciDeviceId": 0,
    "multiProcessorCount": 132,
    "smClockRateKHz": 1980000,
    "memClockRateKHz": 3201000,
    "l2CacheSize": 62914560,
    "totalGlobalMem": 150000000000,
    "warpSize": 32,
    "maxGridSize": [2147483647, 65535, 65535],
    "maxBlockSize": [1024, 1024, 64],
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048,
    "maxCtasPerSM": 32,
    "regsPerBlock": 65536,
    "maxRegistersPerSM": 65536,
    "maxSharedMemoryPerBlock": 49152,
    "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024,
    "isTccDriver": 0,
    "supportCoopLaunch": 1,
}

SHAPES = {
    "stride 2": {"size": (14, 14), "kernel": 3, "stride": 2, "padding": "same"},
    "uneven": {"size": (9, 12), "kernel": (5, 2), "stride": (2, 1), "padding": ((2, 1), (0, 3))},
    "one axis": {"size": (30,), "kernel": 4, "stride": 2},
    "three axes": {"size": (6, 6, 6), "kernel": 3},
    "dilated": {"size": (12, 12), "kernel": 3, "dilation": 2},
    "groups": {"size": (8, 8), "kernel": 3, "groups": 4},
}


@pytest.fixture(scope="session")
def card():
    """A description of a card, instead of one."""
    reason = "nvidia-cudnn-frontend is not installed"
    library = pytest.importorskip("cudnn", reason=reason, exc_type=ImportError)
    return library.create_device_properties(json.dumps(H200))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "operation"), [*product(SHAPES, "chg")])
def test_cudnn_has_engines(card, name: str, operation: str, dtype: str) -> None:
    geometry = engine.resolve(**SHAPES[name])
    problem = plans.Problem(operation, geometry, 64, 32, 64, dtype)
    if operation == "g" and dtype == "bfloat16":
        with pytest.raises(ValueError, match="dtype: g's sums"):
            plans.lower(problem, device_property=card)
        return
    lowered = plans.lower(problem, device_property=card)
    assert lowered.graph.get_execution_plan_count() > 0
    wanted = problem.shapes[{"c": "Z", "h": "V", "g": "K"}[operation]]
    assert tuple(lowered.output.get_dim()) == wanted


@pytest.mark.parametrize("activation", plans.ACTIVATIONS)
def test_bias_and_activation_are_fused(card, activation: str) -> None:
    """Behind c in TF32; other fusions are compiled by way of the driver, on a card."""
    reason = "NVRTC, which comes with CUDA builds of PyTorch, is not installed"
    pytest.importorskip("cuda.pathfinder", reason=reason).load_nvidia_dynamic_lib("nvrtc")
    geometry = engine.resolve(**SHAPES["stride 2"])
    problem = plans.Problem("c", geometry, 64, 32, 64, "float32", True, activation)
    lowered = plans.lower(problem, device_property=card)
    assert lowered.graph.get_execution_plan_count() > 0
    assert [tuple(t.get_dim()) for t in lowered.inputs][2] == (1, 64, 1, 1)


def test_other_fusions_are_refused(card) -> None:
    geometry = engine.resolve(**SHAPES["stride 2"])
    for operation, activation in (("g", "relu"), ("c", "softplus")):
        problem = plans.Problem(operation, geometry, 4, 8, 8, "float32", activation=activation)
        with pytest.raises(ValueError, match=f"activation: '{activation}' cannot be fused"):
            plans.lower(problem, device_property=card)


def test_channels_lie_last() -> None:
    array = np.empty((2, 5, 6, 3), "float32")  # examples, rows, columns, channels
    elements = [step // 4 for step in array.transpose(0, 3, 1, 2).strides]
    assert plans.strides((2, 3, 5, 6)) == elements


def test_cudnn_leaves_tiled_kernels_to_others() -> None:
    assert plans.suits(engine.resolve(size=(8, 8), kernel=3, groups=2))
    assert not plans.suits(engine.resolve(size=(8, 8), kernel=3, tile=2))


@pytest.mark.parametrize("name", ["stride 2", "uneven"])
def test_plans_equal_pytorch(rng, name: str) -> None:
    """On a card alone."""
    cupy = cupy_or_skip()
    pytest.importorskip("cudnn", reason="nvidia-cudnn-frontend is not installed")
    geometry = engine.resolve(**SHAPES[name])
    K = rng.standard_normal((16, 8, *geometry.kernel), dtype="float32")
    V = rng.standard_normal((4, 8, *geometry.size), dtype="float32")
    G = rng.standard_normal((4, 16, *geometry.output), dtype="float32")
    b = rng.standard_normal(16, dtype="float32")
    K_last, V_last, G_last = (
        cupy.asarray(np.ascontiguousarray(np.moveaxis(a, 1, -1))) for a in (K, V, G)
    )

    def computed(operation: str, *inputs, like, activation: str | None = None) -> np.ndarray:
        problem = plans.Problem(operation, geometry, 4, 8, 16, "float32", activation=activation)
        result = cupy.empty_like(like)
        plans.plan(problem).run(*inputs, result)
        return np.moveaxis(cupy.asnumpy(result), -1, 1)

    Z, R, dK = by_pytorch(K, V, G, geometry.stride, geometry.padding)
    assert error(computed("c", V_last, K_last, like=G_last), Z) < 1e-5
    assert error(computed("h", G_last, K_last, like=V_last), R) < 1e-5
    assert error(computed("g", V_last, G_last, like=K_last), dK) < 1e-5
    fused = computed("c", V_last, K_last, cupy.asarray(b), like=G_last, activation="relu")
    assert error(fused, np.maximum(Z + b[:, None, None], 0)) < 1e-5
