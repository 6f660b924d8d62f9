"""What to do about annotations at fault: list them all, leave them out, or repair them.

The rules are those of `schema`, which stops at the first one broken. To see the rest, the values at
fault are replaced by harmless ones and the rules are checked again. So each wrong value is reported
once, and nothing that merely follows from it.
"""

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from gridclip.data.annotations.coco_json import CocoLists
from gridclip.data.annotations.schema import LOW_ID, UNKNOWN_IN_LIST, to_columns
from gridclip.io.errors import InputError
from gridclip.io.files import written_whole
from gridclip.io.json_table import Fault, FaultError

Faults = Literal["refuse", "drop"]

# Of a list, by row: what to change in the row, or None to leave the row out.
Edits = dict[str, dict[int, dict[str, Any] | None]]

_HUGE = 2**31 - 1  # pixels: an image that every box fits in
_REQUIRED = {
    "categories": ("id", "name", "frequency"),
    "images": ("id", "height", "width", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}

_TOGETHER = {side: ("height", "width") for side in ("height", "width")}


class Finding(NamedTuple):
    """A fault, and what becomes of it."""

    fault: Fault
    edits: Edits

    @property
    def outcome(self) -> str:
        """In a word or two; left means that only a person can decide."""
        changes = [change for rows in self.edits.values() for change in rows.values()]
        dropped = changes.count(None)
        mended = len(changes) - dropped
        if dropped and mended:
            return f"dropped {dropped}, mended {mended}"
        return "dropped" if dropped else "mended" if mended else "left"


class Survey(NamedTuple):
    """All that breaks a rule."""

    findings: list[Finding]
    edits: Edits  # all that would mend the file, but for what is left
    follow: int  # annotations that go because their image does
    sound: CocoLists  # each value that breaks a rule replaced by a harmless one


def survey(
    file: Path, lists: CocoLists, more: Callable[[CocoLists, Edits], list[Fault]] | None = None
) -> Survey:
    """Finds every fault.

    Args:
        file: Where the lists were read.
        lists: They are left as they are.
        more: Finds what the rules do not know, in lists that keep the rules; it is given the rows
            that are left out anyway.

    Raises:
        InputError: if what is wrong lies not in single rows.
    """
    findings: list[Finding] = []
    shown = lists
    while (fault := _first_fault(file, lists, shown)) is not None:
        if any(fault == finding.fault for finding in findings):  # could not be set aside
            raise FaultError(fault, file)
        findings.append(Finding(fault, _repair(fault, lists)))
        lists = _applied(lists, _neutral(fault, lists))
    edits = _merged(finding.edits for finding in findings)
    if more is not None:
        others = [Finding(fault, _repair(fault, lists)) for fault in more(lists, edits)]
        findings += others
        edits = _merged(finding.edits for finding in findings)
    follow = _followers(lists, edits)
    return Survey(findings, _merged([edits, {"annotations": follow}]), len(follow), lists)


def drop_faults(file: Path, lists: CocoLists) -> tuple[CocoLists, list[str]]:
    """Leaves out the images and annotations at fault; also returns what was done, a line a kind.

    Raises:
        InputError: if the fault lies in the categories, or in the file as a whole.
    """
    found = survey(file, lists)
    lines = []
    for finding in found.findings:
        fault = finding.fault
        if fault.name == "categories":
            raise FaultError(fault, file)
        what = f"{len(fault.rows)} of {fault.total} {fault.name} {fault.rule}"
        lines.append(f"{finding.outcome}: {what}: {fault.examples}")
    if found.follow:
        lines.append(f"dropped: {found.follow} annotations of images that were dropped")
    kept = edited(lists, found.edits)
    if not kept.images:
        problem = f"every image is at fault; {lines[0]}"
        raise InputError(problem, fix="mend the file: gridclip data check FILE", file=file)
    return kept, lines


def edited(lists: CocoLists, edits: Edits) -> CocoLists:
    """Returns copies of the lists with rows changed and left out."""
    return CocoLists(**_rows(lists._asdict(), edits))


def _first_fault(file: Path, lists: CocoLists, shown: CocoLists) -> Fault | None:
    try:
        to_columns(file, lists, shown=shown)
    except FaultError as error:
        return error.fault
    return None


def _applied(lists: CocoLists, edits: Edits) -> CocoLists:
    """Returns copies of the lists with rows changed; those to be left out stay."""
    copies = lists._asdict()
    for name, rows in edits.items():
        copies[name] = list(copies[name])
        for row, changes in rows.items():
            if changes is not None:
                record = copies[name][row]
                copies[name][row] = {**(record if isinstance(record, dict) else {}), **changes}
    return CocoLists(**copies)


def _merged(parts: Any) -> Edits:  # noqa: ANN401
    """Merges edits; a row that is left out stays out."""
    edits: Edits = {name: {} for name in CocoLists._fields}
    for part in parts:
        for name, rows in part.items():
            for row, changes in rows.items():
                before = edits[name].get(row, {})
                gone = before is None or changes is None
                edits[name][row] = None if gone else {**(before or {}), **(changes or {})}
    return edits


def _neutral(fault: Fault, lists: CocoLists) -> Edits:
    """Replaces the values at fault by such as break no rule, here or elsewhere."""
    if fault.rule == LOW_ID or fault.rule.startswith(UNKNOWN_IN_LIST):
        return _repair(fault, lists)
    records = getattr(lists, fault.name)
    fresh = _unused_ids(records)
    values: dict[str, Callable[[int], Any]] = {
        "id": lambda _: next(fresh),
        "name": lambda row: f"(the name of row {row})",
        "frequency": lambda _: _some_frequency(records),
        "height": lambda _: _HUGE,
        "width": lambda _: _HUGE,
        "file_name": lambda _: "nowhere",
        "coco_url": lambda _: "nowhere",
        "neg_category_ids": lambda _: [],
        "not_exhaustive_category_ids": lambda _: [],
        "image_id": lambda _: lists.images[0]["id"],
        "category_id": lambda _: lists.categories[0]["id"],
        "bbox": lambda _: [0, 0, 1, 1],
        "iscrowd": lambda _: 0,
    }
    keys = _TOGETHER.get(fault.key, (fault.key,)) if fault.key else _REQUIRED[fault.name]
    return {fault.name: {row: {key: values[key](row) for key in keys} for row in fault.rows}}


def _repair(fault: Fault, lists: CocoLists) -> Edits:
    """Returns what would repair a fault; nothing, if it takes a person."""
    if fault.rule == LOW_ID:
        return _ids_from_one(lists)
    if fault.name == "categories":
        return {}
    if fault.rule.startswith(UNKNOWN_IN_LIST):
        known = {category["id"] for category in lists.categories}
        lists_of = {row: lists.images[row][fault.key] for row in fault.rows}
        return {
            "images": {
                row: {fault.key: [value for value in values if value in known]}
                for row, values in lists_of.items()
            }
        }
    if fault.key == "id" and fault.rule.endswith("already taken"):
        return _repair_repeats(fault, lists)
    return {fault.name: dict.fromkeys(fault.rows)}


def _repair_repeats(fault: Fault, lists: CocoLists) -> Edits:
    """Leaves out exact duplicates; any other box with a taken id gets an id of its own.

    Images that share an id but are not the same all go: whose boxes are whose?
    """
    records = getattr(lists, fault.name)
    repeated = {records[row]["id"] for row in fault.rows}
    first: dict[int, Any] = {}
    edits: dict[int, dict[str, Any] | None] = {}
    fresh = _unused_ids(records)
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
    shift = 1 - min(category["id"] for category in lists.categories)

    def shifted(value: object) -> object:
        if isinstance(value, list):
            return [shifted(item) for item in value]
        return value + shift if type(value) is int else value

    def shift_rows(records: list[Any], *keys: str) -> dict[int, dict[str, Any] | None]:
        return {
            row: {key: shifted(record[key]) for key in keys if key in record}
            for row, record in enumerate(records)
            if isinstance(record, dict)
        }

    return {
        "categories": shift_rows(lists.categories, "id"),
        "images": shift_rows(lists.images, "neg_category_ids", "not_exhaustive_category_ids"),
        "annotations": shift_rows(lists.annotations, "category_id"),
    }


def _followers(lists: CocoLists, edits: Edits) -> dict[int, None]:
    """Finds further annotations that are left out because their image is."""
    gone = {lists.images[row]["id"] for row, change in edits["images"].items() if change is None}
    return {
        row: None
        for row, record in enumerate(lists.annotations)
        if record["image_id"] in gone and edits["annotations"].get(row, {}) is not None
    }


def _unused_ids(records: list[Any]) -> Iterator[int]:
    ids = (record.get("id") for record in records if isinstance(record, dict))
    taken = {number for number in ids if type(number) is int}
    return (number for number in count(1) if number not in taken)


def _some_frequency(records: list[Any]) -> str | None:
    known = (record.get("frequency") for record in records if isinstance(record, dict))
    return next((value for value in known if value in ("r", "c", "f")), None)


def write_edited(content: bytes, edits: Edits, output: Path) -> None:
    """Writes a copy of an annotation file with rows changed and left out.

    Every other value stays, byte for byte where the file is strict json. The copy appears whole or
    not at all.

    Raises:
        InputError: if it cannot be written, such as for want of room.
    """
    try:
        with written_whole(output) as part:
            part.write_bytes(_edited(content, edits))
    except OSError as error:
        problem, fix = f"cannot be written ({error.strerror})", "give a path with room for it"
        raise InputError(problem, fix=fix, file=output, field="fix") from error


def _edited(content: bytes, edits: Edits) -> bytes:
    try:  # Raw values stay text: polygons need not be parsed to be copied
        document: dict[str, Any] = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        lists: dict[str, list[Any]] = {
            name: msgspec.json.decode(document[name], type=list[dict[str, msgspec.Raw]])
            for name in edits
        }
    except (ValueError, RecursionError):  # such as NaN, or rows that are no objects
        document = json.loads(content)
        lists = {name: document[name] for name in edits}
        return json.dumps(document | _rows(lists, edits)).encode()
    return msgspec.json.encode(document | _rows(lists, edits))


def _rows(lists: dict[str, list[Any]], edits: Edits) -> dict[str, list[Any]]:
    kept: dict[str, list[Any]] = {}
    for name, records in lists.items():
        changes = [edits[name].get(row, {}) for row in range(len(records))]
        pairs = zip(records, changes, strict=True)
        kept[name] = [
            record | change if change else record for record, change in pairs if change is not None
        ]
    return kept
