"""The metrics that a run leaves in its folder: their names, and a lenient reader of the files.

Evaluation writes metrics.json at the end, a logger adds a line to history.jsonl at each validation;
sweeps read both while they are being written. This file needs no torch, so `gridclip sweep list`
answers at once.
"""

import json
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import TypeGuard

from gridclip.io.text import split_lines

# Average precision as fractions: overall, and of rare, common and frequent categories.
MAIN_METRICS = ("AP", "APr", "APc", "APf")
# All that LVIS reports, in its order: at one IoU, by the size of boxes, by frequency.
LVIS_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
# AP of boxes above the one score that keeps false alarms few (evaluation/false_alarms.py).
FALSE_ALARM_METRICS = ("APfa", "AP50fa")


def group_metrics(group: str) -> tuple[str, str]:
    """Returns the names of the AP, and the AP at an IoU of 0.5, of a named group of categories."""
    return f"AP_{group}", f"AP50_{group}"


def of_masks(name: str) -> str:
    """Returns the name of a metric where the overlap of masks counts, not that of boxes."""
    return f"segm_{name}"


def optional_metrics(names: Iterable[str]) -> list[str]:
    """Returns those that only some runs have: at few false alarms, of named groups, of masks."""
    found = [*dict.fromkeys(names)]
    alarms = [name for name in found if name in FALSE_ALARM_METRICS]
    masks = [name for name in found if name in map(of_masks, MAIN_METRICS)]
    return [*alarms, *(name for name in found if name.startswith(("AP_", "AP50_"))), *masks]


def shown_metrics(own: str | None, measured: Iterable[str]) -> list[str]:
    """Returns what tables show: the main metrics, a sweep's own, and what only some data define.

    Args:
        own: The metric of the sweep, if it has one, as its file names it.
        measured: All that was measured of some trial, by name without val/.
    """
    shown: dict[str, str] = {}
    for name in (*MAIN_METRICS, *([own] if own else []), *optional_metrics(measured)):
        shown.setdefault(bare(name), name)
    return [*shown.values()]


def bare(name: str) -> str:
    """Returns a metric's name without val/: history.jsonl has val/AP, metrics.json has AP."""
    return name.removeprefix("val/")


def is_precision(name: str) -> bool:
    """Returns whether a metric is an average precision, which people read in percent."""
    return bare(name).removeprefix("segm_").startswith("AP")


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
    except (ValueError, RecursionError):
        return None
