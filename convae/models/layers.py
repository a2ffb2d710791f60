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
from math import prod
from typing import Any, TypeAlias

from convae.engine import Array, Backend, biases, edges
from convae.engine.geometry import per_axis
from convae.errors import check_choice, prefixed
from convae.models.activations import IDENTITY, activation
from convae.models.parameters import Arrays
from convae.models.pooling import Pooling
from convae.models.specification import NATURAL_BIAS, Layer, layer_from

EncodeBackward: TypeAlias = Callable[[Array, Arrays], Callable[[], Array]]
DecodeBackward: TypeAlias = Callable[[Array, Arrays], Array]


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
    unpooled_shape : (O, *output) tuple of int
        Shape of one example of what `encode` returns.
    output_shape : (O, *output) tuple of int
        Shape of one example of its code: the same, or pooled if the layer pools.
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
        self.pooling = None if prod(window) == 1 else Pooling(window, backend)
        output = self.geometry.output
        self.unpooled_shape = (spec.filters, *output)
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


def parameter_shapes(layers: Sequence[TiedConvolution]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a stack's parameters by the model's names, such as "0.kernel"."""
    return {
        f"{index}.{name}": shape
        for index, layer in enumerate(layers)
        for name, shape in layer.shapes.items()
    }


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
