"""YAML without surprises: no tags that build objects, no page that stands for a million values."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gridclip.io.errors import InputError
from gridclip.io.text import read_text

MOST_VALUES = 100_000
"""Values that any text may stand for; a longer one for as many as it has room for."""

MOST_LEVELS = 100
"""Deepest nesting of a text."""


class TooMuchError(yaml.YAMLError):
    """A text nests too deeply, or stands for too many values."""


# libyaml's loader also refuses deep nesting at once, over which the one in Python takes minutes.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Texts: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def parse_yaml(text: str) -> object:
    """Parses plain data: mappings, lists, text, numbers, dates.

    Raises:
        YAMLError: if it is no YAML, or too much.
    """
    refuse_bombs(text)
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, OverflowError, RecursionError) as error:  # the 99th of May, 1e5 digits
        raise yaml.YAMLError(str(error)) from error


def read_yaml(file: Path, *, fix: str) -> object:
    """Reads a file of plain data.

    Raises:
        InputError: if it is absent, or no such file.
    """
    try:
        return parse_yaml(read_text(file))
    except yaml.YAMLError as error:
        raise InputError(f"cannot be read as YAML: {error}", fix=fix, file=file) from error


def read_yaml_texts(file: Path, *, fix: str) -> object:
    """Reads a file of mappings and lists in which every value is the text that stands there.

    So a class called `no` stays one, where YAML would make it false.

    Raises:
        InputError: as `read_yaml`.
    """
    try:
        text = read_text(file)
        refuse_bombs(text)
        return yaml.load(text, Loader=_Texts)
    except yaml.YAMLError as error:
        raise InputError(f"cannot be read as YAML: {error}", fix=fix, file=file) from error


def refuse_bombs(text: str) -> None:
    """Refuses a text that stands for more than it could say.

    Raises:
        YAMLError: if it is no YAML, nests too deeply, or stands for too many values: an anchor
            that holds ten aliases of one that holds ten aliases is small only until it is used.
    """
    root = yaml.compose(text, Loader=_Loader)
    if root is not None:
        _measure(root, {}, level=1, most=max(MOST_VALUES, 2 * len(text)))


class _Extent(NamedTuple):
    """What a node stands for, its aliases written out."""

    values: int
    levels: int


def _measure(node: yaml.Node, known: dict[int, _Extent], *, level: int, most: int) -> _Extent:
    """Returns the extent of a node at a level; `known` has those that were measured before.

    A node that holds itself has no end of levels.
    """
    found = known.get(id(node))
    if found is None:
        values, levels = 1, 1
        for each in _held(node) if level <= MOST_LEVELS else ():
            part = _measure(each, known, level=level + 1, most=most)
            values, levels = values + part.values, max(levels, part.levels + 1)
        found = known[id(node)] = _Extent(values, levels)
    if level + found.levels - 1 > MOST_LEVELS:
        raise TooMuchError(f"nests deeper than {MOST_LEVELS} levels")
    if found.values > most:
        raise TooMuchError(f"stands for more than {most} values, by its aliases")
    return found


def _held(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        yield from chain.from_iterable(node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
