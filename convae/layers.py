"""A tied convolutional layer: the recipe of *Deep Learning*, section 9.5.

With the operations c, h and g of `convae.engine`, kernel K, stride s, hidden bias b, visible bias
a and activations f and f_out, the whole of it is

    H = f(c(K, V, s) + b)            encode
    R = f_out(h(K, H, s) + a)        decode
    E = dJ/dR through f_out          the error at the reconstruction
    dK += g(H, E, s)                 the decoder's half of the tied gradient
    dH = c(K, E, s)                  what the code is told
    dZ = dH * f'(Z)
    dK += g(dZ, V, s)                the encoder's half
    dV = h(K, dZ, s)                 what a lower layer is told

`encode` and `decode` return their result together with the function that takes its gradient back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod, sqrt
from typing import Any, TypeAlias

import numpy as np

from convae import engine
from convae.activations import activation
from convae.biases import SHARINGS as BIAS_SHARINGS
from convae.biases import bias_gradient, bias_shape
from convae.engine import Array
from convae.engine.geometry import Geometry, Padding, per_axis
from convae.parameters import Arrays

EncodeBackward: TypeAlias = Callable[[Array, Arrays], Callable[[], Array]]
DecodeBackward: TypeAlias = Callable[[Array, Arrays], Array]

NATURAL_BIAS = {"shared": "channel", "tiled": "tiled", "local": "position"}
"""The bias that goes with each sharing of the kernel, as the book advises."""


@dataclass(frozen=True)
class Layer:
    """What one layer is to be; the sizes come with the model's input shape.

    Parameters
    ----------
    filters : int
        Channels of the code.
    kernel : int, sequence of int or "input"
        Elements along each axis. "input" is a kernel as large as the layer's input: with padding
        "valid" it makes a code without positions, as a fully connected layer does.
    stride, dilation : int or sequence of int
        As in `convae.engine.c`.
    padding : "valid", "same", "full", int or sequence
        As in `convae.engine.c`.
    groups : int
        Parts into which the channels are divided.
    activation : str
        f, a key of `convae.activations.ACTIVATIONS`.
    sharing : {"shared", "tiled", "local"}
        Whether positions share one kernel, take turns with a tile of them, or each have their own.
    tile : int or sequence of int, optional
        Kernels in turn along each axis; for sharing "tiled" only.
    hidden_bias, visible_bias : {"natural", "channel", "tiled", "position", "none"}
        How b and a are shared over positions. "natural" goes with the kernel: channel for shared,
        tiled for tiled, position for local. On the visible side the tile is ``tile * stride``,
        the period with which kernels meet positions there.
    tied : bool
        Whether the decoder uses the encoder's kernel; if not, it has one of its own.
    """

    filters: int
    kernel: int | Sequence[int] | str
    stride: int | Sequence[int] = 1
    padding: Padding = "valid"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    activation: str = "relu"
    sharing: str = "shared"
    tile: int | Sequence[int] | None = None
    hidden_bias: str = "natural"
    visible_bias: str = "natural"
    tied: bool = True

    def geometry(self, input_shape: tuple[int, ...]) -> Geometry:
        """Resolve the layer's sizes for an input.

        Parameters
        ----------
        input_shape : (C, *size) tuple of int
            Shape of one example.

        Returns
        -------
        Geometry
            The resolved sizes.

        Raises
        ------
        TypeError, ValueError
            If the layer does not fit the input; the message names the argument.
        """
        channels, *size = input_shape
        if isinstance(self.kernel, str) and self.kernel != "input":
            raise ValueError(f"kernel: {self.kernel!r} is unknown; use integers or 'input'")
        if not isinstance(self.tied, bool):
            raise TypeError(f"tied: {self.tied!r} is neither True nor False")
        if self.sharing not in NATURAL_BIAS:
            raise ValueError(f"sharing: {self.sharing!r} is unknown; use {', '.join(NATURAL_BIAS)}")
        if (self.tile is None) == (self.sharing == "tiled"):
            raise ValueError(
                f"tile: {self.tile!r} does not go with sharing {self.sharing!r}; sharing 'tiled' "
                "needs a tile, such as 2, and only that one takes any"
            )
        (filters,) = per_axis("filters", self.filters, 1)
        (groups,) = per_axis("groups", self.groups, 1)
        for name, count in (("filters", filters), ("input channels", channels)):
            if count % groups:
                raise ValueError(f"groups: {groups} does not divide the {count} {name}")
        arguments: dict[str, Any] = {
            "size": size,
            "kernel": size if isinstance(self.kernel, str) else self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": groups,
        }
        if self.sharing == "local":
            return engine.resolve(**arguments, tile=engine.resolve(**arguments).output)
        return engine.resolve(**arguments, tile=1 if self.tile is None else self.tile)

    def configuration(self) -> dict[str, Any]:
        """Describe the layer in plain values.

        Returns
        -------
        dict
            The arguments that make an equal layer, ready for JSON.
        """
        return asdict(self)


class TiedConvolution:
    """A layer in a model: resolved sizes, live parameters, and the recipe.

    Parameters
    ----------
    layer : Layer
        What it is to be.
    input_shape : (C, *size) tuple of int
        Shape of one example of its input.
    visible_activation : str
        f_out, applied to the reconstruction of the input.

    Attributes
    ----------
    shapes : dict
        Shape of each parameter: ``kernel``, and where they exist ``decoder_kernel``,
        ``hidden_bias`` and ``visible_bias``.
    parameters : mapping
        The live arrays under the same names, set by the model.
    output_shape : (O, *output) tuple of int
        Shape of one example of its code.
    how, how_g : dict
        Arguments of `convae.engine.c` and `h`, and of `g`, that make them this layer's.

    Raises
    ------
    TypeError, ValueError
        If the layer does not fit the input.
    """

    def __init__(self, layer: Layer, input_shape: tuple[int, ...], visible_activation: str) -> None:
        self.layer = layer
        self.geometry = layer.geometry(input_shape)
        self.hidden_activation = activation(layer.activation)
        self.visible_activation = activation(visible_activation)
        self.input_shape = input_shape
        self.output_shape = (layer.filters, *self.geometry.output)
        self.shapes = self._shapes()
        self.parameters: Arrays = {}
        geometry = self.geometry
        self.how: dict[str, Any] = {
            "stride": geometry.stride,
            "padding": geometry.padding,
            "dilation": geometry.dilation,
            "groups": geometry.groups,
        }
        tile = None if layer.sharing == "shared" else geometry.tile
        self.how_g = {**self.how, "kernel": geometry.kernel, "tile": tile}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        layer, geometry = self.layer, self.geometry
        tile = () if layer.sharing == "shared" else geometry.tile
        channels = self.input_shape[0]
        kernel = (layer.filters, *tile, channels // geometry.groups, *geometry.kernel)
        visible_tile = tuple(t * s for t, s in zip(geometry.tile, geometry.stride, strict=True))
        sides = {
            "hidden_bias": (layer.hidden_bias, layer.filters, geometry.tile, geometry.output),
            "visible_bias": (layer.visible_bias, channels, visible_tile, geometry.size),
        }
        shapes = {"kernel": kernel} if layer.tied else {"kernel": kernel, "decoder_kernel": kernel}
        for name, (sharing, count, side_tile, size) in sides.items():
            if sharing not in ("natural", *BIAS_SHARINGS):
                choices = ", ".join(("natural", *BIAS_SHARINGS))
                raise ValueError(f"{name}: {sharing!r} is unknown; use one of {choices}")
            resolved = NATURAL_BIAS[layer.sharing] if sharing == "natural" else sharing
            shape = bias_shape(resolved, count, side_tile, size)
            if shape is not None:
                shapes[name] = shape
        return shapes

    @property
    def decoder_kernel(self) -> str:
        """Name of the kernel that the decoder uses."""
        return "kernel" if self.layer.tied else "decoder_kernel"

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
        """Draw initial kernels; biases start at zero.

        A tied kernel serves both directions, so its variance is ``gain / mean(fan_in, fan_out)``:
        Glorot's (2010), with He's (2015) gain of 2 for the rectifiers. ``fan_in`` counts the inputs
        of one hidden unit, ``fan_out`` the hidden units that one input reaches on average.

        Parameters
        ----------
        rng : numpy.random.Generator
            Where the numbers come from.

        Returns
        -------
        dict
            float64 arrays by the names of `shapes`.
        """
        geometry = self.geometry
        elements = prod(geometry.kernel)
        fan_in = self.input_shape[0] // geometry.groups * elements
        fan_out = float(self.layer.filters // geometry.groups * elements)
        fan_out *= prod(geometry.output) / prod(geometry.size)
        deviation = sqrt(self.hidden_activation.gain / ((fan_in + fan_out) / 2))
        return {
            name: rng.normal(0, deviation, shape) if name.endswith("kernel") else np.zeros(shape)
            for name, shape in self.shapes.items()
        }

    def encode(self, V: Array) -> tuple[Array, EncodeBackward]:
        """Encode: ``H = f(c(K, V, s) + b)``.

        Parameters
        ----------
        V : (N, C, *size) ndarray
            The input.

        Returns
        -------
        H : (N, O, *output) ndarray
            The code.
        backward : callable
            ``backward(dH, gradients)`` adds the encoder's half to the gradients, arrays by the
            names of `shapes`, and returns a function that computes dV, of V's shape, if called.
            dH is overwritten.
        """
        K = self._stored("kernel", V)
        Z = engine.c(K, V, **self.how)
        H = self.hidden_activation(Z, self._stored("hidden_bias", V))

        def backward(dH: Array, gradients: Arrays) -> Callable[[], Array]:
            dZ = self.hidden_activation.gradient(dH, H)
            self._add_kernel_gradient("kernel", dZ, V, gradients)
            self._add_bias_gradient("hidden_bias", dZ, gradients)
            return lambda: engine.h(K, dZ, size=self.geometry.size, **self.how)

        return H, backward

    def decode(self, H: Array) -> tuple[Array, DecodeBackward]:
        """Decode: ``R = f_out(h(K, H, s) + a)``.

        Parameters
        ----------
        H : (N, O, *output) ndarray
            The code.

        Returns
        -------
        R : (N, C, *size) ndarray
            The reconstruction.
        backward : callable
            ``backward(E, gradients)`` takes the error E, which is dJ/dR already through f_out, adds
            the decoder's half to the gradients and returns dH.
        """
        K = self._stored(self.decoder_kernel, H)
        A = engine.h(K, H, size=self.geometry.size, **self.how)
        R = self.visible_activation(A, self._stored("visible_bias", H))

        def backward(E: Array, gradients: Arrays) -> Array:
            self._add_kernel_gradient(self.decoder_kernel, H, E, gradients)
            self._add_bias_gradient("visible_bias", E, gradients)
            return engine.c(K, E, **self.how)

        return R, backward

    def _stored(self, name: str, like: Array) -> Array:
        """Find a parameter, stored as an activation is; None where there is none."""
        array = self.parameters.get(name)
        return array if array is None else array.astype(like.dtype, copy=False)

    def _add_kernel_gradient(self, name: str, G: Array, V: Array, gradients: Arrays) -> None:
        dK = gradients[name]
        dK += engine.g(G, V, **self.how_g)

    def _add_bias_gradient(self, name: str, G: Array, gradients: Arrays) -> None:
        if name in self.shapes:
            db = gradients[name]
            db += bias_gradient(G, self.shapes[name])


def layer_from(value: Layer | Mapping[str, Any]) -> Layer:
    """Accept a layer, or the arguments of one.

    Parameters
    ----------
    value : Layer or mapping
        A layer, or a mapping of its arguments.

    Returns
    -------
    Layer
        The layer.

    Raises
    ------
    TypeError
        If it is neither, or names an argument that a layer does not have.
    """
    if isinstance(value, Layer):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"layers: {value!r} is not a Layer, nor a mapping of its arguments")
    unknown = set(value) - set(Layer.__dataclass_fields__)
    if unknown or not {"filters", "kernel"} <= set(value):
        raise TypeError(
            f"layers: {dict(value)!r} does not describe a layer; filters and kernel are needed, "
            f"and the arguments are {', '.join(Layer.__dataclass_fields__)}"
        )
    return Layer(**value)


def stack(
    layers: Sequence[Layer | Mapping[str, Any]], input_shape: tuple[int, ...], visible: str
) -> tuple[TiedConvolution, ...]:
    """Put layers upon each other: each one's input is the code of the one below.

    Parameters
    ----------
    layers : sequence of Layer, or of mappings of its arguments
        From the image upwards.
    input_shape : (C, *size) tuple of int
        Shape of one image.
    visible : str
        Activation of the lowest layer's visible side; that of the others is the activation of the
        layer below.

    Returns
    -------
    tuple of TiedConvolution
        The layers, still without parameters.

    Raises
    ------
    TypeError, ValueError
        If a layer is malformed or does not fit; the message gives its number.
    """
    built: list[TiedConvolution] = []
    for index, layer in enumerate(map(layer_from, layers)):
        try:
            built.append(TiedConvolution(layer, input_shape, visible))
        except (TypeError, ValueError) as error:
            raise type(error)(f"layers.{index}.{error}") from None
        input_shape, visible = built[-1].output_shape, layer.activation
    return tuple(built)
