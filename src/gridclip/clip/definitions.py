"""What a name means, in words, from whatever file people have."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gridclip.clip.text import prompt_name
from gridclip.errors import InputError
from gridclip.records import read_json


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
            self._known.setdefault(_key(name), " ".join(definition.split()))
        if not self._known:
            raise InputError(
                "holds no definition of any name",
                file=self.file,
                fix="give LVIS form with `def`, a .csv of names and definitions, or data.noun",
            )

    def __len__(self) -> int:
        return len(self._known)

    def of(self, name: str) -> str | None:
        """What the name means; None if the file does not say."""
        return self._known.get(_key(name))

    def fingerprint(self) -> str:
        """Names what is said of which name."""
        return hashlib.sha256(json.dumps(sorted(self._known.items())).encode()).hexdigest()

    def _read(self) -> Iterator[tuple[str, str]]:
        readers: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
            ".json": _from_json,
            ".csv": _from_table,
            ".tsv": _from_table,
            ".noun": _from_wordnet,
        }
        if self.file.suffix not in readers:
            raise InputError(
                f"{self.file.suffix or 'a file without a suffix'} is no kind of definitions",
                file=self.file,
                fix=f"give one of {', '.join(readers)}",
            )
        try:
            yield from readers[self.file.suffix](self.file)
        except (OSError, ValueError, IndexError, csv.Error) as error:
            raise InputError(
                f"cannot be read: {error}", file=self.file, fix="give a whole file in UTF-8"
            ) from error


def _key(name: str) -> str:
    return prompt_name(name).lower()


def _from_json(file: Path) -> Iterator[tuple[str, str]]:
    content: Any = read_json(file)
    if isinstance(content, dict) and "categories" not in content:
        yield from ((name, text) for name, text in content.items() if isinstance(text, str))
        return
    rows = content["categories"] if isinstance(content, dict) else content
    rows = rows if isinstance(rows, list) else []
    known = [row for row in rows if isinstance(row, dict) and row.get("def") and row.get("name")]
    yield from ((row["name"], row["def"]) for row in known)
    yield from ((word, row["def"]) for row in known for word in row.get("synonyms") or [])


def _from_table(file: Path) -> Iterator[tuple[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines, delimiter="\t" if file.suffix == ".tsv" else ","):
            if len(row) >= 2 and row[0].strip() and row[1].strip():
                yield row[0], row[1]


def _from_wordnet(file: Path) -> Iterator[tuple[str, str]]:
    """Words and glosses of WordNet's database files (its manual, wndb(5WN)).

    A line of data.noun is `offset file type count word id … | gloss; "examples"`, the count in
    hexadecimal; one of index.noun ends in the offsets of a word's senses, the commonest first.
    """
    words: list[tuple[str, str]] = []
    glosses: dict[str, str] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
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
    """Each word with the offset of its commonest sense."""
    with index.open(encoding="utf-8") as lines:
        for line in lines:
            parts = line.split()
            if not line.startswith(" ") and len(parts) > 3:
                yield parts[0], parts[-int(parts[2])]
