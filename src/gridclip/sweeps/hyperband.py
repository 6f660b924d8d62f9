"""Which trials W&B would stop for falling behind: `early_terminate: {type: hyperband}`.

W&B's rule, as in its engine (the package `sweeps` 0.3.0, `hyperband_stopping.py`): at each of a few
numbers of validations, the bands, the value that the best 1/eta of all trials had reached there is
the threshold; a running trial worse than the threshold of the last band it reached is stopped. This
is successive halving without its brackets, and not Optuna's pruner of that name.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from gridclip.sweeps.section import Number
from gridclip.sweeps.spec import Hyperband, Metric
from gridclip.sweeps.trial import Trial

MOST_BANDS = 100  # where W&B ends the bands above min_iter


def stragglers(rule: Hyperband, metric: Metric, trials: Sequence[Trial]) -> list[Trial]:
    """The running trials that W&B would stop now.

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
    """The numbers of iterations at which trials are compared, rising."""
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
    """Whether a history is worse than the threshold of the last band that it reached."""
    reached = list(takewhile(lambda band: band <= len(history), bands(rule)))
    if not reached:
        return False
    band = reached[-1]
    there = sorted(other[band - 1] for other in histories if len(other) >= band)
    threshold = there[int(1 / rule.eta * len(there))]
    shown = history[band - 1] if rule.strict else min(history)
    return shown > threshold
