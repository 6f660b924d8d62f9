"""Trials that differ in nothing but a seed, put together: mean ± standard deviation."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gridclip.io.errors import InputError
from gridclip.io.files import write_text
from gridclip.io.run_metrics import is_precision
from gridclip.sweeps.results.table import best_trial, cell, figure, measured_names
from gridclip.sweeps.spec.parameters import Point, short_names, swept
from gridclip.sweeps.spec.sweep_file import Metric, SweepSpec
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import Trial


class Spread(NamedTuple):
    """What was measured of one metric over some trials.

    Args:
        mean: None if no trial has it.
        deviation: The sample's standard deviation; None for fewer than two trials.
    """

    mean: Number | None
    deviation: float | None


class Group(NamedTuple):
    """Finished trials that share a point but for one parameter.

    Args:
        point: What they share.
        trials: At least one.
    """

    point: Point
    trials: tuple[Trial, ...]

    def spread(self, metric: str) -> Spread:
        """Returns mean and deviation of a metric."""
        values = [value for trial in self.trials if (value := trial.value(metric)) is not None]
        if not values:
            return Spread(None, None)
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return Spread(statistics.fmean(values), deviation)


def full_name(name: str, spec: SweepSpec) -> str:
    """Returns a swept parameter by its full name or its shortest end.

    Raises:
        InputError: if the sweep has none of this name.
    """
    names = swept(spec.parameters)
    known = {short: full for full, short in short_names(names).items()}
    if name in names or name in known:
        return known.get(name, name)
    fix = f"name one of: {', '.join(names)}"
    raise InputError(f"{name!r} is not swept", fix=fix, field="--over", file=spec.file)


def groups(trials: Sequence[Trial], over: str | None) -> list[Group]:
    """Returns the finished trials, those that differ in one parameter only in one group."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state == "finished":
            found.setdefault(_key(trial, over), []).append(trial)
    return [Group(_without(same[0].point, over), tuple(same)) for same in found.values()]


def markdown(trials: Sequence[Trial], spec: SweepSpec, over: str | None) -> str:
    """Returns the table of a sweep for a page of text, the best row in bold."""
    names = [name for name in swept(spec.parameters) if name != over]
    measured = measured_names(spec)
    short = short_names(names)
    made = groups(trials, over)
    best = _best(made, spec.metric)
    heading = [*short.values(), *measured] + (["trials"] if over else [])
    lines = [_row(heading), _row(["---"] * len(short) + ["---:"] * (len(heading) - len(short)))]
    for group in made:
        cells = [cell(group.point[name]) for name in names]
        cells += [shown(name, group.spread(name)) for name in measured]
        cells += [str(len(group.trials))] if over else []
        lines.append(_row([f"**{text}**" for text in cells] if group is best else cells))
    return "\n".join([*lines, "", _caption(trials, spec, over)])


def shown(name: str, spread: Spread) -> str:
    """Returns a spread as people read it: 12.3 ± 0.4."""
    mean = figure(name, spread.mean)
    if spread.deviation is None:
        return mean
    digits = f"{100 * spread.deviation:.1f}" if is_precision(name) else f"{spread.deviation:.2g}"
    return f"{mean} ± {digits}"


def put_into(file: Path, title: str, text: str) -> None:
    """Writes a text into a page, in the place of what stood there under this title, or at its end.

    Args:
        file: The page; made if it is not there. The rest of it stays as it is.
        title: Comments with it mark where the text begins and ends.
        text: Markdown.
    """
    begin, end = f"<!-- sweep {title} -->", f"<!-- end of sweep {title} -->"
    section = f"{begin}\n## {title}\n\n{text}\n{end}"
    page = file.read_text(encoding="utf-8") if file.exists() else ""
    if begin in page and end in page:
        before, _, rest = page.partition(begin)
        page = before + section + rest.partition(end)[2]
    else:
        page = f"{page.rstrip()}\n\n{section}\n".lstrip("\n")
    write_text(file, page)


def _best(made: Sequence[Group], metric: Metric | None) -> Group | None:
    best, best_mean = None, None
    for group in made if metric else ():
        assert metric is not None
        mean = group.spread(metric.name).mean
        if mean is not None and (best_mean is None or metric.better(mean, than=best_mean)):
            best, best_mean = group, mean
    return best


def _caption(trials: Sequence[Trial], spec: SweepSpec, over: str | None) -> str:
    caption = "AP, APr, APc and APf in percent"
    if over:
        caption += f"; mean ± standard deviation over `{over}`"
    others = [trial for trial in trials if trial.state != "finished"]
    states = sorted({trial.state for trial in others})
    for state in states:
        numbers = ", ".join(str(trial.number) for trial in others if trial.state == state)
        caption += f"; {state}, so not in the table: trial {numbers}"
    best = best_trial(trials, spec.metric) if spec.metric else None
    caption += f"; best trial: {best[0].number}" if best and not over else ""
    return caption + "."


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def _without(point: Point, over: str | None) -> dict[str, object]:
    return {name: value for name, value in point.items() if name != over}


def _key(trial: Trial, over: str | None) -> str:
    """Returns what trials of one group share; without a parameter to leave out, none do."""
    if over is None:
        return str(trial.number)
    return json.dumps(_without(trial.point, over), sort_keys=True, default=str)
