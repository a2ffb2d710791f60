"""Whole pictures by tiles: they are those of a model that takes the whole picture."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import convae
from convae import Layer
from convae.data.splits import InMemory
from convae.data.tiling import Tiling
from convae.report.anomaly import Detector
from convae.report.scores import SCORES
from convae.report.whole import Whole, line, margins

STACKS = {
    "one layer": [Layer(4, 3, padding="same")],
    "strides": [Layer(6, 4, 2, "same"), Layer(8, 4, 2, "same", activation="identity")],
    "dilation": [Layer(4, 3, padding="same", dilation=2), Layer(3, 2, 2, activation="tanh")],
    "uneven": [Layer(4, (5, 3), (1, 2), [[3, 1], [0, 2]]), Layer(3, 3, padding="full")],
    "valid": [Layer(4, 5, stride=3), Layer(5, 3)],
    "reflected": [Layer(4, 3, 2, "same", padding_mode="reflect")],
}


def models(name: str, tile: tuple[int, ...], size: tuple[int, ...]) -> list[convae.Autoencoder]:
    """A model of tiles, and one of whole pictures with the same parameters."""
    made = [convae.Autoencoder((2, *s), STACKS[name], "identity", seed=1) for s in (tile, size)]
    rng = np.random.default_rng(2)
    made[0].flat_parameters[...] += 0.1 * rng.standard_normal(made[0].flat_parameters.size)
    made[1].flat_parameters[...] = made[0].flat_parameters
    return made


def whole(model: convae.Autoencoder, tile: tuple[int, ...], overlap: int, batch: int = 7) -> Whole:
    return Whole(Detector(model), Tiling(tile, overlap), "squared_error", batch)


def within(values: np.ndarray, inside: tuple[slice, ...]) -> np.ndarray:
    """Some positions of all channels."""
    return values[(slice(None), *inside)]


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize(("tile", "size"), [((32, 36), (95, 131)), ((40, 32), (40, 200))])
@pytest.mark.parametrize("overlap", [0, 20])
def test_tiles_give_what_the_whole_picture_gives(rng, name: str, tile, size, overlap: int) -> None:
    """Away from the picture's own borders."""
    small, large = models(name, tile, size)
    picture = rng.random((2, *size), dtype="float32")
    R, unusual = whole(small, tile, overlap).see(picture)
    expected = large.reconstruct(picture[None])[0]
    found = margins(small)
    assert found is not None
    assert all(sum(margin) < side for margin, side in zip(found, tile, strict=True))
    inside = tuple(
        slice(left if side < n else 0, n - right - 6 if side < n else n)
        for (left, right), side, n in zip(found, tile, size, strict=True)
    )
    np.testing.assert_allclose(
        R[(slice(None), *inside)], expected[(slice(None), *inside)], atol=1e-5
    )
    errors = ((picture - expected) ** 2).mean(axis=0)
    np.testing.assert_allclose(unusual[inside], errors[inside], atol=1e-5)
    assert np.isfinite(R).all()


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_windows_give_what_the_whole_recording_gives(rng, batch: int) -> None:
    layers = [Layer(6, 4, 2, "same"), Layer(8, 4, 2, "same", activation="identity")]
    small, large = (convae.Autoencoder((3, n), layers, "identity", seed=1) for n in (64, 1000))
    large.flat_parameters[...] = small.flat_parameters
    signal = rng.standard_normal((3, 1000)).astype("float32")
    R, unusual = whole(small, (64,), 10, batch).see(signal)
    expected = large.reconstruct(signal[None])[0]
    ((left, right),) = margins(small) or ((0, 0),)
    inside = slice(left, 1000 - right - 4)
    assert R.shape == (3, 1000)
    np.testing.assert_allclose(R[:, inside], expected[:, inside], atol=1e-5)
    errors = ((signal - expected) ** 2).mean(axis=0)
    np.testing.assert_allclose(unusual[inside], errors[inside], atol=1e-5)


@pytest.mark.parametrize("name", STACKS)
def test_margins_are_as_far_as_padding_reaches(rng, name: str) -> None:
    """Values beyond an edge change what is within the margin, and nothing else."""
    tile = (40, 44)
    small, large = models(name, tile, (120, 132))
    picture = rng.random((1, 2, 120, 132), dtype="float32")
    top, left = 36, 36  # multiples of all strides
    cut = picture[:, :, top : top + 40, left : left + 44]
    R = small.reconstruct(cut)[0]
    expected = large.reconstruct(picture)[0, :, top : top + 40, left : left + 44]
    differs = np.abs(R - expected).max(axis=0) > 1e-5
    found = margins(small)
    assert found is not None
    for axis, (before, after) in enumerate(found):
        other = found[1 - axis]
        middle = [slice(None)] * 2
        middle[1 - axis] = slice(other[0], tile[1 - axis] - other[1])
        lines = differs[tuple(middle)].any(axis=1 - axis)
        assert not lines[before : tile[axis] - after].any()
        if STACKS[name][0].padding_mode == "zeros" and before:
            assert lines[before - 1]  # the margin is no wider than it has to be
        if STACKS[name][0].padding_mode == "zeros" and after:
            assert lines[tile[axis] - after]


@pytest.mark.parametrize(
    "layer",
    [
        Layer(3, "input"),
        Layer(3, 3, padding="same", sharing="local"),
        Layer(4, 3, padding="same", sharing="tiled", tile=2),
        Layer(3, 3, padding="same", hidden_bias="position"),
        Layer(3, 3, padding="same", visible_bias="position"),
    ],
)
def test_other_models_are_blended(rng, layer: Layer) -> None:
    model = convae.Autoencoder((1, 12, 12), [layer], "identity")
    assert margins(model) is None
    picture = np.full((1, 31, 45), 0.5, "float32")
    R, _ = whole(model, (12, 12), 4).see(picture)
    (one,) = model.reconstruct(picture[None, :, :12, :12])[0]
    assert R.shape == (1, 31, 45)
    assert one.min() - 1e-5 <= R.min() <= R.max() <= one.max() + 1e-5
    steps = np.abs(np.diff(R[0], axis=1))
    assert steps.max() <= np.abs(np.diff(one, axis=1)).max() + np.ptp(one) / 3 + 1e-5


@pytest.mark.parametrize("size", [12, 13, 24, 40, 97])
@pytest.mark.parametrize("overlap", [0, 3, 11])
@pytest.mark.parametrize("unit", [1, 4])
@pytest.mark.parametrize("margin", [(0, 0), (2, 3), (9, 9)])
def test_weights_add_up_to_one(size: int, overlap: int, unit: int, margin) -> None:
    found = line(size, 12, overlap, unit, margin)
    assert found.starts[0] == 0
    assert found.starts[-1] + 12 == size + found.beyond
    assert 0 <= found.beyond < 12
    assert all(start % unit == 0 for start in found.starts)
    total = np.zeros(size + found.beyond)
    for start, row in zip(found.starts, found.weights, strict=True):
        total[start : start + 12] += row
    np.testing.assert_allclose(total, 1)
    assert (found.weights >= 0).all()


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_batches_do_not_show(rng, batch: int) -> None:
    small, _ = models("strides", (16, 16), (64, 64))
    pixels = rng.integers(0, 256, (2, 50, 61), dtype=np.uint8)
    one, other = (whole(small, (16, 16), 8, size).see(pixels) for size in (batch, 7))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    floats = whole(small, (16, 16), 8).see((pixels / 255).astype("float32"))
    np.testing.assert_allclose(floats[0], one[0], atol=1e-5)


@pytest.mark.parametrize("size", [(50,), (20, 21, 22)])
def test_signals_and_volumes(rng, size) -> None:
    tile = (16,) * len(size)
    model = convae.Autoencoder((1, *tile), [Layer(4, 3, padding="same")], "identity")
    large = convae.Autoencoder((1, *size), [Layer(4, 3, padding="same")], "identity")
    large.flat_parameters[...] = model.flat_parameters
    x = rng.random((1, *size), dtype="float32")
    R, unusual = whole(model, tile, 4).see(x)
    assert unusual.shape == size
    inside = tuple(slice(2, n - 2) for n in size)
    expected = large.reconstruct(x[None])[0]
    np.testing.assert_allclose(
        R[(slice(None), *inside)], expected[(slice(None), *inside)], atol=1e-5
    )


def test_the_score_is_that_of_the_highest_tile(rng) -> None:
    small, _ = models("one layer", (16, 16), (64, 64))
    picture = np.full((2, 48, 48), 0.5, "float32")
    calm = whole(small, (16, 16), 4).value(picture)
    picture[:, 20:24, 30:34] = rng.random((2, 4, 4)) * 20
    passes = whole(small, (16, 16), 4)
    _, unusual = passes.see(picture)
    assert passes.value(picture) > 10 * calm
    assert np.unravel_index(unusual.argmax(), unusual.shape)[0] in range(18, 27)


@pytest.mark.parametrize("batch", [1, 5, 100])
@pytest.mark.parametrize("size", [(16, 16), (50, 61), (9, 40)])
def test_pictures_have_the_scores_of_the_tiles_that_a_run_cuts(rng, batch: int, size) -> None:
    """Which are those of the threshold, also where they do not fit: the last one ends there."""
    model = convae.Autoencoder((2, 16, 16), [Layer(4, 3, padding="same"), Layer(3, 3)], "identity")
    picture = rng.random((2, *size), dtype="float32")
    tiling, detector = Tiling((16, 16), 5), Detector(model)
    tiles = InMemory(tiling.cut(tiling.at_least(picture)))
    expected = detector.scores(tiles, 64, ["squared_error"])["squared_error"].max()
    assert whole(model, (16, 16), 5, batch).value(picture) == pytest.approx(expected)


def test_memory_does_not_grow_with_the_height_of_a_picture() -> None:
    model = convae.Autoencoder((1, 32, 32), [Layer(2, 3, padding="same")], "identity")
    passes = Whole(Detector(model), Tiling((32, 32), 8), "squared_error", 8)

    def peak(rows: int) -> int:
        pixels = np.zeros((1, rows, 300), np.uint8)
        for _ in passes.bands(pixels[:, :64]):
            pass
        tracemalloc.start()
        for _ in passes.bands(pixels):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    floats = 4 * (6000 - 600) * 300  # of the pixels by which one picture is larger
    assert peak(6000) - peak(600) < 0.25 * floats


def test_all_scores_have_whole_maps(rng) -> None:
    small, _ = models("strides", (24, 24), (48, 48))
    for name, score in SCORES.items():
        if not score.needs_normal:
            passes = Whole(Detector(small), Tiling((24, 24), 8), name, 8)
            pixels = rng.random((2, 50, 60), dtype="float32")
            _, unusual = passes.see(pixels)
            value = passes.value(pixels)
            assert unusual.shape == (50, 60)
            assert np.isfinite(unusual).all()
            assert np.isfinite(value)
