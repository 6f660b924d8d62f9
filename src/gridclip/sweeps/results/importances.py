"""Which parameters the metric of a sweep hangs on, by Optuna's PED-ANOVA, without a network.

For each parameter, the spread of its values among the best trials is set against that among all:
one whose good values are no others than its usual ones is of no importance. Source: Watanabe,
Bansal and Hutter, PED-ANOVA, IJCAI 2023 (arXiv 2304.10255).
"""

import math
from collections.abc import Sequence

from gridclip.io.errors import InputError
from gridclip.sweeps.results.over_seeds import row
from gridclip.sweeps.search.bayes import Place, for_optuna, place_of
from gridclip.sweeps.spec.parameters import short_names
from gridclip.sweeps.spec.sweep_file import Metric, SweepSpec
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import Trial

LEAST = 10  # finished trials, below which the best are too few to tell anything of
BEST = 5  # trials at least, as Optuna advises, that count as the best
QUANTILE = 0.1  # or this share of all, if that is more


def importances(spec: SweepSpec, trials: Sequence[Trial]) -> dict[str, float] | None:
    """Returns the share of each parameter that varies in the importance of all, which sums to 1.

    The greatest comes first. That of a seed tells how much of a share is chance.

    Args:
        spec: The sweep.
        trials: Whatever their state; the finished ones that have the metric count.

    Returns:
        By full name; None where the sweep has no metric, too few trials to tell, or so many equal
        ones that the worst is among the best.
    """
    if spec.metric is None:
        return None
    scored = _scored(spec, spec.metric, trials)
    best = max(QUANTILE, BEST / len(scored)) if scored else 1.0
    ordered = sorted((value for _, value in scored), reverse=spec.metric.goal == "maximize")
    if len(scored) < LEAST or ordered[math.ceil(best * len(scored)) - 1] == ordered[-1]:
        return None
    import optuna  # half a second
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    varied = {p.name: for_optuna(p.distribution) for p in spec.parameters if not p.is_constant}
    study = optuna.create_study(direction=spec.metric.goal)
    for place, value in scored:
        trial = optuna.trial.create_trial(params=dict(place), distributions=varied, value=value)
        study.add_trial(trial)
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=best))


def importances_markdown(spec: SweepSpec, trials: Sequence[Trial]) -> str:
    """Returns the importances as a table for a page of text.

    Raises:
        InputError: if the sweep has no metric, or too few trials have it, or all alike.
    """
    if spec.metric is None:
        fix = "name the metric in the sweep file"
        raise InputError("names no metric to be important for", fix=fix, file=spec.file)
    shares = importances(spec, trials)
    if shares is None:
        count = len(_scored(spec, spec.metric, trials))
        why = "too few" if count < LEAST else "too alike"
        raise InputError(
            f"{count} finished trials with {spec.metric.name} are {why} to tell importances",
            fix=f"run at least {LEAST} and more, or leave --importances out",
            field="--importances",
            file=spec.file,
        )
    short = short_names(list(shares))
    lines = [row(["parameter", "importance"]), row(["---", "---:"])]
    lines += [row([short[name], f"{100 * share:.0f} %"]) for name, share in shares.items()]
    return "\n".join([*lines, "", f"Importance for {spec.metric.name} by PED-ANOVA."])


def _scored(spec: SweepSpec, metric: Metric, trials: Sequence[Trial]) -> list[tuple[Place, Number]]:
    """Returns where each finished trial lies, and its value of the metric."""
    axes = {p.name: p.distribution for p in spec.parameters if not p.is_constant}
    found = []
    for trial in trials:
        value = trial.value(metric.name) if trial.state == "finished" else None
        place = place_of(axes, trial.point)
        if value is not None and place:
            found.append((place, value))
    return found
