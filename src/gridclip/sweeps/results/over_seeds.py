"""Trials that differ in nothing but a seed, put together: mean ± standard deviation."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gridclip.io.files import write_text
from gridclip.io.run_metrics import bare, is_precision
from gridclip.sweeps.results.runs import Runs
from gridclip.sweeps.results.table import best_trial, cell, figure
from gridclip.sweeps.spec.parameters import Point, short_names
from gridclip.sweeps.spec.sweep_file import Metric
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import Trial

HIDDEN_SHOWN = 8


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


def groups(trials: Sequence[Trial], over: str | None) -> list[Group]:
    """Returns the finished trials, those that differ in one parameter only in one group."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state == "finished":
            found.setdefault(_key(trial, over), []).append(trial)
    return [Group(_without(same[0].point, over), tuple(same)) for same in found.values()]


def markdown(runs: Runs, over: str | None, measured: Sequence[str]) -> str:
    """Returns a table for a page of text, the best row in bold.

    Args:
        runs: What to show.
        over: The full name of the setting to leave out; runs that differ in nothing else are a row.
        measured: The metrics to show.
    """
    names = [name for name in runs.names if name != over]
    short = short_names(names)
    made = groups(runs.trials, over)
    best = _best(made, runs.metric)
    heading = [*short.values(), *measured] + (["trials"] if over else [])
    lines = [row(heading), row(["---"] * len(short) + ["---:"] * (len(heading) - len(short)))]
    for group in made:
        cells = [cell(group.point[name]) for name in names]
        cells += [shown(name, group.spread(name)) for name in measured]
        cells += [str(len(group.trials))] if over else []
        lines.append(row([f"**{text}**" for text in cells] if group is best else cells))
    return "\n".join([*lines, "", _caption(runs, over, measured)])


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


def row(cells: Sequence[str]) -> str:
    """Returns a row of a table for a page of text."""
    whole = (" ".join(text.splitlines()) for text in cells)  # a line break would end the row
    return "| " + " | ".join(t.replace("|", "\\|").replace("<", "&lt;") for t in whole) + " |"


def _caption(runs: Runs, over: str | None, measured: Sequence[str]) -> str:
    precisions = [bare(name) for name in measured if is_precision(name)]
    parts = [f"{listed(precisions)} in percent"] if precisions else []
    parts += [f"mean ± standard deviation over `{over}`"] if over else []
    others = [trial for trial in runs.trials if trial.state != "finished"]
    for state in sorted({trial.state for trial in others}):
        numbers = ", ".join(str(trial.number) for trial in others if trial.state == state)
        parts.append(f"{state}, so not in the table: trial {numbers}")
    best = best_trial(runs.trials, runs.metric) if runs.metric else None
    parts += [f"best trial: {best[0].number}"] if best and not over else []
    parts += [f"differ too: {hidden(runs)}"] if runs.hidden else []
    return "; ".join(parts) + "."


def listed(words: Sequence[str]) -> str:
    """Returns words as a sentence lists them: a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def hidden(runs: Runs) -> str:
    """Returns the settings that differ without a column of their own, the first few by name."""
    few = ", ".join(f"`{name}`" for name in runs.hidden[:HIDDEN_SHOWN])
    more = len(runs.hidden) - HIDDEN_SHOWN
    return few + (f" and {more} more" if more > 0 else "")


def _without(point: Point, over: str | None) -> dict[str, object]:
    return {name: value for name, value in point.items() if name != over}


def _key(trial: Trial, over: str | None) -> str:
    """Returns what trials of one group share; without a parameter to leave out, none do."""
    if over is None:
        return str(trial.number)
    return json.dumps(_without(trial.point, over), sort_keys=True, default=str)
