"""Arrays as datasets: which are found, how they are divided and scaled, in memory and mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convae.configuration import DatasetConfig
from convae.data.arrays import Arrays
from convae.data.datasets import load_dataset
from convae.data.scaling import Scaling
from convae.data.splits import InMemory, Splits, shuffled
from convae.errors import UserError
from tests.helpers import pixels_of


def load(root: Path, **how: Any) -> Splits:
    return load_dataset(DatasetConfig(name="arrays", root=str(root), **how))


def scaling_of(data: Splits) -> Scaling:
    assert isinstance(data.how, Scaling)
    return data.how


def originals(data: Splits) -> np.ndarray:
    """All examples in their own units, sorted by their first values."""
    x = np.concatenate([pixels_of(s) for s in (data.train, data.validation, data.test)])
    values: np.ndarray = scaling_of(data).undo(x)
    return values[np.argsort(values.reshape(len(values), -1)[:, 0])]


def numbered(count: int, *shape: int) -> np.ndarray:
    """Examples with their number as their first value, and 10 times it as another one."""
    values = np.zeros((count, *shape))
    flat = values.reshape(count, -1)
    flat[:, 0], flat[:, -1] = np.arange(count), 10 * np.arange(count)
    return values


# ---- what is found


@pytest.mark.parametrize("ending", ["npy", "npz", "csv", "parquet"])
def test_signals_in_one_file(tmp_path, ending: str) -> None:
    values = numbered(50, 6)
    path = tmp_path / f"x.{ending}"
    if ending == "npy":
        np.save(path, values)
    elif ending == "npz":
        np.savez(path, values)
    elif ending == "csv":
        np.savetxt(path, values, delimiter=",")
    else:
        import pyarrow.parquet

        table = {str(n): column for n, column in enumerate(values.T)}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    data = load(path)
    assert data.train.shape == (1, 6)
    assert (len(data.train), len(data.validation), len(data.test)) == (41, 4, 5)
    np.testing.assert_allclose(originals(data), values, atol=1e-4)
    assert "50 examples in 1 file" in data.notes[0]
    assert "layout NL, 1 channel of 6 values" in data.notes[0]


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train", "labels", "testing", "test-target"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_names_tell_parts_and_classes(tmp_path, names, packed: bool) -> None:
    arrays = [numbered(20, 4, 5), np.arange(20) % 3 + 7, numbered(10, 4, 5), np.full((10, 1), 8)]
    if packed:
        np.savez(tmp_path / "all.npz", **dict(zip(names, arrays, strict=True)))
    else:
        for name, array in zip(names, arrays, strict=True):
            np.save(tmp_path / f"{name}.npy", array)
    data = load(tmp_path / "all.npz" if packed else tmp_path, layout="nhw")
    assert data.classes == ("7", "8", "9")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 10)
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [1] * 10
    assert data.train.labels is not None
    first = scaling_of(data).undo(pixels_of(data.train))[:, 0, 0]
    assert (data.train.labels == np.rint(first) % 3).all()


def test_a_folder_of_volumes_in_folders_of_classes(tmp_path) -> None:
    for n, values in enumerate(numbered(20, 4, 5, 6)):
        folder = tmp_path / ("good" if n % 2 else "bad")
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{n:02}.npy", values)
    (tmp_path / "readme.txt").write_text("no array")
    data = load(tmp_path, layout="DHW")
    assert data.train.shape == (1, 4, 5, 6)
    assert data.classes == ("bad", "good")
    assert "left out" in data.notes[0]
    np.testing.assert_allclose(originals(data), numbered(20, 4, 5, 6), atol=1e-4)
    data = load(tmp_path, layout="DHW", normal=["good"])
    assert data.train.labels is not None
    assert set(data.train.labels.tolist()) == {1}


def test_folders_of_parts(tmp_path) -> None:
    for part, count in (("train", 10), ("val", 3), ("test", 4)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            np.save(tmp_path / part / name / "x.npy", numbered(count, 6))
    data = load(tmp_path, layout="NL")
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 6, 8)
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4


def test_classes_in_a_file_of_their_own(tmp_path) -> None:
    np.save(tmp_path / "x.npy", numbered(30, 6))
    np.save(tmp_path / "classes.npy", np.array(["on", "off"])[np.arange(30) % 2])
    data = load(tmp_path / "x.npy", labels=str(tmp_path / "classes.npy"))
    assert data.classes == ("off", "on")
    first = scaling_of(data).undo(pixels_of(data.train))[:, 0]
    assert data.train.labels is not None
    assert (data.train.labels == (np.rint(first) % 2 == 0)).all()


def test_classes_follow_their_examples_where_others_are_left_out(tmp_path) -> None:
    values = numbered(30, 6)
    values[4:9, 3] = np.nan
    np.savez(tmp_path / "all.npz", x=values, y=np.arange(30) % 7)
    data = load(tmp_path / "all.npz")
    for split in (data.train, data.test):
        first = scaling_of(data).undo(pixels_of(split))[:, 0]
        assert split.labels is not None
        assert (split.labels == np.rint(first) % 7).all()


def test_classes_are_named_by_their_values(tmp_path) -> None:
    np.savez(tmp_path / "all.npz", x=numbered(200, 6), y=np.arange(200) % 2 + 7)
    with pytest.raises(UserError, match=r"\[1\] is not a list of classes among 7, 8"):
        load(tmp_path / "all.npz", normal=[1])
    assert load(tmp_path / "all.npz", normal=[8]).anomalous is not None


def test_a_column_of_classes_and_anomalies(tmp_path) -> None:
    rows = np.column_stack([np.arange(40) % 2 + 1, numbered(40, 6)])
    np.savetxt(tmp_path / "x.tsv", rows, delimiter="\t")
    data = load(tmp_path / "x.tsv", labels=0, normal=[1])
    assert data.anomalous is not None
    assert data.train.shape == (1, 6)
    first = scaling_of(data).undo(pixels_of(data.test))[:, 0]
    assert (data.anomalous == (np.rint(first) % 2 == 1)).all()
    assert scaling_of(data).columns == tuple("123456")


def test_recordings_in_tables_of_their_own(tmp_path) -> None:
    """Rows are times, columns channels."""
    for n, values in enumerate(numbered(20, 9, 2)):
        np.savetxt(tmp_path / f"{n}.csv", values, delimiter=",", header="left,right", comments="")
    data = load(tmp_path, layout="LC")
    assert data.train.shape == (2, 9)
    np.testing.assert_allclose(originals(data)[:, :, 1], numbered(20, 9, 2)[:, :, 1], atol=1e-4)


# ---- the order of axes


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("NCL", (30, 2, 9), (2, 9)),
        ("NLC", (30, 9, 2), (2, 9)),
        ("NHW", (30, 2, 9), (1, 2, 9)),
        ("NHWC", (30, 4, 5, 7), (7, 4, 5)),
        ("NDHW", (30, 4, 5, 7), (1, 4, 5, 7)),
        ("NDHWC", (30, 4, 5, 6, 2), (2, 4, 5, 6)),
    ],
)
@pytest.mark.parametrize("memory", [0, 100])
def test_layouts(tmp_path, rng, layout, shape, expected, memory: int) -> None:
    values = rng.normal(size=shape)
    np.save(tmp_path / "x.npy", values)
    data = load(tmp_path / "x.npy", layout=layout, memory_mb=memory)
    assert data.train.shape == expected
    assert isinstance(data.train, InMemory if memory else Arrays)
    order = np.argsort(values.reshape(30, -1)[:, 0])
    np.testing.assert_allclose(originals(data), values[order], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((30, 2, 9), None, r"its axes could be NCL, NLC, NHW \(N examples.*dataset.layout=NCL"),
        ((30, 2, 9, 4), None, "its axes could be NCHW, NHWC, NDHW"),
        ((3, 3, 3, 3, 3, 3), None, "of no known order"),
        ((30, 2, 9), "NCHW", r"NCHW has 4 axes, and .* is \(30, 2, 9\); expected NCL, NLC, NHW"),
        ((30, 2, 9), "LNC", "dataset.layout: 'LNC' is no order of axes"),
    ],
)
def test_axes_are_never_guessed(tmp_path, shape, layout, message: str) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape))
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x.npy", layout=layout)


# ---- scaling


def test_the_training_examples_set_the_range(tmp_path, rng) -> None:
    train, test = rng.normal(size=(2, 50, 2, 8))
    train[:, 1] *= 100
    np.savez(tmp_path / "x.npz", train=train, val=3 * test, test=5 * test)
    data = load(tmp_path / "x.npz", layout="NCL")
    scaling = scaling_of(data)
    np.testing.assert_allclose(scaling.offset, train.min(axis=(0, 2)))
    np.testing.assert_allclose(scaling.spread, np.ptp(train, axis=(0, 2)))
    x = pixels_of(data.train)
    np.testing.assert_allclose(
        [x.min(axis=(0, 2)), x.max(axis=(0, 2))], [[0, 0], [1, 1]], atol=1e-6
    )
    assert pixels_of(data.test).max() > 1
    assert "scaled by channel to 0 and 1" in data.notes[1]


def test_mean_and_deviation(tmp_path, rng) -> None:
    train = rng.normal(7, 3, (50, 2, 8))
    np.savez(tmp_path / "x.npz", train=train, val=train, test=train)
    data = load(tmp_path / "x.npz", layout="NCL", scaling="standard")
    np.testing.assert_allclose(scaling_of(data).offset, train.mean(axis=(0, 2)))
    np.testing.assert_allclose(scaling_of(data).spread, train.std(axis=(0, 2)))


def test_only_normal_examples_set_the_range(tmp_path) -> None:
    values = np.ones((40, 6))
    values[::2, 3], values[1::2, 3] = 5, 1000
    np.savez(tmp_path / "all.npz", x=values, y=np.arange(40) % 2)
    data = load(tmp_path / "all.npz", normal=[0])
    assert scaling_of(data).offset == (1.0,)
    assert scaling_of(data).spread == (4.0,)


def test_constant_channels_become_0(tmp_path) -> None:
    values = numbered(30, 2, 6)
    values[:, 0] = 7
    np.save(tmp_path / "x.npy", values)
    data = load(tmp_path / "x.npy", layout="NCL")
    assert (pixels_of(data.train)[:, 0] == 0).all()


# ---- mapped


def test_mapped_arrays_are_those_in_memory(tmp_path) -> None:
    for n in range(3):
        np.save(tmp_path / f"{n}.npy", numbered(20, 3, 6) + 100 * n)
    kept, mapped = (load(tmp_path, layout="NCL", memory_mb=memory) for memory in (100, 0))
    assert isinstance(mapped.train, Arrays)
    assert "are read from the files while training" in mapped.notes[-1]
    parts = ((kept.train, mapped.train), (kept.test, mapped.test))
    for one, other in parts:
        np.testing.assert_array_equal(pixels_of(one), pixels_of(other))
        for skip in (0, 2):
            order = shuffled(one, np.random.default_rng(1))
            mixed = [np.concatenate([*split.batches(2, order, skip)]) for split in (one, other)]
            np.testing.assert_array_equal(*mixed)


def test_fingerprints_tell_what_changes(tmp_path) -> None:
    values = numbered(30, 6)
    found = set()
    for memory in (0, 100):
        for change in (0, 1):
            values[4, 3] = change
            np.save(tmp_path / "x.npy", values)
            data = load(tmp_path / "x.npy", memory_mb=memory)
            again = load(tmp_path / "x.npy", memory_mb=memory)
            assert data.fingerprints() == again.fingerprints()
            found.add(str(data.fingerprints()))
        other = load(tmp_path / "x.npy", memory_mb=memory, scaling="standard")
        found.add(str(other.fingerprints()))
    assert len(found) == 6


# ---- what cannot be used


def test_examples_that_are_not_finite_are_left_out_and_listed(tmp_path) -> None:
    values = numbered(60, 6)
    values[7, 2], values[30:55, 3] = np.nan, np.inf
    np.save(tmp_path / "x.npy", values)
    data = load(tmp_path / "x.npy")
    np.testing.assert_allclose(
        originals(data)[:, 0], [*range(7), *range(8, 30), *range(55, 60)], atol=1e-4
    )
    listed = [note for note in data.notes if note.startswith("skipped")]
    assert listed[0].endswith("x.npy/00007")
    assert listed[-1] == "skipped like these: 6 more"
    assert len(listed) == 21
    with pytest.raises(UserError, match="26 examples cannot be used"):
        load(tmp_path / "x.npy", strict=True)


def test_nothing_but_nan(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.full((20, 6), np.nan))
    with pytest.raises(UserError, match="none of the training examples"):
        load(tmp_path / "x.npy")


def write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)


@pytest.mark.parametrize(
    ("arrays", "how", "message"),
    [
        ({}, {}, "no arrays under"),
        (
            {"a/x": np.zeros((5, 4)), "b/x": np.zeros((5, 3))},
            {"layout": "NL"},
            r"\(1, 4\).*\(1, 3\)",
        ),
        ({"a/x": np.zeros((5, 4)), "b/x": np.zeros(3)}, {}, "differ in the number of their axes"),
        ({"a/x": np.zeros((5, 4)), "b/x": np.zeros((5, 4))}, {}, "could be NL, CL, LC, HW"),
        (
            {"x": np.zeros((5, 4)), "z": np.zeros((5, 4)), "y": np.zeros(5, int)},
            {},
            "could hold the",
        ),
        ({"x": np.zeros((5, 4)), "y": np.zeros(4, int)}, {}, "expected the classes of 5 examples"),
        ({"x": np.zeros((5, 4)), "y": np.full(5, 0.5)}, {}, "expected the classes of 5 examples"),
        ({"x_test": np.zeros((5, 4)), "y_test": np.zeros(5, int)}, {}, "none to train on"),
        ({"x": np.zeros((5, 4)), "y_test": np.zeros(5, int)}, {}, "classes of test, no examples"),
        ({"x": np.zeros((5, 4), complex)}, {}, "complex numbers"),
        ({"train/x": np.zeros((5, 4)), "other/x": np.zeros((5, 4))}, {}, "and nothing else"),
        ({"x": np.zeros((9, 4))}, {"normal": [1]}, "has no classes"),
        ({"x": np.zeros((9, 4))}, {"labels": "nothing.npy"}, "there is no file 'nothing.npy'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, how, message: str) -> None:
    write(tmp_path, arrays)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        load(tmp_path, **how)


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("arrays", {"image_size": 8}, "dataset.image_size: is for pictures"),
        ("arrays", {"channels": 1}, "dataset.channels: is for pictures"),
        ("arrays", {"check": False}, "dataset.check: arrays are read once"),
        ("arrays", {"scaling": "none"}, "dataset.scaling: 'none' is unknown"),
        ("arrays", {"train": {"a": 1}}, "takes no arguments"),
        ("digits", {"scaling": "range"}, "dataset.scaling: is for dataset=arrays"),
        ("ImageFolder", {"layout": "NL"}, "dataset.layout: is for dataset=arrays"),
        ("synthetic_beats", {"layout": "NL"}, "dataset.layout: is for dataset=arrays"),
        ("digits", {"labels": "y"}, "dataset.labels: is for dataset=arrays"),
        ("MNIST", {"columns": ["y"]}, "dataset.columns: is for dataset=arrays"),
    ],
)
def test_keys_of_others_are_refused(name: str, how: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DatasetConfig(name=name, **how)


def test_a_place_that_is_no_array_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        load(tmp_path / "nothing.npy")
    (tmp_path / "x.txt").write_text("1 2 3")
    with pytest.raises(UserError, match=r"no file of arrays; expected \.npy, \.npz"):
        load(tmp_path / "x.txt")


# ---- built in


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("synthetic_beats", (2, 128), ("no_p_wave", "normal", "st_elevation", "ventricular")),
        ("synthetic_volumes", (1, 16, 16, 16), ("ball", "box", "ring")),
    ],
)
def test_synthetic_datasets_are_always_the_same(name: str, shape, classes) -> None:
    data, again = (load_dataset(DatasetConfig(name=name)) for _ in range(2))
    assert data.train.shape == shape
    assert data.classes == classes
    assert data.fingerprints() == again.fingerprints()
    x = pixels_of(data.test)
    labels = data.test.labels
    assert labels is not None
    means = np.array([x[labels == n].mean(axis=0) for n in range(len(classes))])
    assert (np.ptp(means, axis=0).reshape(-1).max()) > 0.1  # the classes differ
    assert len(np.unique(x.reshape(len(x), -1)[:, 0])) == len(x)


def test_values_far_from_zero_keep_their_digits(rng) -> None:
    values = 1e8 + rng.random((20, 9))
    scaling = Scaling("NL", "range", [values.min()], [np.ptp(values)])
    back = scaling.undo(scaling(values))
    assert back.dtype == scaling.dtype == np.float64
    np.testing.assert_allclose(back, values, atol=1e-6, rtol=0)
    assert Scaling("NL", "range", [-1.0], [4.0]).dtype == np.float32


def test_arrays_by_part_have_rows_of_examples(tmp_path) -> None:
    parts = {"x_train": np.zeros((30, 8)), "y_train": np.arange(30) % 2, "x_test": np.ones((5, 8))}
    np.savez(tmp_path / "all.npz", **parts)
    data = load(tmp_path / "all.npz")
    assert (data.train.shape, len(data.test)) == ((1, 8), 5)
    assert data.name_of is not None
    assert data.name_of(3) == f"{tmp_path / 'all.npz'}/x_test/00003"


def test_classes_in_tables_beside_the_examples(tmp_path) -> None:
    np.savetxt(tmp_path / "x_train.csv", np.random.default_rng(0).random((30, 8)), delimiter=",")
    (tmp_path / "y_train.csv").write_text("\n".join(["cat", "dog"] * 15))
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    (tmp_path / "y_train.csv").rename(tmp_path.parent / "names.csv")
    data = load(tmp_path / "x_train.csv", labels=str(tmp_path.parent / "names.csv"))
    assert data.classes == ("cat", "dog")


def test_a_column_of_classes_counts_more_than_folders(tmp_path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        rows = "".join(f"{n},{n % 7},{'good' if n % 2 else 'bad'}\n" for n in range(20))
        (tmp_path / folder / "x.csv").write_text("a,b,label\n" + rows)
    assert load(tmp_path).classes == ("bad", "good")


def test_the_same_file_in_two_parts_is_refused(tmp_path) -> None:
    write(tmp_path, {"train/a": np.zeros((30, 8))})
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.npy").symlink_to("../train/a.npy")
    with pytest.raises(UserError, match="links put 1 file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "how", "message"),
    [
        ({"x": np.zeros((30, 8))}, {"labels": "kind"}, "dataset.labels: 'kind' names columns of"),
        ({"x": np.zeros((30, 8))}, {"columns": ["a"]}, "dataset.columns: .* names columns of"),
        ({"x": np.array([[-1.7e308, 1.7e308]] * 30)}, {}, "channel 0 has values from -1.7e.308"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, arrays, how, message: str) -> None:
    write(tmp_path, arrays)
    with pytest.raises(UserError, match=message), np.errstate(all="ignore"):
        load(tmp_path / "x.npy", **how)


@pytest.mark.parametrize("key", ["x_test", "y"])
def test_an_archive_without_training_examples(tmp_path, key: str) -> None:
    np.savez(tmp_path / "x.npz", **{key: np.zeros((30, 8))})
    with pytest.raises(UserError, match=f"x.npz/{key}' is the only array; expected examples"):
        load(tmp_path / "x.npz")
