"""What models have in common that encode images and decode codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convae.engine import Array
from convae.errors import UserError
from convae.models import backpropagation, checks
from convae.models.initialisation import initialise
from convae.models.planned import Planned
from convae.models.stack import Stack


class Coder(Stack):
    """A stack of tied layers that encodes upwards and decodes downwards.

    Parameters and attributes are those of `convae.models.stack.Stack`.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        initialise(self, "he")
        self.pools = any(layer.pooling is not None for layer in self.layers)
        self._planned = Planned(self) if self.backend.runs_programs else None

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
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x = self._check("x", x, self.input_shape)
        return self._encode(x, [len(self.layers)])[0].astype(self.dtype, copy=False)

    def codes(self, x: Array) -> list[Array]:
        """Encode images and keep what every layer makes of them.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        list of (N, O, *output) ndarray
            The layers' codes, from the image upwards.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x = self._check("x", x, self.input_shape)
        levels = range(1, len(self.layers) + 1)
        return [H.astype(self.dtype, copy=False) for H in self._encode(x, levels)]

    def _encode(self, x: Array, levels: Sequence[int]) -> list[Array]:
        """Return the codes of some levels, 1 the lowest, in the type of the activations."""
        if not len(x):
            shapes = (self.layers[level - 1].output_shape for level in levels)
            return [self.xp.empty((0, *shape), self.dtype) for shape in shapes]
        if self._planned is not None:
            return self._planned.encode(x, levels)
        x = x.astype(self.storage or self.dtype, copy=False)
        codes = backpropagation.encode(self.layers, x)
        return [codes[level] for level in levels]

    def switches(self, x: Array) -> list[Array | None]:
        """Find what `decode` needs beside the codes of images, where layers pool.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        list of (N, O, *windows) ndarray of int, or None
            For each layer the positions in their windows of what it keeps, counted row by row; None
            where it does not pool.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x = self._check("x", x, self.input_shape)
        if not len(x):
            return [None] * len(self.layers)
        found = backpropagation.encode_up(self.layers, x)[1]
        return [None if s is None else s.astype("int32", copy=False) for s in found]

    def decode(self, H: Array, switches: Sequence[Array | None] = ()) -> Array:
        """Decode codes.

        Parameters
        ----------
        H : (N, O, *output) ndarray
            Codes, as `encode` returns them.
        switches : list of ndarray or None
            Of a model that pools what `switches` returns: its codes do not say where they belong.

        Returns
        -------
        (N, C, *size) ndarray
            Reconstructions R.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit, or there are no switches where layers pool.
        """
        H = self._check("H", H, self.code_shape)
        if self.pools and len(switches) != len(self.layers):
            raise UserError(
                "switches: this model pools, and codes alone do not say where they belong; take "
                "them from model.switches(x), or reconstruct images"
            )
        if not len(H):
            return self.xp.empty((0, *self.input_shape), self.dtype)
        if self._planned is not None and not self.pools:
            return self._planned.decode(H)
        H = H.astype(self.storage or self.dtype, copy=False)
        R = backpropagation.decode(self.layers, H, switches=switches)
        return R.astype(self.dtype, copy=False)

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

        Warns
        -----
        UserWarning
            If x is outside the output activation's range, or has NaN.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x = self._check("x", x, self.input_shape)
        R = self._reconstruct(x)
        self.compare_range("x", x)
        return R

    def _reconstruct(self, x: Array) -> Array:
        """Do what `reconstruct` does, of checked images."""
        return self._decode_of(x, self.encode(x))

    def _decode_of(self, x: Array, H: Array) -> Array:
        """Decode the codes of these images."""
        return self.decode(H)

    def codes_and_reconstructions(self, x: Array) -> tuple[Array, Array]:
        """Return what `encode` and `reconstruct` do, without a warning.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        H : (N, O, *output) ndarray
            The codes.
        R : (N, C, *size) ndarray
            The reconstructions.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        H = self.encode(x)
        return H, self._decode_of(x, H)

    def compare_range(self, name: str, x: Array, stacklevel: int = 3) -> None:
        """Warn of images that no reconstruction can equal.

        Parameters
        ----------
        name : str
            What they are called in the warning.
        x : (N, C, *size) ndarray
            Images.
        stacklevel : int
            As in `warnings.warn`: which caller the warning is about.

        Warns
        -----
        UserWarning
            If a value is outside the output activation's range, or NaN.
        """
        checks.warn_of_range(name, x, self.output_activation, stacklevel)

    def _check(self, name: str, array: Array, shape: tuple[int, ...], at_least: int = 0) -> Array:
        """Refuse what the model does not take, and return the rest as an ordinary array."""
        return checks.check_array(name, array, shape, self.dtype, self.backend, at_least)
