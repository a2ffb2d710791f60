"""The same autoencoder in PyTorch, trained by autograd, to compare training with."""

from __future__ import annotations

import torch
from torch.nn import functional

import convae
from convae.engine import to_numpy
from convae.engine.geometry import Geometry

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda z: z}


class Peer(torch.nn.Module):
    """A copy, parameters included, of a model with shared kernels, tied or not."""

    def __init__(self, model: convae.Autoencoder) -> None:
        super().__init__()
        self.model = model
        self.weights = torch.nn.ParameterDict(
            {
                name.replace(".", "_"): torch.nn.Parameter(torch.tensor(to_numpy(array).copy()))
                for name, array in model.parameters.items()
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruct a batch."""
        layers, switches = list(enumerate(self.model.layers)), []
        for i, layer in layers:
            K, b = self.weights[f"{i}_kernel"], self.weights[f"{i}_hidden_bias"]
            x = ACTIVATIONS[layer.hidden_activation.name](_encoded(x, K, b, layer.geometry))
            if layer.pooling is not None:
                x, chosen = functional.max_pool2d(x, layer.pooling.window, return_indices=True)
                switches.append(chosen)
        for i, layer in reversed(layers):
            K, a = self.weights[f"{i}_{layer.decoder_kernel}"], self.weights[f"{i}_visible_bias"]
            if layer.pooling is not None:
                x = functional.max_unpool2d(x, switches.pop(), layer.pooling.window)
            x = ACTIVATIONS[layer.visible_activation.name](_decoded(x, K, a, layer.geometry))
        return x


def _encoded(V: torch.Tensor, K: torch.Tensor, b: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Convolve; the convolution pads by itself where both sides are padded alike."""
    padding = [before for before, _ in geometry.padding]
    if any(before != after for before, after in geometry.padding):
        sides = [width for pair in reversed(geometry.padding) for width in pair]
        V, padding = functional.pad(V, sides), [0, 0]
    if b.ndim == 1:
        return functional.conv2d(V, K, b, geometry.stride, padding)
    return functional.conv2d(V, K, None, geometry.stride, padding) + b


def _decoded(H: torch.Tensor, K: torch.Tensor, a: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Convolve transposed, to the input's size; what lies beyond it at the end is cut off."""
    padding, extra = [], []
    for n, out, s, k, (before, _) in zip(
        geometry.size,
        geometry.output,
        geometry.stride,
        geometry.kernel,
        geometry.padding,
        strict=True,
    ):
        padding.append(before)
        extra.append(max(0, n - ((out - 1) * s + k - 2 * before)))
    bias = a if a.ndim == 1 else None
    A = functional.conv_transpose2d(H, K, bias, geometry.stride, padding, extra)
    rows, columns = geometry.size
    A = A[..., :rows, :columns]
    return A if a.ndim == 1 else A + a
