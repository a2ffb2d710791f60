"""The same model as a PyTorch module: shared, tiled and local kernels in PyTorch's own operations.

A tiled or local kernel is applied to columns: a convolution with one-hot kernels gathers the input
of every kernel element at every output position, and one matrix product for each position in the
tile follows. The decoder does the same in reverse, with the transposed one-hot convolution last.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from convae.engine import to_numpy
from convae.engine.edges import sources
from convae.engine.geometry import Geometry, spans
from convae.errors import UserError
from convae.models.activations import LEAK
from convae.models.layers import TiedConvolution
from convae.models.model import Model

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: functional.leaky_relu(z, LEAK),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
}
CONVOLUTION = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
POOLING: dict[int, Any] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


class TorchLayer(nn.Module):
    """One tied layer. Its parameters have the names and shapes of `TiedConvolution`.

    Parameters
    ----------
    layer : TiedConvolution
        The layer to copy.
    """

    def __init__(self, layer: TiedConvolution) -> None:
        super().__init__()
        for name, array in layer.parameters.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(to_numpy(array).copy())))
        self.layer = layer
        self.decoder_kernel_name = layer.decoder_kernel
        for activation in (layer.hidden_activation, layer.visible_activation):
            if activation.name not in ACTIVATIONS:
                raise UserError(
                    f"activation: {activation.name!r} has no counterpart in PyTorch; put one into "
                    "convae.export.torch_module.ACTIVATIONS"
                )
        geometry, channels = layer.geometry, layer.input_shape[0]
        self.axes = geometry.axes
        self.is_shared = layer.spec.sharing == "shared"
        self.is_resizable = _is_resizable(layer)
        if not self.is_shared:
            elements = prod(geometry.kernel)
            one_hot = (
                torch.eye(elements, dtype=self.get_parameter("kernel").dtype)
                .reshape(elements, 1, *geometry.kernel)
                .repeat(channels, *(1 for _ in range(1 + self.axes)))
            )
            self.register_buffer("one_hot", one_hot, persistent=False)

    def encode(self, V: Tensor) -> Tensor:
        """Encode (N, C, *size) images to (N, O, *output) codes."""
        layer, geometry = self.layer, self.layer.geometry
        self._check(V, layer.input_shape, geometry.stride)
        V = _extend(V, geometry)
        K, how = self.get_parameter("kernel"), (geometry.stride, 0, geometry.dilation)
        if self.is_shared:
            Z = CONVOLUTION[self.axes](V, K, None, *how, geometry.groups)
        else:
            columns = CONVOLUTION[self.axes](V, self._one_hot(), None, *how, V.shape[1])
            Z = self._whole(
                torch.einsum(self._product("c"), self._matrices(K), self._split(columns))
            )
        H = self._finish(Z, "hidden_bias", layer.hidden_activation.name)
        return H if layer.pooling is None else POOLING[self.axes](H, layer.pooling.window)

    def decode(self, H: Tensor) -> Tensor:
        """Decode (N, O, *output) codes to (N, C, *size) reconstructions."""
        layer, geometry = self.layer, self.layer.geometry
        self._check(H, layer.output_shape, (1,) * self.axes)
        K = self.get_parameter(self.decoder_kernel_name)
        channels = layer.input_shape[0]
        how = (geometry.stride, 0, 0)
        if self.is_shared:
            A = TRANSPOSED[self.axes](H, K, None, *how, geometry.groups, geometry.dilation)
        else:
            columns = torch.einsum(self._product("h"), self._matrices(K), self._split(H))
            A = TRANSPOSED[self.axes](
                self._whole(columns), self._one_hot(), None, *how, channels, geometry.dilation
            )
        crop, inner = [], geometry.inner
        for (before, _), size, output, span, stride in zip(
            inner.padding,
            inner.size,
            geometry.output,
            spans(geometry.kernel, geometry.dilation),
            geometry.stride,
            strict=True,
        ):
            full = (output - 1) * stride + span
            crop += [-before, size + before - full]  # negative: cut off; positive: never reached
        A = _fold(functional.pad(A, _reversed(crop)), geometry)
        return self._finish(A, "visible_bias", layer.visible_activation.name)

    def _check(self, array: Tensor, shape: tuple[int, ...], multiple: tuple[int, ...]) -> None:
        """Refuse what the layer does not take; a resizable one takes multiples of its stride."""
        fits = array.ndim == len(shape) + 1 and array.shape[1] == shape[0]
        if self.is_resizable:
            fits = fits and all(n % m == 0 for n, m in zip(array.shape[2:], multiple, strict=True))
        else:
            fits = fits and tuple(array.shape[1:]) == shape
        if not fits:
            raise ValueError(f"shape {tuple(array.shape)}, but the layer takes (N, *{shape})")

    def _one_hot(self) -> Tensor:
        return self.get_buffer("one_hot")

    def _product(self, operation: str) -> str:
        """Name the axes of the product over the tile's positions for einsum."""
        tile, repeats = "uvw"[: self.axes], "xyz"[: self.axes]
        both = "".join(r + t for r, t in zip(repeats, tile, strict=True))
        inner, outer = ("p", "o") if operation == "c" else ("o", "p")
        return f"go{tile}p,ng{inner}{both}->ng{outer}{both}"

    def _matrices(self, K: Tensor) -> Tensor:
        """Reshape (O, *tile, C/groups, *kernel) to (groups, O/groups, *tile, elements)."""
        geometry = self.layer.geometry
        return K.reshape(geometry.groups, K.shape[0] // geometry.groups, *geometry.tile, -1)

    def _split(self, G: Tensor) -> Tensor:
        """Pad (N, channels, *output) to whole tiles, and split each axis by the tile."""
        geometry = self.layer.geometry
        more = [n - m for n, m in zip(geometry.extended, geometry.output, strict=True)]
        G = functional.pad(G, _reversed([n for extra in more for n in (0, extra)]))
        axes = [n for pair in zip(geometry.repeats, geometry.tile, strict=True) for n in pair]
        return G.reshape(-1, geometry.groups, G.shape[1] // geometry.groups, *axes)

    def _whole(self, G: Tensor) -> Tensor:
        """Undo `_split`, and crop the padding."""
        geometry = self.layer.geometry
        G = G.reshape(-1, G.shape[1] * G.shape[2], *geometry.extended)
        more = [m - n for n, m in zip(geometry.extended, geometry.output, strict=True)]
        return functional.pad(G, _reversed([n for extra in more for n in (0, extra)]))

    def _finish(self, Z: Tensor, name: str, activation: str) -> Tensor:
        """Add a bias of any sharing, and apply the activation."""
        if name in self._parameters:
            bias: Tensor = self.get_parameter(name)
            if bias.ndim == 1:
                bias = bias.reshape(-1, *(1 for _ in range(self.axes)))
            else:
                for axis, size in enumerate(Z.shape[2:], start=1):
                    period = bias.shape[axis]
                    places = torch.arange(size, device=bias.device) % period
                    bias = bias.index_select(axis, places)
            Z = Z + bias
        return ACTIVATIONS[activation](Z)


class TorchAutoencoder(nn.Module):
    """A stack of tied layers; ``state_dict`` has the names of `Autoencoder.parameters`.

    Parameters
    ----------
    model : Model
        The model to copy.
    """

    takes: str = "images"
    """What it is given."""

    names: tuple[str, ...] = ("code", "reconstruction")
    """What it returns."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        for index, layer in enumerate(model.layers):
            self.add_module(str(index), TorchLayer(layer))

    def encode(self, x: Tensor) -> Tensor:
        """Encode (N, C, *size) images to (N, O, *output) codes."""
        for layer in self.children():
            assert isinstance(layer, TorchLayer)
            x = layer.encode(x)
        return x

    def decode(self, H: Tensor) -> Tensor:
        """Decode (N, O, *output) codes to (N, C, *size) reconstructions."""
        for layer in reversed(list(self.children())):
            assert isinstance(layer, TorchLayer)
            H = layer.decode(H)
        return H

    @property
    def size_multiples(self) -> tuple[int, ...] | None:
        """Of what its input's size along each axis has to be a multiple; None if it is fixed."""
        layers = [layer for layer in self.children() if isinstance(layer, TorchLayer)]
        if not all(layer.is_resizable for layer in layers):
            return None
        strides = [layer.layer.geometry.stride for layer in layers]
        return tuple(prod(along) for along in zip(*strides, strict=True))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return codes and reconstructions of (N, C, *size) images."""
        code = self.encode(images)
        return code, self.decode(code)


class TorchEncoder(TorchAutoencoder):
    """A model whose codes alone do not say what a reconstruction is: the module returns them.

    Parameters
    ----------
    model : Model
        The model to copy.
    """

    names = ("code",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the codes (N, O, *output) of (N, C, *size) images."""
        return (self.encode(images),)


class TorchDecoder(TorchAutoencoder):
    """A model whose codes are searched for: the module decodes them.

    Parameters
    ----------
    model : Model
        The model to copy.
    """

    takes = "code"
    names = ("reconstruction",)

    @property
    def size_multiples(self) -> tuple[int, ...] | None:
        """Of what its input's size along each axis has to be a multiple; None if it is fixed."""
        multiples = super().size_multiples
        return None if multiples is None else (1,) * len(multiples)

    def forward(self, code: Tensor) -> tuple[Tensor, ...]:
        """Return the reconstructions (N, C, *size) of (N, O, *output) codes."""
        return (self.decode(code),)


class TorchClassifier(TorchAutoencoder):
    """A classifier: the module returns the probabilities of all classes.

    Parameters
    ----------
    model : Classifier
        The model to copy.
    """

    names = ("probabilities",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities (N, classes) of (N, C, *size) images."""
        return (torch.softmax(self.encode(images).flatten(1), dim=1),)


def _is_resizable(layer: TiedConvolution) -> bool:
    """Tell whether a layer takes any multiple of its stride, and then halves or keeps the size."""
    spec, geometry = layer.spec, layer.geometry
    exact = all(
        n == out * stride
        for n, out, stride in zip(geometry.size, geometry.output, geometry.stride, strict=True)
    )
    biases = [shape for name, shape in layer.shapes.items() if name.endswith("bias")]
    return (
        exact
        and layer.pooling is None
        and geometry.padding_mode == "zeros"
        and spec.kernel != "input"
        and spec.sharing == "shared"
        and all(len(shape) == 1 for shape in biases)
    )


def _extend(V: Tensor, geometry: Geometry) -> Tensor:
    """Pad V as the geometry says."""
    pairs = _reversed([n for pair in geometry.padding for n in pair])
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    return functional.pad(V, pairs, mode)


def _fold(A: Tensor, geometry: Geometry) -> Tensor:
    """Add what lies in the padding to where it came from, the adjoint of `_extend`."""
    if geometry.padding_mode == "zeros":
        return A
    for axis, (where, size) in enumerate(
        zip(sources(geometry), geometry.size, strict=True), start=2
    ):
        shape = (*A.shape[:axis], size, *A.shape[axis + 1 :])
        A = A.new_zeros(shape).index_add(axis, torch.tensor(where, device=A.device), A)
    return A


def _reversed(pairs: list[int]) -> list[int]:
    """Turn (before, after) of the first axis to the last into `functional.pad`'s order."""
    return [n for i in range(len(pairs) - 2, -1, -2) for n in pairs[i : i + 2]]
