"""What the folder of a sweep tells, typed: the records that the report page is made of."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard

from gridclip.io.errors import InputError
from gridclip.sweeps.spec.sweep_file import SweepSpec, read_sweep
from gridclip.sweeps.spec.yaml_section import Number

FIGURES = ("AP", "APr", "APc", "APf", "AP50")


@dataclass(frozen=True, kw_only=True)
class CategoryRecord:
    """One name that was looked for.

    Args:
        name: As the data set spells it.
        frequency: r, c or f; None where the data set doesn't say.
        images: Training images that show it; None where nobody counted.
    """

    name: str
    frequency: str | None
    images: int | None


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial, as it is now.

    Args:
        number: 1 for the first.
        state: running, finished, failed, stopped or pruned.
        reason: Why it failed or was stopped.
        minutes: How long it took; None while it runs.
        folder: Its run folder, which may be on another machine.
        point: The value of every parameter, by full name.
        metrics: Final figures by bare name (AP, not val/AP), else those of the last validation.
        history: A list of values for each figure, and for `step`; None where there was none.
        precision: AP of each name of the evaluation, as a fraction; empty if nobody wrote it.
    """

    number: int
    state: str
    reason: str
    minutes: float | None
    folder: Path
    point: Mapping[str, object]
    metrics: Mapping[str, Number]
    history: Mapping[str, Sequence[Number | None]]
    precision: Mapping[str, Number | None]


@dataclass(frozen=True, kw_only=True)
class SweepRecords:
    """A sweep and its trials.

    Args:
        folder: Its folder; the name of it is its id.
        spec: What its file says.
        question: What the file asks, in words: its description, else the comment at its head.
        trials: By number.
        categories: The names of the evaluation, most frequent in training first.
        dataset: What the figures are of.
        protocol: How boxes were chosen for scoring: standard or fixed.
        images: How many images were evaluated.
        hours: From the start of the first trial to the end of the last; None if unknown.
    """

    folder: Path
    spec: SweepSpec
    question: str
    trials: tuple[TrialRecord, ...]
    categories: tuple[CategoryRecord, ...]
    dataset: str | None
    protocol: str | None
    images: int | None
    hours: float | None


def read_records(folder: Path) -> SweepRecords:
    """Read the folder of a sweep, be it finished or not.

    Raises:
        InputError: if it is none.
    """
    file = folder / "sweep.yaml"
    if not file.is_file():
        raise InputError(
            "is no folder of a sweep: it has no sweep.yaml",
            fix="name a folder that gridclip sweep run made",
            file=folder,
        )
    spec = read_sweep(file)
    records = list(_trial_records(folder))
    trials = tuple(_trial(record, folder) for record in records)
    described: Mapping[str, Any] = next(
        (content for trial in trials if (content := _metrics_file(trial.folder))), {}
    )
    return SweepRecords(
        folder=folder,
        spec=spec,
        question=spec.description or head_comment(file.read_text(encoding="utf-8")),
        trials=trials,
        categories=_categories(trials),
        dataset=described.get("dataset"),
        protocol=described.get("protocol"),
        images=described.get("num_images"),
        hours=_hours(records),
    )


def head_comment(text: str) -> str:
    """The comment at the head of a sweep file, in one paragraph: up to its cost or a blank line."""
    lines: list[str] = []
    for line in text.splitlines():
        words = line.lstrip("#").strip()
        if not line.startswith("#") or not words or words.startswith("Cost:"):
            break
        lines.append(words)
    return " ".join(lines)


def _trial_records(folder: Path) -> Iterator[dict[str, Any]]:
    """What results.json and, where it is at hand, the trial's own and newer record say."""
    known = _json(folder / "results.json").get("trials", [])
    by_number = {record["trial"]: record for record in known}
    for file in sorted(folder.glob("trials/*/trial.json")):
        own = _json(file)
        if "number" in own:
            place = {"folder": str(file.parent.relative_to(folder))}
            by_number[own["number"]] = by_number.get(own["number"], {}) | own | place
    for number in sorted(by_number):
        yield by_number[number] | {"number": number}


def _trial(record: Mapping[str, Any], folder: Path) -> TrialRecord:
    place = folder / str(record.get("folder", f"trials/{record['number']:03d}"))
    rows = list(_rows(place / "history.jsonl"))
    latest = {name: values[-1] for name, values in _columns(rows).items() if name != "step"}
    evaluation = _metrics_file(place)
    final = evaluation or record.get("metrics") or latest
    return TrialRecord(
        number=record["number"],
        state=str(record.get("state", "unknown")),
        reason=str(record.get("reason") or ""),
        minutes=_minutes(record),
        folder=place,
        point=record.get("parameters") or {},
        metrics={bare(name): value for name, value in final.items() if _is_figure(value, name)},
        history=_columns(rows),
        precision=evaluation.get("per_category") or {},
    )


def bare(name: str) -> str:
    """A metric's name without val/, which is how metrics.json has it."""
    return name.removeprefix("val/")


def _is_figure(value: object, name: str) -> TypeGuard[Number]:
    """Whether it is a number that means something: lvis says -1 for an AP that is undefined."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return value >= 0 or not bare(name).startswith("AP")


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The validations of a trial; a line half written is left out."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        row = _parsed(line)
        if "step" in row:
            yield row


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Number | None]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        bare(name): [value if _is_figure(value := row.get(name), name) else None for row in rows]
        for name in names
    }


def _minutes(record: Mapping[str, Any]) -> float | None:
    started, ended = _time(record.get("started")), _time(record.get("ended"))
    if started and ended:
        return (ended - started).total_seconds() / 60
    return record.get("minutes")


def _hours(records: Sequence[Mapping[str, Any]]) -> float | None:
    started = [time for record in records if (time := _time(record.get("started")))]
    ended = [time for record in records if (time := _time(record.get("ended")))]
    if not started or not ended:
        return None
    return (max(ended) - min(started)).total_seconds() / 3600


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _categories(trials: Sequence[TrialRecord]) -> tuple[CategoryRecord, ...]:
    """The names of all trials, those that most training images show first."""
    known: dict[str, CategoryRecord] = {}
    for trial in trials:
        if known.keys() >= trial.precision.keys():
            continue  # most often all trials have the same names
        for row in _category_rows(trial.folder / "categories.csv"):
            count = row.get("training_images") or ""
            known[row["name"]] = CategoryRecord(
                name=row["name"],
                frequency=row.get("frequency") or None,
                images=int(count) if count.isdigit() else None,
            )
        for name in trial.precision:
            known.setdefault(name, CategoryRecord(name=name, frequency=None, images=None))
    order = {"f": 0, "c": 1, "r": 2}
    return tuple(
        sorted(
            known.values(),
            key=lambda each: (order.get(each.frequency or "", 3), -(each.images or 0), each.name),
        )
    )


def _category_rows(file: Path) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return [row for row in csv.DictReader(io.StringIO(text)) if row.get("name")]


def _metrics_file(folder: Path) -> dict[str, Any]:
    return _json(folder / "metrics.json")


def _json(file: Path) -> dict[str, Any]:
    """The content of a file; nothing if it is absent or half written."""
    try:
        return _parsed(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
