"""A stack of tied layers: encode upwards, decode downwards, and the gradients of both."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from convae import checkpoint, losses
from convae.activations import activation
from convae.backpropagation import add_gradients, mean_activation
from convae.engine import (
    Array,
    array_module,
    module_for,
    over,
    parts_of_batch,
    positions_first,
    to_numpy,
)
from convae.engine.geometry import per_axis
from convae.layers import Layer, stack
from convae.parameters import Arrays, allocate, stored_as
from convae.penalties import NONE, Penalty

DTYPES = ("float32", "float64")


class Autoencoder:
    """A convolutional autoencoder whose decoder mirrors its encoder.

    Layer l's visible side takes the activation of layer l - 1, and the lowest one
    `output_activation`. Parameters are drawn from `seed` alone, the same on every device.

    Parameters
    ----------
    input_shape : (C, *size) sequence of int
        Shape of one example; 1, 2 or 3 axes of positions.
    layers : sequence of Layer, or of mappings of its arguments
        From the image upwards.
    output_activation : str
        Activation of the reconstruction; "sigmoid" for images in [0, 1].
    loss : {"mse", "bce"}
        What `loss_and_gradients` measures: a mean over all elements.
    seed : int
        Seed of the initial kernels.
    dtype : {"float32", "float64"}
        Type of parameters and of all that is computed.
    device : {"cpu", "gpu", "auto"}
        Where the parameters live; "auto" takes a GPU if one works.
    storage : {"float16", "bfloat16"}, optional
        How a GPU stores what lies between c, h and g; their sums, and parameters, are float32.

    Attributes
    ----------
    parameters : mapping
        The live arrays: "0.kernel", "0.hidden_bias", "0.visible_bias" and so on. Change them in
        place; they cannot be replaced.
    flat_parameters : (M,) ndarray
        The buffer in which they lie.
    layers : tuple of TiedConvolution
        The layers, from the image upwards.
    code_shape : (O, *output) tuple of int
        Shape of one example's code.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or the layers do not fit; the message names the argument.
    RuntimeError
        If the device is "gpu" and there is none.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        layers: Sequence[Layer | Mapping[str, Any]],
        output_activation: str = "sigmoid",
        loss: str = "mse",
        seed: int = 0,
        dtype: str = "float32",
        device: str = "cpu",
        storage: str | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype: {dtype!r} is unknown; use {' or '.join(DTYPES)}")
        if isinstance(layers, (Layer, Mapping)) or not isinstance(layers, Sequence):
            raise TypeError(f"layers: {layers!r} is not a list of layers")
        if not isinstance(input_shape, Sequence) or not 2 <= len(input_shape) <= 4:
            raise ValueError(
                f"input_shape: {input_shape!r} is not (channels, *positions) "
                "with 1 to 3 axes of positions"
            )
        if not layers:
            raise ValueError("layers: none given; give at least one Layer")
        (self.seed,) = per_axis("seed", seed, 1, minimum=0)
        self.input_shape = per_axis("input_shape", tuple(input_shape), len(input_shape))
        self.output_activation = activation(output_activation, "output_activation")
        self.loss = losses.loss(loss, output_activation)
        self.dtype = dtype
        self.xp = module_for(device)
        self.storage = stored_as(storage, dtype, self.device)
        if storage is not None and loss == "bce":
            raise ValueError("storage: bce's logarithms need float32; leave it out, or use mse")
        self.layers = stack(layers, self.input_shape, self.output_activation.name)
        self._shapes = {
            f"{index}.{name}": shape
            for index, layer in enumerate(self.layers)
            for name, shape in layer.shapes.items()
        }
        self.flat_parameters, self.parameters = self._allocate()
        self.flat_gradients, self._gradients = self._allocate()
        self._partial_gradients = [(self.flat_gradients, self._gradients)]
        rng = np.random.default_rng(self.seed)
        for index, layer in enumerate(self.layers):
            layer.parameters = self._of_layers(self.parameters)[index]
            for name, values in layer.initialise(rng).items():
                layer.parameters[name][...] = self.xp.asarray(values)

    def __repr__(self) -> str:
        """Say what goes in, what the code is, and how large the model is."""
        count = sum(array.size for array in self.parameters.values())
        return (
            f"Autoencoder({self.input_shape} -> {self.code_shape}, {count:,} parameters, "
            f"{self.dtype}, {self.device})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle a model by its configuration and its parameters."""
        storage = None if self.storage == self.dtype else self.storage
        parameters = to_numpy(self.flat_parameters)
        return _revive, (self.configuration(), self.device, storage, parameters)

    def _allocate(self) -> tuple[Array, Arrays]:
        """Make a buffer of the parameters' layout; shared kernels lie as the engine reads them."""
        shared = [
            f"{index}.{name}"
            for index, layer in enumerate(self.layers)
            for name in layer.shapes
            if name.endswith("kernel") and layer.layer.sharing == "shared"
        ]
        return allocate(self.xp, self._shapes, self.dtype, filters_last=shared)

    def _of_layers(self, arrays: Mapping[str, Array]) -> list[Arrays]:
        """Give each layer its arrays, by its own names for them."""
        return [
            {name: arrays[f"{index}.{name}"] for name in layer.shapes}
            for index, layer in enumerate(self.layers)
        ]

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one example's code."""
        return self.layers[-1].output_shape

    @property
    def code_size(self) -> int:
        """Numbers in one example's code."""
        return prod(self.code_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates that one example takes in a training step."""
        forms = [
            layer.geometry.macs(layer.input_shape[0], layer.layer.filters) for layer in self.layers
        ]
        return 6 * sum(forms) - forms[0]  # the lowest layer has no layer below to tell

    @property
    def device(self) -> str:
        """Where the parameters live, "cpu" or "gpu"."""
        return "cpu" if self.xp is np else "gpu"

    def _check(self, name: str, array: Array, shape: tuple[int, ...]) -> None:
        module = array_module(array, names=name)
        if module is not self.xp:
            raise TypeError(
                f"{name}: a {module.__name__} array, but the model lives on the {self.device}; "
                f"convert it with {self.xp.__name__}.asarray, or build the model with device="
            )
        if array.dtype != self.dtype:
            raise TypeError(
                f"{name}: dtype {array.dtype}, but the model's is {self.dtype}; convert it with "
                f".astype('{self.dtype}')" + (" / 255" if array.dtype == np.uint8 else "")
            )
        if array.ndim != len(shape) + 1 or array.shape[1:] != shape or len(array) == 0:
            raise ValueError(
                f"{name}: shape {array.shape}, but the model takes "
                f"(N, {', '.join(map(str, shape))}) with at least one example"
            )

    def encode(self, x: Array) -> Array:
        """Encode images.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        (N, O, *output) ndarray
            Their codes H.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit.
        """
        self._check("x", x, self.input_shape)
        x = x.astype(self.storage, copy=False)
        for layer in self.layers:
            x, _ = layer.encode(x)
        return x.astype(self.dtype, copy=False)

    def decode(self, H: Array) -> Array:
        """Decode codes.

        Parameters
        ----------
        H : (N, O, *output) ndarray
            Codes, as `encode` returns them.

        Returns
        -------
        (N, C, *size) ndarray
            Reconstructions R.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit.
        """
        self._check("H", H, self.code_shape)
        H = H.astype(self.storage, copy=False)
        for layer in reversed(self.layers):
            H, _ = layer.decode(H)
        return H.astype(self.dtype, copy=False)

    def reconstruct(self, x: Array) -> Array:
        """Encode and decode images.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        (N, C, *size) ndarray
            Their reconstructions R.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit.
        """
        return self.decode(self.encode(x))

    def loss_and_gradients(
        self, x: Array, target: Array | None = None, penalty: Penalty = NONE
    ) -> tuple[float, dict[str, Array]]:
        """Measure the loss of a batch and its gradient in every parameter.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with; x itself if not given.
        penalty : Penalty
            What is added to the loss.

        Returns
        -------
        loss : float
            Mean over all elements of the batch, penalties included.
        gradients : dict
            Arrays by the names of `parameters`, the caller's own.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit, or the penalty does not fit the model.
        """
        loss = self.accumulate_gradients(x, target, penalty)
        return float(loss), {name: array.copy() for name, array in self._gradients.items()}

    def accumulate_gradients(
        self, x: Array, target: Array | None = None, penalty: Penalty = NONE
    ) -> Array:
        """Do the work of `loss_and_gradients`, leaving the gradients in `flat_gradients`.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with.
        penalty : Penalty
            What is added to the loss.

        Returns
        -------
        0-d ndarray
            The loss, on the device.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit, or the penalty does not fit the model.
        """
        target = self._check_batch(x, target)
        self.check_penalty(penalty)
        parts = parts_of_batch(self.xp, len(x), self.macs)
        while len(self._partial_gradients) < len(parts):
            self._partial_gradients.append(self._allocate())
        mean = mean_activation(self.layers, x, parts) if penalty.kl else None

        def part(examples: slice) -> Array:
            flat, gradients = self._partial_gradients[examples.start // parts[0].stop]
            flat[...] = 0
            halves = [self._of_layers(gradients)] * 2
            given = positions_first(x[examples])
            wanted = given if target is x else positions_first(target[examples])
            given = given.astype(self.storage, copy=False)
            return add_gradients(
                self.layers, self.loss, given, wanted, len(x), penalty, mean, *halves
            )

        J = sum(over(part, parts))
        for flat, _ in self._partial_gradients[1 : len(parts)]:
            self.flat_gradients += flat
        if self.storage != self.dtype:
            self.flat_gradients /= x.size  # `add_gradients` carried errors so many times as large
        if mean is not None:
            J = J + penalty.divergence(mean)
        if penalty.weight_decay:
            J = J + penalty.of_kernels(self.parameters, self._gradients)
        return self.xp.asarray(J)

    def check_penalty(self, penalty: Penalty) -> None:
        """Refuse a penalty that cannot be computed for this model.

        Parameters
        ----------
        penalty : Penalty
            What shall be added to the loss.

        Raises
        ------
        ValueError
            If it does not fit the layers, or is of codes that are stored short.
        """
        penalty.check(self.layers)
        if self.storage != self.dtype and (penalty.l1 or penalty.kl or penalty.contractive):
            raise ValueError(f"penalty: of codes there is none with storage={self.storage!r}")

    def gradient_halves(
        self, x: Array, target: Array | None = None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Measure the two halves of the gradient apart: what the encoder asks for, and the decoder.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, a small batch: it is not divided into parts.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with; x itself if not given.

        Returns
        -------
        encoder, decoder : dict
            Arrays by the names of `parameters`, which add up to the gradient of
            `loss_and_gradients`.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit.
        """
        target = self._check_batch(x, target)
        halves = [self._allocate()[1] for _ in range(2)]
        into = [self._of_layers(half) for half in halves]
        add_gradients(self.layers, self.loss, x, target, len(x), NONE, None, *into)
        return dict(halves[0]), dict(halves[1])

    def _check_batch(self, x: Array, target: Array | None) -> Array:
        """Check a batch and its target; return the target, which is x if none is given."""
        self._check("x", x, self.input_shape)
        if target is None:
            return x
        self._check("target", target, self.input_shape)
        if target.shape != x.shape:
            raise ValueError(f"target: shape {target.shape} is not x's {x.shape}")
        return target

    def configuration(self) -> dict[str, Any]:
        """Describe the model in plain values.

        Returns
        -------
        dict
            The arguments that make a model of the same shape.
        """
        return {
            "input_shape": list(self.input_shape),
            "layers": [layer.layer.configuration() for layer in self.layers],
            "output_activation": self.output_activation.name,
            "loss": self.loss.name,
            "seed": self.seed,
            "dtype": self.dtype,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, parameters and configuration, to one safetensors file, atomically.

        Parameters
        ----------
        path : path
            Where it goes.

        Raises
        ------
        OSError
            If it cannot be written; an earlier file of that name is then untouched.
        """
        arrays = {name: to_numpy(array) for name, array in self.parameters.items()}
        checkpoint.write(path, arrays, {"model": self.configuration()})


def _revive(
    configuration: dict[str, Any],
    device: str,
    storage: str | None,
    parameters: np.ndarray[Any, Any],
) -> Autoencoder:
    model = Autoencoder(**configuration, device=device, storage=storage)
    model.flat_parameters[...] = model.xp.asarray(parameters)
    return model
