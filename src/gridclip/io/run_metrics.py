"""The metrics that a run leaves in its folder: their names, and a lenient reader of the files.

Evaluation writes metrics.json at the end, a logger adds a line to history.jsonl at each validation;
sweeps read both while they are being written. This file needs no torch, so `gridclip sweep list`
answers at once.
"""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TypeGuard

from gridclip.io.text import split_lines

# Average precision as fractions: overall, and of rare, common and frequent categories.
MAIN_METRICS = ("AP", "APr", "APc", "APf")
# All that LVIS reports, in its order: at one IoU, by the size of boxes, by frequency.
LVIS_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def bare(name: str) -> str:
    """Returns a metric's name without val/: history.jsonl has val/AP, metrics.json has AP."""
    return name.removeprefix("val/")


def is_precision(name: str) -> bool:
    """Returns whether a metric is an average precision, which people read in percent."""
    return bare(name).startswith("AP")


def read_metrics(folder: Path) -> dict[str, int | float]:
    """Returns the finite numbers of metrics.json; none if it is absent or half written."""
    return finite_numbers(peek_json(folder / "metrics.json"))


def read_history(folder: Path) -> tuple[Mapping[str, int | float], ...]:
    """Returns the finite numbers of every whole line of history.jsonl, the oldest line first."""
    try:
        lines = (folder / "history.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(row for line in split_lines(lines) if (row := finite_numbers(_parsed(line))))


def last_logged(folder: Path, name: str) -> object:
    """Returns what history.jsonl says last under a name, whatever it is.

    Raises:
        KeyError: if no whole line has the name.
    """
    try:
        lines = (folder / "history.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        lines = ""
    for line in reversed(lines.splitlines()):
        row = _parsed(line)
        if isinstance(row, dict) and name in row:
            return row[name]
    raise KeyError(name)


def finite_numbers(content: object) -> dict[str, int | float]:
    """Returns the entries of a mapping that are finite numbers; true and false are none."""
    if not isinstance(content, dict):
        return {}
    return {str(name): value for name, value in content.items() if is_finite_number(value)}


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Returns whether a value is a number that a float can hold; true and false are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def peek_json(file: Path) -> object:
    """Returns what a JSON file holds; None if it is absent or half written."""
    try:
        return _parsed(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
