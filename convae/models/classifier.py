"""A feed-forward network of the same operations: c upwards, g and h back (section 9.5).

Its uppermost layer has a kernel as large as its input, which makes it a fully connected one, and a
filter for each class. With Z its output and P = softmax(Z), the loss is the cross-entropy
``J = -mean log P[label]``, and its gradient ``dZ = (P - one at the label) / N``, which goes down
the encoder as in an autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NoReturn

import numpy as np

from convae.engine import Array, Backend, array_module
from convae.engine.arrays import plain
from convae.errors import UserError, UserTypeError, check_choice
from convae.models.backpropagation import encode, encode_up, training_chunks
from convae.models.model import Model
from convae.models.parameters import Gradients, per_layer
from convae.models.penalties import Penalty
from convae.models.specification import Layer, layer_from

TRAINED = ("all", "last")
"""Which layers learn."""


class Classifier(Model):
    """An encoder with a softmax layer on top, trained with labels.

    Its attributes, and the methods that all models share, are those of
    `convae.models.model.Model`; what decodes or reconstructs is refused.

    Parameters
    ----------
    input_shape : (C, *size) sequence of int
        Shape of one example; 1, 2 or 3 axes of positions.
    layers : sequence of Layer, or of mappings of its arguments
        From the image upwards; the uppermost one makes a number for each class: without positions,
        and with the identity as activation. There are no visible biases.
    output_activation : {"identity"}
        Taken as other models do.
    trained : {"all", "last"}
        Whether all layers learn, or only the uppermost one.
    seed : int
        Seed of the initial kernels.
    dtype, device, storage, backend
        As in `convae.Autoencoder`.

    Raises
    ------
    UserTypeError, UserError
        If an argument is malformed or the layers do not fit; the message names the argument.
    DeviceError
        If the device is "gpu" and there is none.
    """

    kind = "classifier"
    penalties = ("weight_decay",)
    arguments = ("trained",)

    def __init__(
        self,
        input_shape: Sequence[int],
        layers: Sequence[Layer | Mapping[str, Any]],
        output_activation: str = "identity",
        trained: str = "all",
        seed: int = 0,
        dtype: str | type | np.dtype[Any] = "float32",
        device: str = "cpu",
        storage: str | None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        check_choice("trained", trained, TRAINED)
        if output_activation != "identity":
            raise UserError(f"output_activation: {output_activation!r}; a classifier has none")
        if isinstance(layers, Sequence):
            layers = [
                replace(layer_from(layer), visible_bias="none", tied=True) for layer in layers
            ]
        super().__init__(
            input_shape, layers, output_activation, seed, dtype, device, storage, backend
        )
        head, top = self.layers[-1], len(self.layers) - 1
        if prod(head.output_shape[1:]) != 1 or head.spec.activation != "identity":
            raise UserError(
                f"layers.{top}: a code of {head.output_shape} through {head.spec.activation}; the "
                "uppermost layer has kernel 'input' and activation 'identity'"
            )
        self.trained = trained
        self._frozen: Array | None = None

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.layers[-1].spec.filters

    def probabilities(self, x: Array) -> Array:
        """Compute the probability of every class.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        (N, classes) ndarray
            Each row's sum is 1.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        return softmax(self.encode(x).reshape(len(x), self.classes))

    def predict(self, x: Array) -> Array:
        """Choose the most probable class of each image.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        (N,) ndarray of int
            Numbers of classes.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        return self.encode(x).reshape(len(x), self.classes).argmax(axis=1)

    def freeze(self) -> None:
        """Keep the layers that do not learn as they are now, whatever an optimizer does."""
        if self.trained == "last":
            self._frozen = self.flat_parameters.copy()

    def constrain(self) -> None:
        """Put back what does not learn; see `Model.constrain`."""
        if self._frozen is None:
            return
        kept = per_layer(self.views(self._frozen))
        for layer, arrays in zip(self.layers[:-1], kept[:-1], strict=True):
            for name, array in arrays.items():
                layer.parameters[name][...] = array

    def compare_range(self, name: str, x: Array, stacklevel: int = 3) -> None:
        """Do nothing: labels have no range of values.

        Parameters
        ----------
        name, x, stacklevel
            As in `Model.compare_range`.
        """

    def decode(self, H: Array, switches: Sequence[Array | None] = ()) -> NoReturn:
        """Refuse: a classifier has no decoder.

        Parameters
        ----------
        H, switches
            As in `Model.decode`.

        Raises
        ------
        UserError
            Always.
        """
        raise UserError("model: a classifier has no decoder, and reconstructs nothing")

    def _check_target(self, x: Array, target: Array | None) -> Array:
        """Refuse labels that do not fit."""
        if target is None:
            raise UserError("target: none given; a classifier learns from labels")
        labels = plain("target", target)
        if array_module(labels) is not self.xp or labels.dtype.kind not in "iu":
            raise UserTypeError(
                f"target: {labels.dtype} of {array_module(labels).__name__}; expected integers of "
                f"{self.xp.__name__}, the numbers of classes"
            )
        if labels.shape != x.shape[:1]:
            raise UserError(f"target: shape {labels.shape}, but x has {len(x)} examples")
        least, largest = int(labels.min()), int(labels.max())
        if least < 0 or largest >= self.classes:
            wrong = least if least < 0 else largest
            raise UserError(f"target: {wrong} is no class; expected 0 to {self.classes - 1}")
        return labels

    def _evaluate(self, x: Array, target: Array) -> tuple[Array, Array]:
        Z = self.encode(x).reshape(len(x), self.classes)
        return cross_entropy(Z, target, len(x))[0], softmax(Z)

    def _gradients(self, x: Array, target: Array, penalty: Penalty) -> Any:
        first = len(self.layers) - 1 if self.trained == "last" else 0
        below, learning = self.layers[:first], self.layers[first:]

        def compute(chunk: slice, gradients: Gradients) -> Array:
            V = self.backend.arrange(x[chunk]).astype(self.storage or self.dtype, copy=False)
            codes, _, backward = encode_up(learning, encode(below, V)[-1])
            Z = codes[-1]
            scores = Z.reshape(len(Z), self.classes).astype(self.dtype, copy=False)
            J, dZ = cross_entropy(scores, target[chunk], len(x))
            dZ = dZ.reshape(Z.shape).astype(Z.dtype, copy=False)
            backward(dZ, gradients[first:], lambda index, H, dH: dH)
            return J

        return self._sums(training_chunks(self.backend, self.layers, len(x)), compute)


def softmax(Z: Array) -> Array:
    """Turn numbers (N, classes) into probabilities."""
    xp = array_module(Z)
    P = xp.exp(Z - Z.max(axis=1, keepdims=True))
    return P / P.sum(axis=1, keepdims=True)


def cross_entropy(Z: Array, labels: Array, count: int) -> tuple[Array, Array]:
    """Compute ``J = -sum log P[label] / count`` and its gradient in Z, (N, classes)."""
    xp = array_module(Z)
    rows = xp.arange(len(Z))
    shifted = Z - Z.max(axis=1, keepdims=True)
    terms = xp.log(xp.exp(shifted).sum(axis=1)) - shifted[rows, labels]
    dZ = softmax(Z)
    dZ[rows, labels] -= 1
    dZ /= count
    return terms.sum(dtype="float64") / count, dZ
