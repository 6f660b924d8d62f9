"""Category names from a file, with what it says of them."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gridclip.errors import InputError
from gridclip.records import Records, is_text, read_json
from gridclip.structures import Vocabulary

_CSV = "give it a head with the columns name and, if you have them, definition and count"


class Concept(NamedTuple):
    """One name of a list."""

    name: str
    times: int | None = None  # how often it was met; None: nobody counted
    definition: str = ""


def read_names(file: Path) -> Vocabulary:
    """Read category names: those of `read_concepts`.

    Raises:
        InputError: if the file is absent or holds something else, or a name comes twice.
    """
    return Vocabulary(each.name for each in read_concepts(file))


def read_concepts(file: Path) -> list[Concept]:
    """Read names, with counts and definitions where the file has them.

    Args:
        file: Text with a name on each line, and perhaps a tab and its count behind it; a .csv whose
            head says name, and perhaps definition and count; or, as .json, an annotation file
            (LVIS has definitions, `def`), or a list of names or of objects with a `name`. Objects
            with an `id` are taken in the order of their ids.

    Raises:
        InputError: if the file is absent or holds something else.
    """
    if file.suffix == ".csv":
        return _read_csv(file)
    if file.suffix != ".json":
        lines = (line.strip() for line in _read_text(file).splitlines())
        return [_from_line(line) for line in lines if line]
    rows = read_json(file)
    rows = rows.get("categories") if isinstance(rows, dict) else rows
    if isinstance(rows, list) and all(map(is_text, rows)):
        return [Concept(name) for name in rows]
    categories = Records(file, "categories", rows)
    names = categories.column("name", is_text, "a name")
    order = [*range(len(names))]
    if any("id" in row for row in categories.rows):
        order = np.argsort(categories.integers("id"), kind="stable").tolist()
    return [_from_category(names[row], categories.rows[row]) for row in order]


def _from_line(line: str) -> Concept:
    name, _, count = line.partition("\t")
    return Concept(name.strip(), int(count) if count.strip().isdecimal() else None)


def _from_category(name: str, row: dict[str, Any]) -> Concept:
    count, definition = row.get("image_count"), row.get("def")
    return Concept(
        name,
        count if type(count) is int else None,
        definition.strip() if isinstance(definition, str) else "",
    )


def _read_csv(file: Path) -> list[Concept]:
    rows = csv.DictReader(_read_text(file).splitlines())
    try:
        if "name" not in (rows.fieldnames or []):
            problem = f"has no column 'name', only {', '.join(rows.fieldnames or []) or 'nothing'}"
            raise InputError(problem, fix=_CSV, file=file, field="line 1")
        return [_from_row(file, rows.line_num, row) for row in rows]
    except csv.Error as error:
        where = f"line {rows.line_num}"
        raise InputError(f"is no csv ({error})", fix=_CSV, file=file, field=where) from error


def _from_row(file: Path, line: int, row: dict[str, Any]) -> Concept:
    name, count = str(row["name"] or "").strip(), str(row.get("count") or "").strip()
    if not name or (count and not count.isdecimal()):
        problem = f"the count {count!r} is no whole number" if name else "lacks a name"
        raise InputError(problem, fix=_CSV, file=file, field=f"line {line}")
    return Concept(name, int(count) if count else None, str(row.get("definition") or "").strip())


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a text file with a name on each line, or a .json of LVIS or COCO form"
        raise InputError(f"cannot be read ({error})", fix=fix, file=file) from error
