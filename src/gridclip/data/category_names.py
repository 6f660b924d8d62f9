"""Category names, their counts and definitions, from the files that people have."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gridclip.io.errors import InputError
from gridclip.io.json_table import JsonTable, is_text, read_json, texts_of
from gridclip.io.text import ending, read_lines, read_table
from gridclip.structures import Vocabulary

_CSV = "give it a head with the columns name and, if you have them, definition and count"
_LISTS = ("", ".txt", ".text", ".names", ".list", ".lst", ".tsv")  # with a name on each line
LISTS_OF_NAMES = frozenset({*_LISTS, ".csv", ".json"} - {""})
"""Endings of files that hold names."""


class Concept(NamedTuple):
    """One name of a list."""

    name: str
    times: int | None = None  # how often it was met; None: nobody counted
    definition: str = ""


def read_names(file: Path) -> Vocabulary:
    """Reads category names: those of `read_concepts`.

    Raises:
        InputError: if the file is absent or holds something else, or a name comes twice.
    """
    return Vocabulary(each.name for each in read_concepts(file))


def read_concepts(file: Path) -> list[Concept]:
    """Reads names, with counts and definitions where the file has them.

    Args:
        file: Text (.txt, .names or no suffix) with a name on each line, and perhaps a tab and its
            count behind it; a .csv whose head says name, and perhaps definition and count; or, as
            .json, an annotation file (LVIS has definitions, `def`), or a list of names or of
            objects with a `name`. Objects with an `id` are taken in the order of their ids.

    Raises:
        InputError: if the file is absent or holds something else.
    """
    if ending(file) in _LISTS:
        lines = (line.strip() for line in read_lines(file))
        return [_from_line(line) for line in lines if line]
    if ending(file) == ".csv":
        return [*_from_csv(file)]
    if ending(file) != ".json":
        fix = "give a .txt with a name on each line, a .csv with the column name, or a .json"
        raise InputError(f"{file.suffix} is no kind of list of names", fix=fix, file=file)
    rows = read_json(file)
    rows = rows.get("categories") if isinstance(rows, dict) else rows
    if isinstance(rows, list) and all(map(is_text, rows)):
        return [Concept(name) for name in rows]
    categories = JsonTable(file, "categories", rows)
    names = categories.column("name", is_text, "a name")
    order = [*range(len(names))]
    if any("id" in row for row in categories.rows):
        order = np.argsort(categories.whole_numbers("id"), kind="stable").tolist()
    return [_from_category(names[row], categories.rows[row]) for row in order]


def _from_line(line: str) -> Concept:
    name, _, count = line.partition("\t")
    return Concept(name.strip(), int(count) if count.strip().isdecimal() else None)


def _from_category(name: str, row: dict[str, Any]) -> Concept:
    count, definition = row.get("image_count"), row.get("def")
    return Concept(
        name,
        count if type(count) is int else None,
        str(definition).strip() if is_text(definition) else "",
    )


def _from_csv(file: Path) -> Iterator[Concept]:
    rows = read_table(file, _CSV)
    head = [word.strip() for word in next(rows, (1, []))[1]]
    if "name" not in head:
        problem = f"has no column 'name', only {', '.join(head) or 'nothing'}"
        raise InputError(problem, fix=_CSV, file=file, field="line 1")
    for line, cells in rows:
        row = dict(zip(head, map(str.strip, cells), strict=False))
        name, count = row.get("name", ""), row.get("count", "")
        if not name or (count and not count.isdecimal()):
            problem = f"the count {count!r} is no whole number" if name else "lacks a name"
            raise InputError(problem, fix=_CSV, file=file, field=f"line {line}")
        definition = " ".join(row.get("definition", "").split())
        yield Concept(name, int(count) if count else None, definition)


class Definitions:
    """Looks up what a name means, however it is spelt: `Alarm_clock` is "alarm clock".

    Args:
        file: An annotation file or a list of categories in LVIS form (`name`, `synonyms`, `def`),
            or a json object from names to definitions; a .csv or .tsv with a name and a definition
            a row; or WordNet's `data.noun`, with its `index.noun` beside it for the order of
            senses. Of several definitions of a name the first counts.

    Raises:
        InputError: if the file is absent, or holds no definition.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._known: dict[str, str] = {}
        for name, definition in self._read():
            self._known.setdefault(plain_name(name), " ".join(definition.split()))
        if not self._known:
            raise InputError(
                "holds no definition of any name",
                file=self.file,
                fix="give LVIS form with `def`, a .csv of names and definitions, or data.noun",
            )

    def __len__(self) -> int:
        return len(self._known)

    def of(self, name: str) -> str | None:
        """Returns what a name means; None if the file does not say."""
        return self._known.get(plain_name(name))

    def fingerprint(self) -> str:
        """Returns a digest of all names with their definitions."""
        return hashlib.sha256(json.dumps(sorted(self._known.items())).encode()).hexdigest()

    def _read(self) -> Iterator[tuple[str, str]]:
        readers: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
            ".json": _from_json,
            ".csv": _from_table,
            ".tsv": _from_table,
            ".noun": _from_wordnet,
        }
        if ending(self.file) not in readers:
            raise InputError(
                f"{self.file.suffix or 'a file without a suffix'} is no kind of definitions",
                file=self.file,
                fix=f"give one of {', '.join(readers)}",
            )
        try:
            yield from readers[ending(self.file)](self.file)
        except (ValueError, IndexError) as error:
            raise InputError(
                f"cannot be read: {error}", file=self.file, fix="give a whole file in UTF-8"
            ) from error


def _from_json(file: Path) -> Iterator[tuple[str, str]]:
    content: Any = read_json(file)
    if isinstance(content, dict) and "categories" not in content:
        yield from ((name, text) for name, text in content.items() if is_text(text))
        return
    rows = content["categories"] if isinstance(content, dict) else content
    rows = rows if isinstance(rows, list) else []
    known = [
        row
        for row in rows
        if isinstance(row, dict) and is_text(row.get("def")) and is_text(row.get("name"))
    ]
    yield from ((row["name"], row["def"]) for row in known)
    yield from ((word, row["def"]) for row in known for word in texts_of(row.get("synonyms")))


def _from_table(file: Path) -> Iterator[tuple[str, str]]:
    for _, row in read_table(file, "give a name and its definition a row"):
        if len(row) >= 2 and row[0].strip() and row[1].strip():
            yield row[0], row[1]


def _from_wordnet(file: Path) -> Iterator[tuple[str, str]]:
    """Returns words and glosses of WordNet's database files (its manual, wndb(5WN)).

    A line of data.noun is `offset file type count word id … | gloss; "examples"`, the count in
    hexadecimal; one of index.noun ends in the offsets of a word's senses, the commonest first.
    """
    words: list[tuple[str, str]] = []
    glosses: dict[str, str] = {}
    for line in read_lines(file):
        fields, _, gloss = line.partition("|")
        parts = fields.split()
        if line.startswith(" ") or len(parts) < 6 or not gloss.strip():
            continue  # its licence stands in front, indented
        glosses[parts[0]] = gloss.split('; "')[0].strip()
        words += [(parts[4 + 2 * n], parts[0]) for n in range(int(parts[3], 16))]
    index = file.with_name("index.noun")
    if index.exists():
        yield from ((word, glosses[offset]) for word, offset in _senses(index) if offset in glosses)
    yield from ((word, glosses[offset]) for word, offset in words)


def _senses(index: Path) -> Iterator[tuple[str, str]]:
    """Returns each word with the offset of its commonest sense."""
    for line in read_lines(index):
        parts = line.split()
        if not line.startswith(" ") and len(parts) > 3:
            yield parts[0], parts[-int(parts[2])]


def prompt_name(name: str) -> str:
    """Returns a category name as people say it: "bat_(animal)" becomes "bat animal"."""
    return " ".join(name.replace("_", " ").replace("(", " ").replace(")", " ").split())


def plain_name(name: str) -> str:
    """Returns a name in one spelling: "Bat_(animal)" is "bat animal"."""
    return prompt_name(name).lower()
