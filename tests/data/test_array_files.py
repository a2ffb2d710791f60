"""Files of arrays: what is read from each format, and what is said of those that are no arrays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from convae.data.array_files import check_numbers, read_stacks, role
from convae.errors import UserError


@pytest.fixture
def values(rng) -> np.ndarray:
    return rng.normal(0, 1e3, (7, 5))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1", ">u2", "?", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files_are_mapped(values, tmp_path, dtype: str, order: str) -> None:
    array = np.asarray(values > 0 if dtype == "?" else values.astype(dtype), order=order)
    np.save(tmp_path / "x.npy", array)
    (stack,) = read_stacks(tmp_path / "x.npy")
    check_numbers(stack)
    assert (stack.shape, stack.dtype, stack.values) == (array.shape, array.dtype, None)
    assert isinstance(stack.open(), np.memmap)
    np.testing.assert_array_equal(stack.open(), array)


def test_a_file_that_changes_while_it_is_used_is_noticed(values, tmp_path) -> None:
    np.save(tmp_path / "x.npy", values)
    (stack,) = read_stacks(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", values[:3])
    with pytest.raises(UserError, match=r"x\.npy' has changed"):
        stack.open()


def test_npz_files_have_names(values, tmp_path) -> None:
    np.savez(tmp_path / "x.npz", x_train=values, y_train=np.arange(7))
    first, second = read_stacks(tmp_path / "x.npz")
    assert (first.key, second.key) == ("x_train", "y_train")
    assert first.name.endswith("x.npz/x_train")
    np.testing.assert_array_equal(first.open(), values)


def write_csv(path: Path, rows: list, delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [None, ["a", "b, c", "d;", 'e"', "f"], [*"01234"]])
def test_tables_with_and_without_header(values, tmp_path, delimiter: str, header) -> None:
    rows = [header, *values] if header else [*values]
    (stack,) = read_stacks(write_csv(tmp_path / "x.csv", rows, delimiter))
    np.testing.assert_allclose(stack.open(), values)
    assert stack.columns == tuple(header or "01234")
    assert stack.labels is None


def test_a_tables_classes(values, tmp_path) -> None:
    names = [*"abcabca"]
    rows = [["n", "", "Label", *"tuvwx"]]
    rows += [[n, n, c, *v] for n, c, v in zip(range(7), names, values, strict=True)]
    path = write_csv(tmp_path / "x.csv", rows)
    (stack,) = read_stacks(path)
    assert stack.labels is not None
    assert stack.labels.tolist() == names
    assert stack.columns == ("n", *"tuvwx")
    assert stack.notes == (
        "column 'Label' holds the classes",
        "a column without a name is left out",
    )
    (stack,) = read_stacks(path, "n", [*"tuvwx"])
    assert stack.labels.tolist() == [*range(7)]
    np.testing.assert_allclose(stack.open(), values)
    (stack,) = read_stacks(path, 2, [3, "u", -1])
    np.testing.assert_allclose(stack.open(), values[:, [0, 1, 4]])
    assert stack.labels.tolist() == names


def test_columns_of_a_model_fit_a_table_without_its_classes(values, tmp_path) -> None:
    """Without a header, columns have numbers only."""
    path = write_csv(tmp_path / "x.csv", [*values])
    (stack,) = read_stacks(path, columns=[*"12345"])
    np.testing.assert_allclose(stack.open(), values)


def test_parquet_tables(values, tmp_path) -> None:
    columns = {f"t{n}": column for n, column in enumerate(values.T)}
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({**columns, "class": [*"abcabca"]}), path)
    (stack,) = read_stacks(path)
    np.testing.assert_array_equal(stack.open(), values)
    assert stack.labels is not None
    assert stack.labels.tolist() == [*"abcabca"]
    assert stack.layout is None


@pytest.mark.parametrize("fixed", [True, False])
def test_parquet_tables_of_lists_are_signals_of_channels(values, tmp_path, fixed: bool) -> None:
    kind = pyarrow.list_(pyarrow.float64(), 5) if fixed else pyarrow.list_(pyarrow.float64())
    leads = {name: pyarrow.array(list(sign * values), kind) for name, sign in (("a", 1), ("b", -1))}
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table(leads), path)
    (stack,) = read_stacks(path)
    assert stack.layout == "NCL"
    np.testing.assert_array_equal(stack.open(), np.stack([values, -values], axis=1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x_train", ("train", False)),
        ("train_images", ("train", False)),
        ("X-test", ("test", False)),
        ("val_labels", ("validation", True)),
        ("y_train", ("train", True)),
        ("labels", (None, True)),
        ("x", (None, False)),
        ("training1", ("train", False)),
        ("trainer", (None, False)),
        ("yes", (None, False)),
    ],
)
def test_roles(name: str, expected: tuple) -> None:
    assert role(name) == expected


def damaged(folder: Path) -> dict[str, Path]:
    """Files that hold no arrays of numbers."""
    paths = {name: folder / name for name in ("text.npy", "text.npz", "text.parquet")}
    for path in paths.values():
        path.write_text("no array")
    for name in ("empty.npy", "empty.npz", "empty.csv", "empty.parquet"):
        paths[name] = folder / name
        paths[name].write_bytes(b"")
    paths["cut.npy"] = folder / "cut.npy"
    np.save(paths["cut.npy"], np.zeros((10, 10)))
    paths["cut.npy"].write_bytes(paths["cut.npy"].read_bytes()[:-8])
    paths["object.npy"] = folder / "object.npy"
    np.save(paths["object.npy"], np.array([{}], object), allow_pickle=True)
    paths["object.npz"] = folder / "object.npz"
    np.savez(paths["object.npz"], x=np.array([{}], object))
    paths["words.csv"] = write_csv(folder / "words.csv", [["a", "b"], [1, "two"]])
    paths["uneven.csv"] = write_csv(folder / "uneven.csv", [[1, 2], [3]])
    paths["header.csv"] = write_csv(folder / "header.csv", [["a", "label"]])
    uneven = pyarrow.table({"a": [[1.0], [1.0, 2.0]]})
    paths["uneven.parquet"] = folder / "uneven.parquet"
    pyarrow.parquet.write_table(uneven, paths["uneven.parquet"])
    paths["none.parquet"] = folder / "none.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.0, None]}), paths["none.parquet"])
    paths["mixed.parquet"] = folder / "mixed.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.0], "b": [[1.0]]}), paths["mixed.parquet"])
    paths["ragged.parquet"] = folder / "ragged.parquet"
    ragged = pyarrow.table({"a": [[1.0]], "b": [[1.0, 2.0]]})
    pyarrow.parquet.write_table(ragged, paths["ragged.parquet"])
    return paths


REASONS = {
    "cut.npy": "is cut off: 920 bytes of 928",
    "object.npy": "holds Python objects",
    "words.csv": "two",
    "uneven.parquet": "differ in length; expected one length",
    "none.parquet": "1 rows without a value",
    "mixed.parquet": "hold lists and others numbers",
    "ragged.parquet": "lists of its columns differ in length",
    "empty.csv": "is empty",
}


def test_files_that_are_no_arrays_are_named(tmp_path) -> None:
    paths = damaged(tmp_path)
    assert len(paths) == 17
    for name, path in paths.items():
        with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
            read_stacks(path)
        assert REASONS.get(name, "") in str(caught.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, complex), "complex numbers; give their parts"),
        (np.array(["a"]), "<U1, and no numbers"),
        (np.zeros((0, 3)), r"is empty: its shape is \(0, 3\)"),
        (np.array(3.0), r"is empty: its shape is \(\)"),
    ],
)
def test_arrays_without_numbers_are_refused(tmp_path, array, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    (stack,) = read_stacks(tmp_path / "x.npy")
    with pytest.raises(UserError, match=message):
        check_numbers(stack)


@pytest.mark.parametrize(
    ("labels", "columns", "message"),
    [
        ("z", None, "dataset.labels: there is no column 'z' among 3: a, b, c"),
        (5, None, "dataset.labels: there is no column 5"),
        (None, ["a", "q"], "dataset.columns: there is no column 'q'"),
        (None, [], "has no columns of values"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, labels, columns, message: str) -> None:
    path = write_csv(tmp_path / "x.csv", [[*"abc"], [1, 2, 3]])
    with pytest.raises(UserError, match=message):
        read_stacks(path, labels, columns)
