"""The one reader of text files that people give: names, captions, tables, json lines.

Text is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one, as Windows programs
write them; anything else is refused and not guessed. A line ends in a line feed, a carriage return
or both, and nowhere else: `str.splitlines` would also cut at U+2028 and others, which captions hold
and json need not escape. What ends in .TXT is read as what ends in .txt.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridclip.io.errors import InputError
from gridclip.io.json_table import read_content

_ENCODINGS = {  # that of 32 bits comes first, as its mark begins with that of 16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE_END = re.compile(r"\r\n|\r|\n")
_DELIMITERS = {".tsv": "\t"}


def ending(file: Path) -> str:
    """Returns the suffix of a file in small letters: .txt of names.TXT; empty if it has none."""
    return file.suffix.lower()


def read_text(file: Path) -> str:
    """Reads a text file without its byte order mark; lines end in a line feed.

    Raises:
        InputError: if it cannot be read, or is not in one of the encodings above.
    """
    return decode_text(read_content(file), file)


def decode_text(content: bytes, file: Path, field: str | None = None) -> str:
    """Decodes the bytes of a text file, as `read_text` does.

    Args:
        content: All of it.
        file: Where it was read, for the message.
        field: What in the file it is, likewise.

    Raises:
        InputError: if it is not in one of the encodings above.
    """
    marks = (name for mark, name in _ENCODINGS.items() if content.startswith(mark))
    encoding = next(marks, "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        problem, place = f"cannot be read as text in {encoding} ({error.reason})", error.start
    else:
        place = text.find("\0")  # of UTF-16 without a mark, every other character is one
        if place < 0:
            return _LINE_END.sub("\n", text)
        problem = "holds null characters, as UTF-16 without a mark or a binary file does"
    line = len(_LINE_END.findall(content[:place].decode("latin-1"))) + 1
    fix = "save it again as text in UTF-8"
    raise InputError(f"{problem}, on line {line}", fix=fix, file=file, field=field)


def read_lines(file: Path) -> list[str]:
    """Reads the lines of a text file, without their ends.

    Raises:
        InputError: as `read_text` does.
    """
    return split_lines(read_text(file))


def split_lines(text: str) -> list[str]:
    """Splits text where its lines end, and nowhere else."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def read_json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Yields the number of each line that is not blank, and the json it holds; None if it is none.

    Raises:
        InputError: as `read_text` does.
    """
    for number, line in enumerate(read_lines(file), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def read_table(file: Path, fix: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the cells of each row of a .csv or .tsv, and the line on which the row ends.

    A cell in quotes may hold line ends; a quote that is not closed, or is followed by more text,
    is refused, as everything up to the next quote would be lost in it. Blank lines are no rows.

    Args:
        file: The table.
        fix: What a person should do about one that is none.

    Raises:
        InputError: as `read_text` does, or if it is no such table.
    """
    delimiter = _DELIMITERS.get(ending(file), ",")
    rows = csv.reader(io.StringIO(read_text(file), newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in rows:
            if row:
                yield rows.line_num, row
            start = rows.line_num + 1
    except csv.Error as error:
        problem = f"has a row that is no csv ({error})"
        raise InputError(problem, fix=fix, file=file, field=f"line {start}") from error
