"""What a running sweep shows: a live table on a terminal, plain lines in a log."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gridclip.sweeps.spec import SweepSpec
from gridclip.sweeps.table import FIGURES, cell, figure, short_names, swept
from gridclip.sweeps.trial import Trial

REFRESH = 1.0  # seconds between two looks at the histories
ENDED_SHOWN = 8  # the live table keeps to the running trials and the last few ended ones


class Progress:
    """Tells how a sweep goes; a context, for the live table must end.

    Args:
        console: Where to print; it knows whether it is a terminal.
        spec: The sweep.
        planned: How many trials there will be.
        jobs: How many run at once.
    """

    def __init__(self, console: Console, spec: SweepSpec, *, planned: int, jobs: int) -> None:
        self.console, self.planned, self.jobs = console, planned, jobs
        self.metric = spec.metric
        self.names = swept(spec.parameters)
        self.short = short_names(self.names)
        # FORCE_COLOR makes rich call any log a terminal, so the file is asked too.
        is_live = console.is_interactive and console.file.isatty()
        self.live = Live(console=console, auto_refresh=False) if is_live else None
        self._validations: dict[int, int] = {}
        self._shown = 0.0

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.update(Text(), refresh=True)  # the final table takes its place
            self.live.stop()

    def started(self, trial: Trial) -> None:
        """A trial has begun."""
        point = " ".join(f"{self.short[name]}={cell(trial.point[name])}" for name in self.names)
        self._line(f"trial {trial.number}/{self.planned} started: {point}")

    def ended(self, trial: Trial, trials: Sequence[Trial]) -> None:
        """A trial has ended, one way or another."""
        now = datetime.now(UTC)
        said = f" ({trial.reason}, see {trial.folder / 'log.txt'})" if trial.reason else ""
        figures = _figures(trial) if trial.state == "finished" else ""
        left = self._seconds_left(trials, now)
        more = f"; about {duration(left)} left" if left else ""
        self._line(
            f"trial {trial.number}/{self.planned} {trial.state}{said}"
            f" after {duration(trial.seconds(now))}{figures}{more}"
        )
        metric = self.metric
        if trial.state == "finished" and metric and trial.value(metric.name) is None:
            known = ", ".join(sorted(trial.metrics()))
            self._line(f"trial {trial.number} has no metric {metric.name}; it has {known}", True)

    def show(self, trials: Sequence[Trial]) -> None:
        """Bring the picture up to date, at most once a second."""
        if time.monotonic() - self._shown < REFRESH:
            return
        self._shown = time.monotonic()
        if self.live:
            self.live.update(self._table(trials, datetime.now(UTC)), refresh=True)
            return
        for trial in trials:
            if trial.state != "running":
                continue
            count = len(trial.history())
            if count > self._validations.get(trial.number, 0):
                self._validations[trial.number] = count
                self._line(f"trial {trial.number}/{self.planned} validated{_figures(trial)}")

    def _line(self, line: str, always: bool = False) -> None:
        if self.live is None or always:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _table(self, trials: Sequence[Trial], now: datetime) -> Table:
        ended = [trial for trial in trials if trial.state != "running"]
        failed = sum(trial.state == "failed" for trial in ended)
        caption = f"{len(ended)} of {self.planned} trials done"
        caption += f", {failed} failed" if failed else ""
        left = self._seconds_left(trials, now)
        caption += f", about {duration(left)} left" if left else ""
        table = Table(caption=caption)
        for heading in ("trial", *self.short.values(), "state", *FIGURES, "time", "left"):
            table.add_column(heading, justify="right", overflow="fold")
        for trial in trials:
            if trial.state == "running" or trial in ended[-ENDED_SHOWN:]:
                table.add_row(*map(Text, self._row(trial, trials, now)))
        return table

    def _row(self, trial: Trial, trials: Sequence[Trial], now: datetime) -> list[str]:
        left = _trial_left(trial, trials, now)
        latest = trial.latest() if trial.state == "running" else trial.metrics()
        return [
            str(trial.number),
            *(cell(trial.point[name]) for name in self.names),
            trial.state,
            *(figure(name, latest.get(name)) for name in FIGURES),
            duration(trial.seconds(now)),
            duration(left) if left is not None else "–",
        ]

    def _seconds_left(self, trials: Sequence[Trial], now: datetime) -> float | None:
        """The time to the end of the sweep, once a finished trial tells how long one takes."""
        each = _usual_seconds(trials)
        if each is None:
            return None
        running = sum(_trial_left(trial, trials, now) or 0 for trial in trials)
        return (running + each * (self.planned - len(trials))) / self.jobs


def duration(seconds: float) -> str:
    """Seconds as people say them: 41 s, 3:05 min, 2 h 07 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


def _usual_seconds(trials: Sequence[Trial]) -> float | None:
    took = [
        trial.seconds(trial.ended) for trial in trials if trial.ended and trial.state == "finished"
    ]
    return sum(took) / len(took) if took else None


def _trial_left(trial: Trial, trials: Sequence[Trial], now: datetime) -> float | None:
    each = _usual_seconds(trials)
    if each is None or trial.state != "running":
        return None
    return max(0.0, each - trial.seconds(now))


def _figures(trial: Trial) -> str:
    latest = trial.metrics() or trial.latest()
    shown = [f"{name} {figure(name, latest[name])}" for name in FIGURES if name in latest]
    return ": " + ", ".join(shown) if shown else ""
