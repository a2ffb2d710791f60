"""The bound that `engine.precision` promises, by shape, and what "exact" means."""

from __future__ import annotations

import numpy as np
import pytest

from convae import engine
from convae.engine.cpu import winograd
from convae.errors import UserError

BOUND = 2e-6
SHAPES = [  # channels, filters, side, kernel, stride
    (64, 64, 16, 3, 1),
    (256, 64, 8, 3, 1),
    (1024, 32, 6, 3, 1),
    (128, 96, 12, 5, 2),
    (256, 64, 8, 5, 1),
    (256, 64, 8, 4, 1),
    (192, 96, 9, 2, 1),
]


def arrays(rng, channels: int, filters: int, side: int, kernel: int, stride: int):
    out = -(-side // stride)
    shapes = (
        (filters, channels, kernel, kernel),
        (32, channels, side, side),
        (32, filters, out, out),
    )
    return [rng.standard_normal(shape, dtype="float32") for shape in shapes]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_stays_within_the_bound(rng, shape: tuple[int, ...]) -> None:
    K, V, G = arrays(rng, *shape)
    side, kernel, stride = shape[2:]
    how = {"stride": stride, "padding": "same"}
    geometry = engine.resolve(size=(side, side), kernel=kernel, **how)
    assert winograd.choose_tiling("c", geometry, *shape[:2], 1) or kernel * stride != 3

    def all_three(K, V, G):
        return (
            engine.c(K, V, **how),
            engine.h(K, G, size=side, **how),
            engine.g(G, V, kernel=kernel, **how),
        )

    with engine.precision("exact"):
        expected = all_three(*(array.astype("float64") for array in (K, V, G)))
    for actual, wanted in zip(all_three(K, V, G), expected, strict=True):
        assert np.abs(actual - wanted).max() < BOUND * np.abs(wanted).max()


def test_exact_integers_are_exact(rng) -> None:
    K, V = (rng.integers(-8, 9, shape) for shape in ((64, 64, 3, 3), (32, 64, 12, 12)))
    with engine.precision("exact"):
        Z = engine.c(K.astype("float32"), V.astype("float32"), padding="same")
    padded = np.pad(V, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    assert (np.einsum("nlyxab,olab->noyx", windows, K) == Z).all()


@pytest.mark.parametrize("value", [1e6, np.nan, np.inf, 1e37])
def test_an_outlier_changes_only_outputs_that_depend_on_it(rng, value: float) -> None:
    K, V, _ = arrays(rng, 64, 64, 16, 3, 1)
    before = engine.c(K, V, padding="same")
    V[3, 5, 8, 8] = value
    with np.errstate(all="ignore"):
        after = engine.c(K, V, padding="same")
    depends = np.zeros((16, 16), bool)
    depends[7:10, 7:10] = True
    spread = before.std()
    assert np.abs(after - before)[3][:, ~depends].max() < 1e-5 * spread
    assert np.abs(np.delete(after - before, 3, axis=0)).max() < 1e-5 * spread
    if np.isfinite(value):
        assert np.isfinite(after).all()
    else:
        assert (~np.isfinite(after)).sum() == 64 * 9


def test_models_keep_the_precision_that_they_were_made_with() -> None:
    with engine.precision("exact"):
        exact = engine.backend_for("cpu")
    assert exact.precision == "exact"
    assert engine.backend_for("cpu").precision == "fast"
    assert engine.backend_for("cpu", precision="exact") is exact


def test_an_unknown_precision_is_refused() -> None:
    with (
        pytest.raises(UserError, match="precision: 'high' is unknown; expected one of fast, exact"),
        engine.precision("high"),
    ):
        pass
