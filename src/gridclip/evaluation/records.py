"""Lists of json objects, read by column: numbers where numbers belong, or a clear refusal."""

import json
import math
import reprlib
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeGuard

import numpy as np
from jaxtyping import Float, Int, Shaped

from gridclip.errors import InputError


def read_json(path: Path) -> object:
    """The content of a json file.

    Raises:
        InputError: if there is no such file, or it is not json.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", fix="give the path of a json file", file=path
        ) from error
    except ValueError as error:
        raise InputError(
            f"is not json ({error})", fix="write it again; was the writing cut off?", file=path
        ) from error


class Records(NamedTuple):
    """The objects of one json list; the values of a key are checked as its column is read.

    Columns are checked as whole arrays, because a results file has a million entries; entries are
    looked at one by one only to name the first that is wrong.
    """

    items: list[dict[str, Any]]
    name: str  # what the list is called in errors: "images", "annotations", "detections"
    file: Path | None  # None: the list never was a file

    @classmethod
    def of(cls, items: object, name: str, file: Path | None) -> "Records":
        """Take a json value that should be a list of objects.

        Raises:
            InputError: if it is something else.
        """
        if not isinstance(items, list):
            raise InputError(
                f"is {_kind(items)}, not a list", fix="write a json list", file=file, field=name
            )
        records = cls(items, name, file)
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                records.refuse(index, None, f"is {_kind(item)}", fix="make it an object")
        return records

    def refuse(self, index: int, key: str | None, problem: str, *, fix: str) -> NoReturn:
        """Raise the InputError that gives one entry as the example."""
        field = f"{self.name}[{index}]" + (f".{key}" if key else "")
        raise InputError(problem, fix=fix, file=self.file, field=field)

    def column(self, key: str) -> list[Any]:
        """The value of one key in every entry.

        Raises:
            InputError: if an entry lacks the key.
        """
        try:
            return [item[key] for item in self.items]
        except KeyError:
            index = next(i for i, item in enumerate(self.items) if key not in item)
            self.refuse(index, key, "is missing", fix=f"give all {self.name} a {key!r}")

    def ids(self, key: str) -> Int[np.ndarray, "M"]:
        """The values of a key that holds an id. Whole floats will do: some writers leave them.

        Raises:
            InputError: if a value is missing or no whole number.
        """
        values = self.column(key)
        array = _numbers(values, ())
        if array is None or not (array == np.floor(array)).all():
            self._refuse_first(values, _is_whole, key, "is no whole number", fix="write an integer")
        return array.astype(np.int64)  # straight from integers: floats hold none above 2**53

    def numbers(self, key: str) -> Float[np.ndarray, "M"]:
        """The values of a key that holds one finite number.

        Raises:
            InputError: if a value is missing, no number, or not finite.
        """
        values = self.column(key)
        array = _numbers(values, ())
        if array is None:
            self._refuse_first(
                values, _is_number, key, "is no finite number", fix="write a finite number"
            )
        return array.astype(np.float64)

    def boxes(self, key: str = "bbox") -> Float[np.ndarray, "M 4"]:
        """The values of a key that holds a box: x, y, width, height in pixels.

        Raises:
            InputError: if a value is missing or no box, or a width or height is negative.
        """
        values = self.column(key)
        array = _numbers(values, (4,))
        if array is None or (array[:, 2:] < 0).any():
            self._refuse_first(
                values,
                _is_box,
                key,
                "is no box of four finite numbers with a width and height of at least 0",
                fix="write [x, y, width, height] in pixels; x2 and y2 are no sizes",
            )
        return array.astype(np.float64)

    def id_lists(self, key: str) -> list[list[int]]:
        """The values of a key that holds a list of ids.

        Raises:
            InputError: if a value is missing or no list of integers.
        """
        values = self.column(key)
        for index, value in enumerate(values):
            if not (isinstance(value, list) and all(isinstance(each, int) for each in value)):
                self.refuse(index, key, f"{value!r} is no list of ids", fix="write a list of ids")
        return values

    def require_known(
        self, ids: Int[np.ndarray, "M"], key: str, known: Int[np.ndarray, "X"], *, fix: str
    ) -> None:
        """Check that every id in a column is one of those known.

        Raises:
            InputError: with the first unknown one, and how many there are.
        """
        unknown = np.flatnonzero(~np.isin(ids, known))
        if unknown.size:
            first = int(unknown[0])
            problem = (
                f"no {key.removesuffix('_id')} has the id {ids[first]} "
                f"({unknown.size} of {len(ids)} {self.name} name unknown ones)"
            )
            self.refuse(first, key, problem, fix=fix)

    def require_distinct(self, key: str) -> None:
        """Check that no value of a column comes twice.

        Raises:
            InputError: with the first one that does.
        """
        seen = set()
        for index, value in enumerate(self.column(key)):
            if value in seen:
                self.refuse(index, key, f"{value!r} comes twice", fix="make each one different")
            seen.add(value)

    def _refuse_first(
        self, values: list[Any], good: Callable[[Any], bool], key: str, problem: str, *, fix: str
    ) -> NoReturn:
        index = next((i for i, value in enumerate(values) if not good(value)), 0)
        self.refuse(index, key, f"{values[index]!r} {problem}", fix=fix)


def _numbers(values: list[Any], shape: tuple[int, ...]) -> Shaped[np.ndarray, "M *shape"] | None:
    """The values as finite numbers of this shape each, or None where that can't be."""
    if not values:
        return np.zeros((0, *shape))
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths
        return None
    if array.dtype.kind not in "iuf" or array.shape[1:] != shape:
        return None
    return array if np.isfinite(array).all() else None


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value)) or '(none)'}"
    return reprlib.repr(value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return _is_number(value) and value == math.floor(value)


def _is_box(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(map(_is_number, value))
        and min(value[2:]) >= 0
    )
