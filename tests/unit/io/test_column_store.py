"""Columns in one memory-mapped file, held against safetensors' own reader."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file

from gridclip.io.column_store import ColumnarFile, text_columns, write_columnar
from gridclip.io.errors import InputError

COLUMNS = {
    "bytes": np.arange(5, dtype=np.uint8),
    "halves": np.linspace(0, 1, 6, dtype=np.float16).reshape(3, 2),
    "longs": np.array([[1, -2]], dtype=np.int64),
    "none": np.zeros((0, 4), dtype=np.float32),
    "doubles": np.array([0.1, 1e300]),
    "flags": np.array([[True], [False]]),
}


def test_columns_are_what_safetensors_reads(tmp_path):
    write_columnar(tmp_path / "a", "form 1", {"who": "me"}, COLUMNS)
    read = load_file(tmp_path / "a")
    opened = ColumnarFile(tmp_path / "a", "form 1", "make it")
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(read[name], column)
        np.testing.assert_array_equal(opened.column(name), column)
        assert opened.column(name).dtype == column.dtype
    assert opened.header == {"form": "form 1", "who": "me"}


@pytest.mark.parametrize("strings", [["", "a\0b", "\ud800", "猫.jpg"], [""], []])
def test_numpy_strings_come_back_whatever_they_hold(tmp_path, strings):
    column = np.array(strings, dtype=str)
    write_columnar(tmp_path / "a", "f", {}, {"strings": column, **COLUMNS})
    opened = ColumnarFile(tmp_path / "a", "f", "make it")
    assert opened.column("strings").tolist() == strings
    assert opened.column("strings").dtype == column.dtype
    assert opened.column("longs").tolist() == [[1, -2]]


def test_a_column_pickles_as_its_file_and_what_is_derived_from_it_as_values(tmp_path):
    columns = {"many": np.arange(100_000), "strings": np.array(["cup"] * 10_000)}
    write_columnar(tmp_path / "a", "f", {}, columns)
    opened = ColumnarFile(tmp_path / "a", "f", "make it")
    for name, column in columns.items():
        mapped = opened.column(name)
        pickled = pickle.dumps(mapped)
        assert len(pickled) < 1000
        np.testing.assert_array_equal(pickle.loads(pickled), column)
        for derived in (mapped[1:], mapped[::-1], mapped == column):
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(derived)), derived)


def test_equal_content_is_equal_bytes_in_any_order(tmp_path):
    write_columnar(tmp_path / "a", "f", {}, COLUMNS)
    write_columnar(tmp_path / "b", "f", {}, dict(reversed(COLUMNS.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_texts_of_any_alphabet_come_back_and_are_found_where_sorted(tmp_path):
    texts = sorted(["", "a", "a/b.jpg", "zebra", "Äpfel", "猫", "\udcff.jpg"], key=_utf8)
    write_columnar(tmp_path / "a", "f", {}, text_columns("texts", texts))
    read = ColumnarFile(tmp_path / "a", "f", "make it").texts("texts")
    assert read.all() == texts
    assert [read.row(text) for text in texts] == list(range(len(texts)))
    assert [read.row(text) for text in ("A", "b", "zebras", "\U0001f600")] == [None] * 4


def _utf8(text):
    return text.encode("utf-8", "surrogateescape")


def test_a_file_pickles_as_its_name(tmp_path):
    columns = {"many": np.zeros(100_000, dtype=np.int64)}
    write_columnar(tmp_path / "a", "f", {}, columns)
    pickled = pickle.dumps(ColumnarFile(tmp_path / "a", "f", "make it"))
    assert len(pickled) < 1000
    assert len(pickle.loads(pickled).column("many")) == 100_000


@pytest.mark.parametrize("left", [0, 4, 20, -1])
def test_a_file_that_was_cut_short_is_refused_with_its_name(tmp_path, left):
    file = tmp_path / "columns"
    write_columnar(file, "f", {}, COLUMNS)
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(InputError, match=r"columns: is cut short(.|\n)*make it"):
        ColumnarFile(file, "f", "make it")


@pytest.mark.parametrize("content", [b"[]", b"\x02" + bytes(7) + b"[]", b"x" * 5000])
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="no file of this kind"):
        ColumnarFile(tmp_path / "a", "f", "make it")


def test_another_form_and_an_absent_file_are_refused(tmp_path):
    write_columnar(tmp_path / "a", "cats", {}, COLUMNS)
    with pytest.raises(InputError, match="'cats', not 'dogs'"):
        ColumnarFile(tmp_path / "a", "dogs", "make it")
    with pytest.raises(InputError, match=r"No such file(.|\n)*make it"):
        ColumnarFile(tmp_path / "absent", "dogs", "make it")


def test_nobody_sees_half_a_file(tmp_path):
    """A column that cannot be written leaves what was there before."""
    write_columnar(tmp_path / "a", "f", {}, COLUMNS)
    before = (tmp_path / "a").read_bytes()

    class Broken(np.ndarray):
        def __getitem__(self, rows):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_columnar(tmp_path / "a", "f", {}, {"x": np.zeros(3, dtype=np.int64).view(Broken)})
    assert (tmp_path / "a").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
