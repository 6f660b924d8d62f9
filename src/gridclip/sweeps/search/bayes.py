"""A search that learns from results: W&B's `method: bayes`, by Optuna's Gaussian process.

Every number is searched as its share u of [0, 1], as W&B's engine does it, so that any of its
distributions is flat; a list is searched as a list, and what is constant takes no part. W&B and
Optuna agree on the rest too: expected improvement over a Matern process, with the trials in flight
taken into account; the points that they propose differ.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from gridclip.sweeps.spec.distributions import Choice, Distribution, identity, share
from gridclip.sweeps.spec.parameters import Parameter, Point
from gridclip.sweeps.spec.sweep_file import Metric
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

STARTUP = 5  # values that are waited for before the first guess
OPEN = ("running", "stopped", "interrupted")  # states of trials whose value is yet to come

# A point of the cube: of each number its share, of each list the place of its entry.
Place = Mapping[str, float | int]


@dataclass(frozen=True)
class BayesSearch:
    """The point with the highest expected improvement, given the values of all trials so far.

    Args:
        parameters: What to search.
        metric: What to improve.
        seed: Another seed, another sweep.
    """

    parameters: tuple[Parameter, ...]
    metric: Metric
    seed: int = 0
    size: ClassVar[None] = None  # there is no end

    def propose(self, number: int, trials: Sequence[Trial]) -> Point:
        """Returns a point of an even spread, or once enough values are known the best guess."""
        axes = {p.name: p.distribution for p in self.parameters if not p.is_constant}
        scored = scores(self.metric, sorted(trials, key=lambda trial: trial.number))
        known = [
            (place, score) for trial, score in scored if (place := place_of(axes, trial.point))
        ]
        if sum(score is not None for _, score in known) < STARTUP:
            chosen = _spread(axes, number, seed=self.seed)
        else:
            draw = random.Random(f"{self.seed}/{number}")
            place = _most_promising(axes, known, self.metric.goal, seed=draw.getrandbits(31))
            chosen = {name: _value(axis, place[name]) for name, axis in axes.items()}
        return {p.name: chosen.get(p.name, p.distribution.at(0.0)) for p in self.parameters}


def scores(metric: Metric, trials: Sequence[Trial]) -> list[tuple[Trial, Number | None]]:
    """Returns what each trial counts for in the search; None where it is yet to come.

    As with W&B, a trial that did not finish counts for what `impute` says: for the worst of all, so
    that the search stays away, or for the best or latest that it logged itself. One that ended
    without a value is left out while no other has one.
    """
    own = [_score(metric, trial) for trial in trials]
    values = [score for score in own if score is not None]
    worst = None
    if values:
        worst = min(values) if metric.goal == "maximize" else max(values)
    scored: list[tuple[Trial, Number | None]] = []
    for trial, score in zip(trials, own, strict=True):
        is_open = trial.state in OPEN
        if score is None and (not is_open or metric.impute_while_running == "worst"):
            score = worst
        if score is not None or is_open:
            scored.append((trial, score))
    return scored


def _score(metric: Metric, trial: Trial) -> Number | None:
    """Returns the value of a finished trial; of another one, what it is to count for of its own."""
    if trial.state == "finished":
        return trial.value(metric.name)
    rule = metric.impute_while_running if trial.state in OPEN else metric.impute
    if rule not in ("best", "latest"):
        return None
    logged = [row[metric.name] for row in trial.history() if metric.name in row]
    if not logged:
        return None
    best = max if metric.goal == "maximize" else min
    return best(logged) if rule == "best" else logged[-1]


def _spread(axes: Mapping[str, Distribution], number: int, *, seed: int) -> dict[str, object]:
    """Returns the point of a number in a scrambled Sobol sequence, which fills the cube evenly.

    No runner has to ask the others for theirs.
    """
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(axes), seed=random.Random(f"{seed}/spread").getrandbits(31))
    if number > 1:
        sequence.fast_forward(number - 1)  # which takes no 0
    shares = sequence.random(1)[0]
    return {name: axis.at(float(u)) for (name, axis), u in zip(axes.items(), shares, strict=True)}


def _most_promising(
    axes: Mapping[str, Distribution],
    known: Sequence[tuple[Place, Number | None]],
    goal: Literal["minimize", "maximize"],
    *,
    seed: int,
) -> Place:
    """Returns the place that Optuna's Gaussian process takes for the best to try next."""
    import optuna  # half a second
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its lines would cut through the live table
    distributions = {name: for_optuna(axis) for name, axis in axes.items()}
    study = optuna.create_study(
        direction=goal, sampler=optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
    )
    for place, score in known:
        state = TrialState.RUNNING if score is None else TrialState.COMPLETE
        study.add_trial(
            create_trial(state=state, params=dict(place), distributions=distributions, value=score)
        )
    return study.ask(distributions).params


def for_optuna(axis: Distribution) -> "BaseDistribution":
    """Returns the axis of the cube on which a parameter lies, as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not isinstance(axis, Choice):
        return FloatDistribution(0.0, 1.0)
    shares = axis.probabilities or (1.0,) * len(axis.values)
    return CategoricalDistribution([place for place, share in enumerate(shares) if share > 0])


def place_of(axes: Mapping[str, Distribution], point: Point) -> Place | None:
    """Returns where a point lies in the cube; None for one that the sweep can't have drawn."""
    place: dict[str, float | int] = {}
    for name, axis in axes.items():
        value = point.get(name)
        if isinstance(axis, Choice):
            offered = [identity(entry) for entry in axis.values]
            if name not in point or identity(value) not in offered:
                return None
            place[name] = offered.index(identity(value))
        elif isinstance(value, int | float):
            place[name] = share(axis, value)
        else:
            return None
    return place


def _value(axis: Distribution, place: float | int) -> object:
    return axis.values[int(place)] if isinstance(axis, Choice) else axis.at(place)
