"""Tables in any state: what is a header, what is missing, what are classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from convae.data.array_files import read_classes, read_stacks
from convae.data.tables import Table, plain_labels, read_csv, read_parquet
from convae.errors import UserError


def read(folder: Path, text: str, labels=None, columns=None) -> Table:
    path = folder / "x.csv"
    path.write_text(text)
    return read_csv(path, labels, columns)


ROWS = "1.5,2\n3,4.5\n"
VALUES = [[1.5, 2], [3, 4.5]]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (ROWS, "01"),
        ("a,b\n" + ROWS, "ab"),
        ("# recorded today\n" + ROWS, "01"),
        ("# recorded today\n\na,b\n" + ROWS, "ab"),
        ("# a,b\n" + ROWS, "ab"),
        ("\n\n" + ROWS, "01"),
        (ROWS.replace("\n", "\n\n"), "01"),
        (ROWS.replace("\n", ",\n"), "01"),
        ("a,b,\n" + ROWS.replace("\n", ",\n"), "ab"),
        ("a;b\n" + ROWS.replace(",", ";").replace(".", ","), "ab"),
        (ROWS.replace(",", "\t").replace(".", ","), "01"),
        (",a,b\n0,1.5,2\n1,3,4.5\n", "ab"),
        ("Unnamed: 0,a,b\n0,1.5,2\n1,3,4.5\n", "ab"),
        ('"a, of one",b\n' + ROWS, ["a, of one", "b"]),
    ],
)
def test_what_comes_with_the_numbers(tmp_path, text: str, columns) -> None:
    table = read(tmp_path, text)
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.columns == tuple(columns)
    assert table.labels is None


def test_commas_in_classes_stay(tmp_path) -> None:
    table = read(tmp_path, "a;b;label\n1,5;2;one, two\n3;;three\n")
    np.testing.assert_array_equal(table.values, [[1.5, 2], [3, np.nan]])
    assert table.labels is not None
    assert table.labels.tolist() == ["one, two", "three"]


@pytest.mark.parametrize("missing", ["", "NA", "nan", " null ", "None"])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("header", ["", "a,b\n"])
def test_missing_numbers_are_nan(tmp_path, missing: str, row: int, header: str) -> None:
    rows = [["1.5", "2"], ["3", "4.5"]]
    rows[row][0] = missing
    table = read(tmp_path, header + "".join(f"{','.join(cells)}\n" for cells in rows))
    expected = np.array(VALUES)
    expected[row, 0] = np.nan
    np.testing.assert_array_equal(table.values, expected)


@pytest.mark.parametrize("names", ["400,410,420", "1,2,3", "0,1,2"])
def test_evenly_rising_numbers_are_names_and_it_is_said(tmp_path, names: str) -> None:
    table = read(tmp_path, f"{names}\n5,1,9\n7,2,8\n")
    assert table.columns == tuple(names.split(","))
    assert len(table.values) == 2
    (note,) = table.notes
    assert note == f"the first row is taken for the columns' names: {names.replace(',', ', ')}"
    assert len(read(tmp_path, "1,2,3\n2,4,6\n3,6,9\n").values) == 3  # signals that rise


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        (ROWS + "1,2,3\n", {}, "row 3 has 3 cells; expected 2"),
        (ROWS + '"1",2,3\n', {"labels": 0}, "row 3 has 3 cells; expected 2"),
        (ROWS + "1,two\n", {}, "row 3, column '1': 'two' is no number"),
        ("a,a\n" + ROWS, {}, "several columns called 'a'"),
        ("a,label\n1,x\n2,\n", {}, "row 2 has no class in column 'label'"),
        ("a,b\n", {}, "has no rows but that of names"),
        ("1,2,3,4,5\n5,1,2,2,1\n", {"columns": [*"012"]}, "has 5 columns; expected 3"),
        ("\n\n", {}, "is empty"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, text: str, how: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, **how)


def test_a_models_columns_in_tables_without_names(tmp_path) -> None:
    """With the classes that it was trained with, or without them."""
    with_classes = "9,1,2\n8,5,6\n"
    for columns in (["1", "2"], ["0", "1"]):
        np.testing.assert_array_equal(
            read(tmp_path, with_classes, None, columns).values,
            np.array([[9, 1, 2], [8, 5, 6]])[:, [int(n) for n in columns]],
        )
        np.testing.assert_array_equal(read(tmp_path, ROWS, None, columns).values, VALUES)


def test_rising_numbers_are_no_names_of_columns_without_names(tmp_path) -> None:
    table = read(tmp_path, "1,2,3\n5,1,9\n", None, [*"012"])
    np.testing.assert_array_equal(table.values, [[1, 2, 3], [5, 1, 9]])


def test_columns_that_are_chosen_keep_the_classes(tmp_path) -> None:
    text = "y,a,label,b\n1,2,x,4\n5,6,z,8\n"
    table = read(tmp_path, text, None, ["a", "b"])
    assert table.labels is not None
    assert table.labels.tolist() == ["x", "z"]  # label comes before y
    np.testing.assert_array_equal(table.values, [[2, 4], [6, 8]])
    table = read(tmp_path, "y,a\n1,2\n5,6\n", None, ["y"])
    assert table.labels is None
    np.testing.assert_array_equal(table.values, [[1], [5]])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "0", "1"], [1, 0, 1]),
        (["1.0", "0.0"], [1, 0]),
        (["007", "7"], ["007", "7"]),
        (["9007199254740993", "9007199254740992"], [9007199254740993, 9007199254740992]),
        (["inf", "1"], ["inf", "1"]),
        (["nan", "1"], ["nan", "1"]),
        (["1.5", "1"], ["1.5", "1"]),
        (["-1", "1"], [-1, 1]),
        (["1e30", "1"], ["1e30", "1"]),
        (["99999999999999999999", "1"], ["99999999999999999999", "1"]),
    ],
)
def test_classes_stay_apart(cells, expected) -> None:
    assert plain_labels(cells).tolist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\n0\n1\n", [1, 0, 1]),
        ("label\n1\n0\n", [1, 0]),
        ("cat\ndog\n", ["cat", "dog"]),
        ("y\ncat\ndog\n", ["cat", "dog"]),
        ("name,label\n1,cat\n2,dog\n", ["cat", "dog"]),
    ],
)
def test_files_of_classes(tmp_path, text: str, expected) -> None:
    (tmp_path / "y.csv").write_text(text)
    assert read_classes(tmp_path / "y.csv").tolist() == expected


def test_archives_of_classes(tmp_path) -> None:
    np.savez(tmp_path / "one.npz", anything=np.arange(3))
    np.savez(tmp_path / "two.npz", x=np.zeros(3), y=np.arange(3))
    np.savez(tmp_path / "none.npz", x=np.zeros(3), z=np.arange(3))
    for name in ("one", "two"):
        assert read_classes(tmp_path / f"{name}.npz").tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"none\.npz' has several arrays; expected one of classes"):
        read_classes(tmp_path / "none.npz")


def parquet(folder: Path, **columns) -> Table:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "x.parquet")
    return read_parquet(folder / "x.parquet", None, None)


def test_parquet_of_many_types(tmp_path) -> None:
    table = parquet(
        tmp_path,
        a=pyarrow.array([1, 2], pyarrow.decimal128(5)),
        b=pyarrow.array([3.0, 4.0]).dictionary_encode(),
        __index_level_0__=[0, 1],
        label=["x", "y"],
    )
    np.testing.assert_array_equal(table.values, [[1, 3], [2, 4]])
    assert table.notes == (
        "column 'label' holds the classes",
        "columns with the numbers of rows are left out: __index_level_0__",
    )
    large = pyarrow.array([[1.0, 2.0], [3.0, 4.0]], pyarrow.large_list(pyarrow.float64()))
    np.testing.assert_array_equal(parquet(tmp_path, a=large).values, [[[1, 2]], [[3, 4]]])
    with pytest.raises(UserError, match=r"column 'when' holds date32.*choose others"):
        parquet(tmp_path, a=[1.0], when=pyarrow.array([1], pyarrow.date32()))
    with pytest.raises(UserError, match="column 'label' has 1 row without a class"):
        parquet(tmp_path, a=[1.0, 2.0], label=["x", None])


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n7.0,3.2,other\n", 2, 3),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", -1, 2),
        ("1,2,3\n", None, 1),
    ],
)
def test_a_first_row_like_the_others_is_no_header(tmp_path, text, labels, expected: int) -> None:
    table = read(tmp_path, text, labels)
    assert len(table.values) == expected
    assert table.columns == tuple(map(str, range(table.values.shape[1])))


def test_decimal_commas_anywhere(tmp_path) -> None:
    for text in ("a;b\n1;2\n1,5;2,5\n", "a;b\n;2\n1,5;3\n"):
        assert read(tmp_path, text).values[1, 0] == 1.5


def test_names_in_a_comment_before_an_empty_line(tmp_path) -> None:
    assert read(tmp_path, "# a,b\r\n\r\n1,2\r\n3,4\r\n").columns == ("a", "b")


def test_some_columns_of_a_table_without_names(tmp_path) -> None:
    text = "9,8,7,5,4,6\n1,5,2,6,3,7\n"
    np.testing.assert_array_equal(
        read(tmp_path, text, None, [0, 1, 2]).values, [[9, 8, 7], [1, 5, 2]]
    )
    assert read(tmp_path, text, 5, [0, 1]).labels.tolist() == [6, 7]


def test_classes_that_are_not_wanted_may_be_missing(tmp_path) -> None:
    (tmp_path / "x.csv").write_text("a,b,label\n1,2,\n3,4,\n")
    (stack,) = read_stacks(tmp_path / "x.csv", None, ("a", "b"), with_labels=False)
    np.testing.assert_array_equal(stack.open(), [[1, 2], [3, 4]])
    assert stack.labels is None
    (stack,) = read_stacks(tmp_path / "x.csv", with_labels=False)
    assert stack.columns == ("a", "b")
    table = pyarrow.table({"a": [1.0], "label": pyarrow.array([None], pyarrow.string())})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    (stack,) = read_stacks(tmp_path / "x.parquet", with_labels=False)
    np.testing.assert_array_equal(stack.open(), [[1]])


def test_files_of_classes_in_other_encodings_are_named(tmp_path) -> None:
    (tmp_path / "labels.csv").write_bytes("süd\nnord\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"labels\.csv' cannot be read as a table in UTF-8"):
        read_classes(tmp_path / "labels.csv")
