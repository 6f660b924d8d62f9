"""`gridclip sweep run | list | status | stop | table | report`: W&B sweeps without an account."""

import itertools
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from gridclip.io.errors import InputError, require_at_least
from gridclip.io.run_metrics import is_precision
from gridclip.io.tables import WholeTable, make_console, say
from gridclip.sweeps.results.importances import importances_markdown
from gridclip.sweeps.results.over_seeds import markdown, put_into
from gridclip.sweeps.results.paired import compare, find_baseline, paired_markdown, require_pairs
from gridclip.sweeps.results.progress import Progress, duration
from gridclip.sweeps.results.report import write_report
from gridclip.sweeps.results.runs import Runs, is_run_folder, runs_of_folders, runs_of_sweep
from gridclip.sweeps.results.table import best_trial, figure, trial_table
from gridclip.sweeps.running.claims import is_dead
from gridclip.sweeps.running.process import stop_requests
from gridclip.sweeps.running.runner import Sweep
from gridclip.sweeps.running.running_trial import Plan
from gridclip.sweeps.running.start import (
    Start,
    StoredSweep,
    find_sweep,
    known_sweeps,
    start_or_resume,
)
from gridclip.sweeps.search.search import make_search, planned
from gridclip.sweeps.spec.sweep_file import SweepSpec, read_sweep
from gridclip.sweeps.storage.protocol import Runner, StorageError, StorageLostError, SweepState
from gridclip.sweeps.storage.trial import Trial

ROOT = Path("runs/sweeps")
LOGS_SHOWN = 3  # of failed trials, at the end


def run_sweep(  # noqa: PLR0913 - the options of a command
    file: Path,
    jobs: int | None = None,
    gpus: str | None = None,
    per_gpu: int = 1,
    seed: int | None = None,
    dir: Path = ROOT,
    cap: int | None = None,
    storage: str | None = None,
    resume: str | None = None,
    attempts: int = 3,
    lease: float = 120.0,
) -> None:
    """Run a W&B sweep file on this machine and end with a table of its trials.

    Each trial is a process with a folder of its own. One that fails is recorded, and the others go
    on. Ctrl-C stops all of them; whatever was stopped or killed runs again with --resume. Several
    machines run one sweep together: begin it on one, and --resume it on the others, with its folder
    on a disk that all share or with a database as --storage. The exit status is 0 if every trial
    finished or was pruned, 130 if the sweep was stopped, else 1.

    Args:
        file: The sweep file, as for `wandb sweep`.
        jobs: How many trials this command runs at once; by default 1, or as many as its GPUs take.
        gpus: Those of this machine that trials share, separated by commas, such as 0,1: each trial
            sees one of them (CUDA_VISIBLE_DEVICES). By default all see all.
        per_gpu: How many trials share a GPU.
        seed: Of the search, 0 by default; the same seed draws the same trials.
        dir: Where the folder of this sweep is made.
        cap: No more trials than this, nor more than the file's run_cap.
        storage: A database where runners meet, such as postgresql://user@host/database; by default
            a journal in the sweep's folder.
        resume: Go on with this sweep: its name, its folder, or latest.
        attempts: How often a trial may be killed from outside, as for want of memory, before it
            counts as failed.
        lease: Seconds of silence after which a runner of another machine counts as gone, and its
            trials are run again.

    Raises:
        InputError: if the file or a number is wrong, before anything is started.
    """
    spec = read_sweep(file)
    given: dict[str, float | None] = {"--jobs": jobs, "--per_gpu": per_gpu}
    given |= {"--cap": cap, "--attempts": attempts}
    require_at_least(1, **{name: value for name, value in given.items() if value is not None})
    shared = _gpus(gpus)
    jobs = jobs or max(1, per_gpu * len(shared))
    with answering():
        start = Start(resume=resume, seed=seed, cap=cap, lease=lease)
        stored = start_or_resume(spec, dir, storage, start)
        plan = _plan(spec, stored, jobs=jobs, cap=cap, attempts=attempts, gpus=shared)
        status = _run(plan, stored)
    if status:
        sys.exit(status)


@contextmanager
def answering() -> Iterator[None]:
    """Turns what a storage refuses into an InputError that names --storage."""
    try:
        yield
    except StorageLostError as error:
        fix = "put it back and --resume, or begin a new sweep; results.csv in the sweep's folder,"
        fix += " if that is there, has the trials so far"
        raise InputError(str(error), fix=fix, field="--storage") from error
    except StorageError as error:
        raise InputError(str(error), fix="see that it can be reached", field="--storage") from error


def _run(plan: Plan, stored: StoredSweep) -> int:
    """Runs a sweep, reports how it went, and returns the exit status."""
    console, spec, folder = make_console(), plan.spec, plan.folder
    _announce(console, plan)
    with stop_requests() as request:
        with Progress(console, spec, planned=plan.planned, jobs=plan.jobs) as progress:
            sweep = Sweep(plan, stored.storage, progress)
            sweep.run(request)
        trials = sweep.state.trials
        report(console, spec, folder, trials)
        if any(trial.history() or trial.metrics() for trial in trials):
            _write_page(console, stored, trials)
    if sweep.stopping:
        say(console, f"go on: gridclip sweep run {spec.file} --resume {plan.info.id}")
        return 130
    return 0 if trials and all(trial.state in ("finished", "pruned") for trial in trials) else 1


def _plan(
    spec: SweepSpec,
    stored: StoredSweep,
    *,
    jobs: int,
    cap: int | None,
    attempts: int,
    gpus: tuple[str, ...],
) -> Plan:
    search = make_search(spec, seed=stored.info.seed)
    return Plan(
        info=stored.info,
        spec=spec,
        search=search,
        folder=stored.folder,
        jobs=jobs,
        planned=planned(spec, search, stored.info.cap if cap is None else cap),
        attempts=attempts,
        gpus=gpus,
    )


def _gpus(words: str | None) -> tuple[str, ...]:
    """Returns what is asked for, each once.

    Whether they are there is for a trial to find: a runner loads no CUDA.
    """
    if words is None:
        return ()
    gpus = tuple(word.strip() for word in words.split(","))
    if not all(gpus) or len(set(gpus)) < len(gpus):
        problem = f"--gpus {words} names none, or one twice"
        raise InputError(problem, fix="name each once, as in --gpus 0,1", field="--gpus")
    return gpus


def report(console: Console, spec: SweepSpec, folder: Path, trials: Sequence[Trial]) -> None:
    """Prints the table of trials, the best of them and how to use it, and what went wrong."""
    console.print(trial_table(trials, spec))
    metric = spec.metric
    best = best_trial(trials, metric) if metric else None
    if best and metric:
        trial, value = best
        unit = " %" if is_precision(metric.name) else ""
        shown = figure(metric.name, value) + unit
        say(console, f"best {metric.name}: {shown}, trial {trial.number} in {trial.folder}")
        if (trial.folder / "config.yaml").exists():
            say(
                console,
                f'  use it: gridclip detect --run {trial.folder} --names "a cup, a cat" IMAGE.jpg',
            )
    elif metric:
        say(console, f"no finished trial has the metric {metric.name}, so none is the best")
    failed = [trial for trial in trials if trial.state not in ("running", "finished", "pruned")]
    for trial in failed:
        say(
            console,
            f"trial {trial.number} {trial.state}: {trial.reason}, see {trial.folder / 'log.txt'}",
        )
    for trial in [trial for trial in failed if trial.state == "failed"][:LOGS_SHOWN]:
        say(console, f"--- the last lines of trial {trial.number} ---\n{trial.log_tail()}")
    say(console, f"results: {folder / 'results.csv'}")


def _announce(console: Console, plan: Plan) -> None:
    spec = plan.spec
    lines = [f"{spec.name}: {plan.planned} trials by {spec.method} search, in {plan.folder}"]
    lines += [f"  {spec.description.strip()}"] if spec.description else []
    lines += [f"  ignored on this machine: {', '.join(spec.ignored)}"] if spec.ignored else []
    lines += [f"  mind: {warning}" for warning in spec.warnings]
    for line in lines:
        say(console, line)


def _write_page(console: Console, stored: StoredSweep, trials: Sequence[Trial]) -> None:
    """Writes the page about the sweep; whatever goes wrong there, the sweep is done."""
    try:
        page = write_report(stored.spec(), stored.folder, trials)
        say(console, f"report: {page}")
    except Exception as error:
        say(console, f"no report page: {type(error).__name__}: {error}")


def list_sweeps(dir: Path = ROOT, storage: str | None = None) -> None:
    """List the sweeps on this machine or in a database, and how far each is.

    Args:
        dir: Where their folders are.
        storage: A database, if the sweeps are kept there.
    """
    table = WholeTable(("sweep", "trials", "runners"), left=("sweep", "trials"))
    for name in known_sweeps(dir, storage):
        _, state = _look(name, dir, storage)
        table.add_row(name, _counts(state), str(len(_alive(state.runners))))
    make_console().print(table)


def sweep_status(id: str, dir: Path = ROOT, storage: str | None = None) -> None:
    """Show how a sweep stands: its trials, and who runs them.

    Args:
        id: The sweep's name, its folder, or latest.
        dir: Where the folders of sweeps are.
        storage: A database, if the sweep's folder does not name it.
    """
    sweep, state = _look(id, dir, storage)
    spec, folder, console = sweep.spec(), sweep.folder, make_console()
    say(console, f"{folder.name}: {_counts(state)}, in {folder}")
    report(console, spec, folder, state.trials)
    for runner in _alive(state.runners):
        silent = (datetime.now(UTC) - datetime.fromisoformat(runner.seen)).total_seconds()
        mine = [str(t.number) for t in state.trials if t.runner == runner.id and not t.ended]
        say(
            console,
            f"runner on {runner.host}, process {runner.pid}, heard of"
            f" {duration(max(0.0, silent))} ago: trials {', '.join(mine) or 'none'}"
            + (", asked to stop" if runner.asked else ""),
        )


def stop_sweep(id: str, dir: Path = ROOT, storage: str | None = None) -> None:
    """Ask all runners of a sweep to stop, on whatever machine they are.

    They end their trials within half a minute and record them as stopped; `gridclip sweep run
    FILE --resume ID` goes on.

    Args:
        id: The sweep's name, its folder, or latest.
        dir: Where the folders of sweeps are.
        storage: A database, if the sweep's folder does not name it.
    """
    sweep, _ = _look(id, dir, storage)
    asked = [runner for runner in sweep.storage.ask_to_stop() if not is_dead(runner)]
    hosts = ", ".join(sorted({runner.host for runner in asked}))
    many = f"{len(asked)} runner{'s' * (len(asked) != 1)}"
    name = sweep.folder.name
    say(make_console(), f"{name}: asked {many} to stop" + (f" on {hosts}" * bool(hosts)))


def sweep_table(  # noqa: PLR0913 - the options of a command
    id: list[Path],
    over: str | None = None,
    paired: str | None = None,
    metrics: str | None = None,
    importances: bool = False,
    output: Path | None = None,
    dir: Path = ROOT,
    storage: str | None = None,
) -> None:
    """Print a table of a sweep, or of any run folders, as Markdown, or put it into a page.

    Args:
        id: The sweep's name, its folder, or latest; or the folders of finished runs, whose
            config.yaml says in which settings they differ.
        over: A parameter, such as seed_everything: trials that differ in nothing else become one
            row, mean ± standard deviation.
        paired: A baseline, such as weights.image=0, or a trial by its number or folder: each other
            setting becomes a row, with the mean difference to it over the same seeds, its 95 %
            interval and p of a paired t-test, and where runs have results by image also those over
            images drawn anew. The seed is --over, or what is called a seed.
        metrics: What to show, separated by commas, such as AP,APr,AP50; by default AP, APr, APc,
            APf and the sweep's own.
        importances: Add how much the sweep's metric hangs on each parameter, by PED-ANOVA. That of
            a seed tells how much of a share is chance.
        output: A page, such as docs/results.md. The table takes the place of the one of an earlier
            sweep of this file, and the rest of the page stays.
        dir: Where the folders of sweeps are.
        storage: A database, if the sweep's folder does not name it.
    """
    runs, spec, id = _runs(id, dir, storage)
    seed = runs.full_name(over, "--over") if over else None
    measured = runs.measured(metrics)
    text = _paired(runs, paired, seed, measured) if paired else markdown(runs, seed, measured)
    if importances:
        text += f"\n\n{_importances(runs, spec)}"
    if output is None:
        say(make_console(), text)
        return
    day = time.strftime("%Y-%m-%d")
    given = {"over": over, "paired": paired, "metrics": metrics, "output": output}
    words: list[tuple[str, ...]]
    words = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    said = [*itertools.chain(*words), *["--importances"] * importances]
    command = shlex.join(["gridclip", "sweep", "table", *map(str, id), *said])
    title = f"{runs.title}, paired" if paired else runs.title
    put_into(output, title, f"{text}\n\nWritten on {day} by `{command}`.")
    say(make_console(), f"table: {output}")


def _runs(
    id: list[Path], dir: Path, storage: str | None
) -> tuple[Runs, SweepSpec | None, list[Path]]:
    """Returns what is to be shown, its sweep file if it is a sweep, and a name that stays."""
    if all(map(is_run_folder, id)):
        return runs_of_folders(id), None, id
    if len(id) > 1:
        other = next(folder for folder in id if not is_run_folder(folder))
        fix = "name one sweep, or folders that have a config.yaml"
        raise InputError("is no run folder", fix=fix, file=other)
    sweep, state = _look(str(id[0]), dir, storage)
    spec = sweep.spec()
    return runs_of_sweep(spec, state.trials), spec, [Path(sweep.folder.name)]  # latest changes


def _importances(runs: Runs, spec: SweepSpec | None) -> str:
    if spec is None:
        problem = "run folders do not say from where their settings were drawn"
        raise InputError(problem, fix="name a sweep", field="--importances")
    return importances_markdown(spec, runs.trials)


def _paired(runs: Runs, baseline: str, over: str | None, metrics: Sequence[str]) -> str:
    seed = over or runs.seed_name()
    if seed is None:
        fix = "name the setting that is the seed: --over NAME"
        raise InputError("the runs differ in no seed", fix=fix, field="--paired", file=runs.file)
    point = find_baseline(baseline, runs, seed)
    shown = [name for name in metrics if any(t.value(name) is not None for t in runs.finished)]
    comparisons = compare(runs, point, seed, shown)
    require_pairs(comparisons, seed)
    return paired_markdown(comparisons, runs, point, seed)


def sweep_report(sweep: str, output: Path | None = None, dir: Path = ROOT) -> None:
    """Write the report page of a sweep: one HTML file that any browser opens without a network.

    Args:
        sweep: The name of its folder, a path to it, or "latest".
        output: Where to write the page; report.html in the sweep's folder if left out.
        dir: Where the folders of sweeps are.
    """
    stored, state = _look(sweep, dir, None)
    page = write_report(stored.spec(), stored.folder, state.trials, output)
    say(make_console(), f"report: {page}")


def _look(id: str, root: Path, address: str | None) -> tuple[StoredSweep, SweepState]:
    try:
        sweep = find_sweep(id, root, address)
        return sweep, sweep.storage.read()
    except StorageError as error:
        raise InputError(str(error), fix="see that it can be reached", field="--storage") from error


def _counts(state: SweepState) -> str:
    counts = Counter(trial.state for trial in state.trials)
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trial yet"


def _alive(runners: Sequence[Runner]) -> list[Runner]:
    """Returns those that may be at work, as far as one look can tell."""
    return [runner for runner in runners if not runner.left and not is_dead(runner)]
