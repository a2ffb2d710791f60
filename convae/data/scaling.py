"""Arrays of any range become examples near [0, 1], and come back in their own units.

`Scaling` states how; a run keeps it in its model's file, so that other arrays are scaled as the
training examples were.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from convae.configuration import SCALINGS
from convae.data.layouts import Layout, Values
from convae.data.pictures import ARRAYS
from convae.data.tiling import Tiling
from convae.errors import UserError, check_choice, check_range

MOST_OFFSET = 1e3
"""Distance from zero, in spreads, up to which float32 resolves them to a part in 10,000."""


class TakesArrays(Protocol):
    """What has to be known of a model to read arrays for it; see `Autoencoder`."""

    input_shape: tuple[int, ...]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Scaling:
    """How an array becomes examples: the order of its axes, and for each channel a linear map.

    Parameters
    ----------
    layout : str
        The order of axes in files; see `convae.data.layouts.Layout`.
    kind : {"range", "standard"}
        Whether the training examples' range becomes [0, 1], or their mean and standard deviation
        0 and 1.
    offset, spread : sequence of float
        For each channel what is subtracted, and what the rest is divided by, in the arrays' units.
    columns : sequence of str
        Of tables, the names of the columns with values; their numbers where there is no header.
    tile : tuple of int, optional
        Positions, along each axis, of the windows that examples of any size are cut into.
    overlap : int
        Positions that neighbouring windows share.

    Raises
    ------
    UserError
        If a value is out of range.

    Examples
    --------
    >>> import numpy as np, convae
    >>> scaling = convae.Scaling("NL", "range", [-2.0], [4.0])
    >>> x = scaling(np.array([[-2.0, 0.0, 2.0]]))
    >>> x.tolist(), scaling.undo(x).tolist()
    ([[[0.0, 0.5, 1.0]]], [[-2.0, 0.0, 2.0]])
    """

    KEY: ClassVar[str] = ARRAYS
    """Where a model's metadata describes it."""

    layout: str
    kind: str
    offset: tuple[float, ...]
    spread: tuple[float, ...]
    columns: tuple[str, ...] = ()
    tile: tuple[int, ...] | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        """Check the values, which may come from a file."""
        layout = Layout(self.layout)
        if self.tile is not None:
            tile = Tiling.along(layout.positions, self.tile, self.overlap).tile
            object.__setattr__(self, "tile", tile)
        check_choice("kind", self.kind, SCALINGS)
        for name in ("offset", "spread"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple):
                raise UserError(f"{name}: {values!r} is not a list of numbers")
            for value in values:
                check_range(name, value, over=0 if name == "spread" else None)
            object.__setattr__(self, name, tuple(map(float, values)))
        object.__setattr__(self, "columns", tuple(map(str, self.columns)))
        if not len(self.offset) == len(self.spread) > 0:
            raise UserError(
                f"offset, spread: {len(self.offset)} and {len(self.spread)} numbers; expected as "
                "many as there are channels"
            )

    @property
    def tiling(self) -> Tiling | None:
        """The windows that examples are cut into, if they are."""
        return None if self.tile is None else Tiling(self.tile, self.overlap)

    def plain(self) -> dict[str, Any]:
        """Describe it in plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def of_model(cls, model: TakesArrays) -> Scaling:
        """Return how a model's arrays are read: as its training examples were.

        Parameters
        ----------
        model : Autoencoder
            A model that a run has trained on arrays.

        Returns
        -------
        Scaling
            Its file's.

        Raises
        ------
        UserError
            If it was not trained on arrays, or its file describes this wrongly.
        """
        known = model.metadata.get(cls.KEY)
        if known is None:
            raise UserError("model: no run has trained it on arrays; scale them yourself")
        try:
            scaling = cls(**known)
            channels, *size = shape = model.input_shape
            if len(scaling.offset) != channels:
                raise UserError(f"{len(scaling.offset)} channels, and the model has {channels}")
            if Layout(scaling.layout).positions != len(size):
                raise UserError(f"layout {scaling.layout}, and the model's input is {shape}")
            if scaling.tile not in (None, tuple(size)):
                raise UserError(f"windows of {scaling.tile}, and the model's input is {shape}")
        except (TypeError, UserError) as error:
            raise UserError(f"the model's file describes its arrays wrongly: {error}") from None
        return scaling

    def __call__(self, values: Values) -> Values:
        """Scale an array.

        Parameters
        ----------
        values : ndarray
            In the order of axes that `layout` says; N may be missing, or be there in addition.

        Returns
        -------
        (N, C, *size) ndarray of float32
            The examples, as the model takes them.

        Raises
        ------
        UserError
            If the array has other axes or channels.
        """
        return self.scaled(self._arranged(values))

    def _arranged(self, values: Values) -> Values:
        """Arrange an array: -> (N, C, *size), a view."""
        values, letters = np.asarray(values), self.layout.lstrip("N")
        if values.ndim == len(letters) + 1:
            letters = f"N{letters}"
        elif values.ndim != len(letters):
            raise UserError(
                f"array: its shape {values.shape} does not fit the layout {self.layout}"
            )
        examples = Layout(letters).examples(values)
        if examples.shape[1] != len(self.offset):
            raise UserError(
                f"array: its shape {values.shape} has {examples.shape[1]} channels in the layout "
                f"{self.layout}; expected {len(self.offset)}"
            )
        return examples

    def scaled(self, examples: Values) -> Values:
        """Scale examples whose axes are arranged already.

        Parameters
        ----------
        examples : (N, C, *size) ndarray
            In the arrays' units.

        Returns
        -------
        (N, C, *size) ndarray of float32
            A new array.
        """
        offset, spread = self._factors(examples)
        scaled: Values = ((examples - offset) / spread).astype(np.float32)
        return scaled

    def undo(self, x: Values) -> Values:
        """Take examples back to the units and the order of the arrays.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Examples, such as reconstructions.

        Returns
        -------
        ndarray of float32, or float64
            In the order of axes that `layout` says, with N in front; `dtype` says which.
        """
        offset, spread = self._factors(x)
        return Layout(self.layout).back((x * spread + offset).astype(self.dtype))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of arrays in their own units: float64 where float32 has too few digits."""
        needs = any(
            abs(offset) > MOST_OFFSET * spread
            for offset, spread in zip(self.offset, self.spread, strict=True)
        )
        return np.dtype(np.float64 if needs else np.float32)

    def _factors(self, x: Values) -> tuple[Values, Values]:
        """Return offset and spread, (C, 1, ...) of float64, beside examples."""
        shape = (-1, *(1,) * (x.ndim - 2))
        return np.array(self.offset).reshape(shape), np.array(self.spread).reshape(shape)
