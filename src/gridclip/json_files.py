"""Json files, read whole or piece by piece."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridclip.errors import InputError

_SPACE = r"[ \t\n\r]*"
_OPENING, _MARK = (re.compile(_SPACE + mark + _SPACE) for mark in (r"\[", r"([,\]])"))


def read_content(file: Path) -> bytes:
    """Read a file whole.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise InputError(problem, fix="check the path and its rights", file=file) from error


def read_json(file: Path) -> object:
    """Read a json file.

    Args:
        file: UTF-8 (or 16, or 32) text.

    Raises:
        InputError: if the file is absent or is cut short.
    """
    return parse_json(file, read_content(file))


def parse_json(file: Path, content: bytes) -> object:
    """Parse json that was read from this file; a `segmentation`, which nobody reads, is left out.

    Raises:
        InputError: if it is not json.
    """
    try:
        return json.loads(content, object_hook=_without_masks)
    except (ValueError, RecursionError) as error:
        problem = f"is not whole, valid json ({error})"
        raise InputError(problem, fix="fetch or write the file again", file=file) from error


def pieces_of_json(file: Path, size: int) -> Iterator[list[Any]]:
    """Parse a json list some objects at a time, so that it is never in memory whole.

    A list of objects takes some five times the room of its text.

    Args:
        file: UTF-8 text: a list of at least one object.
        size: Objects of a piece; the last one has fewer, or none.

    Raises:
        ValueError: if it is something else; `read_json` says what is wrong with it.
    """
    text = read_content(file).decode()
    opening = _OPENING.match(text)
    if opening is None:
        raise ValueError("not a list")
    decode = json.JSONDecoder(object_hook=_without_masks).raw_decode
    position, mark, rows = opening.end(), ",", []
    while mark == ",":
        row, position = decode(text, position)
        rows.append(row)
        after = _MARK.match(text, position)
        if after is None:
            raise ValueError("neither a comma nor the end of the list")
        position, mark = after.end(), after[1]
        if len(rows) == size:
            yield rows
            rows = []
    if position < len(text):
        raise ValueError("something follows the list")
    yield rows


def _without_masks(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)
    return record
