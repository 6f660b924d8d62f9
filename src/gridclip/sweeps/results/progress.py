"""What a running sweep shows: a live table on a terminal, plain lines in a log."""

import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gridclip.io.run_metrics import MAIN_METRICS
from gridclip.io.tables import WholeTable, say
from gridclip.sweeps.results.table import cell, figure
from gridclip.sweeps.spec.parameters import short_names, swept
from gridclip.sweeps.spec.sweep_file import SweepSpec
from gridclip.sweeps.storage.protocol import SweepState
from gridclip.sweeps.storage.trial import FINAL, Trial

REFRESH = 1.0  # seconds between two looks at the histories
RECENT = 200  # trials that tell how long one takes
ENDED_SHOWN = 8  # the live table keeps to the running trials and the last few ended ones


class Progress:
    """Shows how a sweep goes; a context, for the live table must end.

    Args:
        console: Where to print; it knows whether it is a terminal.
        spec: The sweep.
        planned: How many trials there will be.
        jobs: How many run at once.
    """

    def __init__(self, console: Console, spec: SweepSpec, *, planned: int, jobs: int) -> None:
        self.console, self.planned, self.jobs = console, planned, jobs
        self.names = swept(spec.parameters)
        self.short = short_names(self.names)
        # FORCE_COLOR makes rich call any log a terminal, so the file is asked too.
        is_live = console.is_interactive and console.file.isatty()
        self.live = Live(console=console, auto_refresh=False) if is_live else None
        self._validations: dict[int, int] = {}
        self._running: set[tuple[int, int]] = set()  # number and attempt
        self._shown_once: set[str] = set()
        self._shown = 0.0

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.update(Text(), refresh=True)  # the final table takes its place
            self.live.stop()

    def started(self, trial: Trial) -> None:
        """Shows that a trial has started."""
        point = " ".join(f"{self.short[name]}={cell(trial.point[name])}" for name in self.names)
        self._line(f"trial {trial.number}/{self.planned} started: {point}")

    def ended(self, trial: Trial, state: SweepState) -> None:
        """Shows how a trial has ended."""
        now = datetime.now(UTC)
        self._running.discard((trial.number, trial.attempt))
        reason = f" ({trial.reason}, see {trial.folder / 'log.txt'})" if trial.reason else ""
        figures = _figures(trial) if trial.state == "finished" else ""
        left = self._seconds_left(state, now)
        more = f"; about {duration(left)} left" if left else ""
        self._line(
            f"trial {trial.number}/{self.planned} {trial.state}{reason}"
            f" after {duration(trial.seconds(now))}{figures}{more}"
        )

    def trouble(self, problem: str) -> None:
        """Shows once what went wrong without ending the sweep."""
        if problem not in self._shown_once:
            self._shown_once.add(problem)
            self._line(problem, always=True)

    def waiting(self, running: Sequence[Trial]) -> None:
        """Shows that nothing is left to start here, while others are not done and may need help."""
        hosts = ", ".join(sorted({trial.host for trial in running}))
        if "waiting" not in self._shown_once:
            self._shown_once.add("waiting")
            self._line(
                f"waiting for trials of other runners on {hosts}, to take over what they may drop;"
                " Ctrl-C leaves, and they go on",
                always=True,
            )

    def show(self, state: SweepState) -> None:
        """Brings the image up to date, at most once a second."""
        if time.monotonic() - self._shown < REFRESH:
            return
        self._shown = time.monotonic()
        if self.live:
            self.live.update(self._table(state, datetime.now(UTC)), refresh=True)
            return
        for trial in state.trials:
            if (trial.number, trial.attempt) in self._running and trial.state != "running":
                self.ended(trial, state)  # another's
        for trial in state.open:
            if trial.state == "running":
                self._show_validation(trial)

    def _show_validation(self, trial: Trial) -> None:
        """Prints a validation that a log has not shown yet."""
        self._running.add((trial.number, trial.attempt))
        count = len(trial.history())
        if count > self._validations.get(trial.number, 0):
            self._line(f"trial {trial.number}/{self.planned} validated{_figures(trial)}")
        self._validations[trial.number] = count

    def _line(self, line: str, always: bool = False) -> None:
        if self.live is None or always:
            say(self.console, line)

    def _table(self, state: SweepState, now: datetime) -> WholeTable:
        trials = state.trials
        ended = [trial for trial in trials if trial.state != "running"]
        done = sum(trial.state in FINAL for trial in ended)
        caption = f"{done} of {self.planned} trials done"
        for fate in ("failed", "pruned"):
            count = sum(trial.state == fate for trial in ended)
            caption += f", {count} {fate}" if count else ""
        left = self._seconds_left(state, now)
        caption += f", about {duration(left)} left" if left else ""
        hosts = {trial.host for trial in trials if trial.host}
        shown = ("trial", *self.short.values(), "state", "steps", *MAIN_METRICS, "time", "left")
        headings = (*shown, "host") if len(hosts) > 1 else shown
        table = WholeTable(headings, caption=caption)
        for trial in trials:
            if trial.state == "running" or trial in ended[-ENDED_SHOWN:]:
                cells = self._row(trial, trials, now)
                table.add_row(*cells[: len(headings)])
        return table

    def _row(self, trial: Trial, trials: Sequence[Trial], now: datetime) -> list[str]:
        left = _trial_left(trial, trials, now)
        latest = trial.metrics_so_far()
        return [
            str(trial.number),
            *(cell(trial.point[name]) for name in self.names),
            trial.state,
            steps(trial),
            *(figure(name, latest.get(name)) for name in MAIN_METRICS),
            duration(trial.seconds(now)),
            duration(left) if left is not None else "–",
            trial.host,
        ]

    def _seconds_left(self, state: SweepState, now: datetime) -> float | None:
        """Returns the time to the end of the sweep, once it is known how long a trial takes."""
        recent = state.trials[-RECENT:]
        each = _usual_seconds(recent)
        if each is None:
            return None
        running = [trial for trial in state.open if trial.state == "running"]
        begun = sum(_trial_left(trial, recent, now) or 0 for trial in running)
        to_come = max(0, self.planned - len(state.trials) + len(state.open) - len(running))
        return (begun + each * to_come) / max(self.jobs, len(running))


def duration(seconds: float) -> str:
    """Returns seconds as people say them: 41 s, 3:05 min, 2 h 07 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


def steps(trial: Trial) -> str:
    """Returns how far a trial is, by its validations and its recipe."""
    done = trial.latest().get("step")
    if done is None:
        return "–"
    return f"{done}/{trial.steps}" if trial.steps else str(done)


def _usual_seconds(trials: Sequence[Trial]) -> float | None:
    """Returns how long a trial takes: the median of finished ones, else by a running one.

    A clock that was set while one ran may make an hour of it, or less than nothing.
    """
    took = [
        trial.seconds(trial.ended) for trial in trials if trial.ended and trial.state == "finished"
    ]
    took = took or [whole for trial in trials if (whole := _expected(trial)) is not None]
    return statistics.median(took) if took else None


def _expected(trial: Trial) -> float | None:
    """Returns the seconds that a trial takes in all, by step and time of its last validation."""
    latest = trial.latest()
    step, time_then = latest.get("step"), latest.get("time")
    if trial.state != "running" or not trial.steps or not step or not time_then:
        return None
    return time_then * trial.steps / step


def _trial_left(trial: Trial, trials: Sequence[Trial], now: datetime) -> float | None:
    each = _expected(trial) or _usual_seconds(trials)
    if each is None or trial.state != "running":
        return None
    return max(0.0, each - trial.seconds(now))


def _figures(trial: Trial) -> str:
    latest = trial.metrics_so_far()
    shown = [f"{name} {figure(name, latest[name])}" for name in MAIN_METRICS if name in latest]
    return ": " + ", ".join(shown) if shown else ""
