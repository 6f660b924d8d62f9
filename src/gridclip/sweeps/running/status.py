"""`gridclip sweep list | status | stop | table | report`: sweeps seen from outside."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from gridclip.io.errors import InputError
from gridclip.sweeps.results.over_seeds import full_name, markdown, put_into
from gridclip.sweeps.results.progress import duration
from gridclip.sweeps.results.report import write_report
from gridclip.sweeps.running.claims import is_dead
from gridclip.sweeps.running.command import make_console, report, say
from gridclip.sweeps.running.start import StoredSweep, find_sweep, known_sweeps
from gridclip.sweeps.storage.protocol import Runner, StorageError, SweepState

ROOT = Path("runs/sweeps")


def list_sweeps(dir: Path = ROOT, storage: str | None = None) -> None:
    """List the sweeps on this machine or in a database, and how far each is.

    Args:
        dir: Where their folders are.
        storage: A database, if the sweeps are kept there.
    """
    table = Table()
    for heading in ("sweep", "trials", "runners"):
        table.add_column(heading, overflow="fold")
    for name in known_sweeps(dir, storage):
        _, state = _look(name, dir, storage)
        table.add_row(*map(Text, (name, _counts(state), str(len(_alive(state.runners))))))
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


def sweep_table(
    id: str,
    over: str | None = None,
    output: Path | None = None,
    dir: Path = ROOT,
    storage: str | None = None,
) -> None:
    """Print the table of a sweep as Markdown, or put it into a page.

    Args:
        id: The sweep's name, its folder, or latest.
        over: A parameter, such as seed_everything: trials that differ in nothing else become one
            row, mean ± standard deviation.
        output: A page, such as docs/results.md. The table takes the place of the one of an earlier
            sweep of this file, and the rest of the page stays.
        dir: Where the folders of sweeps are.
        storage: A database, if the sweep's folder does not name it.
    """
    sweep, state = _look(id, dir, storage)
    spec = sweep.spec()
    text = markdown(state.trials, spec, full_name(over, spec) if over else None)
    if output is None:
        say(make_console(), text)
        return
    day = time.strftime("%Y-%m-%d")
    command = f"gridclip sweep table {sweep.folder.name}" + (f" --over {over}" if over else "")
    put_into(output, spec.name, f"{text}\n\nWritten on {day} by `{command} --output {output}`.")
    say(make_console(), f"table: {output}")


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
