"""What a sweep found: a table for people, results.csv and results.json for programs."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gridclip.io.files import write_text
from gridclip.io.run_metrics import is_precision, shown_metrics
from gridclip.io.tables import WholeTable
from gridclip.sweeps.spec.parameters import short_names, swept
from gridclip.sweeps.spec.sweep_file import Metric, SweepSpec
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import Trial, write_json


def best_trial(trials: Sequence[Trial], metric: Metric) -> tuple[Trial, Number] | None:
    """Returns the finished trial with the best value of a metric, and that value."""
    best: tuple[Trial, Number] | None = None
    for trial in trials:
        value = trial.value(metric.name) if trial.state == "finished" else None
        if value is not None and (best is None or metric.better(value, than=best[1])):
            best = trial, value
    return best


def figure(name: str, value: Number | None) -> str:
    """Returns a measured value as people read it: AP in percent, others as they are."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if is_precision(name) else f"{value:.4g}"


def trial_table(trials: Sequence[Trial], spec: SweepSpec) -> WholeTable:
    """Returns the trials, a line each: what was set, what came out, and the minutes it took."""
    names = swept(spec.parameters)
    short = short_names(names)
    measured = measured_names(spec, trials)
    headings = ("trial", *(short[name] for name in names), *measured, "minutes", "state")
    title = f"{spec.name}: AP, APr, APc and APf in percent"
    table = WholeTable(headings, left=["state"], title=title)
    best = best_trial(trials, spec.metric) if spec.metric else None
    now = datetime.now(UTC)
    for trial in trials:
        cells = [
            str(trial.number),
            *(cell(trial.point[name]) for name in names),
            *(figure(name, trial.value(name)) for name in measured),
            f"{trial.seconds(now) / 60:.1f}",
            trial.state,
        ]
        style = "bold" if best and trial.number == best[0].number else ""
        table.add_row(*cells, style=style)
    return table


def cell(value: object) -> str:
    """Returns a parameter's value in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_results(folder: Path, spec: SweepSpec, trials: Sequence[Trial], *, seed: int) -> None:
    """Writes results.json and results.csv of what is known so far, each atomically."""
    metric = spec.metric
    best = best_trial(trials, metric) if metric else None
    content = {
        "sweep": folder.name,
        "file": str(spec.file),
        "method": spec.method,
        "seed": seed,
        "metric": {"name": metric.name, "goal": metric.goal} if metric else None,
        "best": best[0].number if best else None,
        "trials": [_record(trial, folder) for trial in trials],
    }
    write_json(folder / "results.json", content)
    write_text(folder / "results.csv", _csv(spec, trials, folder))


def _record(trial: Trial, folder: Path) -> dict[str, object]:
    return {
        "trial": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "exit_code": trial.exit_code,
        "attempt": trial.attempt,
        "host": trial.host,
        "minutes": _minutes(trial),
        "folder": str(trial.folder.relative_to(folder)),
        "run_id": trial.run_id,
        "parameters": dict(trial.point),
        "metrics": trial.metrics(),
    }


def _csv(spec: SweepSpec, trials: Sequence[Trial], folder: Path) -> str:
    names = swept(spec.parameters)
    figures = measured_names(spec, trials)
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(["trial", "state", *names, *figures, "minutes", "exit_code", "folder"])
    for trial in trials:
        measured = [trial.value(name) for name in figures]
        place = trial.folder.relative_to(folder)
        point = [trial.point[name] for name in names]
        writer.writerow(
            [trial.number, trial.state, *point, *measured, _minutes(trial), trial.exit_code, place]
        )
    return output.getvalue()


def _minutes(trial: Trial) -> float | None:
    return round(trial.seconds(trial.ended) / 60, 2) if trial.ended else None


def measured_names(spec: SweepSpec, trials: Sequence[Trial]) -> list[str]:
    """Returns what a table shows of a trial."""
    found = (name for trial in trials for name in trial.metrics_so_far())
    return shown_metrics(spec.metric.name if spec.metric else None, found)
