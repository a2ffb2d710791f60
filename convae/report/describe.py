"""A model in words: its layers in a table, and warnings about their sizes."""

from __future__ import annotations

from math import prod

from convae.data.splits import kind
from convae.models.autoencoder import Autoencoder


def describe(model: Autoencoder) -> str:
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


def oversized(model: Autoencoder, images: int) -> list[str]:
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
