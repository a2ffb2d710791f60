"""What models of a single layer have in common, that learn from images alone."""

from __future__ import annotations

from typing import Any, ClassVar

from convae.engine import Array
from convae.errors import DivergenceError, UserError
from convae.models.model import Model


class SingleLayer(Model):
    """A model of one tied layer, without targets, and in full precision."""

    wanted: ClassVar[dict[str, Any]]
    """Arguments that its layer has to have."""

    def __init__(self, *arguments: Any) -> None:
        *_, storage, _ = arguments
        if storage is not None:
            raise UserError(f"storage: {storage!r} is for autoencoders; leave it out")
        super().__init__(*arguments)
        for name, value in self.wanted.items():
            if (given := getattr(self.layers[0].spec, name)) != value:
                raise UserError(f"layers.0.{name}: {given!r}; expected {value!r}")
        if len(self.layers) != 1:
            raise UserError(f"layers: {len(self.layers)} of them; {self.kind} has a single one")

    def _check_finite(self, x: Array) -> None:
        """Refuse images from which nothing can be drawn."""
        if not bool(self.xp.isfinite(x).all()):
            raise DivergenceError("x: has values that are not finite; leave those images out")

    def _check_target(self, x: Array, target: Array | None) -> Array:
        """Refuse any target but the images themselves."""
        if target is not None and target is not x:
            raise UserError(
                f"target: a model of the kind {self.kind} learns of the images themselves; leave "
                "it out, and corruption, too"
            )
        return x
