"""Products as cuDNN's graphs, lowered for a described H200."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from convae import engine
from convae.engine.gpu import cudnn_graphs as graphs

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
def test_cudnn_has_plans(card, name: str, operation: str, dtype: str) -> None:
    geometry = engine.resolve(**SHAPES[name])
    wanted = graphs.Product(operation, geometry, 64, 32, 64, dtype, dtype)
    lowered = graphs.lower(wanted, device_property=card)
    assert lowered.graph.get_execution_plan_count() > 0
    shape = wanted.shapes[{"c": "Z", "h": "V", "g": "K"}[operation]]
    assert tuple(lowered.output.get_dim()) == shape


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_bias_and_activation_are_fused(card, activation: str) -> None:
    """Behind c in float32; other fusions are compiled by way of the driver, on a card."""
    reason = "NVRTC, which comes with CUDA builds of PyTorch, is not installed"
    pytest.importorskip("cuda.pathfinder", reason=reason).load_nvidia_dynamic_lib("nvrtc")
    geometry = engine.resolve(**SHAPES["stride 2"])
    types = ("float32", "float32", True, activation)
    lowered = graphs.lower(graphs.Product("c", geometry, 64, 32, 64, *types), device_property=card)
    assert lowered.graph.get_execution_plan_count() > 0
    assert [tuple(t.get_dim()) for t in lowered.inputs][2] == (1, 64, 1, 1)


def test_channels_lie_last() -> None:
    array = np.empty((2, 5, 6, 3), "float32")  # examples, rows, columns, channels
    elements = [step // 4 for step in array.transpose(0, 3, 1, 2).strides]
    assert graphs.strides((2, 3, 5, 6)) == elements
