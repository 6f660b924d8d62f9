"""What to do about annotations at fault: list them all, leave them out, or repair them.

The rules are those of `schema`, which stops at the first one broken. To see the rest, the values at
fault are replaced by harmless ones and the rules are checked again. So each wrong value is reported
once, and nothing that merely follows from it.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from gridclip.data.annotations.coco_json import GROUPS, CocoLists, group_rows, rows_as_groups
from gridclip.data.annotations.mending import Edits, mend, neutral
from gridclip.data.annotations.schema import to_columns
from gridclip.io.errors import InputError
from gridclip.io.files import written_whole
from gridclip.io.json_table import Fault, FaultError

Faults = Literal["refuse", "drop"]


class Finding(NamedTuple):
    """A fault, and what becomes of it."""

    fault: Fault
    edits: Edits

    @property
    def outcome(self) -> str:
        """In a word or two; left means that only a person can decide."""
        changes = [change for rows in self.edits.values() for change in rows.values()]
        touched = self.edits.get(self.fault.name, {})
        counts = {
            "dropped": changes.count(None),
            "mended": len(changes) - changes.count(None),
            "left": sum(row not in touched for row in self.fault.rows),
        }
        told = [word for word, count in counts.items() if count]
        return told[0] if len(told) == 1 else ", ".join(f"{word} {counts[word]}" for word in told)


class Survey(NamedTuple):
    """All that breaks a rule."""

    findings: list[Finding]
    edits: Edits  # all that would mend the file, but for what is left
    follow: int  # annotations that go because their image does
    sound: CocoLists  # each value that breaks a rule replaced by a harmless one


def survey(
    file: Path,
    lists: CocoLists,
    more: Callable[[CocoLists, Edits], list[Fault]] | None = None,
    *,
    masks: bool = False,
) -> Survey:
    """Finds every fault of a file that is to be trained on and evaluated with.

    Args:
        file: Where the lists were read.
        lists: They are left as they are.
        more: Finds what the rules do not know, in lists that keep the rules; it is given the rows
            that are left out anyway.
        masks: Whether every object needs one.

    Raises:
        InputError: if what is wrong lies not in single rows.
    """
    findings: list[Finding] = []
    shown = lists
    while (fault := _first_fault(file, lists, shown, masks)) is not None:
        if any(fault == finding.fault for finding in findings):  # could not be set aside
            raise FaultError(fault, file)
        findings.append(Finding(fault, mend(fault, lists)))
        lists = _applied(lists, neutral(fault, lists))
    edits = merged(finding.edits for finding in findings)
    if more is not None:
        others = [Finding(fault, mend(fault, lists)) for fault in more(lists, edits)]
        findings += others
        edits = merged(finding.edits for finding in findings)
    follow = _followers(lists, edits)
    return Survey(findings, merged([edits, {"annotations": follow}]), len(follow), lists)


def drop_faults(
    file: Path, lists: CocoLists, *, masks: bool = False
) -> tuple[CocoLists, list[str]]:
    """Leaves out the images and annotations at fault; also returns what was done, a line a kind.

    Raises:
        InputError: if the fault lies in the categories or their groups, or in the file as a whole.
    """
    found = survey(file, lists, masks=masks)
    lines = []
    for finding in found.findings:
        fault = finding.fault
        if fault.name in ("categories", GROUPS):
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


def _first_fault(file: Path, lists: CocoLists, shown: CocoLists, masks: bool) -> Fault | None:
    try:
        to_columns(file, lists, "validation", shown, masks=masks)
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


def merged(parts: Iterable[Edits | dict[str, dict[int, None]]]) -> Edits:
    """Merges edits; a row that is left out stays out."""
    edits: Edits = {name: {} for name in CocoLists._fields}
    for part in parts:
        for name, rows in part.items():
            for row, changes in rows.items():
                before = edits[name].get(row, {})
                gone = before is None or changes is None
                edits[name][row] = None if gone else {**(before or {}), **(changes or {})}
    return edits


def _followers(lists: CocoLists, edits: Edits) -> dict[int, None]:
    """Finds further annotations that are left out because their image is."""
    gone = {lists.images[row]["id"] for row, change in edits["images"].items() if change is None}
    return {
        row: None
        for row, record in enumerate(lists.annotations)
        if record["image_id"] in gone and edits["annotations"].get(row, {}) is not None
    }


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
    names = [name for name in edits if name != GROUPS]
    try:  # Raw values stay text: polygons need not be parsed to be copied
        document: dict[str, Any] = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        lists: dict[str, list[Any]] = {
            name: msgspec.json.decode(document[name], type=list[dict[str, msgspec.Raw]])
            for name in names
        }
        if edits[GROUPS]:
            document[GROUPS] = json.loads(bytes(document[GROUPS]))
    except (ValueError, RecursionError):  # such as NaN, or rows that are no objects
        document = json.loads(content)
        lists = {name: document[name] for name in names}
        return json.dumps(document | _rows(lists, edits) | _groups(document, edits)).encode()
    return msgspec.json.encode(document | _rows(lists, edits) | _groups(document, edits))


def _groups(document: dict[str, Any], edits: Edits) -> dict[str, Any]:
    """Returns the groups as they are written; nothing if they stay as they are."""
    if not edits[GROUPS]:
        return {}
    rows = {GROUPS: group_rows(document[GROUPS])}
    return {GROUPS: rows_as_groups(_rows(rows, edits)[GROUPS])}


def _rows(lists: dict[str, list[Any]], edits: Edits) -> dict[str, list[Any]]:
    kept: dict[str, list[Any]] = {}
    for name, records in lists.items():
        changes = [edits[name].get(row, {}) for row in range(len(records))]
        pairs = zip(records, changes, strict=True)
        kept[name] = [
            record | change if change else record for record, change in pairs if change is not None
        ]
    return kept
