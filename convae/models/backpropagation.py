"""Up and down a stack of tied layers and back: the loss and its gradients, by the recipe alone.

`encode_up` and `decode_down` are the two walks through the layers; each returns its result together
with the function that takes the gradient back. `Backpropagation` joins them to what a training step
needs, on chunks of a batch in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from convae.engine import Array, Backend
from convae.models.layers import TiedConvolution
from convae.models.losses import Loss
from convae.models.parameters import Gradients, GradientSums
from convae.models.penalties import Penalty
from convae.models.winners import Winners
from convae.processes import Group

Layers: TypeAlias = Sequence[TiedConvolution]
Switches: TypeAlias = Sequence[Any]
"""For each layer its switches (N, O, *windows), or None where it does not pool."""

AtLayer: TypeAlias = Callable[[int, Array, Array], Array]
"""``at_layer(index, H, dH)`` returns the layer's dH with a penalty's gradient added."""


def encode_up(
    layers: Layers, x: Array
) -> tuple[list[Array], Switches, Callable[[Array, Gradients, AtLayer], None]]:
    """Encode through all layers.

    Returns the codes, from the image x upwards, the switches of those layers that pool, and
    ``backward(dH, gradients, at_layer)``, which takes the gradient of the uppermost code back and
    adds the encoder's half to the gradients.
    """
    codes, switches, layer_backward = [x], [], []
    for layer in layers:
        H, backward_one = layer.encode(codes[-1])
        H, chosen = (H, None) if layer.pooling is None else layer.pooling.down(H)
        codes.append(H)
        switches.append(chosen)
        layer_backward.append(backward_one)

    def backward(dH: Array, gradients: Gradients, at_layer: AtLayer) -> None:
        for index, layer in reversed(list(enumerate(layers))):
            dH = at_layer(index, codes[index + 1], dH)
            if layer.pooling is not None:
                dH = layer.pooling.up(dH, switches[index])
            input_gradient = layer_backward[index](dH, gradients[index])
            if index > 0:  # nobody asks for the gradient of the image
                dH = input_gradient()

    return codes, switches, backward


def decode_down(
    layers: Layers, H: Array, activate: bool = True, switches: Switches = ()
) -> tuple[Array, Callable[[Array, Gradients], Array]]:
    """Decode through all layers; `activate` says whether to apply the output activation.

    Layers that pool need the switches of `encode_up`. Returns the reconstruction R and
    ``backward(E, gradients)``, which takes the error E, dJ/dR through the output activation, back,
    adds the decoder's half and returns the gradient of H.
    """
    outputs, layer_backward = [], []
    for index, layer in reversed(list(enumerate(layers))):
        if layer.pooling is not None:
            H = layer.pooling.up(H, switches[index])
        H, backward_one = layer.decode(H, activate or layer is not layers[0])
        outputs.append(H)
        layer_backward.append(backward_one)

    def backward(E: Array, gradients: Gradients) -> Array:
        d = E
        for index, layer in enumerate(layers):  # the lowest one decoded last
            if index > 0:  # E has come through the output activation already
                d = layer.backend.activation_gradient(
                    d, outputs[-index - 1], layer.visible_activation
                )
            d = layer_backward[-index - 1](d, gradients[index])
            if layer.pooling is not None:
                d = layer.pooling.take(d, switches[index])
        return d

    return H, backward


def encode(layers: Layers, x: Array) -> list[Array]:
    """Encode through all layers; the codes, from x itself upwards."""
    return encode_up(layers, x)[0]


def decode(layers: Layers, H: Array, activate: bool = True, switches: Switches = ()) -> Array:
    """Decode through all layers; `activate` says whether to apply the output activation."""
    return decode_down(layers, H, activate, switches)[0]


@dataclass(frozen=True)
class Batch:
    """What the chunks of a batch have in common.

    Parameters
    ----------
    examples : int
        Examples in the whole batch: the loss is a mean over it.
    penalty : Penalty
        What is added to the loss.
    mean_activation : (O,) ndarray or None
        Mean activation of the code's filters over the whole batch, if the penalty needs it.
    loss_scale : int
        Factor on the error, and so on the gradients, that keeps small errors from underflowing
        where activations are stored in two bytes. It is divided out again at the end.
    threshold : (O,) ndarray or None
        What each filter's winners reach, over the whole batch; None where all can.
    """

    examples: int
    penalty: Penalty
    mean_activation: Array | None = None
    loss_scale: int = 1
    threshold: Array | None = None


class Backpropagation:
    """Loss and gradients of an autoencoder.

    Parameters
    ----------
    layers : sequence of TiedConvolution
        From the image upwards.
    loss : Loss
        Compares reconstructions with targets.
    sums : GradientSums
        Where the gradients go.
    dtype : str
        Type of the activations, perhaps shorter than that of x.
    winners : Winners
        Which numbers of a code count.
    """

    def __init__(
        self, layers: Layers, loss: Loss, sums: GradientSums, dtype: str, winners: Winners
    ) -> None:
        self._layers, self._loss, self._sums = layers, loss, sums
        self._dtype, self._winners = dtype, winners

    def __call__(self, x: Array, target: Array, penalty: Penalty, group: Group) -> Array:
        """Compute the gradients of a batch, and return its loss as a 0-d array.

        x, target (N, C, *size); what is of the whole batch is of that of all processes.
        """
        sums, backend = self._sums, self._sums.backend
        chunks = training_chunks(backend, self._layers, len(x))
        mean = None
        if penalty.kl:
            mean = mean_activation(backend, self._layers, x, chunks, group)
        loss_scale = 1 if self._dtype == x.dtype else x.size
        threshold = None
        if self._winners.lifetime is not None:

            def strengths(chunk: slice) -> Array:
                return self._winners.strengths(encode(self._layers, x[chunk])[-1])

            threshold = self._winners.threshold(group.gather(backend.map(strengths, chunks)))
        batch = Batch(len(x), penalty, mean, loss_scale, threshold)

        def compute(chunk: slice, gradients: Gradients) -> Array:
            images = backend.arrange(x[chunk])
            targets = images if target is x else backend.arrange(target[chunk])
            return self.chunk(images, targets, batch, gradients, gradients)

        J = sums(chunks, compute)
        if loss_scale != 1:
            sums.flat /= loss_scale
        return J if mean is None else J + penalty.divergence(mean)

    def chunk(
        self, x: Array, target: Array, batch: Batch, encoder: Gradients, decoder: Gradients
    ) -> Array:
        """Add the gradients of a chunk of a batch, and return its share of the loss.

        The encoder's and the decoder's halves are added to two lists of gradients; given the same
        list twice, they add up to the tied gradient.
        """
        codes, switches, encoder_backward = encode_up(
            self._layers, x.astype(self._dtype, copy=False)
        )
        kept = self._winners.mask(codes[-1], batch.threshold)
        H = codes[-1] if kept is None else codes[-1] * kept
        R, decoder_backward = decode_down(self._layers, H, not self._loss.of_logits, switches)
        J, E = self._error(R, target, batch)
        dH = decoder_backward(E, decoder)
        if kept is not None:
            dH = dH * kept

        def penalised(index: int, H: Array, dH: Array) -> Array:
            nonlocal J
            layer, penalty = self._layers[index], batch.penalty
            if index == len(self._layers) - 1 and (penalty.l1 or penalty.kl):
                count = batch.examples * prod(layer.output_shape)
                J_code, more = penalty.of_code(H, batch.mean_activation, count)
                J, dH = J + J_code, dH + more
            if penalty.contractive:
                J_layer, slope = penalty.of_layer(layer, H, encoder[index], batch.examples)
                J, dH = J + J_layer, dH if slope is None else dH + slope
            return dH

        encoder_backward(dH, encoder, penalised)
        return J

    def _error(self, R: Array, target: Array, batch: Batch) -> tuple[Array, Array]:
        """Compare with the target: the share of the loss, and the error, scaled."""
        f_out = self._layers[0].visible_activation
        count = batch.examples * prod(target.shape[1:]) // batch.loss_scale
        R_long = R.astype(target.dtype, copy=False)
        J, E = self._loss(self._sums.backend, R_long, target, f_out, count)
        return J / batch.loss_scale, E.astype(R.dtype, copy=False)


def training_work(layers: Layers) -> int:
    """Count the multiply-accumulates that one example takes in a training step."""
    forms = [layer.geometry.macs(layer.input_shape[0], layer.spec.filters) for layer in layers]
    return 6 * sum(forms) - forms[0]  # the gradient of the image is not computed


def numbers_of(layers: Layers) -> int:
    """Count the numbers that one example is, at all levels, before and after they are pooled."""
    shapes = [layers[0].input_shape, *(layer.unpooled_shape for layer in layers)]
    shapes += [layer.output_shape for layer in layers if layer.pooling is not None]
    return sum(map(prod, shapes))


def training_chunks(
    backend: Backend, layers: Layers, examples: int, parameters: int = 0, is_compiled: bool = False
) -> list[slice]:
    """Divide the batch of a training step; see `Backend.divide`."""
    numbers = 2 * numbers_of(layers)  # on the way up and down
    return backend.divide(examples, training_work(layers), numbers, parameters, is_compiled)


def mean_activation(
    backend: Backend, layers: Layers, x: Array, chunks: list[slice], group: Group
) -> Array:
    """Average each filter of the code over a batch and all positions.

    x (N, C, *size) -> (O,), kept away from 0 and 1 by a rounding error, for their logarithms
    """

    def sums(chunk: slice) -> Array:
        H = encode(layers, x[chunk])[-1]
        return H.sum(axis=(0, *range(2, H.ndim)))

    total: Array = sum(backend.map(sums, chunks))
    mean = group.mean(total / (len(x) * prod(layers[-1].output_shape[1:])))
    epsilon = backend.xp.finfo(x.dtype).eps
    return backend.xp.clip(mean, epsilon, 1 - epsilon)
