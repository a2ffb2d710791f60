"""Recordings of any length, cut into windows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convae.configuration import DatasetConfig
from convae.data.arrays import Arrays
from convae.data.datasets import load_dataset
from convae.data.scaling import Scaling
from convae.data.splits import Splits
from convae.errors import UserError

CHANNELS = 2


def recording(length: int, seed: int, step: float = 1.0) -> np.ndarray:
    """Channels that tell the position, and the recording: (length, 2)."""
    return np.stack([step * np.arange(length), np.full(length, float(seed))], axis=1)


@pytest.fixture
def root(tmp_path) -> Path:
    """Twenty recordings of different lengths, times first."""
    for n in range(20):
        np.save(tmp_path / f"{n:02d}.npy", recording(40 + n, n))
    return tmp_path


def load(root: Path, **how) -> Splits:
    given = {"name": "arrays", "root": str(root), "layout": "LC", "tile": 16, "overlap": 6, **how}
    return load_dataset(DatasetConfig(**given))


def windows(data: Splits, part: str) -> np.ndarray:
    """Values of all windows (N, C, L), or (N, L), in the recordings' units."""
    split, how = getattr(data, part), data.how
    assert isinstance(how, Scaling)
    x = how.undo(np.concatenate(list(split.batches(7))))
    return np.moveaxis(x, 2, 1) if x.ndim == 3 else x


@pytest.mark.parametrize("memory", [2048, 0], ids=["in memory", "mapped"])
def test_recordings_are_cut_and_never_divided(root, memory: int) -> None:
    data = load(root, memory_mb=memory)
    of = {}
    for part in ("train", "validation", "test"):
        x = windows(data, part)
        assert x.shape[1:] == (CHANNELS, 16)
        numbers, starts = x[:, 1, 0].round().astype(int), x[:, 0, 0]
        np.testing.assert_allclose(x[:, 0], starts[:, None] + np.arange(16), atol=1e-3)
        for n in np.unique(numbers):
            distances = np.diff(starts[numbers == n])
            assert distances[:-1] == pytest.approx(10)
            assert distances[-1] <= 10 + 1e-3
            assert starts[numbers == n][[0, -1]] == pytest.approx([0, 40 + n - 16], abs=1e-3)
        of[part] = set(numbers.tolist())
    assert data.name_of is not None
    named = [data.name_of(n) for n in range(len(data.test))]
    places = zip(numbers.tolist(), starts.round().astype(int).tolist(), strict=True)
    assert named == [f"{root / f'{n:02d}.npy'}@{at}" for n, at in places]
    assert sum(map(len, of.values())) == 20
    assert set.union(*of.values()) == set(range(20))
    total = sum(len(getattr(data, part)) for part in of)
    assert f"cut into windows of 16 values: {total}" in data.notes
    assert isinstance(data.how, Scaling)
    assert (data.how.tile, data.how.overlap) == ((16,), 6)


def test_windows_in_any_order_are_those_in_order(root) -> None:
    mapped, kept = load(root, memory_mb=0).train, load(root).train
    order = np.random.default_rng(0).permutation(len(kept))
    for some, others in zip(mapped.batches(9, order), kept.batches(9, order), strict=True):
        np.testing.assert_array_equal(some, others)
    assert isinstance(mapped, Arrays)
    assert mapped.places is not None
    moved = replace(mapped, places=mapped.places + 1)
    assert mapped.fingerprint() == replace(mapped).fingerprint() != moved.fingerprint()


def test_a_single_recording_is_divided_by_time(tmp_path) -> None:
    np.save(tmp_path / "one.npy", recording(1000, 0)[:, 0])
    data = load(tmp_path / "one.npy", layout=None, overlap=4)
    train, validation, test = (windows(data, part) for part in ("train", "validation", "test"))
    assert train.max() < validation.min() < validation.max() < test.min()
    assert test.max() == pytest.approx(999)
    assert test.min() == pytest.approx(900)
    every = len(range(0, 1000 - 16 + 1, 12))
    left = [int(note.rsplit(" ", 1)[1]) for note in data.notes if "reach across" in note]
    assert len(train) + len(validation) + len(test) + sum(left) == every
    assert len(left) == 2


def test_windows_that_are_not_finite_are_left_out_and_short_recordings(root) -> None:
    values = np.load(root / "03.npy")
    values[25] = np.nan
    np.save(root / "03.npy", values)
    np.save(root / "20.npy", recording(15, 20))
    data = load(root)
    assert f"skipped, for values that are not finite: {root / '03.npy'}@10" in data.notes
    assert f"skipped, for values that are not finite: {root / '03.npy'}@20" in data.notes
    short = f"its 15 positions are less than a tile of 16: {root / '20.npy'}"
    assert f"skipped, for {short}" in data.notes
    numbers = np.concatenate([windows(data, p)[:, 1, 0] for p in ("train", "validation", "test")])
    assert (numbers.round() == 3).sum() == 1 + 1  # of 0, 10, 20 and 27, those at 0 and 27
    with pytest.raises(UserError, match="3 examples cannot be used"):
        load(root, strict=True)
    with pytest.raises(UserError, match=r"nothing can be cut: .*its 4[0-9] positions are less"):
        load(root, tile=100)


def test_a_window_has_the_rarest_class_of_its_positions(tmp_path) -> None:
    """As tables with a class for every time have it."""
    for part, length in (("train", 300), ("test", 100)):
        (tmp_path / part).mkdir()
        with (tmp_path / part / "a.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["value", "label"])
            for t in range(length):
                table.writerow([t, "bad" if part == "test" and t in (50, 51) else "fine"])
    data = load(tmp_path, tile=10, overlap=0, normal=["fine"])
    assert data.anomalous is not None
    assert np.flatnonzero(data.anomalous).tolist() == [5]
    assert len(data.test) == 10
    # of whole recordings there is no such rule
    with pytest.raises(UserError, match="has 1 example and 300 classes"):
        load(tmp_path / "train", tile=None, overlap=0, normal=["fine"])


def test_windows_of_volumes(tmp_path) -> None:
    values = np.arange(3 * 9 * 8 * 7, dtype=np.float32).reshape(3, 9, 8, 7)
    np.save(tmp_path / "x_train.npy", values)
    np.save(tmp_path / "x_test.npy", values[:, :6])
    data = load(tmp_path, layout="NDHW", tile=[4, 5, 7], overlap=1, holdout=0.34)
    assert data.train.shape == (1, 4, 5, 7)
    x = np.concatenate(list(data.test.batches(4)))
    assert isinstance(data.how, Scaling)
    starts = data.how.undo(x)[:, 0, 0, 0]
    expected = [values[n, z, y, 0] for n in range(3) for z in (0, 2) for y in (0, 3)]
    np.testing.assert_allclose(starts, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tile": 1}, "dataset.tile: 1"),
        ({"tile": [16, "a"]}, "dataset.tile: 'a'"),
        ({"tile": []}, r"dataset.tile: \[\]"),
        ({"tile": [16, 16]}, r"dataset.tile: \[16, 16\] has 2 numbers; expected 1, or one"),
        ({"overlap": 16}, "dataset.overlap: 16"),
        ({"layout": None}, "dataset.layout: .* could be CL, LC, HW|NL, CL, LC, HW"),
    ],
)
def test_bad_windows_are_refused(root, how, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(root, **how)


def test_recordings_differ_in_channels(root) -> None:
    np.save(root / "30.npy", np.zeros((50, 3)))
    with pytest.raises(UserError, match="differ in shape"):
        load(root)


def test_a_recording_with_anomalies_is_divided_by_time_too(tmp_path) -> None:
    """Their windows are not taken from among those that are trained on."""
    label = np.zeros(3000, int)
    for at in (300, 1500, 2950):
        label[at : at + 20] = 1
    np.savez(tmp_path / "r.npz", x=recording(3000, 0), y=label)
    data = load(tmp_path / "r.npz", tile=64, overlap=32, normal=[0])
    assert windows(data, "test")[:, 0].min() >= windows(data, "validation")[:, 0].max() - 1e-3
    assert windows(data, "train")[:, 0].max() < windows(data, "test")[:, 0].min()
    assert data.anomalous is not None
    assert 1 <= data.anomalous.sum() <= 3
    assert any(note.startswith("left out, as they are not normal") for note in data.notes)
    assert data.name_of is not None
    assert data.name_of(0).startswith(f"{tmp_path / 'r.npz'}/x@")


def test_windows_that_all_meet_anomalies(tmp_path) -> None:
    np.savez(tmp_path / "r.npz", x=np.zeros(2000), y=(np.arange(2000) % 40 == 0).astype(int))
    with pytest.raises(UserError, match=r"take a smaller dataset\.tile"):
        load(tmp_path / "r.npz", layout="L", tile=64, normal=[0])
