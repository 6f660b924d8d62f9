"""A repaired copy of an annotation file, with all that nobody reads."""

import json
from pathlib import Path
from typing import Any

import msgspec

from gridclip.caches import written_whole
from gridclip.data.annotations.faults import Edits
from gridclip.errors import InputError


def write_edited(content: bytes, edits: Edits, output: Path) -> None:
    """Write a copy of an annotation file with rows changed and left out.

    Every other value stays, letter for letter where the file is strict json.

    Args:
        content: Of the file.
        edits: By list and row.
        output: Appears whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        with written_whole(output) as part:
            part.write_bytes(_edited(content, edits))
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        fix = "give a path in a folder of yours, with room for it"
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
