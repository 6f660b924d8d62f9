"""`gridclip sweep run FILE`: a W&B sweep file on this machine, without an account."""

import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gridclip.errors import InputError
from gridclip.sweeps.process import stop_requests
from gridclip.sweeps.progress import Progress
from gridclip.sweeps.search import Search, make_search
from gridclip.sweeps.spec import SweepSpec, read_sweep
from gridclip.sweeps.sweep import Sweep
from gridclip.sweeps.table import best_trial, figure, is_precision, trial_table
from gridclip.sweeps.trial import Trial

LOGS_SHOWN = 3  # of failed trials, at the end


def run_sweep(
    file: Path,
    jobs: int = 1,
    seed: int = 0,
    dir: Path = Path("runs/sweeps"),
    cap: int | None = None,
) -> None:
    """Run a W&B sweep file on this machine and end with a table of its trials.

    Each trial is a process with a folder of its own. One that fails is recorded, and the others go
    on. Ctrl-C stops all of them. The exit status is 0 if every trial finished, 130 if the sweep was
    stopped, else 1.

    Args:
        file: The sweep file, as for `wandb sweep`; its method is grid or random.
        jobs: How many trials run at once.
        seed: Of a random search; the same seed draws the same trials.
        dir: Where the folder of this sweep is made.
        cap: No more trials than this, nor more than the file's run_cap.

    Raises:
        InputError: if the file or a number is wrong, before anything is started.
    """
    spec = read_sweep(file)
    search = make_search(spec, seed=seed)
    planned = _planned(spec, search, jobs=jobs, cap=cap)
    folder = _make_folder(dir, spec.name)
    shutil.copyfile(file, folder / "sweep.yaml")
    console = make_console()
    _announce(console, spec, folder, planned)
    sweep = Sweep(spec, search, folder, jobs=jobs, planned=planned, seed=seed)
    with stop_requests() as request:
        with Progress(console, spec, planned=planned, jobs=jobs) as progress:
            sweep.run(progress, request)
        report(console, spec, folder, sweep.trials)
    status = _exit_status(sweep.trials, stopped=request.count > 0)
    if status:
        sys.exit(status)


def make_console() -> Console:
    """A console as wide as the terminal; a log gets room for a table."""
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if wide else 120)


def report(console: Console, spec: SweepSpec, folder: Path, trials: Sequence[Trial]) -> None:
    """Print the table of trials, the best of them and how to use it, and what went wrong."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    console.print(trial_table(trials, spec))
    metric = spec.metric
    best = best_trial(trials, metric) if metric else None
    if best and metric:
        trial, value = best
        unit = " %" if is_precision(metric.name) else ""
        shown = figure(metric.name, value) + unit
        say(f"best {metric.name}: {shown}, trial {trial.number} in {trial.folder}")
        if (trial.folder / "config.yaml").exists():
            say(f'  use it: gridclip detect --run {trial.folder} --names "a cup, a cat" IMAGE.jpg')
    elif metric:
        say(f"no finished trial has the metric {metric.name}, so none is the best")
    failed = [trial for trial in trials if trial.state != "finished"]
    for trial in failed:
        say(f"trial {trial.number} {trial.state}: {trial.reason}, see {trial.folder / 'log.txt'}")
    for trial in [trial for trial in failed if trial.state == "failed"][:LOGS_SHOWN]:
        say(f"--- the last lines of trial {trial.number} ---\n{trial.log_tail()}")
    say(f"results: {folder / 'results.csv'}")


def _announce(console: Console, spec: SweepSpec, folder: Path, planned: int) -> None:
    lines = [f"{spec.name}: {planned} trials by {spec.method} search, in {folder}"]
    lines += [f"  {spec.description.strip()}"] if spec.description else []
    lines += [f"  ignored on this machine: {', '.join(spec.ignored)}"] if spec.ignored else []
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _planned(spec: SweepSpec, search: Search, *, jobs: int, cap: int | None) -> int:
    for name, value in (("--jobs", jobs), ("--cap", cap)):
        if value is not None and value < 1:
            raise InputError(f"{value} is less than 1", fix="give 1 or more", field=name)
    limits = [limit for limit in (search.size, spec.run_cap, cap) if limit is not None]
    if not limits:
        raise InputError(
            f"a {spec.method} search has no end",
            fix="give --cap N, or run_cap: N in the file",
            file=spec.file,
            field="run_cap",
        )
    return min(limits)


def _make_folder(root: Path, name: str) -> Path:
    """A new folder, named after the sweep and the time."""
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(str(error), fix="give another --dir", field="--dir") from error
        return folder
    raise InputError(f"{stem} is taken", fix="wait a second", field="--dir")


def _exit_status(trials: Sequence[Trial], *, stopped: bool) -> int:
    if stopped:
        return 130
    return 0 if trials and all(trial.state == "finished" for trial in trials) else 1
