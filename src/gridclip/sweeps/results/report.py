"""`gridclip sweep report`: what a sweep found, as one page to read."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from gridclip.io.errors import InputError
from gridclip.sweeps.results.sweep_records import (
    FIGURES,
    SweepRecords,
    TrialRecord,
    bare,
    read_records,
)
from gridclip.sweeps.results.table import short_names, swept
from gridclip.sweeps.spec.yaml_section import Number
from gridclip.sweeps.storage.trial import log_tail, write_text

# In the order in which the browser reads them; all share one scope.
SCRIPTS = (
    "shared.js",
    "table.js",
    "chart.js",
    "parallel.js",
    "scatter.js",
    "curves.js",
    "longtail.js",
    "examples.js",
    "page.js",
)


def make_page(title: str, data: Mapping[str, object]) -> str:
    """The page that shows this data.

    The browser is told to run this very script and nothing else, and to ask no server for anything
    (Content-Security-Policy), so what a name or a log says is never run.

    Args:
        title: Of the window.
        data: What the scripts read; JSON can say it.
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
    page = _asset("report.html")
    for name in ("title", "policy", "style", "script", "data"):  # the data last: it may say {{x}}
        page = page.replace("{{" + name + "}}", parts[name], 1)
    return page


def _asset(name: str) -> str:
    return files("gridclip.sweeps.results").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _inert(data: Mapping[str, object]) -> str:
    """JSON in which no tag can begin or end."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


SEED_NAMES = ("seed", "seed_everything")
LOGS_SHOWN = 20  # of trials that failed; more tell the same
CURVES = ("step", *FIGURES)


def report_command(sweep: str, output: Path | None = None, dir: Path = Path("runs/sweeps")) -> None:
    """Write the report page of a sweep: one HTML file that any browser opens without a network.

    Args:
        sweep: The name of its folder, a path to it, or "latest".
        output: Where to write the page; report.html in the sweep's folder if left out.
        dir: Where the folders of sweeps are.
    """
    page = write_report(find_sweep(sweep, dir), output)
    Console().print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)


def find_sweep(sweep: str, root: Path) -> Path:
    """The folder of a sweep.

    Args:
        sweep: Its name, a path to it, or "latest".
        root: Where the folders of sweeps are.

    Raises:
        InputError: if there is none.
    """
    known = sorted(root.glob("*/sweep.yaml"), key=lambda file: file.stat().st_mtime)
    if sweep == "latest" and known:
        return known[-1].parent
    for folder in (root / sweep, Path(sweep)):
        if (folder / "sweep.yaml").is_file():
            return folder
    names = ", ".join(file.parent.name for file in known[-3:])
    raise InputError(
        f"there is no sweep {sweep!r}",
        file=root,
        fix=f"the latest are {names}" if names else "run one: gridclip sweep run sweeps/mini.yaml",
    )


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the report page of a sweep, be it finished or not.

    Args:
        folder: Of the sweep.
        output: The page; report.html in the folder if left out.

    Returns:
        The page.

    Raises:
        InputError: if this is no folder of a sweep.
    """
    records = read_records(folder)
    page = make_page(f"{records.spec.name}: sweep report", page_data(records))
    file = output or folder / "report.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, page)
    return file


def page_data(records: SweepRecords) -> dict[str, object]:
    """What the page shows, for its scripts; figures are as they were measured, AP as fractions."""
    spec, trials = records.spec, records.trials
    names = swept(spec.parameters)
    short = short_names([parameter.name for parameter in spec.parameters])
    best = best_number(records)
    return {
        "name": spec.name,
        "folder": records.folder.name,
        "question": records.question,
        "method": spec.method,
        "dataset": records.dataset,
        "protocol": records.protocol,
        "images": records.images,
        "hours": records.hours,
        "written": datetime.now().astimezone().isoformat(timespec="minutes"),
        "goal": _goal(records),
        "figures": _figure_names(records),
        "swept": [
            {"name": name, "short": short[name], "seed": name.split(".")[-1] in SEED_NAMES}
            for name in names
        ],
        "fixed": _fixed(records, short),
        "best": best,
        "categories": [
            {"name": each.name, "frequency": each.frequency, "images": each.images}
            for each in records.categories
        ],
        "trials": [_trial(trial, records) for trial in trials],
        "logs": _logs(trials),
        "examples": next((_examples(each) for each in trials if each.number == best), []),
    }


def best_number(records: SweepRecords) -> int | None:
    """The finished trial with the best value of the sweep's metric, the first of equals."""
    metric, best = records.spec.metric, None
    for trial in records.trials:
        value = trial.metrics.get(bare(metric.name)) if metric else None
        if metric is None or value is None or trial.state != "finished":
            continue
        if best is None or metric.better(value, than=best[1]):
            best = trial.number, value
    return best[0] if best else None


def _goal(records: SweepRecords) -> dict[str, object] | None:
    metric = records.spec.metric
    if metric is None:
        return None
    name = bare(metric.name)
    return {"name": name, "full": metric.name, "maximize": metric.goal == "maximize"}


def _figure_names(records: SweepRecords) -> list[str]:
    """The columns of figures: those of LVIS, and the sweep's metric where it is none of them."""
    metric = records.spec.metric
    return list(dict.fromkeys([*FIGURES, *([bare(metric.name)] if metric else [])]))


def _fixed(records: SweepRecords, short: Mapping[str, str]) -> list[dict[str, object]]:
    """What is the same in all trials, with its value."""
    constants = [each.name for each in records.spec.parameters if each.is_constant]
    first: Mapping[str, object] = records.trials[0].point if records.trials else {}
    return [
        {"name": name, "short": short[name], "value": first[name]}
        for name in constants
        if name in first
    ]


def _trial(trial: TrialRecord, records: SweepRecords) -> dict[str, object]:
    shown = _figure_names(records)
    precision = trial.precision
    return {
        "number": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "minutes": trial.minutes,
        "point": {each.name: trial.point.get(each.name) for each in records.spec.parameters},
        "figures": {name: trial.metrics.get(name) for name in shown},
        "history": {
            name: trial.history[name] for name in ("step", *shown) if name in trial.history
        },
        # In per mille: a thousand names by hundreds of trials are millions of digits.
        "precision": [_per_mille(precision.get(each.name)) for each in records.categories]
        if precision
        else None,
    }


def _per_mille(value: Number | None) -> int | None:
    return None if value is None or value < 0 or not math.isfinite(value) else round(1000 * value)


def _logs(trials: Sequence[TrialRecord]) -> dict[str, str]:
    """The last lines of those trials that did not finish, by number."""
    failed = [trial for trial in trials if trial.state == "failed"][:LOGS_SHOWN]
    return {str(trial.number): log_tail(trial.folder / "log.txt", 20) for trial in failed}


def _examples(trial: TrialRecord) -> list[dict[str, Any]]:
    """The example images of a trial with their boxes; none if it kept none."""
    file = trial.folder / "pictures" / "examples.json"
    try:
        examples = json.loads(file.read_text(encoding="utf-8"))
        return [
            example | {"picture": _data_url(file.parent / example["picture"])}
            for example in examples
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _data_url(image: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(image.read_bytes()).decode("ascii")
