"""A json list of objects as typed columns, with faults that name file, place, id and fix."""

import json
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from gridclip.errors import InputError

_MISSING = object()
_EXAMPLES = 3
_LARGEST = 2**53  # beyond it a float64 no longer holds every whole number


def read_json(file: Path) -> dict[str, object]:
    """Read a json file that holds one object.

    Args:
        file: UTF-8 (or 16, or 32) text.

    Raises:
        InputError: if the file is absent, is cut short or holds something else.
    """
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise InputError(problem, fix="check the path and its rights", file=file) from error
    except (ValueError, RecursionError) as error:
        problem = f"is not whole, valid json ({error})"
        raise InputError(problem, fix="fetch or write the file again", file=file) from error
    if not isinstance(document, dict):
        raise InputError(
            f"holds a json {type(document).__name__}, not an object",
            fix="give an annotation file of LVIS or COCO form: images, annotations and categories"
            " (a bare list is the form of detections)",
            file=file,
        )
    return document


class Records:
    """The objects of one list of an annotation file, read column by column.

    Args:
        file: Where the document was read, for the messages.
        name: Key of the list: images, annotations or categories.
        document: The whole json object.

    Raises:
        InputError: if the list is absent, or not a list of objects.
    """

    def __init__(self, file: Path, name: str, document: dict[str, object]) -> None:
        rows = document.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(
                "the key is absent" if name not in document else "is not a list of objects",
                fix="give an annotation file of LVIS or COCO form: images, annotations, categories",
                file=file,
                field=name,
            )
        self.file, self.name, self.rows = file, name, rows

    def __len__(self) -> int:
        return len(self.rows)

    def column(
        self, key: str, accept: Callable[[object], bool], what: str, default: object = _MISSING
    ) -> list[Any]:
        """Give one value of every object.

        Args:
            key: The key to read.
            accept: Whether a value is one of this column's.
            what: How such a value is described to a person.
            default: What stands for an absent key; without it, the key is required.

        Raises:
            InputError: if a value is absent or not accepted.
        """
        values = [row.get(key, default) for row in self.rows]
        absent = [value is _MISSING for value in values]
        self.refuse(absent, key, "without this key", fix=f"give each {key}: {what}")
        bad = [not accept(value) for value in values]
        self.refuse(bad, key, f"whose {key} is not {what}", fix=f"write {what} there")
        return values

    def integers(self, key: str) -> Int64[np.ndarray, "R"]:
        """Give a column of whole numbers."""
        return np.array(self.column(key, is_whole, "a whole number"), dtype=np.int64)

    def identifiers(self) -> Int64[np.ndarray, "R"]:
        """Give the ids, which must be distinct."""
        ids = self.integers("id")
        first = np.zeros(len(ids), dtype=bool)
        first[np.unique(ids, return_index=True)[1]] = True
        self.refuse(~first, "id", "with an id that is already taken", fix="make the ids distinct")
        return ids

    def refuse(
        self,
        bad: list[bool] | Bool[np.ndarray, "R"],
        key: str,
        problem: str,
        *,
        fix: str,
        note: Callable[[int], str] = lambda _: "",
    ) -> None:
        """Raise an InputError with count and examples if any object is bad.

        Args:
            bad: One flag for each object.
            key: The key at fault.
            problem: Follows "3 of 10 annotations", as in "with a box outside its image".
            fix: What to do about it.
            note: What to add to the example of a row, such as the size of its image.
        """
        rows = np.flatnonzero(bad).tolist()
        if not rows:
            return
        examples = "; ".join(self._example(row, key) + note(row) for row in rows[:_EXAMPLES])
        raise InputError(
            f"{len(rows)} of {len(self.rows)} {self.name} {problem}: {examples}"
            + ("; ..." if len(rows) > _EXAMPLES else ""),
            fix=fix,
            file=self.file,
            field=f"{self.name}[{rows[0]}].{key}",
        )

    def _example(self, row: int, key: str) -> str:
        record = self.rows[row]
        value = f" {key} {reprlib.repr(record[key])}" if key in record and key != "id" else ""
        return f"[{row}] (id {reprlib.repr(record.get('id'))}){value}"


def is_whole(value: object) -> bool:
    """Tell a whole number; json's true and 1.0 are none."""
    return type(value) is int and abs(value) < _LARGEST


def is_text(value: object) -> bool:
    """Tell a string with something in it."""
    return isinstance(value, str) and bool(value.strip())


def is_box(value: object) -> bool:
    """Tell four finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == 4
        # The comparison is False for nan too.
        and all(type(number) in (int, float) and abs(number) < _LARGEST for number in value)
    )


def is_whole_list(value: object) -> bool:
    """Tell a list of whole numbers."""
    return isinstance(value, list) and all(map(is_whole, value))
