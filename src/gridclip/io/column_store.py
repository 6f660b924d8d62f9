"""Columns of numbers and text in one file, memory-mapped: the safetensors form.

Opening reads a header of a few kilobytes; what is asked for is paged in, and pages are shared by
all workers and ranks of a machine. The file is written by hand, because safetensors' own writer
orders its header at random, and equal content must be equal bytes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Shaped, UInt8

from gridclip.io.errors import InputError
from gridclip.io.files import written_whole

_KINDS = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8"},
    **{"I32": "<i4", "I64": "<i8", "U8": "|u1", "BOOL": "|b1"},
}
_CODES = {np.dtype(kind): code for code, kind in _KINDS.items()}
_ROWS_AT_ONCE = 65_536
_STRINGS = "strings"  # key of the header: which columns are code points of numpy's strings


class Texts(NamedTuple):
    """Strings end to end, in a form that can be memory-mapped."""

    characters: UInt8[np.ndarray, "C"]  # UTF-8
    ends: Int64[np.ndarray, "I+1"]  # where each begins, and the last ends

    def encoded(self, row: int) -> bytes:
        """Returns the UTF-8 of one string; sorting by it sorts the strings."""
        return self.characters[self.ends[row] : self.ends[row + 1]].tobytes()

    def of(self, row: int) -> str:
        """Returns one string."""
        return self.encoded(row).decode("utf-8", "surrogateescape")

    def all(self) -> list[str]:
        """Returns all strings."""
        return [self.of(row) for row in range(len(self.ends) - 1)]

    def row(self, text: str) -> int | None:
        """Returns where a string is, if all are sorted by their UTF-8; None if it is absent."""
        wanted, low, high = encode_text(text), 0, len(self.ends) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.encoded(middle) < wanted else (low, middle)
        found = low < len(self.ends) - 1 and self.encoded(low) == wanted
        return low if found else None


def encode_text(text: str) -> bytes:
    """Returns the UTF-8 of a string; file names that are not UTF-8 stay as they are."""
    return text.encode("utf-8", "surrogateescape")


def text_columns(name: str, texts: Sequence[str]) -> dict[str, Shaped[np.ndarray, "_"]]:
    """Returns the two columns that hold strings; `ColumnarFile.texts` reads them."""
    encoded = [encode_text(text) for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {name: np.frombuffer(b"".join(encoded), dtype=np.uint8), f"{name}.ends": ends}


class Column(np.ndarray):
    """A mapped column. It pickles as its name, so spawned workers map the file too.

    What is derived from it, such as a slice, pickles as its values.
    """

    origin: "tuple[ColumnarFile, str] | None" = None

    def __reduce__(self) -> Any:  # noqa: ANN401 - either of two forms
        if self.origin is None:
            return super().__reduce__()
        return ColumnarFile.column, self.origin


class ColumnarFile:
    """A file of columns, opened; it pickles as its name.

    Args:
        file: What `write_columnar` wrote.
        form: What kind of file it should be.
        remedy: How a person gets such a file, for the messages.

    Attributes:
        header: What the writer noted about the whole file.
        names: Of all columns.

    Raises:
        InputError: if it is absent, cut short, or of another form.
    """

    header: dict[str, str]
    names: tuple[str, ...]

    def __init__(self, file: Path, form: str, remedy: str) -> None:
        self.file, self.form, self.remedy = file, form, remedy
        self._bytes, self._listed = _open(file, remedy)
        self.header = self._listed.pop("__metadata__", {})
        self.names = tuple(self._listed)
        found = self.header.get("form", "another")
        if found != form:
            raise InputError(f"is of the form {found!r}, not {form!r}", fix=remedy, file=file)

    def __reduce__(self) -> tuple[Callable[..., "ColumnarFile"], tuple[Path, str, str]]:
        return ColumnarFile, (self.file, self.form, self.remedy)

    def column(self, name: str) -> Shaped[np.ndarray, "..."]:
        """Returns a column, memory-mapped and read-only."""
        entry = self._listed[name]
        first, end = entry["data_offsets"]
        column = self._bytes[first:end].view(_KINDS[entry["dtype"]]).reshape(entry["shape"])
        if name in self.header.get(_STRINGS, "").split():
            column = column.view(f"<U{column.shape[-1]}")[..., 0]
        mapped = column.view(Column)
        mapped.origin = self, name
        return mapped

    def texts(self, name: str) -> Texts:
        """Returns a column of strings."""
        return Texts(self.column(name), self.column(f"{name}.ends"))


def write_columnar(
    file: Path,
    form: str,
    header: Mapping[str, str],
    columns: Mapping[str, Shaped[np.ndarray, "..."]],
) -> None:
    """Writes a file whole or not at all; equal content gives equal bytes.

    Args:
        file: Where to; its folder is made.
        form: What kind of file this is, such as "gridclip shard index 1".
        header: Notes about the whole file.
        columns: Arrays of float16, float32, float64, int32, int64, uint8, bool or (one-dimensional)
            strings, memory-mapped ones as well.
    """
    strings = sorted(name for name, column in columns.items() if column.dtype.kind == "U")
    if strings:
        header = {**header, _STRINGS: " ".join(strings)}
        columns = {**columns, **{name: _code_points(columns[name]) for name in strings}}
    # The widest come first, so that each column is aligned.
    names = sorted(columns, key=lambda name: (-columns[name].dtype.itemsize, name))
    listed: dict[str, Any] = {"__metadata__": {"form": form, **header}}
    end = 0
    for name in names:
        first, end = end, end + columns[name].nbytes
        listed[name] = {
            "dtype": _CODES[columns[name].dtype],
            "shape": list(columns[name].shape),
            "data_offsets": [first, end],
        }
    head = json.dumps(listed, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with written_whole(file) as part, part.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            for start in range(0, len(columns[name]), _ROWS_AT_ONCE):
                out.write(columns[name][start : start + _ROWS_AT_ONCE].tobytes())


def _code_points(strings: Shaped[np.ndarray, "R"]) -> Int32[np.ndarray, "R L"]:
    """Returns numpy strings as numbers: unlike UTF-8 they can hold any text that json can."""
    points = np.ascontiguousarray(strings).view(np.int32)
    return points.reshape(len(strings), strings.dtype.itemsize // 4)


def digest(*parts: object) -> str:
    """Returns a short name for a value that json can hold; it changes with the value."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _open(file: Path, remedy: str) -> tuple[UInt8[np.ndarray, "_"], dict[str, Any]]:
    """Maps the data of a file, and reads what its header lists."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            # The length is not yet to be trusted.
            listed = json.loads(opened.read(min(length, file.stat().st_size)))
        ends = [entry["data_offsets"][1] for key, entry in listed.items() if key[:2] != "__"]
        start = 8 + length
        if file.stat().st_size != start + max(ends):
            raise ValueError("its length is not what its header says")
        return np.memmap(file, dtype=np.uint8, mode="r")[start:], listed
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", fix=remedy, file=file) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        problem = f"is cut short, or no file of this kind ({error})"
        raise InputError(problem, fix=f"remove it, and {remedy}", file=file) from error
