"""Where a sweep tries next: every point of a grid, random draws, or a good guess.

A search proposes the point of a trial from its number and the trials there are; it keeps nothing in
between, so one that learns from results, one that resumes, or one on many machines is like these.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import ClassVar, Protocol, runtime_checkable

from gridclip.io.errors import InputError
from gridclip.sweeps.search.bayes import BayesSearch
from gridclip.sweeps.spec.distributions import Ladder
from gridclip.sweeps.spec.parameters import Parameter, Point
from gridclip.sweeps.spec.sweep_file import Hyperband, Metric, SweepSpec
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import Trial

MOST_BANDS = 100  # where W&B ends the bands above min_iter


def stragglers(rule: Hyperband, metric: Metric, trials: Sequence[Trial]) -> list[Trial]:
    """Returns the running trials that W&B would stop now.

    Args:
        rule: The `early_terminate` of the sweep.
        metric: What is improved; an iteration is a row of a trial's history that has it.
        trials: All of the sweep, whatever their state: those that ended set thresholds too.
    """
    sign = -1 if metric.goal == "maximize" else 1  # from here on, less is better
    histories = [
        [sign * row[metric.name] for row in trial.history() if metric.name in row]
        for trial in trials
    ]
    return [
        trial
        for trial, history in zip(trials, histories, strict=True)
        if trial.state == "running" and _is_behind(rule, history, histories)
    ]


def bands(rule: Hyperband) -> Iterator[int]:
    """Yields the numbers of iterations at which trials are compared, rising."""
    if rule.max_iter is not None:
        yield from sorted(_shrinking(rule.max_iter, rule))
        return
    band: Number = rule.min_iter or 1
    for _ in range(MOST_BANDS):
        yield int(band)
        band *= rule.eta


def _shrinking(band: Number, rule: Hyperband) -> Iterator[int]:
    for _ in range(rule.brackets or 0):
        band /= rule.eta
        if band < 1:
            return
        yield int(band)


def _is_behind(
    rule: Hyperband, history: Sequence[Number], histories: Sequence[Sequence[Number]]
) -> bool:
    """Returns whether a history is worse than the threshold of the last band that it reached."""
    reached = list(takewhile(lambda band: band <= len(history), bands(rule)))
    if not reached:
        return False
    band = reached[-1]
    there = sorted(other[band - 1] for other in histories if len(other) >= band)
    threshold = there[int(1 / rule.eta * len(there))]
    shown = history[band - 1] if rule.strict else min(history)
    return shown > threshold


@runtime_checkable
class Search(Protocol):
    """What proposes points."""

    @property
    def size(self) -> int | None:
        """How many points there are in all; None if there is no end."""

    def propose(self, number: int, trials: Sequence[Trial]) -> Point | None:
        """Returns the point of a trial, or None if there is none left.

        The same arguments give the same point.

        Args:
            number: Of the trial, 1 for the first.
            trials: All that are known so far, wherever they run.
        """


@dataclass(frozen=True)
class GridSearch:
    """Every combination once, the last parameter turning fastest, as W&B does it."""

    parameters: tuple[Parameter, ...]

    @cached_property
    def ladders(self) -> tuple[Ladder, ...]:
        """The values of each parameter."""
        grids = (parameter.distribution.grid() for parameter in self.parameters)
        return tuple(grid for grid in grids if grid is not None)

    @property
    def size(self) -> int:
        """The number of distinct combinations."""
        return math.prod(ladder.length for ladder in self.ladders)

    def propose(self, number: int, trials: Sequence[Trial]) -> Point | None:
        """Returns the combination of that number, whatever the others do."""
        rest, values = number - 1, []
        for ladder in reversed(self.ladders):  # the digits of a number, the last one first
            rest, place = divmod(rest, ladder.length)
            values.append(ladder.at(place))
        names = [parameter.name for parameter in self.parameters]
        return None if rest else dict(zip(names, reversed(values), strict=True))

    def points(self) -> Iterator[Point]:
        """Yields all combinations, in order."""
        for number in itertools.count(1):
            point = self.propose(number, ())
            if point is None:
                return
            yield point


@dataclass(frozen=True)
class RandomSearch:
    """Draws by each parameter's distribution.

    A draw depends on nothing but the seed, the number of the trial and the name of the parameter:
    a sweep that goes on, or one with a parameter more, keeps its other values.

    Args:
        parameters: What to draw.
        seed: Another seed, another sweep.
    """

    parameters: tuple[Parameter, ...]
    seed: int = 0
    size: ClassVar[None] = None  # there is no end

    def propose(self, number: int, trials: Sequence[Trial]) -> Point:
        """Returns the draw of that number, whatever the others do."""
        return {
            parameter.name: parameter.distribution.at(
                random.Random(f"{self.seed}/{number}/{parameter.name}").random()
            )
            for parameter in self.parameters
        }


def make_search(spec: SweepSpec, *, seed: int = 0) -> Search:
    """Returns the search that a sweep file asks for.

    Raises:
        InputError: if the file asks for something that only W&B's own services carry out.
    """
    if spec.online:
        raise InputError(
            "is carried out by services of W&B, not on this machine",
            fix=f"use `wandb sweep {spec.file}` and `wandb agent`, or another method",
            file=spec.file,
            field=", ".join(spec.online),
        )
    if spec.method == "grid":
        return GridSearch(spec.parameters)
    if spec.method == "bayes" and spec.metric is not None:
        return BayesSearch(spec.parameters, spec.metric, seed)
    return RandomSearch(spec.parameters, seed)


def planned(spec: SweepSpec, search: Search, cap: int | None) -> int:
    """Returns how many trials there will be at most.

    Args:
        spec: The sweep, whose file may have a run_cap.
        search: What it tries.
        cap: No more than this, if it is given.

    Raises:
        InputError: if nothing ends the search.
    """
    limits = [limit for limit in (search.size, spec.run_cap, cap) if limit is not None]
    if not limits:
        raise InputError(
            f"a {spec.method} search has no end",
            fix="give --cap N, or run_cap: N in the file",
            file=spec.file,
            field="run_cap",
        )
    return min(limits)
