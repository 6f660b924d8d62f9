"""A mapping of a YAML file that knows its lines, so a fault is refused by key and place."""

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeGuard

import yaml

from gridclip.io.errors import InputError
from gridclip.io.yaml_text import refuse_bombs

Place = tuple[str, ...]  # the keys that lead to a value, outermost first
Number = int | float  # 3 and 3.0 differ in YAML and in W&B


class Section:
    """One mapping of a YAML file and where it stands in it.

    Args:
        data: The mapping.
        file: The file it was read from.
        place: The keys that lead to it.
        lines: The line of every key of the file, by place, the first line being 1.

    Raises:
        InputError: if a key is no text.
    """

    def __init__(
        self, data: Mapping[object, object], *, file: Path, place: Place, lines: Mapping[Place, int]
    ) -> None:
        self.file, self.place, self.lines = file, place, lines
        self.data: dict[str, object] = {}
        for key, value in data.items():
            if not isinstance(key, str):
                raise self.fault(str(key), "the key is not text", "put it in quotes")
            self.data[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def field(self, key: str | None = None) -> str:
        """Returns the full name of a key of this section, or of the section, with its line."""
        place = (*self.place, key) if key is not None else self.place
        line = self.lines.get(place)
        return ".".join(place) + (f" (line {line})" if line else "")

    def fault(self, key: str | None, problem: str, fix: str) -> InputError:
        """Returns the error that names a key of this section, or the section itself."""
        return InputError(problem, fix=fix, file=self.file, field=self.field(key) or None)

    def accept(self, known: Sequence[str]) -> None:
        """Refuses the first key that is none of the known ones."""
        for key in self.data:
            if key not in known:
                close = get_close_matches(key, known, n=1)
                fix = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
                raise self.fault(key, f"unknown key {key!r}", fix)

    def require(self, *keys: str) -> None:
        """Refuses a section that lacks one of the keys."""
        for key in keys:
            if key not in self.data:
                raise self.fault(None, f"{key!r} is missing", f"give {key!r}")

    def section(self, key: str) -> "Section":
        """Returns the mapping under a key."""
        value = self.data[key]
        if not isinstance(value, dict):
            raise self._not(key, "a mapping of keys to values")
        place = (*self.place, key)
        return Section(value, file=self.file, place=place, lines=self.lines)

    def items(self, key: str) -> list[object]:
        """Returns the list under a key, which has at least one entry."""
        value = self.data[key]
        if not isinstance(value, list) or not value:
            raise self._not(key, "a list with at least one entry")
        return value

    def text(self, key: str) -> str | None:
        """Returns the text under a key; None where the key is absent."""
        value = self.data.get(key)
        if key in self.data and not isinstance(value, str):
            raise self._not(key, "text")
        return value if isinstance(value, str) else None

    def choice(self, key: str, options: Sequence[str], default: str | None = None) -> str:
        """Returns the word under a key, one of the options."""
        value = self.data.get(key, default)
        if not isinstance(value, str) or value not in options:
            raise self._not(key, f"one of {', '.join(options)}")
        return value

    def number(self, key: str, default: Number | None = None) -> Number:
        """Returns the finite number under a key, an int where the file has an int."""
        value = self.data.get(key, default)
        if not _is_numeric(value):
            raise self._not(key, "a number")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Returns the list of numbers under a key."""
        values = self.items(key)
        numbers = tuple(float(value) for value in values if _is_numeric(value))
        if len(numbers) < len(values):
            raise self._not(key, "a list of numbers")
        return numbers

    def whole(self, key: str, *, least: int | None = None) -> int:
        """Returns the whole number under a key."""
        value = self.number(key)
        if not isinstance(value, int) or (least is not None and value < least):
            raise self._not(key, "a whole number" + (f" of at least {least}" if least else ""))
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Returns the true or false under a key."""
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self._not(key, "true or false")
        return value

    def _not(self, key: str, wanted: str) -> InputError:
        value = self.data.get(key)
        fix = f"give {wanted}"
        if isinstance(value, str) and _is_number(value):
            fix += "; YAML took this for text: write it without quotes and with a point, 1.0e-4"
        return self.fault(key, f"{value!r} is not {wanted}", fix)


def read_yaml(file: Path) -> Section:
    """Reads a YAML file whose top is a mapping.

    Raises:
        InputError: if the file can't be read, is no YAML, has a key twice, or is no mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
        refuse_bombs(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines = dict(_lines(node, (), file)) if node is not None else {}
        data = loader.construct_document(node) if node is not None else None
    except OSError as error:
        raise InputError(
            f"can't be read: {error.strerror}", fix="give the path of a sweep file", file=file
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"is not YAML: {error}", fix="mend the syntax", file=file) from error
    if not isinstance(data, dict):
        raise InputError("holds no mapping", fix="start with 'method: grid'", file=file)
    return Section(data, file=file, place=(), lines=lines)


def _lines(node: yaml.Node, place: Place, file: Path) -> Iterator[tuple[Place, int]]:
    """Yields the line of every key below a node; refuses one given twice, which YAML hides."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:
            raise InputError(
                f"{name!r} stands twice, on lines {seen[name]} and {line}",
                fix="keep one of them",
                file=file,
                field=".".join((*place, name)),
            )
        seen[name] = line
        yield (*place, name), line
        yield from _lines(value, (*place, name), file)


def _is_numeric(value: object) -> TypeGuard[Number]:
    """Returns whether a value is a finite number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
