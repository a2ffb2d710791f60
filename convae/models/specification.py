"""The specification of a layer, in plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np

from convae import engine
from convae.engine.geometry import Geometry, Padding, per_axis
from convae.errors import UserError, UserTypeError, check_choice

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


def _plain(value: Any) -> Any:
    """Turn arrays and lists into tuples, and NumPy's numbers into Python's."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return tuple(_plain(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value
