"""Settings against a baseline over the same seeds: mean difference, 95 % interval, paired t-test.

Beside it the same of draws of the images (`over_images`), where the runs have results by image.

Two trainings of one seed share their initial weights and the order of their images, so their
difference varies less than the figures themselves. A difference is only taken between two trials
of the same seed.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import yaml

from gridclip.io.errors import InputError
from gridclip.io.run_metrics import bare, is_precision
from gridclip.sweeps.results.over_seeds import hidden, row
from gridclip.sweeps.results.runs import Runs
from gridclip.sweeps.results.table import cell, figure
from gridclip.sweeps.spec.distributions import identity
from gridclip.sweeps.spec.parameters import Point, short_names
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import Trial

if TYPE_CHECKING:
    from gridclip.sweeps.results.over_images import Drawn, ImageDraws

LEVEL = 0.95  # of the interval
FIGURES = ("baseline", "mean", "difference", "95 % interval", "p", "pairs")
OVER_IMAGES = ("interval over images", "p over images")  # where runs have results by image
BASELINES = 12  # among which the report page lets choose; of more settings the first is the one
SAME = 1e-12  # relative: differences that differ by less are equal but for rounding
PARTS = re.compile(r",\s*(?=[A-Za-z_][\w.-]*=)")  # between settings; a value may have commas too

Values = Mapping[str, Number]  # of a metric, by the seed's identity


class Statistics(NamedTuple):
    """What paired differences say.

    Args:
        mean: Of the differences.
        low: The lower end of the 95 % interval of the mean; None below two pairs.
        high: Its upper end.
        p: Of a two-sided paired t-test; None where the differences do not vary.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


class Comparison(NamedTuple):
    """A setting beside the baseline, in one metric.

    Args:
        setting: The values that it has, without the seed.
        baseline: Those of the setting that it is compared with.
        metric: What was measured.
        before: The baseline's figures over the pairs.
        after: The setting's, in the same order.
        lacking: Why seeds have no pair, for people.
        images: What draws of the images say of the mean difference, if the runs can tell.
    """

    setting: Point
    baseline: Point
    metric: str
    before: tuple[Number, ...]
    after: tuple[Number, ...]
    lacking: tuple[str, ...]
    images: "Drawn | None" = None

    def statistics(self) -> Statistics | None:
        """Returns what the differences say; None without a pair."""
        return paired_statistics(self.before, self.after) if self.before else None


def paired_statistics(before: Sequence[Number], after: Sequence[Number]) -> Statistics:
    """Returns mean, 95 % interval and p of the differences after − before, at least one."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return Statistics(mean)
    error = statistics.stdev(differences) / count**0.5
    if error <= SAME * max(map(abs, (*before, *after))):
        return Statistics(mean, mean, mean)
    from scipy.stats import t  # a quarter of a second

    reach = float(t.ppf((1 + LEVEL) / 2, count - 1)) * error
    p = 2 * float(t.sf(abs(mean) / error, count - 1))
    return Statistics(mean, mean - reach, mean + reach, p)


def compare(
    runs: Runs,
    baseline: Point,
    seed: str,
    metrics: Sequence[str],
    draws: "ImageDraws | None" = None,
) -> list[Comparison]:
    """Returns every other setting beside the one that has the baseline's values.

    A baseline that names some of the settings only is another one for each: that which is equal in
    all settings that the baseline leaves open.

    Args:
        runs: All trials; those that did not finish have no part.
        baseline: From `find_baseline`.
        seed: The setting by which trials are paired.
        metrics: What to compare, by name.
        draws: Of the images, as far as they were made before.

    Raises:
        InputError: if two trials have one setting and one seed.
    """
    from gridclip.sweeps.results.over_images import ImageDraws  # numpy

    found, draws = _by_setting(runs, seed), draws or ImageDraws()
    comparisons = []
    for key, (setting, trials) in found.items():
        point = {**setting, **baseline}
        if _key(point) == key:
            continue
        _, partners = found.get(_key(point), (point, {}))
        for name in metrics:
            each = _compare(setting, trials, point, partners, name)
            pairs = [
                (partners[value].folder, trials[value].folder)
                for value in partners
                if value in trials
            ]
            images = draws.difference(pairs, bare(name)) if len(pairs) == len(each.before) else None
            comparisons.append(each._replace(images=images))
    return comparisons


def find_baseline(text: str, runs: Runs, seed: str) -> Point:
    """Returns the values that a baseline names.

    Args:
        text: As people write it: "region=0, lr=0.01", or the number or the folder of a trial, which
            stands for all values of its setting.
        runs: All trials.
        seed: The setting that is no part of a baseline.

    Raises:
        InputError: if there is no such setting, value or trial.
    """
    settings = [name for name in runs.names if name != seed]
    if "=" not in text:
        for trial in runs.trials:
            if text in (str(trial.number), trial.folder.name, str(trial.folder)):
                return {name: trial.point[name] for name in settings}
        example = f"{short_names(settings)[settings[0]]}=VALUE" if settings else "a trial"
        fix = f"name a value, such as {example}, or a trial by its number or folder"
        raise InputError(f"there is no trial {text!r}", fix=fix, field="--paired")
    parts = [part.partition("=") for part in PARTS.split(text)]
    return {
        (full := runs.full_name(name.strip(), "--paired")): _find_value(value.strip(), full, runs)
        for name, _, value in parts
    }


def require_pairs(comparisons: Sequence[Comparison], seed: str) -> None:
    """Refuses comparisons of which a seed is on one side alone, or none is on both.

    Raises:
        InputError: naming the seeds and the settings that lack them.
    """
    if not comparisons:
        problem, fix = "there is no other setting to compare", "name a value that some trials have"
        raise InputError(problem, fix=fix, field="--paired")
    reasons = dict.fromkeys(reason for each in comparisons for reason in each.lacking)
    if reasons:
        raise InputError(
            f"not every trial has a partner of the same {seed}: {'; '.join(reasons)}",
            fix="train what is missing, or name the run folders that pair up:"
            " gridclip sweep table FOLDER... --paired FOLDER",
            field="--paired",
        )


def paired_markdown(
    comparisons: Sequence[Comparison], runs: Runs, baseline: Point, seed: str
) -> str:
    """Returns the comparisons as a table for a page of text."""
    short = short_names([name for name in runs.names if name != seed])
    with_images = any(each.images for each in comparisons)
    columns = _columns(with_images)
    heading = [*short.values(), "metric", *columns]
    lines = [row(heading), row(["---"] * (len(short) + 1) + ["---:"] * len(columns))]
    for each in comparisons:
        cells = [cell(each.setting[name]) for name in short]
        lines.append(row([*cells, each.metric, *figures(each, with_images)]))
    caption = f"Differences to `{label(baseline, short)}` {_caption(seed, with_images)}"
    caption += f" Settings that differ too: {hidden(runs)}." if runs.hidden else ""
    return "\n".join([*lines, "", caption])


def paired_data(runs: Runs, metrics: Sequence[str]) -> dict[str, object] | None:
    """Returns what the report page shows: each of a few settings as a baseline of all others.

    A sweep that is not done, or of which a trial failed, is shown by the pairs that it has.

    Returns:
        None where no seed is swept, no seed is in two settings, or one is twice in a setting.
    """
    from gridclip.sweeps.results.over_images import ImageDraws  # numpy

    seed = runs.seed_name()
    if seed is None:
        return None
    points = [_setting(trial, runs.names, seed) for trial in runs.finished]
    settings = list({_key(point): point for point in points}.values())
    shown = len(settings) if len(settings) <= BASELINES else 1
    short = short_names([name for name in runs.names if name != seed])
    draws, found = ImageDraws(), []
    try:
        for point in settings[:shown]:
            found.append((point, compare(runs, point, seed, metrics, draws)))
    except InputError:  # a random search drew a setting and a seed twice
        return None
    if not any(each.before for _, comparisons in found for each in comparisons):
        return None
    with_images = any(each.images for _, comparisons in found for each in comparisons)
    baselines = []
    for point, comparisons in found:
        rows = [
            [label(each.setting, short), each.metric, *figures(each, with_images)]
            for each in comparisons
            if each.before
        ]
        lacking = list(dict.fromkeys(reason for each in comparisons for reason in each.lacking))
        baselines.append({"label": label(point, short), "rows": rows, "lacking": lacking})
    return {
        "heading": ["setting", "metric", *_columns(with_images)],
        "caption": f"Differences {_caption(seed, with_images)}",
        "baselines": baselines,
    }


def _columns(with_images: bool) -> tuple[str, ...]:
    return (*FIGURES[:-1], *(OVER_IMAGES if with_images else ()), FIGURES[-1])


def _caption(seed: str, with_images: bool) -> str:
    told = (
        f"between trials of the same `{seed}`, AP in percent and percentage points; interval and p"
        " of a two-sided paired t-test, not corrected for the number of comparisons."
    )
    if with_images:
        told += (
            " Over images: 95 % interval and p of these very trials if the images are drawn anew,"
            " which says nothing of other seeds."
        )
    return told


def label(point: Point, short: Mapping[str, str]) -> str:
    """Returns a setting, or some values of it, as people write them."""
    return ", ".join(f"{short.get(name, name)}={cell(value)}" for name, value in point.items())


def figures(comparison: Comparison, with_images: bool) -> list[str]:
    """Returns both means, the difference, its interval, p and the number of pairs, as text.

    Args:
        comparison: Of a setting with the baseline.
        with_images: Whether interval and p over images are among them.
    """
    found, name = comparison.statistics(), comparison.metric
    over_images = ["–"] * len(OVER_IMAGES) if with_images else []
    if found is None:
        return [*"–––––", *over_images, "0"]
    if drawn := comparison.images:
        interval = f"{signed(name, drawn.low)} to {signed(name, drawn.high)}"
        over_images = [interval, f"{drawn.p:.2g}"]
    means = [figure(name, statistics.fmean(v)) for v in (comparison.before, comparison.after)]
    ends = [signed(name, end) for end in (found.low, found.high) if end is not None]
    interval = " to ".join(ends) or "–"
    p = "–" if found.p is None else f"{found.p:.2g}"
    pairs = str(len(comparison.before))
    return [*means, signed(name, found.mean), interval, p, *over_images, pairs]


def signed(name: str, value: float) -> str:
    """Returns a difference as people read it: of an AP in percentage points."""
    return f"{100 * value:+.2f}" if is_precision(name) else f"{value:+.3g}"


def _by_setting(runs: Runs, seed: str) -> dict[str, tuple[Point, dict[str, Trial]]]:
    """Returns the finished trials of each setting by the identity of their seed."""
    found: dict[str, tuple[Point, dict[str, Trial]]] = {}
    for trial in runs.finished:
        setting = _setting(trial, runs.names, seed)
        _, trials = found.setdefault(_key(setting), (setting, {}))
        value = identity(trial.point[seed]).split("\n")[0]
        if value in trials:
            raise InputError(
                f"{trials[value].folder} and {trial.folder} have the same settings and"
                f" the same {seed}, {value}",
                fix="leave one of them out",
                file=runs.file,
            )
        trials[value] = trial
    return found


def _setting(trial: Trial, names: Sequence[str], seed: str) -> Point:
    return {name: trial.point[name] for name in names if name != seed}


def _compare(
    setting: Point,
    trials: Mapping[str, Trial],
    base: Point,
    partners: Mapping[str, Trial],
    name: str,
) -> Comparison:
    after, before = _values(trials, name), _values(partners, name)
    common = [seed for seed in before if seed in after]
    lacking = [
        f"{name} of {label(point, short_names([*point]))} lacks seed {', '.join(missing)}"
        for point, own, other in ((setting, after, before), (base, before, after))
        if (missing := [seed for seed in other if seed not in own])
    ]
    return Comparison(
        setting,
        base,
        name,
        tuple(before[seed] for seed in common),
        tuple(after[seed] for seed in common),
        tuple(lacking),
    )


def _values(trials: Mapping[str, Trial], metric: str) -> Values:
    values = {seed: trial.value(metric) for seed, trial in trials.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _find_value(text: str, name: str, runs: Runs) -> object:
    values = {identity(trial.point[name]): trial.point[name] for trial in runs.trials}
    for value in values.values():
        if text in (str(value), cell(value)) or _same(text, value):
            return value
    fix = f"name one of: {', '.join(map(cell, values.values()))}"
    raise InputError(f"no trial has {name}={text}", fix=fix, field="--paired")


def _same(text: str, value: object) -> bool:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(text) == value  # 1e-4 is text to YAML
        return identity(yaml.safe_load(text)) == identity(value)
    except (ValueError, yaml.YAMLError):
        return False


def _key(point: Point) -> str:
    return "".join(f"{name}={identity(value)}" for name, value in sorted(point.items()))
