"""A PyTorch copy of an autoencoder, its gradients by autograd: an oracle that shares no code.

Kernels of every sharing become a dense matrix of the linear map they stand for, by pushing unit
images through the textbook's sums; that is slow, and right for shared, tiled and local alike. The
encoder and the decoder may be given kernels of their own, whose gradients then come apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from convae import Autoencoder
from convae.engine.definition import terms

ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
}
LOSSES = {
    "mse": torch.nn.functional.mse_loss,
    "bce": torch.nn.functional.binary_cross_entropy,
}


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
    empty = torch.zeros(size, dtype=K.dtype)
    return empty.index_put((torch.tensor(rows), torch.tensor(columns)), K.ravel()[elements], True)


def spread(bias: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | float:
    """A bias of any sharing, one number for each unit."""
    if bias is None:
        return 0.0
    if bias.ndim == 1:
        bias = bias.reshape(-1, *(1 for _ in shape[1:]))
    for axis, positions in enumerate(shape[1:], start=1):
        bias = bias.index_select(axis, torch.arange(positions) % bias.shape[axis])
    return bias.ravel()


def parameters_of(model: Autoencoder) -> dict[str, torch.Tensor]:
    """Copies of a model's parameters that require gradients."""
    return {
        name: torch.tensor(np.array(array), requires_grad=True)
        for name, array in model.parameters.items()
    }


def encode(model: Autoencoder, p: dict[str, torch.Tensor], i: int, H: torch.Tensor) -> torch.Tensor:
    """Take flattened inputs of layer i to its code."""
    layer = model.layers[i]
    Z = H @ matrix(p[f"{i}.kernel"], layer).T
    Z = Z + spread(p.get(f"{i}.hidden_bias"), layer.output_shape)
    return ACTIVATIONS[layer.hidden_activation.name](Z)


def reconstruct(model: Autoencoder, p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Encode and decode with the given parameters."""
    H = x.reshape(len(x), -1)
    for i in range(len(model.layers)):
        H = encode(model, p, i, H)
    for i, layer in reversed(list(enumerate(model.layers))):
        kernel = p.get(f"{i}.decoder_kernel", p[f"{i}.kernel"])
        A = H @ matrix(kernel, layer) + spread(p.get(f"{i}.visible_bias"), layer.input_shape)
        H = ACTIVATIONS[layer.visible_activation.name](A)
    return H.reshape(x.shape)


def loss_and_gradients(
    model: Autoencoder, x: np.ndarray, target: np.ndarray | None = None
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and its gradients by autograd."""
    p = parameters_of(model)
    R = reconstruct(model, p, torch.tensor(x))
    loss = LOSSES[model.loss.name](R, torch.tensor(x if target is None else target))
    loss.backward()
    return loss.item(), {name: tensor.grad.numpy() for name, tensor in p.items()}
