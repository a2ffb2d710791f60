"""What tests share: the repository's places, oracles by PyTorch, and small models and runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose as compose_overrides
from hydra import initialize_config_module
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import convae
from convae import Layer, engine
from convae.app.overrides import CONFIGS as PACKAGE
from convae.configuration import (
    Config,
    CorruptionConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainerConfig,
)
from convae.data.splits import Split, Splits
from convae.engine import ArrayBackend, missing_gpu
from convae.engine.definition import terms
from convae.report.tensorboard import Board
from convae.training.build import build_parts, build_trainer
from convae.training.state import StateFolder, begin, read_state, restore
from convae.training.trainer import Trainer

REPOSITORY = Path(__file__).parents[1]

# ---- numbers


def error(actual: Any, expected: np.ndarray) -> float:
    """Relative error in the norm."""
    difference = engine.to_numpy(actual).astype("float64") - expected
    return float(np.linalg.norm(difference) / max(np.linalg.norm(expected), 1e-30))


def cupy_or_skip() -> ModuleType:
    if missing := missing_gpu():
        pytest.skip(f"{missing}; tests/pretend_gpu/run pytest -m gpu does without a card")
    import cupy

    return cupy


def device_of(xp: ModuleType) -> str:
    return "cpu" if xp is np else "gpu"


class ShortStorage(ArrayBackend):
    """The portable backend with the element types that only GPUs have."""

    dtypes = ("float16", "bfloat16", "float32", "float64")


# ---- convolutions by PyTorch

CONVOLUTIONS = {
    1: torch.nn.functional.conv1d,
    2: torch.nn.functional.conv2d,
    3: torch.nn.functional.conv3d,
}


def by_pytorch(
    K: np.ndarray,
    V: np.ndarray,
    G: np.ndarray,
    stride: Any,
    padding: Any,
    dilation: Any = 1,
    groups: int = 1,
) -> list[np.ndarray]:
    """c, h and g of a shared kernel in float64: a convolution and its gradients."""
    K_t, V_t = (torch.tensor(a.astype("float64"), requires_grad=True) for a in (K, V))
    sides = [width for pair in reversed(padding) for width in pair]
    padded = torch.nn.functional.pad(V_t, sides)
    convolve = CONVOLUTIONS[V.ndim - 2]
    Z_t = convolve(padded, K_t, stride=stride, dilation=dilation, groups=groups)
    Z_t.backward(torch.tensor(G.astype("float64")))
    return [Z_t.detach().numpy(), V_t.grad.numpy(), K_t.grad.numpy()]


# ---- models by PyTorch

TORCH_ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
}


def torch_dissimilarity(R: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """1 - SSIM, window by window (Wang et al. 2004, equation 13)."""
    sides = x.shape[2:]
    if min(sides) >= 11:
        line = torch.exp(-(torch.arange(-5, 6).double() ** 2) / (2 * 1.5**2))
    else:
        line = torch.ones(min(7, min(sides) - 1 + min(sides) % 2)).double()
    line = (line / line.sum()).to(x.dtype)

    def mean(values: torch.Tensor) -> torch.Tensor:
        for axis in range(2, values.ndim):
            values = (values.unfold(axis, len(line), 1) * line).sum(dim=-1)
        return values

    mx, mr = mean(x), mean(R)
    vx, vr, c = mean(x * x) - mx**2, mean(R * R) - mr**2, mean(x * R) - mx * mr
    top = (2 * mx * mr + 0.01**2) * (2 * c + 0.03**2)
    return (1 - top / ((mx**2 + mr**2 + 0.01**2) * (vx + vr + 0.03**2))).mean()


TORCH_LOSSES = {
    "mse": torch.nn.functional.mse_loss,
    "bce": torch.nn.functional.binary_cross_entropy,
    "l1": torch.nn.functional.l1_loss,
    "ssim": torch_dissimilarity,
}


class Untied:
    """A PyTorch copy of an autoencoder, its gradients by autograd: an oracle that shares no code.

    Kernels of every sharing become a dense matrix of the linear map that they stand for, by the
    terms of the definition; that is slow, and right for shared, tiled and local alike. In `tensors`
    a tied layer may be given a "decoder_kernel", and the two halves of its gradient come apart.
    """

    def __init__(self, model: convae.Autoencoder) -> None:
        self.model = model
        self.tensors = {
            name: torch.tensor(engine.to_numpy(array).copy(), requires_grad=True)
            for name, array in model.parameters.items()
        }

    def encode_layer(self, index: int, H: torch.Tensor) -> torch.Tensor:
        """Encode flattened inputs of a layer."""
        layer = self.model.layers[index]
        Z = H @ matrix(self.tensors[f"{index}.kernel"], layer).T
        Z = Z + spread(self.tensors.get(f"{index}.hidden_bias"), layer.output_shape)
        return TORCH_ACTIVATIONS[layer.hidden_activation.name](Z)

    def decode_layer(self, index: int, H: torch.Tensor) -> torch.Tensor:
        layer = self.model.layers[index]
        kernel = self.tensors.get(f"{index}.decoder_kernel", self.tensors[f"{index}.kernel"])
        A = H @ matrix(kernel, layer)
        A = A + spread(self.tensors.get(f"{index}.visible_bias"), layer.input_shape)
        return TORCH_ACTIVATIONS[layer.visible_activation.name](A)

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        H, depth = x.reshape(len(x), -1), len(self.model.layers)
        for index in range(depth):
            H = self.encode_layer(index, H)
        for index in reversed(range(depth)):
            H = self.decode_layer(index, H)
        return H.reshape(x.shape)

    def loss(self, x: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        return TORCH_LOSSES[self.model.loss.name](
            self.reconstruct(x), x if target is None else target
        )

    def gradients(self) -> dict[str, np.ndarray]:
        return {name: tensor.grad.numpy() for name, tensor in self.tensors.items()}


def matrix(K: torch.Tensor, layer: Any) -> torch.Tensor:
    """The matrix of V -> c(K, V), as a differentiable function of K."""
    geometry = layer.geometry
    shapes = (tuple(K.shape), (1, *layer.input_shape))
    how = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    rows, columns, elements = [], [], []
    for k, v, z in terms(*shapes, *how):
        rows.append(np.ravel_multi_index(z[1:], layer.output_shape))
        columns.append(np.ravel_multi_index(v[1:], layer.input_shape))
        elements.append(np.ravel_multi_index(k, K.shape))
    size = (int(np.prod(layer.output_shape)), int(np.prod(layer.input_shape)))
    rows, columns, elements = (torch.tensor(places).long() for places in (rows, columns, elements))
    empty = torch.zeros(size, dtype=K.dtype)
    return empty.index_put((rows, columns), K.ravel()[elements], accumulate=True)


def spread(bias: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | float:
    """A bias of any sharing, one number for each unit."""
    if bias is None:
        return 0.0
    if bias.ndim == 1:
        bias = bias.reshape(-1, *(1 for _ in shape[1:]))
    for axis, positions in enumerate(shape[1:], start=1):
        bias = bias.index_select(axis, torch.arange(positions) % bias.shape[axis])
    return bias.ravel()


def assert_gradients(
    gradients: dict[str, Any], expected: dict[str, np.ndarray], tolerance: float = 1e-9
) -> None:
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        difference = np.linalg.norm(engine.to_numpy(gradient) - expected[name])
        assert difference < tolerance * max(np.linalg.norm(expected[name]), 1e-3), name


# ---- models

STACKS = {
    1: [Layer(3, 3, stride=2, padding="same")],
    2: [Layer(3, 3, stride=2, padding="same"), Layer(4, 2, padding=1)],
    3: [Layer(3, 3, padding="full"), Layer(4, 3, stride=(2, 1)), Layer(2, "input")],
}


def build(xp: ModuleType, *args: Any, **kwargs: Any) -> convae.Autoencoder:
    """Build a float64 model whose biases, too, are not zero."""
    model = convae.Autoencoder(*args, dtype="float64", device=device_of(xp), **kwargs)
    rng = np.random.default_rng(1)
    for array in model.parameters.values():
        array += xp.asarray(0.1 * rng.standard_normal(array.shape))
    return model


EXPORTED = {
    "shared": (
        (1, 12, 12),
        [Layer(8, 5, stride=2, padding="same"), Layer(6, "input", activation="identity")],
    ),
    "groups, dilation, uneven": (
        (2, 9, 8),
        [Layer(4, (2, 3), (2, 3), ((1, 0), (0, 2)), dilation=(2, 1), groups=2, activation="tanh")],
    ),
    "tiled": (
        (2, 9, 8),
        [
            Layer(4, 3, 2, "same", groups=2, sharing="tiled", tile=2, activation="softplus"),
            Layer(3, 2, padding=1, activation="leaky_relu"),
        ],
    ),
    "local": ((3, 8, 8), [Layer(4, 3, 2, "same", sharing="local"), Layer(3, "input")]),
    "untied": ((1, 8, 8), [Layer(4, 3, 2, "same", tied=False, hidden_bias="position")]),
    "1 axis": ((2, 11), [Layer(4, 3, 2, "same"), Layer(3, 3, sharing="tiled", tile=2)]),
    "3 axes": ((1, 5, 6, 4), [Layer(4, 3, 2, "same", sharing="local")]),
}


def exported_model(name: str) -> convae.Autoencoder:
    """Build one of `EXPORTED`, with biases that are not zero."""
    shape, layers = EXPORTED[name]
    model = convae.Autoencoder(shape, layers)
    rng = np.random.default_rng(1)
    model.flat_parameters += 0.1 * rng.standard_normal(model.flat_parameters.size).astype("f")
    return model


# ---- pictures and curves


def write_pictures(folder: Path, count: int, side: int = 12, mode: str = "RGB") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new(mode, (side, side), index * 5).save(folder / f"{index:03}.png")


def pixels_of(split: Split) -> np.ndarray:
    """All images of a split, in order."""
    return np.concatenate(list(split.batches(64)))


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def curve(folder: Path, tag: str) -> list[float]:
    return [event.value for event in events(folder).Scalars(tag)]


def hyperparameters(folder: Path) -> dict[str, float | str]:
    """A run's row in the HParams table."""
    content = events(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    kinds = {name: value.WhichOneof("kind") for name, value in values.items()}
    return {name: getattr(value, kinds[name]) for name, value in values.items()}


# ---- configurations

CONFIGS = REPOSITORY / "configs"
GROUPS = (
    "model",
    "dataset",
    "optimizer",
    "schedule",
    "loss",
    "corruption",
    "augmentation",
    "penalty",
    "trainer",
    "experiment",
    "debug",
)
OPTIONS = [
    f"{group}={file.stem}" for group in GROUPS for file in sorted((CONFIGS / group).glob("*.yaml"))
]

NAMED = {
    "dataset=torchvision": ["dataset.name=Flowers102"],
    "dataset=webdataset": ["dataset.root=shards.tar"],
    "dataset=custom": ["dataset.name=my_module.MyDataset"],
}
"""What options cannot do without."""


@cache
def compose(*overrides: str) -> Config:
    """Compose a configuration; the same object for the same overrides, so not to be changed."""
    with initialize_config_module(PACKAGE, version_base="1.3"):
        config = OmegaConf.to_object(compose_overrides("config", overrides=list(overrides)))
    assert isinstance(config, Config)
    return config


# ---- runs

SHORT = ("trainer.epochs=3", "trainer.panels_every=2", "trainer.log_every=10", "dataset.limit=600")


FEW_PICTURES = ("trainer.epochs=2", "trainer.panels_every=1", "trainer.embeddings=0", "device=cpu")


def run_train(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """`python train.py`, as a user types it."""
    command = [sys.executable, "train.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, **how)


NOISE_CONFIG = Config(
    trainer=TrainerConfig(epochs=3, batch_size=8, log_every=2, panels_every=2, probe=4),
    corruption=CorruptionConfig("gaussian", 0.2),
    schedule=ScheduleConfig("plateau", warmup=4, patience=0),
    optimizer=OptimizerConfig("adam", 0.01),
)
"""A run on the fixture `noise`: three epochs of five steps."""


def noise_model(device: str = "cpu") -> convae.Autoencoder:
    layers = [Layer(4, 3, stride=2), Layer(3, "input")]
    return convae.Autoencoder((1, 6, 6), layers, device=device)


@contextmanager
def open_trainer(
    data: Splits, folder: Path, config: Config = NOISE_CONFIG, resume: bool = False
) -> Iterator[Trainer]:
    """A trainer around `noise_model`, fresh or restored from the folder's state."""
    device = "gpu" if config.device == "gpu" else "cpu"
    model, parts = noise_model(device), build_parts(config)
    configuration = dataclasses.asdict(config)
    progress = begin(configuration, data, model.loss.name)
    if resume:
        progress = restore(*read_state(folder), model, parts.optimizer)
    states = StateFolder(folder, configuration)
    with Board(folder, after=progress.step) as board:
        yield build_trainer(config, model, parts, data, board, states, progress)


def fit(data: Splits, folder: Path, config: Config = NOISE_CONFIG, resume: bool = False) -> Trainer:
    with open_trainer(data, folder, config, resume) as trainer:
        trainer.fit()
    return trainer
