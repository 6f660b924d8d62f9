"""What becomes of one fault: values that say the same rightly, or rows left out, or nothing.

A value is mended where there is no doubt what it means: a number in quotes, an id that names
nothing else, an area that the box has. Rows with any other fault are left out; categories never
are, as only a person knows what they should be.
"""

import re
import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from gridclip.data.annotations.coco_json import GROUPS, CocoLists
from gridclip.data.annotations.groups import UNKNOWN_IN_GROUP
from gridclip.data.annotations.schema import (
    LOW_ID,
    NEGATIVE,
    NOT_EXHAUSTIVE,
    UNKNOWN_IN_LIST,
    WITHOUT_LIST,
)
from gridclip.io.json_table import Fault, is_path, is_text, whole_number

# Of a list, by row: what to change in the row, or None to leave the row out.
Row = dict[str, Any]
Edits = dict[str, dict[int, Row | None]]

_HUGE = 2**31 - 1  # pixels: an image that every box fits in
_REQUIRED = {
    "categories": ("id", "name", "frequency"),
    "images": ("id", "height", "width", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    GROUPS: ("id", "categories"),
}
_TOGETHER = {side: ("height", "width") for side in ("height", "width")}
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")  # of json, or 007


def mend(fault: Fault, lists: CocoLists) -> Edits:
    """Returns what would repair a fault; nothing of what takes a person."""
    if fault.rule == LOW_ID:
        return _ids_from_one(lists)
    if fault.rule.startswith(UNKNOWN_IN_LIST):
        known = {category["id"] for category in lists.categories}
        listed = {row: lists.images[row][fault.key] for row in fault.rows}
        return {
            "images": {
                row: {fault.key: [value for value in values if value in known]}
                for row, values in listed.items()
            }
        }
    if fault.rule == UNKNOWN_IN_GROUP:
        return _without_unknown(fault, lists)
    if fault.rule.startswith(WITHOUT_LIST):
        few = 2 * len(fault.rows) > fault.total  # is it of LVIS form, or of COCO form?
        return {"images": {} if few else {row: {fault.key: []} for row in fault.rows}}
    if fault.name != "categories" and fault.key == "id" and fault.rule.endswith("already taken"):
        return _mend_repeats(fault, lists)
    return {fault.name: _mend_rows(fault, lists)}


def neutral(fault: Fault, lists: CocoLists) -> Edits:
    """Replaces the values at fault by mended ones, else by such as break no rule anywhere."""
    edits = mend(fault, lists)
    records = getattr(lists, fault.name)
    fresh = unused_ids(records)
    values: dict[str, Callable[[int], Any]] = {
        "id": lambda row: f"group-{row}" if fault.name == GROUPS else next(fresh),
        "name": lambda row: f"(the name of row {row})",
        "frequency": lambda _: _some_frequency(records),
        "height": lambda _: _HUGE,
        "width": lambda _: _HUGE,
        "file_name": lambda _: "nowhere",
        "coco_url": lambda _: "nowhere",
        NEGATIVE: lambda _: [],
        NOT_EXHAUSTIVE: lambda _: [],
        "image_id": lambda _: _some_id(lists.images),
        "category_id": lambda _: _some_id(lists.categories),
        "categories": lambda _: [_some_id(lists.categories)],
        "bbox": lambda _: [0, 0, 1, 1],
        "area": lambda _: 1,
        "iscrowd": lambda _: 0,
        "ignore": lambda _: 0,
        "segmentation": lambda _: [[0, 0, 1, 0, 1, 1]],
    }
    keys = _TOGETHER.get(fault.key, (fault.key,)) if fault.key else _REQUIRED[fault.name]
    rows = edits.setdefault(fault.name, {})
    for row in fault.rows:
        if rows.get(row) is None:
            rows[row] = {key: values[key](row) for key in keys}
    return edits


def number(value: object) -> float | int | None:
    """Returns the finite number that a value is, or is in quotes; None if it is something else."""
    if isinstance(value, str) and (quoted := _NUMBER.fullmatch(value.strip())):
        value = float(quoted[0]) if quoted[1] or quoted[2] else int(quoted[0])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


def whole(value: object) -> int | None:
    """Returns the whole number that a value is, or is in quotes; None if it is something else."""
    found = number(value)
    return None if found is None else whole_number(found)


def unused_ids(records: list[Any]) -> Iterator[int]:
    """Yields ids from 1 that no record has."""
    taken = {whole(record.get("id")) for record in records if isinstance(record, dict)}
    return (each for each in count(1) if each not in taken)


def _some_id(records: list[Any]) -> int:
    """Returns an id that is there; where none is, the first that `unused_ids` gives."""
    found = (whole(record.get("id")) for record in records if isinstance(record, dict))
    return next((each for each in found if each is not None), 1)


def box_area(record: Row) -> float | int | None:
    """Returns the area of a box; None if it is no box."""
    box = _box(record.get("bbox"))
    return None if box is None or min(box[2:]) <= 0 else box[2] * box[3]


def _box(value: object) -> list[float | int] | None:
    sides = [number(side) for side in value] if isinstance(value, list) else []
    box = [side for side in sides if side is not None]
    return box if len(box) == len(sides) == 4 else None


def _ids(value: object) -> list[int] | None:
    """Returns the ids of a list; what is none is taken out, as an unknown id is."""
    found = map(whole, value) if isinstance(value, list) else None
    return None if found is None else [each for each in found if each is not None]


def _area(record: Row) -> float | int | None:
    given = number(record.get("area"))
    return given if given is not None and given >= 0 else box_area(record)


def _blank(record: Row, key: str, other: str) -> str | None:
    """Returns nothing for a path that is none, where another says what it should."""
    return "" if is_path(record.get(other)) and not is_path(record.get(key)) else None


_MEND: dict[str, Callable[[Row], Any]] = {
    "id": lambda record: whole(record.get("id")),
    "image_id": lambda record: whole(record.get("image_id")),
    "category_id": lambda record: whole(record.get("category_id")),
    "height": lambda record: whole(record.get("height")),
    "width": lambda record: whole(record.get("width")),
    "bbox": lambda record: _box(record.get("bbox")),
    "area": _area,
    "iscrowd": lambda record: whole(record.get("iscrowd")),
    "ignore": lambda record: whole(record.get("ignore")),
    NEGATIVE: lambda record: _ids(record.get(NEGATIVE)),
    NOT_EXHAUSTIVE: lambda record: _ids(record.get(NOT_EXHAUSTIVE)),
    "coco_url": lambda record: _blank(record, "coco_url", "file_name"),
    "file_name": lambda record: _blank(record, "file_name", "coco_url"),
}


def _mend_rows(fault: Fault, lists: CocoLists) -> dict[int, Row | None]:
    """Changes the value at fault of each row; leaves out the rows where nothing else is known.

    A box without an id of its own gets a free one, as nothing refers to it.
    """
    records = getattr(lists, fault.name)
    fresh = unused_ids(records)
    edits: dict[int, Row | None] = {}
    for row in fault.rows:
        record = records[row]
        known = fault.name != GROUPS and fault.key in _MEND
        value = _MEND[fault.key](record) if known else None
        if value is None and fault.name == "annotations" and fault.key == "id":
            value = next(fresh)
        if value is not None and value != record.get(fault.key):
            edits[row] = {fault.key: value}
        elif fault.name != "categories":
            edits[row] = None
    return edits


def _mend_repeats(fault: Fault, lists: CocoLists) -> Edits:
    """Leaves out exact duplicates; any other box with a taken id gets an id of its own.

    Images that share an id but are not the same all go: whose boxes are whose?
    """
    records = getattr(lists, fault.name)
    repeated = {records[row]["id"] for row in fault.rows}
    first: dict[int, Any] = {}
    edits: dict[int, Row | None] = {}
    fresh = unused_ids(records)
    contradicted = set()
    for row, record in enumerate(records):
        if record["id"] not in repeated:
            continue
        if first.setdefault(record["id"], record) is record:
            continue
        if record == first[record["id"]]:
            edits[row] = None
        elif fault.name == "annotations":
            edits[row] = {"id": next(fresh)}
        else:
            contradicted.add(record["id"])
    if contradicted:
        rows = (row for row, record in enumerate(records) if record["id"] in contradicted)
        edits |= dict.fromkeys(rows)
    return {fault.name: edits}


def _ids_from_one(lists: CocoLists) -> Edits:
    """Count category ids from 1, wherever they stand; what is no id stays for its own rule."""
    shift = 1 - min(int(category["id"]) for category in lists.categories)

    def shifted(value: object) -> object:
        if isinstance(value, list):
            return [shifted(item) for item in value]
        found = whole(value)
        return value if found is None else found + shift

    def shift_rows(records: list[Any], *keys: str) -> dict[int, Row | None]:
        return {
            row: {key: shifted(record[key]) for key in keys if key in record}
            for row, record in enumerate(records)
            if isinstance(record, dict)
        }

    groups = lists.category_groups
    return {
        "categories": shift_rows(lists.categories, "id"),
        "images": shift_rows(lists.images, NEGATIVE, NOT_EXHAUSTIVE),
        "annotations": shift_rows(lists.annotations, "category_id"),
        GROUPS: shift_rows([None if _of_names(row) else row for row in groups], "categories"),
    }


def _of_names(group: Row) -> bool:
    return isinstance(group["categories"], list) and all(map(is_text, group["categories"]))


def _without_unknown(fault: Fault, lists: CocoLists) -> Edits:
    """Takes what is no category out of groups; leaves out those of which nothing remains."""
    known = {category[key] for category in lists.categories for key in ("id", "name")}
    groups = {row: lists.category_groups[row]["categories"] for row in fault.rows}
    kept = {row: [each for each in group if each in known] for row, group in groups.items()}
    return {GROUPS: {row: {"categories": own} if own else None for row, own in kept.items()}}


def _some_frequency(records: list[Any]) -> str | None:
    known = (record.get("frequency") for record in records if isinstance(record, dict))
    return next((value for value in known if value in ("r", "c", "f")), None)
