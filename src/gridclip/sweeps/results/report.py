"""The report page of a sweep: one HTML file with data, style and scripts inside.

The trials come from the storage, as everywhere; their folders add what only the page needs: AP of
each category, how frequent a category is, example images and logs.
"""

import base64
import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from gridclip.io.files import require_inside, write_text
from gridclip.io.run_metrics import MAIN_METRICS, bare, finite_numbers, is_precision, peek_json
from gridclip.sweeps.results.importances import importances
from gridclip.sweeps.results.paired import paired_data
from gridclip.sweeps.results.runs import SEED_NAMES, runs_of_sweep
from gridclip.sweeps.results.table import best_trial, measured_names
from gridclip.sweeps.spec.parameters import short_names, swept
from gridclip.sweeps.spec.sweep_file import SweepSpec
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import Trial, as_json

# In the order in which the browser reads them; all share one scope.
SCRIPTS = (
    "shared.js",
    "table.js",
    "paired.js",
    "chart.js",
    "parallel.js",
    "scatter.js",
    "curves.js",
    "longtail.js",
    "examples.js",
    "page.js",
)


def make_page(title: str, data: Mapping[str, object]) -> str:
    """Returns the page that shows this data.

    Its Content-Security-Policy lets the browser run this very script and nothing else, and ask no
    server for anything, so what a name or a log says is never run.

    Args:
        title: Of the window.
        data: What the scripts read, as JSON.
    """
    script = "\n".join(["'use strict';", "(() => {", *map(_asset, SCRIPTS), "})();"])
    style = _asset("report.css")
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_digest(script)}';"
        f" style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "title": html.escape(title),
        "policy": policy,
        "style": style,
        "script": script,
        "data": _inert(data),
    }
    # In one pass, because a part may say {{style}} itself.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _asset("report.html"))


def _asset(name: str) -> str:
    return files("gridclip.sweeps.results").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _inert(data: Mapping[str, object]) -> str:
    """Returns JSON in which no tag can begin or end."""
    shown = as_json(data)
    text = json.dumps(shown, allow_nan=False, ensure_ascii=True, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write_report(
    spec: SweepSpec, folder: Path, trials: Sequence[Trial], output: Path | None = None
) -> Path:
    """Writes the report page of a sweep, whether it is finished or not.

    It shows files of the sweep's folder alone: a link out of it, in a sweep that somebody else
    made, would put a file of this machine into a page that is passed on.

    Args:
        spec: The sweep file.
        folder: The folder of the sweep.
        trials: By number.
        output: The page; report.html in the folder if left out.

    Returns:
        The page.

    Raises:
        InputError: if a trial's files are not in the folder.
    """
    for trial in trials:
        for name in READ_OF_TRIAL:
            require_inside(trial.folder / name, folder)
    file = output or folder / "report.html"
    write_text(file, make_page(f"{spec.name}: sweep report", page_data(spec, folder, trials)))
    return file


READ_OF_TRIAL = (
    "metrics.json",
    "metrics.matches.safetensors",
    "history.jsonl",
    "categories.csv",
    "log.txt",
    "pictures/examples.json",
)
LOGS_SHOWN = 20  # of failed trials; more say the same
LOG_LINES = 20
FREQUENCIES = ("f", "c", "r")  # frequent, common, rare; in the order of the page


class Category(NamedTuple):
    """A category of the evaluation.

    Args:
        name: As the data set spells it.
        frequency: r, c or f; None where the data set has none.
        images: Training images that show it; None where nobody counted.
    """

    name: str
    frequency: str | None
    images: int | None


def page_data(spec: SweepSpec, folder: Path, trials: Sequence[Trial]) -> dict[str, object]:
    """Returns what the page shows; metrics are as they were measured, AP as fractions.

    Args:
        spec: The sweep file.
        folder: The folder of the sweep; its name is the sweep's id.
        trials: By number.
    """
    names = swept(spec.parameters)
    short = short_names([parameter.name for parameter in spec.parameters])
    found = best_trial(trials, spec.metric) if spec.metric else None
    best = found[0] if found else None
    evaluations = [_evaluation(trial) for trial in trials]
    categories = _categories(trials, evaluations)
    described = next(filter(None, evaluations), {})
    shown = _shown(spec, trials)
    return {
        "name": spec.name,
        "folder": folder.name,
        "question": spec.description or head_comment(spec.file.read_text(encoding="utf-8")),
        "method": spec.method,
        "dataset": described.get("dataset"),
        "protocol": described.get("protocol"),
        "images": described.get("num_images"),
        "hours": _hours(trials),
        "written": datetime.now().astimezone().isoformat(timespec="minutes"),
        "goal": _goal(spec),
        "figures": shown,
        "swept": [
            {"name": name, "short": short[name], "seed": name.split(".")[-1] in SEED_NAMES}
            for name in names
        ],
        "fixed": _fixed(spec, trials, short),
        "best": best.number if best else None,
        "categories": [category._asdict() for category in categories],
        "trials": [
            _trial(trial, spec, shown, _precisions(evaluation, categories))
            for trial, evaluation in zip(trials, evaluations, strict=True)
        ],
        "importances": importances(spec, trials) or {},
        "paired": paired_data(runs_of_sweep(spec, trials), shown),
        "logs": _logs(trials),
        "examples": _examples(best.folder, folder) if best else [],
    }


def head_comment(text: str) -> str:
    """Returns the comment at the head of a sweep file, up to its cost or a blank line."""
    lines: list[str] = []
    for line in text.splitlines():
        words = line.lstrip("#").strip()
        if not line.startswith("#") or not words or words.startswith("Cost:"):
            break
        lines.append(words)
    return " ".join(lines)


def _evaluation(trial: Trial) -> dict[str, Any]:
    """Returns all of a trial's metrics.json; nothing if it is not on this machine."""
    content = peek_json(trial.folder / "metrics.json")
    return content if isinstance(content, dict) else {}


def _goal(spec: SweepSpec) -> dict[str, object] | None:
    metric = spec.metric
    if metric is None:
        return None
    return {"name": bare(metric.name), "full": metric.name, "maximize": metric.goal == "maximize"}


def _shown(spec: SweepSpec, trials: Sequence[Trial]) -> list[str]:
    """Returns the columns of metrics: the usual, the sweep's own, those of named groups."""
    metrics = map(bare, measured_names(spec, trials))
    return [*dict.fromkeys([*MAIN_METRICS, "AP50", *metrics])]


def _fixed(
    spec: SweepSpec, trials: Sequence[Trial], short: Mapping[str, str]
) -> list[dict[str, object]]:
    """Returns what is the same in all trials, with its value."""
    point = trials[0].point if trials else {}
    return [
        {"name": each.name, "short": short[each.name], "value": point[each.name]}
        for each in spec.parameters
        if each.is_constant and each.name in point
    ]


def _trial(
    trial: Trial, spec: SweepSpec, shown: Sequence[str], precisions: list[int | None] | None
) -> dict[str, object]:
    metrics = trial.metrics_so_far()
    rows = [row for row in trial.history() if "step" in row]
    logged = {bare(name): name for row in rows for name in row}
    return {
        "number": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "minutes": trial.seconds(trial.ended) / 60 if trial.ended else None,
        "point": {each.name: trial.point.get(each.name) for each in spec.parameters},
        "figures": {name: _defined(name, metrics.get(name)) for name in shown},
        "history": {
            name: [_defined(name, row.get(logged[name])) for row in rows]
            for name in ("step", *shown)
            if name in logged
        },
        "precision": precisions,
    }


def _defined(name: str, value: Number | None) -> Number | None:
    """Returns the value, or None for an AP of -1, by which lvis means that it is undefined."""
    return None if value is None or (is_precision(name) and value < 0) else value


def _precisions(
    evaluation: Mapping[str, Any], categories: Sequence[Category]
) -> list[int | None] | None:
    """Returns AP of each category in per mille, for a thousand by hundreds are many digits."""
    values = evaluation.get("per_category")
    if not values:
        return None
    known = {name: round(1000 * ap) for name, ap in finite_numbers(values).items() if ap >= 0}
    return [known.get(category.name) for category in categories]


def _hours(trials: Sequence[Trial]) -> float | None:
    """Returns the time from the start of the first trial to the end of the last."""
    ended = [trial.ended for trial in trials if trial.ended]
    if not ended:
        return None
    return (max(ended) - min(trial.started for trial in trials)).total_seconds() / 3600


def _categories(
    trials: Sequence[Trial], evaluations: Sequence[Mapping[str, Any]]
) -> list[Category]:
    """Returns the categories of all trials, those first that most training images show."""
    known: dict[str, Category] = {}
    for trial, evaluation in zip(trials, evaluations, strict=True):
        names = evaluation.get("per_category") or {}
        if known.keys() >= names.keys():
            continue  # most often all trials have the same categories
        for row in _rows(trial.folder / "categories.csv"):
            images = row.get("training_images") or ""
            known[row["name"]] = Category(
                row["name"], row.get("frequency") or None, int(images) if images.isdigit() else None
            )
        for name in names:
            known.setdefault(name, Category(name, None, None))
    return sorted(known.values(), key=_place)


def _place(category: Category) -> tuple[int, int, str]:
    """Returns by what categories are sorted: frequency, training images, name."""
    group = category.frequency
    rank = FREQUENCIES.index(group) if group in FREQUENCIES else len(FREQUENCIES)
    return rank, -(category.images or 0), category.name


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return [row for row in csv.DictReader(io.StringIO(text)) if row.get("name")]


def _logs(trials: Sequence[Trial]) -> dict[str, str]:
    """Returns the last lines of the logs of failed trials, by number."""
    failed = [trial for trial in trials if trial.state == "failed"][:LOGS_SHOWN]
    return {str(trial.number): trial.log_tail(LOG_LINES) for trial in failed}


def _examples(trial: Path, sweep: Path) -> list[dict[str, Any]]:
    """Returns the example images of a trial with their boxes; none if it kept none.

    Raises:
        InputError: if one lies outside the folder of the sweep.
    """
    file = trial / "pictures" / "examples.json"
    try:
        examples = json.loads(file.read_text(encoding="utf-8"))
        pictures = [file.parent / example["picture"] for example in examples]
        for row, picture in enumerate(pictures):
            require_inside(picture, sweep, source=file, field=f"[{row}].picture")
        return [
            example | {"picture": _data_url(picture)}
            for example, picture in zip(examples, pictures, strict=True)
        ]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _data_url(image: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(image.read_bytes()).decode("ascii")
