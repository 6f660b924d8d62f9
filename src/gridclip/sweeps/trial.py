"""One trial of a sweep: its folder, its record, and what it measured."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from gridclip.sweeps.parameters import Point
from gridclip.sweeps.section import Number

State = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is known of a trial; `save` keeps it in trial.json.

    Args:
        number: 1 for the first.
        folder: Where it writes all it makes: the run folder of its training.
        point: The value of every parameter, by full name.
        argv: The words of its command.
        run_id: Its id in W&B.
        started: When its process began.
        state: finished means that it exited with 0 and left a readable metrics.json.
        reason: Why it failed or was stopped, for people.
        exit_code: Of its process; negative for a signal, None while running or if it never began.
        ended: When its process was gone.
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

    def save(self) -> None:
        """Write trial.json, atomically."""
        record = {
            "number": self.number,
            "state": self.state,
            "reason": self.reason,
            "exit_code": self.exit_code,
            "started": self.started.isoformat(timespec="seconds"),
            "ended": self.ended.isoformat(timespec="seconds") if self.ended else None,
            "parameters": dict(self.point),
            "argv": list(self.argv),
            "run_id": self.run_id,
        }
        write_json(self.folder / "trial.json", record)

    def seconds(self, now: datetime) -> float:
        """How long it has been running, or ran."""
        return ((self.ended or now) - self.started).total_seconds()

    def metrics(self) -> dict[str, Number]:
        """The numbers in its metrics.json; empty if there is no such file or it is broken."""
        try:
            content = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return _numbers(content)

    def history(self) -> list[dict[str, Number]]:
        """The numbers of every validation so far, oldest first; a line half written is left out."""
        try:
            lines = (self.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        return [row for line in lines if (row := _numbers(_parsed(line)))]

    def latest(self) -> dict[str, Number]:
        """The last validation, its names without their `val/`."""
        rows = self.history()
        return {_bare(name): value for name, value in rows[-1].items()} if rows else {}

    def value(self, metric: str) -> Number | None:
        """A metric as a sweep file names it: of metrics.json, else the last in the history."""
        final = self.metrics()
        for name in (metric, _bare(metric)):
            if name in final:
                return final[name]
        logged = [row[metric] for row in self.history() if metric in row]
        return logged[-1] if logged else None

    def log_tail(self, lines: int = 12) -> str:
        """The last lines of its log."""
        try:
            text = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        # A progress bar redraws its line behind a carriage return; only its last state tells.
        shown = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        return "\n".join([line for line in shown if line.strip()][-lines:])


def write_json(file: Path, content: Mapping[str, object]) -> None:
    """Write JSON atomically; what only YAML knows, such as a date, becomes text."""
    write_text(file, json.dumps(content, indent=2, default=str) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a file under a temporary name beside it, then rename it."""
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _numbers(content: object) -> dict[str, Number]:
    """The finite numbers of a mapping."""
    if not isinstance(content, dict):
        return {}
    return {
        str(name): value
        for name, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _bare(metric: str) -> str:
    return metric.removeprefix("val/")
