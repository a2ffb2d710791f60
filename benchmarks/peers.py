"""The same tied autoencoder in PyTorch, trained by autograd, to compare training steps with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import convae
from convae.engine import to_numpy

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda z: z}


class TiedAutoencoder(torch.nn.Module):
    """A copy, parameters included, of a model with shared kernels and symmetric padding."""

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
        layers = list(enumerate(self.model.layers))
        for i, layer in layers:
            stride = layer.geometry.stride
            padding = [before for before, _ in layer.geometry.padding]
            K, b = self.weights[f"{i}_kernel"], self.weights[f"{i}_hidden_bias"]
            x = torch.nn.functional.conv2d(x, K, b, stride, padding)
            x = ACTIVATIONS[layer.hidden_activation.name](x)
        for i, layer in reversed(layers):
            geometry = layer.geometry
            padding = [before for before, _ in geometry.padding]
            extra = [
                n - ((out - 1) * s + k - 2 * p)
                for n, out, s, k, p in zip(
                    geometry.size,
                    geometry.output,
                    geometry.stride,
                    geometry.kernel,
                    padding,
                    strict=True,
                )
            ]
            K, a = self.weights[f"{i}_kernel"], self.weights[f"{i}_visible_bias"]
            x = torch.nn.functional.conv_transpose2d(x, K, a, geometry.stride, padding, extra)
            x = ACTIVATIONS[layer.visible_activation.name](x)
        return x


def training_steps(model: convae.Autoencoder, x: np.ndarray) -> dict[str, Callable[[], float]]:
    """Return PyTorch's training step in each mode, each with its own copy of the model."""
    torch._dynamo.reset()  # otherwise it would compile for dynamic shapes
    modes: dict[str, Callable[[], float]] = {}
    variants = [("eager", False, False), ("channels_last", True, False), ("compiled", False, True)]
    for name, channels_last, compiled in variants:
        peer = TiedAutoencoder(model)
        images = torch.tensor(x)
        if channels_last:
            peer = peer.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        forward = torch.compile(peer) if compiled else peer
        optimizer = torch.optim.Adam(peer.parameters(), 1e-3, fused=True)

        def step(
            forward: Callable[[torch.Tensor], torch.Tensor] = forward,
            images: torch.Tensor = images,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> float:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(forward(images), images)
            loss.backward()
            optimizer.step()
            return loss.item()

        modes[name] = step
    return modes
