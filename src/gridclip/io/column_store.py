"""Columns of numbers and text in one file, memory-mapped: the safetensors form.

Opening reads a header of a few kilobytes; what is asked for is paged in, and pages are shared by
all workers and ranks of a machine. The file is written by hand, because safetensors' own writer
orders its header at random, and equal content must be equal bytes.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Shaped, UInt8

from gridclip.io.errors import InputError, require_range
from gridclip.io.files import written_whole

_KINDS = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8"},
    **{"I32": "<i4", "I64": "<i8", "U8": "|u1", "BOOL": "|b1"},
}
_CODES = {np.dtype(kind): code for code, kind in _KINDS.items()}
_ROWS_AT_ONCE = 65_536
_MOST_HEADER = 100_000_000  # bytes, as safetensors has it
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


class Notes(dict[str, str]):
    """What the writer noted about a whole file, by key; one that is absent is an InputError."""

    def __init__(self, notes: Mapping[str, str], file: Path, remedy: str) -> None:
        super().__init__(notes)
        self.file, self.remedy = file, remedy

    def __missing__(self, key: str) -> str:
        fix = f"remove it, and {self.remedy}"
        raise InputError(f"its header lacks {key!r}", fix=fix, file=self.file, field=key)

    def number(self, key: str) -> float:
        """Returns a note that is a finite number.

        Raises:
            InputError: if it is none.
        """
        try:
            number = float(self[key])
        except ValueError:
            number = math.nan
        require_range(number, f"{self.file}: {key}")
        return number


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

    header: "Notes"
    names: tuple[str, ...]

    def __init__(self, file: Path, form: str, remedy: str) -> None:
        self.file, self.form, self.remedy = file, form, remedy
        self._bytes, self._listed = _open(file, remedy)
        self.header = Notes(self._listed.pop("__metadata__", {}), file, remedy)
        self.names = tuple(self._listed)
        self._lengths: dict[str, int] = {}  # of axes, by their letters
        found = self.header.get("form", "another")
        if found != form:
            raise InputError(f"is of the form {found!r}, not {form!r}", fix=remedy, file=file)

    def __reduce__(self) -> tuple[Callable[..., "ColumnarFile"], tuple[Path, str, str]]:
        return ColumnarFile, (self.file, self.form, self.remedy)

    def column(
        self, name: str, axes: str | None = None, kinds: str = "biufU"
    ) -> Shaped[np.ndarray, "..."]:
        """Returns a column, memory-mapped and read-only.

        Args:
            name: Which.
            axes: What its axes must be, such as "I 2 E": numbers, and letters whose lengths are the
                same in all columns of the file; "I+1" is one longer than I.
            kinds: Which of numpy's kinds of values it may have.

        Raises:
            InputError: if there is no such column.
        """
        entry = self._listed.get(name)
        if entry is None:
            raise self._fault(f"has no column {name!r}", name)
        first, end = entry["data_offsets"]
        column = self._bytes[first:end].view(_KINDS[entry["dtype"]]).reshape(entry["shape"])
        if name in self.header.get(_STRINGS, "").split():
            column = column.view(f"<U{column.shape[-1]}")[..., 0]
        if column.dtype.kind not in kinds or not self._fits(column.shape, axes):
            wanted = f"{axes or 'any'} of the kinds {kinds}"
            raise self._fault(f"is {column.dtype} {column.shape}, not {wanted}", name)
        mapped = column.view(Column)
        mapped.origin = self, name
        return mapped

    def texts(self, name: str, axis: str = "") -> Texts:
        """Returns a column of strings; `axis` is a letter of `column` for how many they are.

        Raises:
            InputError: if there is no such column.
        """
        characters = self.column(name, f"{name}.characters", "u")
        return Texts(characters, self.column(f"{name}.ends", f"{axis or name}+1", "i"))

    def _fits(self, shape: tuple[int, ...], axes: str | None) -> bool:
        """Returns whether a shape is as it must be; letters that are new take its lengths."""
        if axes is None:
            return True
        wanted = axes.split()
        if len(wanted) != len(shape):
            return False
        for axis, length in zip(wanted, shape, strict=True):
            letter, _, more = axis.partition("+")
            length -= int(more or 0)
            known = int(letter) if letter.isdigit() else self._lengths.setdefault(letter, length)
            if length < 0 or known != length:
                return False
        return True

    def _fault(self, problem: str, name: str) -> InputError:
        return InputError(problem, fix=f"remove it, and {self.remedy}", file=self.file, field=name)


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
            if length > _MOST_HEADER:
                raise ValueError(f"its header would have {length} bytes")
            listed = json.loads(opened.read(length))
        ends = [
            _end(entry) if name != "__metadata__" else _require_notes(entry)
            for name, entry in listed.items()
        ]
        start = 8 + length
        if file.stat().st_size != start + max(ends):
            raise ValueError("its length is not what its header says")
        return np.memmap(file, dtype=np.uint8, mode="r")[start:], listed
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", fix=remedy, file=file) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        problem = f"is cut short, or no file of this kind ({error})"
        raise InputError(problem, fix=f"remove it, and {remedy}", file=file) from error


def _end(entry: dict[str, Any]) -> int:
    """Returns where the bytes of a column end, which are as many as its shape needs.

    Raises:
        ValueError: if they are not, or the entry is none.
    """
    (first, end), shape = entry["data_offsets"], entry["shape"]
    if not all(type(number) is int and number >= 0 for number in (first, end, *shape)):
        raise ValueError(f"a column has the place {[first, end]} and the shape {shape}")
    if end - first != math.prod(shape) * np.dtype(_KINDS[entry["dtype"]]).itemsize:
        raise ValueError(f"a column of the shape {shape} has {end - first} bytes")
    return int(end)


def _require_notes(notes: dict[str, Any]) -> int:
    """Returns 0, which is where notes end among the columns.

    Raises:
        ValueError: if something else than text is noted.
    """
    if not all(isinstance(note, str) for note in notes.values()):
        raise ValueError("it notes something else than text")
    return 0
