"""Pictures, and recordings, of any size through a model of tiles: what they give is blended.

Tiles overlap. Near a tile's edges a convolution meets padding where the picture goes on; how far
that reaches is known from the layers (`margins`). Where the overlap has room for it, these
positions have no weight, so that a model of shared kernels gives what it would give on the whole
picture. In the rest of the overlap weights fall linearly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from convae.data.pictures import to_floats
from convae.data.tiling import Tiling
from convae.engine import to_numpy
from convae.models.model import Model
from convae.report.anomaly import Detector
from convae.report.scores import SCORES

Floats: TypeAlias = np.ndarray[Any, Any]


def margins(model: Model) -> list[tuple[int, int]] | None:
    """Compute how many positions at both ends of each axis depend on padding.

    None if the model is not the same at all positions: local or tiled kernels, biases by position,
    or a kernel as large as its input.
    """
    for layer in model.layers:
        spec = layer.spec
        is_same = spec.sharing == "shared" and all(
            bias in ("natural", "channel", "none") for bias in (spec.hidden_bias, spec.visible_bias)
        )
        if not is_same or spec.kernel == "input":
            return None
    axes = range(len(model.input_shape) - 1)
    return [(_reach(model, axis, 0), _reach(model, axis, 1)) for axis in axes]


def _reach(model: Model, axis: int, end: int) -> int:
    """Count the positions at an end of an axis whose reconstruction depends on padding."""
    reach, known = 0, []
    for layer in model.layers:
        geometry = layer.geometry
        stride, padding = geometry.stride[axis], geometry.padding[axis][0]
        extent = (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1
        if end == 1:  # what the last output reads beyond the end; negative if it does not get there
            last = (geometry.output[axis] - 1) * stride - padding + extent
            padding = last - geometry.size[axis]
        known.append((stride, padding, extent))
        reach = max(0, -(-(reach + padding) // stride))  # outputs that read padding, or such inputs
    for stride, padding, extent in reversed(known):
        reach = max(0, stride * (reach - 1) + extent - padding)  # inputs that such outputs reach
    return reach


class Line(NamedTuple):
    """Tiles along one axis.

    Where they begin, how far the picture is continued beyond its end, and their weights (n, tile),
    which add up to 1 at every position.
    """

    starts: list[int]
    beyond: int
    weights: Floats


def line(size: int, tile: int, overlap: int, unit: int, margin: tuple[int, int]) -> Line:
    """Lay tiles along an axis, their distances multiples of a unit, as far as a tile allows it."""
    kept = margin if sum(margin) <= tile - unit else (0, 0)
    step = max(unit, (tile - max(overlap, sum(kept))) // unit * unit)
    step = min(step, tile)
    number = 1 + max(0, -(-(size - tile) // step))
    starts = [step * n for n in range(number)]
    beyond = starts[-1] + tile - size
    left, right = kept
    ramp = max(1, tile - step - left - right)
    places = np.arange(tile)
    rising = np.clip((places - left + 1) / ramp, 0, 1)
    falling = np.clip((tile - right - places) / ramp, 0, 1)
    weights = np.ones((number, tile))
    weights[1:] *= rising
    weights[:-1] *= falling
    total = np.zeros(size + beyond)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
    for start, row in zip(starts, weights, strict=True):
        row /= total[start : start + tile]
    return Line(starts, beyond, weights)


class Band(NamedTuple):
    """Rows of a picture that are done: the first one, reconstruction and map."""

    start: int
    R: Floats  # (C, rows, ...)
    unusual: Floats  # (rows, ...)


@dataclass(frozen=True)
class Whole:
    """Passes pictures of any size through a model, tile by tile.

    Parameters
    ----------
    detector : Detector
        The model.
    tiling : Tiling
        Its tiles; neighbours share at least so many positions.
    score : str
        How unusual a tile is.
    batch_size : int
        Tiles at a time.
    """

    detector: Detector
    tiling: Tiling
    score: str
    batch_size: int

    def bands(self, pixels: Floats) -> Iterator[Band]:
        """Pass a picture (C, *size) through the model, of which a band of rows is in work."""
        model = self.detector.model
        units = [1] * len(self.tiling.tile)
        for layer in model.layers:
            if layer.spec.kernel != "input":
                units = [u * s for u, s in zip(units, layer.geometry.stride, strict=True)]
        known = margins(model) or [(0, 0)] * len(units)
        tile = self.tiling.tile
        lines = [
            line(n, side, self.tiling.overlap, min(unit, side), margin)
            for n, side, unit, margin in zip(pixels.shape[1:], tile, units, known, strict=True)
        ]
        if len(lines) == 1:  # a signal is a single row, whose windows pass together
            pixels, tile = pixels[:, None], (1, *tile)
            lines.insert(0, line(1, 1, 0, 1, (0, 0)))
        size = pixels.shape[1:]
        first, *others = lines
        widths = [n + along.beyond for n, along in zip(size[1:], others, strict=True)]
        R = np.zeros((len(pixels), tile[0], *widths), np.float32)
        unusual = np.zeros((tile[0], *widths), np.float32)
        inside = tuple(slice(0, n) for n in size[1:])
        for number, start in enumerate(first.starts):
            self._row(pixels, number, tile, lines, R, unusual)
            is_last = number == len(first.starts) - 1
            end = size[0] if is_last else first.starts[number + 1]
            done = end - start
            if done > 0:
                yield Band(
                    start, R[:, :done][(slice(None), slice(None), *inside)].copy(),
                    unusual[:done][(slice(None), *inside)].copy(),
                )  # fmt: skip
            for array, axis in ((R, 1), (unusual, 0)):
                moved = np.moveaxis(array, axis, 0)
                moved[: tile[0] - done] = moved[done:].copy()
                moved[tile[0] - done :] = 0

    def _row(
        self,
        pixels: Floats,
        number: int,
        tile: tuple[int, ...],
        lines: list[Line],
        R: Floats,
        unusual: Floats,
    ) -> None:
        """Add the tiles of one row to the band."""
        first, *others = lines
        model = self.detector.model
        size = pixels.shape[1:]
        top = first.starts[number]
        rows = _continued(pixels[:, top : top + tile[0]], 1, tile[0])
        for axis, (n, along) in enumerate(zip(size[1:], others, strict=True), start=2):
            rows = _continued(rows, axis, n + along.beyond)
        grid = list(product(*(range(len(along.starts)) for along in others)))
        for begin in range(0, len(grid), self.batch_size):
            some = grid[begin : begin + self.batch_size]
            where = [
                tuple(
                    slice(along.starts[n], along.starts[n] + side)
                    for n, along, side in zip(numbers, others, tile[1:], strict=True)
                )
                for numbers in some
            ]
            tiles = np.stack([rows[(slice(None), slice(None), *at)] for at in where])
            x = to_floats(tiles.reshape(-1, *model.input_shape), model.backend, model.dtype)
            seen = self.detector.see(x)
            maps = to_numpy(SCORES[self.score].map(seen)).reshape(-1, *tile)
            results = to_numpy(seen.R).reshape(tiles.shape)
            for numbers, at, R_tile, map_tile in zip(some, where, results, maps, strict=True):
                weight = first.weights[number].reshape(-1, *(1,) * len(others))
                for axis, (n, along) in enumerate(zip(numbers, others, strict=True), start=1):
                    shape = [1] * len(tile)
                    shape[axis] = -1
                    weight = weight * along.weights[n].reshape(shape)
                R[(slice(None), slice(None), *at)] += (weight * R_tile).astype(np.float32)
                unusual[(slice(None), *at)] += (weight * map_tile).astype(np.float32)

    def see(self, pixels: Floats) -> tuple[Floats, Floats]:
        """Reconstruct a whole picture (C, *size), and map it."""
        bands = list(self.bands(pixels))
        R = np.concatenate([band.R for band in bands], axis=1).reshape(pixels.shape)
        return R, np.concatenate([band.unusual for band in bands]).reshape(pixels.shape[1:])

    def value(self, pixels: Floats) -> float:
        """Score a whole picture (C, *size): the highest score of its tiles.

        They are those that the run has cut, whose scores decided what is normal.
        """
        model, pixels = self.detector.model, self.tiling.at_least(pixels)
        places = list(self.tiling.places(pixels.shape[1:]))
        highest = []
        for begin in range(0, len(places), self.batch_size):
            some = places[begin : begin + self.batch_size]
            tiles = np.stack([self.tiling.take(pixels, at) for at in some])
            seen = self.detector.see(to_floats(tiles, model.backend, model.dtype))
            highest.append(np.max(SCORES[self.score].function(seen)))
        return float(np.max(highest))


def _continued(pixels: Floats, axis: int, length: int) -> Floats:
    """Repeat the last position along an axis until it has a length."""
    missing = length - pixels.shape[axis]
    edges = [(0, missing if n == axis else 0) for n in range(pixels.ndim)]
    return np.pad(pixels, edges, mode="edge") if missing > 0 else pixels
