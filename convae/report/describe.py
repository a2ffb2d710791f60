"""A model in words: its layers in a table, and warnings about their sizes."""

from __future__ import annotations

from math import prod

from convae.data.splits import kind
from convae.engine.linear import operator_norm
from convae.models.model import Model


def describe(model: Model) -> str:
    """Tabulate a model's layers: kernel, parameters, output, and numbers of one code."""
    rows = [("layer", "kernel", "parameters", "output", "numbers")]
    for index, layer in enumerate(model.layers):
        count = sum(prod(shape) for shape in layer.shapes.values())
        numbers = prod(layer.output_shape)
        sizes = _times(layer.shapes["kernel"]), f"{count:,}", _times(layer.output_shape)
        rows.append((str(index), *sizes, f"{numbers:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    total = sum(int(array.size) for array in model.parameters.values())
    lines.append(
        f"{total:,} parameters on the {model.device} in {model.dtype}; "
        f"{kind(model.input_shape)} {_times(model.input_shape)} = "
        f"{prod(model.input_shape):,} numbers, code {model.code_size:,}"
    )
    return "\n".join(lines)


COMMON = ("input_shape", "layers", "output_activation", "loss", "seed", "dtype")
"""Arguments that all kinds of models have, or most."""


def settings(model: Model) -> str:
    """Say what is set of the arguments that a kind of model has of its own."""
    own = {k: v for k, v in model.configuration().items() if k not in COMMON}
    return ", ".join(f"{name}={v}" for name, v in own.items() if v not in (None, False))


def singular_values(model: Model) -> list[str]:
    """Say of each layer by how much c makes its input longer, at most, and what follows from it.

    For a code H that minimises ``1/2 |V - h(K, H)|^2``, gradient descent converges with any rate
    below 2 over the square of c's largest singular value.
    """
    lines = []
    for index, layer in enumerate(model.layers):
        K = layer.parameters["kernel"]
        value = operator_norm(model.backend, K, layer.geometry, layer.input_shape[0], 1e-4)
        rate = f"below {2 / value**2:.2g}" if value else "of any size"
        lines.append(
            f"layer {index}: largest singular value {value:.3g}; gradient descent on its code "
            f"converges with a rate {rate}"
        )
    return lines


def oversized(model: Model, images: int) -> list[str]:
    """Warn of each layer whose local kernel has more numbers than all training images."""
    numbers = images * prod(model.input_shape)
    return [
        f"model.layers.{index}: the local kernel {_times(layer.shapes['kernel'])} has "
        f"{prod(layer.shapes['kernel']):,} parameters, more than the {numbers:,} numbers in the "
        "training images; watch the validation loss, or use sharing=tiled, fewer filters or more "
        "images"
        for index, layer in enumerate(model.layers)
        if layer.spec.sharing == "local" and prod(layer.shapes["kernel"]) > numbers
    ]


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
