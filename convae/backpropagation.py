"""Up and down a stack of tied layers and back: the loss and its gradients, by the recipe alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from convae.engine import Array, array_module, over
from convae.layers import TiedConvolution
from convae.losses import Loss
from convae.parameters import Arrays
from convae.penalties import Penalty


def add_gradients(
    layers: Sequence[TiedConvolution],
    loss: Loss,
    x: Array,
    target: Array,
    examples: int,
    penalty: Penalty,
    mean: Array | None,
    encoder: Sequence[Arrays],
    decoder: Sequence[Arrays],
) -> Array:
    """Go through a part of a batch, adding to the gradients.

    Where x is stored shorter than the target, errors are carried so many times as large as the
    whole batch has elements, lest they vanish, and so are the gradients: divide them.

    Parameters
    ----------
    layers : sequence of TiedConvolution
        From the image upwards.
    loss : Loss
        Compares the reconstruction with the target.
    x, target : (N, C, *size) ndarray
        The part of the batch.
    examples : int
        Examples in the whole batch: the loss is a mean over it.
    penalty : Penalty
        What else is minimised. Its terms that concern the batch as a whole are not added here.
    mean : (O,) ndarray or None
        Mean activation of the code's filters over the whole batch, if the penalty asks for it.
    encoder, decoder : sequence of mappings
        For each layer the arrays to which the two halves of its gradients are added; the same ones
        twice for the tied gradient, which is the sum.

    Returns
    -------
    0-d ndarray
        The part's share of the loss.
    """
    encoders, decoders = [], []
    codes = [x]
    for layer in layers:
        H, backward_encode = layer.encode(codes[-1])
        codes.append(H)
        encoders.append(backward_encode)
    R = codes[-1]
    for layer in reversed(layers):
        R, backward_decode = layer.decode(R)
        decoders.append((layer.visible_activation, R, backward_decode))

    f_out, count = layers[0].visible_activation, examples * prod(x.shape[1:])
    if R.dtype == target.dtype:
        J, E = loss(R, target, f_out, count)
    else:
        J, E = loss(R.astype(target.dtype), target, f_out, 1)
        J, E = J / count, E.astype(R.dtype)

    d = E
    for index, (f_out, R, backward_decode) in enumerate(reversed(decoders)):
        E = d if index == 0 else f_out.gradient(d, R)  # the loss's E is through f_out already
        d = backward_decode(E, decoder[index])
    if penalty.l1 or penalty.kl:
        H = codes[-1]
        J_code, dH = penalty.of_code(H, mean, examples * prod(H.shape[1:]))
        J, d = J + J_code, d + dH
    for index, backward_encode in reversed(list(enumerate(encoders))):
        if penalty.contractive:
            J_layer, dH = penalty.of_layer(
                layers[index], codes[index + 1], encoder[index], examples
            )
            J, d = J + J_layer, d if dH is None else d + dH
        to_lower_layer = backward_encode(d, encoder[index])
        if index > 0:
            d = to_lower_layer()
    return J


def mean_activation(layers: Sequence[TiedConvolution], x: Array, parts: list[slice]) -> Array:
    """Average each filter of the code over a batch and all positions.

    Parameters
    ----------
    layers : sequence of TiedConvolution
        From the image upwards.
    x : (N, C, *size) ndarray
        The batch.
    parts : list of slice
        How it is divided.

    Returns
    -------
    (O,) ndarray
        The means, kept away from 0 and 1 by a rounding error, as logarithms are taken of them.
    """
    xp = array_module(x)

    def sums(examples: slice) -> Array:
        H = x[examples]
        for layer in layers:
            H, _ = layer.encode(H)
        return H.sum(axis=(0, *range(2, H.ndim)))

    mean = sum(over(sums, parts)) / (len(x) * prod(layers[-1].output_shape[1:]))
    epsilon = xp.finfo(x.dtype).eps
    return xp.clip(mean, epsilon, 1 - epsilon)
