"""A tied convolutional layer: the recipe of *Deep Learning*, section 9.5.

With the operations c, h and g of `convae.engine`, kernel K, stride s, hidden bias b, visible bias
a and activations f and f_out, the whole of it is

    H = f(c(K, V, s) + b)            encode
    R = f_out(h(K, H, s) + a)        decode
    E = dJ/dR through f_out          the error at the reconstruction
    dK += g(H, E, s)                 the decoder's half of the tied gradient
    dH = c(K, E, s)                  the gradient with respect to the code
    dZ = dH * f'(Z)
    dK += g(dZ, V, s)                the encoder's half
    dV = h(K, dZ, s)                 the gradient with respect to the input, for the layer below

`encode` and `decode` return their result together with the function that takes its gradient back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from math import prod
from typing import Any, TypeAlias

import numpy as np

from convae import engine
from convae.engine import Array, Backend, biases, edges
from convae.engine.geometry import Geometry, Padding, per_axis
from convae.errors import UserError, UserTypeError, check_choice, prefixed
from convae.models.activations import IDENTITY, activation
from convae.models.parameters import Arrays
from convae.models.pooling import Pooling

EncodeBackward: TypeAlias = Callable[[Array, Arrays], Callable[[], Array]]
DecodeBackward: TypeAlias = Callable[[Array, Arrays], Array]

NATURAL_BIAS = {"shared": "channel", "tiled": "tiled", "local": "position"}
"""The bias that goes with each sharing of the kernel, as the book advises."""


@dataclass(frozen=True)
class Layer:
    """The specification of one layer; the sizes come with the model's input shape.

    Parameters
    ----------
    filters : int
        Channels of the code.
    kernel : int, sequence of int or "input"
        Elements along each axis. "input" is a kernel as large as the layer's input: with padding
        "valid" it makes a code without positions, as a fully connected layer does.
    stride, dilation : int or sequence of int
        As in `convae.engine.c`.
    padding, padding_mode
        As in `convae.engine.c`.
    groups : int
        Parts into which the channels are divided.
    activation : str
        f, a key of `convae.models.activations.ACTIVATIONS`.
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
    pool : int or sequence of int
        Positions along each axis of which the code keeps the largest; 1 to keep all. The decoder
        puts it back where it was (`convae.models.pooling`).
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
    padding_mode: str = "zeros"
    pool: int | Sequence[int] = 1

    def __post_init__(self) -> None:
        """Turn lists and arrays into tuples and NumPy's integers into Python's."""
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))

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
        UserTypeError, UserError
            If the layer does not fit the input; the message names the argument.
        """
        channels, *size = input_shape
        if isinstance(self.kernel, str) and self.kernel != "input":
            raise UserError(f"kernel: {self.kernel!r} is unknown; expected integers or 'input'")
        if not isinstance(self.tied, bool):
            raise UserTypeError(f"tied: {self.tied!r} is neither True nor False")
        check_choice("sharing", self.sharing, NATURAL_BIAS)
        if (self.tile is None) == (self.sharing == "tiled"):
            raise UserError(
                f"tile: {self.tile!r} does not go with sharing {self.sharing!r}; sharing 'tiled' "
                "needs a tile, such as 2, and only that one takes any"
            )
        (filters,) = per_axis("filters", self.filters, 1)
        (groups,) = per_axis("groups", self.groups, 1)
        for name, count in (("filters", filters), ("input channels", channels)):
            if count % groups:
                raise UserError(f"groups: {groups} does not divide the {count} {name}")
        arguments: dict[str, Any] = {
            "size": size,
            "kernel": size if isinstance(self.kernel, str) else self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": groups,
            "padding_mode": self.padding_mode,
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
    spec : Layer
        What it is to be.
    input_shape : (C, *size) tuple of int
        Shape of one example of its input.
    visible_activation : str
        f_out, applied to the reconstruction of the input.
    backend : Backend
        What computes.

    Attributes
    ----------
    geometry : Geometry
        The resolved sizes.
    shapes : dict
        Shape of each parameter: ``kernel``, and where they exist ``decoder_kernel``,
        ``hidden_bias`` and ``visible_bias``.
    parameters : mapping
        The live arrays under the same names, set by the model.
    output_shape : (O, *output) tuple of int
        Shape of one example of its code, pooled if the layer pools.
    pooling : Pooling or None
        What makes a code of what `encode` returns, and back, where the layer pools.
    decoder_kernel : {"kernel", "decoder_kernel"}
        Name of the kernel that the decoder uses.

    Raises
    ------
    UserTypeError, UserError
        If the layer does not fit the input.
    """

    def __init__(
        self,
        spec: Layer,
        input_shape: tuple[int, ...],
        visible_activation: str,
        backend: Backend,
    ) -> None:
        self.spec = spec
        self.backend = backend
        self.geometry = spec.geometry(input_shape)
        self.hidden_activation = activation(spec.activation)
        self.visible_activation = activation(visible_activation)
        self.input_shape = input_shape
        window = per_axis("pool", spec.pool, self.geometry.axes)
        self.pooling = None if prod(window) == 1 else Pooling(window)
        output = self.geometry.output
        output = output if self.pooling is None else self.pooling.output(output)
        self.output_shape = (spec.filters, *output)
        self.decoder_kernel = "kernel" if spec.tied else "decoder_kernel"
        self.shapes = self._shapes()
        self.parameters: Arrays = {}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        spec, geometry = self.spec, self.geometry
        tile = () if spec.sharing == "shared" else geometry.tile
        channels = self.input_shape[0]
        kernel = (spec.filters, *tile, channels // geometry.groups, *geometry.kernel)
        visible_tile = tuple(t * s for t, s in zip(geometry.tile, geometry.stride, strict=True))
        sides = {
            "hidden_bias": (spec.hidden_bias, spec.filters, geometry.tile, geometry.output),
            "visible_bias": (spec.visible_bias, channels, visible_tile, geometry.size),
        }
        shapes = {"kernel": kernel, self.decoder_kernel: kernel}
        for name, (sharing, count, side_tile, size) in sides.items():
            check_choice(name, sharing, ("natural", *biases.SHARINGS))
            resolved = NATURAL_BIAS[spec.sharing] if sharing == "natural" else sharing
            shape = biases.bias_shape(resolved, count, side_tile, size)
            if shape is not None:
                shapes[name] = shape
        return shapes

    def c(self, K: Array, V: Array) -> Array:
        """Strided convolution: V (N, C, *size) -> (N, O, *output)."""
        return edges.c(self.backend, K, V, self.geometry)

    def h(self, K: Array, G: Array) -> Array:
        """Transposed convolution: G (N, O, *output) -> (N, C, *size)."""
        return edges.h(self.backend, K, G, self.geometry)

    def g(self, G: Array, V: Array) -> Array:
        """Gradient of the kernel: G (N, O, *output), V (N, C, *size) -> shape of the kernel."""
        return edges.g(self.backend, G, V, self.shapes["kernel"], self.geometry)

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
            names of `shapes`, and returns a function that computes dV, of V's shape, when called.
            dH is overwritten.
        """
        f, K, b = self.hidden_activation, self._read("kernel", V), self._read("hidden_bias", V)
        Z = self.c(K, V)
        H = self.backend.activate(Z, biases.spread(b, self.geometry.output), f)

        def backward(dH: Array, gradients: Arrays) -> Callable[[], Array]:
            dZ = self.backend.activation_gradient(dH, H, f)
            self.add_kernel_gradient("kernel", dZ, V, gradients)
            self.add_bias_gradient("hidden_bias", dZ, gradients)
            return lambda: self.h(K, dZ)

        return H, backward

    def decode(self, H: Array, activate: bool = True) -> tuple[Array, DecodeBackward]:
        """Decode: ``R = f_out(h(K, H, s) + a)``.

        Parameters
        ----------
        H : (N, O, *output) ndarray
            The code.
        activate : bool
            Whether to apply f_out; if not, the result is its argument.

        Returns
        -------
        R : (N, C, *size) ndarray
            The reconstruction.
        backward : callable
            ``backward(E, gradients)`` takes the error E, which is dJ/dR already through f_out, adds
            the decoder's half to the gradients and returns dH.
        """
        K, a = self._read(self.decoder_kernel, H), self._read("visible_bias", H)
        A = self.h(K, H)
        f_out = self.visible_activation if activate else IDENTITY
        R = self.backend.activate(A, biases.spread(a, self.geometry.size), f_out)

        def backward(E: Array, gradients: Arrays) -> Array:
            self.add_kernel_gradient(self.decoder_kernel, H, E, gradients)
            self.add_bias_gradient("visible_bias", E, gradients)
            return self.c(K, E)

        return R, backward

    def _read(self, name: str, like: Array) -> Array:
        """Read a parameter in the dtype of the activations; None where there is none."""
        array = self.parameters.get(name)
        return array if array is None else array.astype(like.dtype, copy=False)

    def add_kernel_gradient(self, name: str, G: Array, V: Array, gradients: Arrays) -> None:
        """Add g(G, V), G (N, O, *output), V (N, C, *size), to a kernel's gradient."""
        self.backend.axpy(1, self.g(G, V), gradients[name])

    def add_bias_gradient(self, name: str, G: Array, gradients: Arrays) -> None:
        """Add the sums of G, of the side that has the bias, to a bias's gradient, if it exists."""
        if name in self.shapes:
            db = biases.bias_gradient(self.backend, G, self.shapes[name])
            self.backend.axpy(1, db, gradients[name])


def layer_from(value: Layer | Mapping[str, Any]) -> Layer:
    """Accept a layer or a mapping of the arguments of one."""
    if isinstance(value, Layer):
        return value
    if not isinstance(value, Mapping):
        raise UserTypeError(f"layers: {value!r} is not a Layer, nor a mapping of its arguments")
    known = list(Layer.__dataclass_fields__)
    for name in value:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            suggestion = f"; did you mean {close[0]!r}?" if close else ""
            raise UserTypeError(
                f"layers: {name!r} is not an argument of a layer{suggestion}. "
                f"The arguments are {', '.join(known)}"
            )
    if not {"filters", "kernel"} <= set(value):
        raise UserTypeError(f"layers: {dict(value)!r}; expected filters and kernel among the keys")
    return Layer(**value)


def parameter_shapes(layers: Sequence[TiedConvolution]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a stack's parameters by the model's names, such as "0.kernel"."""
    return {
        f"{index}.{name}": shape
        for index, layer in enumerate(layers)
        for name, shape in layer.shapes.items()
    }


def _plain(value: Any) -> Any:
    """Turn arrays and lists into tuples, and NumPy's numbers into Python's."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return tuple(_plain(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value


def stack(
    layers: Sequence[Layer | Mapping[str, Any]],
    input_shape: tuple[int, ...],
    visible: str,
    backend: Backend,
) -> tuple[TiedConvolution, ...]:
    """Stack layers, from the image upwards: each one's input is the code of the one below.

    `visible` is the activation of the lowest layer's visible side; that of each other layer is the
    activation of the layer below it.
    """
    built: list[TiedConvolution] = []
    for index, layer in enumerate(map(layer_from, layers)):
        with prefixed(f"layers.{index}."):
            built.append(TiedConvolution(layer, input_shape, visible, backend))
        input_shape, visible = built[-1].output_shape, layer.activation
    return tuple(built)
