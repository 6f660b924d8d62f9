"""One trial of a sweep: its folder, its record, and what it measured."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from gridclip.io.errors import InputError
from gridclip.io.files import write_text
from gridclip.io.run_metrics import bare, read_history, read_metrics
from gridclip.sweeps.spec.parameters import Point
from gridclip.sweeps.spec.yaml_section import Number

State = Literal["running", "finished", "failed", "pruned", "stopped", "interrupted"]
Row = Mapping[str, Number]  # a validation

WAITING = ("stopped", "interrupted")  # ended, but to be run again by a sweep that goes on
FINAL = ("finished", "failed", "pruned")
# Colours and cursor moves; titles, links and clipboards, which end with a bell or a backslash.
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[]PX^_].*?(?:\x07|\x1b\\)", re.DOTALL)
LOG_READ = 200_000  # characters from the end


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is known of a trial; `save` keeps it in trial.json, a storage for all runners.

    Args:
        number: 1 for the first.
        folder: Where it writes all it makes: the run folder of its training. A trial of another
            machine may have it there only.
        point: The value of every parameter, by full name.
        argv: The words of its command, `${envvar:NAME}` as it stands; none where another
            runner's trial is looked at.
        run_id: Its id in W&B.
        started: When its process began.
        state: finished means that it exited with 0 and left a whole metrics.json, in which the
            sweep's metric is a finite number; interrupted and stopped ones are run again when the
            sweep goes on.
        reason: Why it did not finish, for people.
        exit_code: Of its process; negative for a signal, None while running or if it never began.
        ended: When its process was gone.
        attempt: How often its number was taken up, this time included.
        kills: How often a signal from outside killed it, as one for want of memory does.
        runner: The id of the runner that has it, or had it last.
        host: The name of that runner's machine.
        steps: How many steps it will make, if its recipe says so.
        rows: Its validations as a storage has them; None where its folder has them.
        figures: Its final figures as a storage has them; None where its folder has them.
    """

    number: int
    folder: Path
    point: Point
    argv: tuple[str, ...]
    run_id: str
    started: datetime
    state: State = "running"
    reason: str = ""
    exit_code: int | None = None
    ended: datetime | None = None
    attempt: int = 1
    kills: int = 0
    runner: str = ""
    host: str = ""
    steps: int | None = None
    rows: tuple[Row, ...] | None = None
    figures: Row | None = None

    def record(self) -> dict[str, Any]:
        """Returns all but the folder and what was measured, as JSON has it."""
        return {
            "number": self.number,
            "state": self.state,
            "reason": self.reason,
            "exit_code": self.exit_code,
            "started": self.started.isoformat(timespec="milliseconds"),
            "ended": self.ended.isoformat(timespec="milliseconds") if self.ended else None,
            "parameters": dict(self.point),
            "argv": list(self.argv),
            "run_id": self.run_id,
            "attempt": self.attempt,
            "kills": self.kills,
            "runner": self.runner,
            "host": self.host,
            "steps": self.steps,
        }

    def save(self) -> None:
        """Writes trial.json, atomically."""
        write_json(self.folder / "trial.json", self.record())

    def seconds(self, now: datetime) -> float:
        """Returns how long it has been running, or ran."""
        return max(0.0, ((self.ended or now) - self.started).total_seconds())

    def metrics(self) -> Row:
        """Returns its final figures that are finite; none if metrics.json is absent or broken."""
        if self.figures is not None:
            return self.figures
        return read_metrics(self.folder)

    def history(self) -> Sequence[Row]:
        """Returns the numbers of every validation so far, the oldest first."""
        return self.rows if self.rows is not None else read_history(self.folder)

    def latest(self) -> dict[str, Number]:
        """Returns the last validation, its names without their `val/`."""
        rows = self.history()
        return {bare(name): value for name, value in rows[-1].items()} if rows else {}

    def metrics_so_far(self) -> Row:
        """Returns its final metrics, else those of its last validation, by name without val/."""
        return {bare(name): value for name, value in self.metrics().items()} or self.latest()

    def value(self, metric: str) -> Number | None:
        """Returns a metric as a sweep file names it: final, else of the last validation."""
        final = self.metrics()
        for name in (metric, bare(metric)):
            if name in final:
                return final[name]
        logged = [row[metric] for row in self.history() if metric in row]
        return logged[-1] if logged else None

    def log_tail(self, lines: int = 12) -> str:
        """Returns the last lines of its log as a terminal would have left them, without colours."""
        try:
            # Not read as text, for that takes a carriage return for the end of a line.
            text = (self.folder / "log.txt").read_bytes().decode("utf-8", errors="replace")
        except OSError:
            return ""
        plain = TERMINAL_CODE.sub("", text[-LOG_READ:])
        # A progress bar redraws its line behind a carriage return; only its last state is shown.
        shown = [line.rstrip("\r").rpartition("\r")[2] for line in plain.split("\n")]
        # Whatever else is no text would reach the reader's terminal as a command to it.
        shown = ["".join(c for c in line if c.isprintable() or c == "\t") for line in shown]
        return "\n".join([line for line in shown if line.strip()][-lines:])


def trial_folder(sweep: Path, number: int) -> Path:
    """Returns where a trial of a sweep writes."""
    return sweep / "trials" / f"{number:03d}"


def read_record(
    record: Mapping[str, Any], sweep: Path, rows: Sequence[Row], figures: Row | None
) -> Trial:
    """Returns the trial of a record.

    Args:
        record: As `Trial.record` made it, maybe by another version.
        sweep: The folder of its sweep.
        rows: Its validations.
        figures: Its final figures, if it has any.

    Raises:
        InputError: if it is the record of a newer version.
    """
    if record["state"] not in get_args(State):
        raise InputError(
            f"{record['state']!r} is no state of a trial",
            file=sweep,
            field=f"trial {record['number']}",
            fix="use the version of gridclip that wrote it",
        )
    return Trial(
        number=record["number"],
        folder=trial_folder(sweep, record["number"]),
        point=record["parameters"],
        argv=tuple(record["argv"]),
        run_id=record["run_id"],
        started=datetime.fromisoformat(record["started"]),
        state=record["state"],
        reason=record["reason"],
        exit_code=record["exit_code"],
        ended=datetime.fromisoformat(record["ended"]) if record["ended"] else None,
        attempt=record["attempt"],
        kills=record["kills"],
        runner=record["runner"],
        host=record["host"],
        steps=record["steps"],
        rows=tuple(rows),
        figures=figures or {},
    )


def write_json(file: Path, content: Mapping[str, object]) -> None:
    """Writes JSON atomically; what only YAML knows, such as a date or .inf, becomes text."""
    text = json.dumps(as_json(content), indent=2, allow_nan=False, default=str)
    write_text(file, text + "\n")


def as_json(value: object) -> object:
    """Returns a value of YAML as JSON can say it: keys and what is no finite number as text.

    A date and the like are left as they are, for `default=str`.
    """
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
