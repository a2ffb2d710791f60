"""From a configuration to the objects that it describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, TypeVar

from convae.autoencoder import Autoencoder
from convae.configuration import Config, OptimizerConfig, ScheduleConfig
from convae.corruption import Corruption
from convae.engine import allow_tf32
from convae.layers import Layer
from convae.optimizers import OPTIMIZERS, Optimizer
from convae.penalties import Penalty
from convae.schedules import SCHEDULES, Schedule

Built = TypeVar("Built")


def build_optimizer(config: OptimizerConfig) -> Optimizer:
    """Make the optimizer that a configuration names.

    Parameters
    ----------
    config : OptimizerConfig
        Its name, and the values that differ from its own defaults.

    Returns
    -------
    Optimizer
        A fresh one.

    Raises
    ------
    ValueError
        If the name is unknown, a value is out of range, or the optimizer does not take it.
    """
    return _build("optimizer", OPTIMIZERS, config)


def build_model(config: Config, input_shape: tuple[int, ...]) -> Autoencoder:
    """Make the model that a configuration describes.

    Parameters
    ----------
    config : Config
        The whole configuration.
    input_shape : (C, H, W) tuple of int
        Shape of the dataset's images.

    Returns
    -------
    Autoencoder
        With its initial parameters.

    Raises
    ------
    TypeError, ValueError
        If the layers do not fit the images; the message names the key.
    RuntimeError
        If a GPU is asked for and there is none.
    """
    allow_tf32(config.tf32)
    try:
        model = Autoencoder(
            input_shape,
            [Layer(**dataclasses.asdict(layer)) for layer in config.model.layers],
            output_activation=config.model.output_activation,
            loss=config.loss.name,
            seed=config.seed,
            dtype=config.dtype,
            device=config.device,
            storage=config.storage,
        )
    except (TypeError, ValueError) as error:
        prefix = "model." if str(error).startswith(("layers", "output_activation")) else ""
        raise type(error)(f"{prefix}{error} (images are {input_shape})") from None
    if config.tf32 and model.device == "cpu":
        raise ValueError("tf32: only a GPU has it, and the model is on the cpu; use tf32=false")
    return model


def build_schedule(config: ScheduleConfig) -> Schedule:
    """Make the schedule that a configuration names.

    Parameters
    ----------
    config : ScheduleConfig
        Its name, and the values that differ from its own defaults.

    Returns
    -------
    Schedule
        A fresh one.

    Raises
    ------
    ValueError
        If the name is unknown, a value is out of range, or the schedule does not take it.
    """
    return _build("schedule", SCHEDULES, config)


def _build(
    group: str,
    choices: Mapping[str, Callable[..., Built]],
    config: OptimizerConfig | ScheduleConfig,
) -> Built:
    """Call the choice that a configuration names with the values that it gives."""
    if config.name not in choices:
        raise ValueError(
            f"{group}.name: {config.name!r} is unknown; use one of {', '.join(choices)}"
        )
    choice: Any = choices[config.name]
    taken = [field.name for field in dataclasses.fields(choice) if field.init]
    given = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name != "name" and value is not None
    }
    for name in given:
        if name not in taken:
            raise ValueError(
                f"{group}.{name}: {config.name} has no such value; it takes {', '.join(taken)}"
            )
    try:
        built: Built = choice(**given)
    except ValueError as error:
        raise ValueError(f"{group}.{error}") from None
    return built


def build_corruption(config: Config) -> Corruption:
    """Make the corruption that a configuration describes.

    Parameters
    ----------
    config : Config
        The whole configuration.

    Returns
    -------
    Corruption
        The noise, seeded with the run's seed.

    Raises
    ------
    ValueError
        If the name is unknown or the amount out of range.
    """
    return Corruption(config.corruption.name, config.corruption.amount, config.seed)


def build_penalty(config: Config) -> Penalty:
    """Make the penalty that a configuration describes.

    Parameters
    ----------
    config : Config
        The whole configuration.

    Returns
    -------
    Penalty
        What is added to the loss.

    Raises
    ------
    ValueError
        If a strength or the target is out of range.
    """
    return Penalty(**dataclasses.asdict(config.penalty))


def describe(model: Autoencoder) -> str:
    """Tabulate a model's layers.

    Parameters
    ----------
    model : Autoencoder
        The model.

    Returns
    -------
    str
        A line for each layer: kernel, parameters, output, and how many numbers that is.
    """
    rows = [("layer", "kernel", "parameters", "output", "numbers")]
    for index, layer in enumerate(model.layers):
        count = sum(prod(shape) for shape in layer.shapes.values())
        numbers = prod(layer.output_shape)
        rows.append(
            (
                str(index),
                _times(layer.shapes["kernel"]),
                f"{count:,}",
                _times(layer.output_shape),
                f"{numbers:,}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    total = sum(int(array.size) for array in model.parameters.values())
    pixels = prod(model.input_shape)
    lines.append(
        f"{total:,} parameters on the {model.device} in {model.dtype}; "
        f"image {_times(model.input_shape)} = {pixels:,} numbers, code {model.code_size:,}"
    )
    return "\n".join(lines)


def oversized(model: Autoencoder, images: int) -> list[str]:
    """Find local kernels that are larger than the data can support.

    Parameters
    ----------
    model : Autoencoder
        The model.
    images : int
        Training images.

    Returns
    -------
    list of str
        A warning for each layer whose local kernel has more numbers than all training images.
    """
    numbers = images * prod(model.input_shape)
    return [
        f"model.layers.{index}: the local kernel {_times(layer.shapes['kernel'])} has "
        f"{prod(layer.shapes['kernel']):,} parameters, more than the {numbers:,} numbers in the "
        "training images; watch the validation loss, or use sharing=tiled, fewer filters or more "
        "images"
        for index, layer in enumerate(model.layers)
        if layer.layer.sharing == "local" and prod(layer.shapes["kernel"]) > numbers
    ]


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
