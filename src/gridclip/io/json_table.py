"""Lists of json objects, read by column, with faults that name file, place, value and fix.

Columns of numbers are checked as whole arrays, because a results file has a million entries;
entries are looked at one by one only to name those that are wrong.
"""

import json
import re
import reprlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from gridclip.io.errors import InputError

_MISSING = object()
_EXAMPLES = 3
_HALF = re.compile("[\ud800-\udfff]")  # half a character


class Fault(NamedTuple):
    """Rows of one list that break one rule."""

    name: str  # of the list: images, annotations, categories, detections
    rule: str  # follows the list's name, as in "with a box of no size"
    key: str  # of the value at fault; empty if the whole row is
    rows: list[int]
    total: int  # rows of the list
    examples: str
    fix: str


class FaultError(InputError):
    """A fault that stops the reading."""

    def __init__(self, fault: Fault, file: Path | None) -> None:
        super().__init__(
            f"{len(fault.rows)} of {fault.total} {fault.name} {fault.rule}: {fault.examples}",
            fix=fault.fix,
            file=file,
            field=f"{fault.name}[{fault.rows[0]}]" + (f".{fault.key}" if fault.key else ""),
        )
        self.fault = fault


class JsonTable:
    """The objects of one json list, read column by column.

    Args:
        file: Where they were read, for the messages; None if they never were in a file.
        name: What the list is called: images, annotations, categories, detections.
        rows: What should be a list of objects.
        shown: What messages show of each; the rows themselves if not given.

    Raises:
        InputError: if it is something else.
    """

    def __init__(self, file: Path | None, name: str, rows: object, shown: object = None) -> None:
        if not isinstance(rows, list):
            problem = f"is {_kind(rows)}, not a list of objects"
            raise InputError(problem, fix="give a json list", file=file, field=name)
        self.file, self.name, self.rows = file, name, rows
        self.shown: list[Any] = shown if isinstance(shown, list) else rows
        strange = [not isinstance(record, dict) for record in rows]
        self.refuse(strange, "", "that are not an object", fix="make each an object, or remove it")

    def __len__(self) -> int:
        return len(self.rows)

    def column(
        self, key: str, accept: Callable[[Any], bool], what: str, default: object = _MISSING
    ) -> list[Any]:
        """Returns one value of every object.

        Args:
            key: The key to read.
            accept: Whether a value is one of this column's.
            what: How such a value is described to a person.
            default: The value of a key that is absent or null; without it, the key is required.

        Raises:
            InputError: if a value is absent or not accepted.
        """
        values = self._values(key, what, default)
        bad = [not accept(value) for value in values]
        self.refuse(bad, key, f"whose {key} is not {what}", fix=f"write {what} there")
        return values

    def whole_numbers(self, key: str) -> Int64[np.ndarray, "R"]:
        """Returns a column of whole numbers.

        1.0 is one, as pandas and others write it; true is none, nor is a float from 2**53 on, which
        may stand for several.
        """
        return self._array(key, _whole_numbers, "a whole number")

    def numbers(self, key: str, default: object = _MISSING) -> Float64[np.ndarray, "R"]:
        """Returns a column of finite numbers; of absent keys and null, the default if given."""
        return self._array(key, _numbers, "a finite number", default).astype(np.float64)

    def flags(self, key: str, what: str) -> Bool[np.ndarray, "R"]:
        """Returns a column of 0 and 1, or false and true; 0 where the key is absent or null."""
        values = self.column(key, lambda value: value in (0, 1), f"0 or 1 ({what})", default=0)
        return np.array(values, dtype=bool)

    def boxes(self) -> Float64[np.ndarray, "R 4"]:
        """Returns the column `bbox`: x, y, width, height of any finite value."""
        what = "four finite numbers: x, y, width, height"
        return self._array("bbox", lambda values: _numbers(values, 4), what).astype(np.float64)

    def refuse_repeats(self, key: str, values: list[str] | Int64[np.ndarray, "R"]) -> None:
        """Raises an InputError if a value of this column comes twice."""
        first = np.zeros(len(values), dtype=bool)
        first[np.unique(values, return_index=True)[1]] = True
        fix = f"merge them, or make each {key} different"
        self.refuse(~first, key, f"whose {key} is already taken", fix=fix)

    def refuse(
        self,
        bad: list[bool] | Bool[np.ndarray, "R"],
        key: str,
        problem: str,
        *,
        fix: str,
        note: Callable[[int], str] = lambda _: "",
    ) -> None:
        """Raises a FaultError with count and examples if any object is bad.

        Args:
            bad: One flag for each object.
            key: The key at fault; empty if the whole object is.
            problem: Follows "3 of 10 annotations", as in "with a box outside its image".
            fix: What to do about it.
            note: What to add to the example of a row, such as the size of its image.
        """
        fault = self.find(bad, key, problem, fix=fix, note=note)
        if fault is not None:
            raise FaultError(fault, self.file)

    def find(
        self,
        bad: list[bool] | Bool[np.ndarray, "R"],
        key: str,
        problem: str,
        *,
        fix: str,
        note: Callable[[int], str] = lambda _: "",
    ) -> Fault | None:
        """Returns what `refuse` would raise."""
        rows = np.flatnonzero(bad).tolist()
        if not rows:
            return None
        examples = "; ".join(self._example(row, key) + note(row) for row in rows[:_EXAMPLES])
        more = "; ..." if len(rows) > _EXAMPLES else ""
        return Fault(self.name, problem, key, rows, len(self.rows), examples + more, fix)

    def _values(self, key: str, what: str, default: object = _MISSING) -> list[Any]:
        if default is not _MISSING:
            values = [row.get(key) for row in self.rows]
            return [default if value is None else value for value in values]
        absent = [key not in row for row in self.rows]
        self.refuse(absent, key, f"without this key: {key}", fix=f"give each {key}: {what}")
        return [row[key] for row in self.rows]

    def _array(
        self,
        key: str,
        read: Callable[[list[Any]], Shaped[np.ndarray, "R ..."] | None],
        what: str,
        default: object = _MISSING,
    ) -> Shaped[np.ndarray, "R ..."]:
        array = read(self._values(key, what, default))
        if array is None:  # which of them is it?
            one = self.column(key, lambda value: read([value]) is not None, what, default)
            return np.array(one)
        return array

    def _example(self, row: int, key: str) -> str:
        record = self.shown[row]
        if not isinstance(record, dict):
            return f"[{row}] is {reprlib.repr(record)}"
        name = f" (id {reprlib.repr(record['id'])})" if "id" in record else ""
        value = (
            f" {key} {reprlib.repr(_plain(record[key]))}" if key in record and key != "id" else ""
        )
        return f"[{row}]{name}{value}"


def read_content(file: Path) -> bytes:
    """Reads a file whole.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise InputError(problem, fix="check the path and its rights", file=file) from error


def read_json(file: Path) -> object:
    """Reads a json file.

    Args:
        file: UTF-8 (or 16, or 32) text.

    Raises:
        InputError: if the file is absent or is cut short.
    """
    return parse_json(file, read_content(file))


def parse_json(file: Path, content: bytes, *, masks: bool = False) -> object:
    """Parses json that was read from this file.

    Args:
        file: For the message.
        content: The text.
        masks: Keep what stands under `segmentation`, nine tenths of a file, which few ask for.

    Raises:
        InputError: if it is not json.
    """
    try:
        return json.loads(content, object_hook=None if masks else _without_masks)
    except (ValueError, RecursionError) as error:
        problem = f"is not whole, valid json ({error})"
        raise InputError(problem, fix="fetch or write the file again", file=file) from error


def parse_strictly(content: bytes, form: object) -> Any:  # noqa: ANN401 - what the form says
    """Parses json several times as fast, into a type that msgspec knows.

    Of a TypedDict, keys that it lacks are skipped unparsed.

    Raises:
        ValueError: for anything unusual; `parse_json` decides about it.
        RecursionError: likewise, for deeply nested lists.
    """
    if not content.isascii():
        content.decode()  # msgspec does not look at text that it skips
    return msgspec.json.decode(content, type=form)


def is_path(value: object) -> bool:
    """Returns whether a value is a string that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_text(value: object) -> bool:
    """Returns whether a value is a string of whole characters, not blank.

    Half a character (U+D83D, say) is what is left of an emoji that was cut in two; no file can hold
    it. Only paths may have some, which stand for bytes that are not UTF-8.
    """
    return isinstance(value, str) and bool(value.strip()) and not _HALF.search(value)


def texts_of(value: object) -> tuple[str, ...]:
    """Returns the texts of a list that may hold anything; of one text, this; of others, none."""
    return tuple(filter(is_text, value if isinstance(value, list) else [value]))


def is_whole_list(value: object) -> bool:
    """Returns whether a value is a list of whole numbers."""
    return isinstance(value, list) and _whole_numbers(value) is not None


def is_frequency(value: object) -> bool:
    """Returns whether a value is r, c, f (rare, common, frequent) or None."""
    return value in (None, "r", "c", "f")


def _numbers(values: list[Any], *shape: int) -> Shaped[np.ndarray, "R *shape"] | None:
    """Returns finite numbers of this shape each, or None if a value is something else."""
    if not values:
        return np.zeros((0, *shape), dtype=np.int64)
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths
        return None
    if array.dtype.kind not in "iuf" or array.shape[1:] != shape or not np.isfinite(array).all():
        return None
    flat = chain.from_iterable(values) if shape else values
    return None if bool in map(type, flat) else array  # numpy takes json's true for 1


def _whole_numbers(values: list[Any]) -> Int64[np.ndarray, "R"] | None:
    array = _numbers(values)
    if array is not None and array.dtype.kind != "i":
        # One 1.0 has made floats of all, which would change the numbers above 2**53.
        wholes = [whole_number(value) for value in values]
        array = None if None in wholes else np.array(wholes, dtype=np.int64)
    return None if array is None else array.astype(np.int64)


def whole_number(value: Any) -> int | None:  # noqa: ANN401 - any finite number of json or numpy
    """Returns a number as an int; None if it is not whole, beyond 64 bits, or an inexact float.

    Between the floats from 2**53 on (2**24 in single precision) lie whole numbers for which they
    stand as well.
    """
    if isinstance(value, int | np.integer):
        return int(value) if -(2**63) <= value < 2**63 else None
    exact = 2.0 ** (np.finfo(type(value)).nmant + 1)
    return int(value) if value == np.floor(value) and abs(value) < exact else None


def _plain(value: object) -> object:
    """Returns what json text says that was not parsed before, or the text if it is none."""
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return bytes(value)


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value)) or '(none)'}"
    return reprlib.repr(value)


def _without_masks(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)
    return record
