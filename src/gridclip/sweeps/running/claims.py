"""Which runners are alive, what a runner takes up next, and what the end of a process means."""

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from gridclip.io.run_metrics import bare, finite_numbers, is_finite_number, last_logged, peek_json
from gridclip.sweeps.running.disk import has_room, tells_of_full_disk
from gridclip.sweeps.running.process import Exit
from gridclip.sweeps.spec.parameters import Point
from gridclip.sweeps.spec.sweep_file import Metric
from gridclip.sweeps.storage.protocol import Runner, SweepState
from gridclip.sweeps.storage.trial import WAITING, State, Trial, trial_folder

BEATS = 12  # in a lease
NO_ROOM = "no room was left on a disk"
LOG_LINES = 40  # from the end, in which a program says why it failed
_ROUNDING = 1e-3  # seconds; a tick of the system is ten times as long
SILENCE = 0.6  # of a lease: when a guard ends its trial, well before others may start it again


def this_runner() -> Runner:
    """Returns a new runner: this process."""
    return Runner(
        id=secrets.token_hex(6),
        host=socket.gethostname(),
        machine=this_machine(),
        pid=os.getpid(),
        born=_birth(os.getpid()),
        seen=now(),
    )


def this_machine() -> str:
    """Returns what two processes have in common that see each other by their process ids.

    A container may share its name or its kernel with another, so the start of the system and the
    space of process ids are part of it, where the system has them.
    """
    parts = [socket.gethostname()]
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and space.is_symlink():
        parts += [boot.read_text(encoding="utf-8").strip(), str(space.readlink())]
    return " ".join(parts)


def _birth(pid: int) -> float:
    """Returns when a process began: the same number whenever it is asked for.

    psutil adds the time of the system's start, which moves whenever the clock is set. The seconds
    since that start, as Linux counts them, stay, and mean the same to all who share a machine.

    Raises:
        psutil.NoSuchProcess: if there is none.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux, or no such process
        return float(psutil.Process(pid).create_time())
    ticks = line.rpartition(")")[2].split()[19]  # starttime, proc(5); the name may have spaces
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def now() -> str:
    """Returns the time as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_dead(runner: Runner) -> bool:
    """Returns whether a runner's process is known to have ended; False for other machines."""
    if runner.machine != this_machine():
        return False
    try:
        other = abs(_birth(runner.pid) - runner.born) > _ROUNDING
        return other or psutil.Process(runner.pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Heartbeats:
    """Watches the runners, by its own clock: the clocks of two machines need not agree.

    A runner is gone that left, whose process has ended on this machine, or whose sign of life has
    not changed for a lease. A time in which nobody looked, as while the storage did not answer,
    counts for nothing: others could not give a sign then either.

    Args:
        lease: Seconds.
        clock: Seconds, ever rising.
    """

    def __init__(self, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease, self.clock = lease, clock
        self._signs: dict[str, tuple[str, float]] = {}  # by runner: the sign, and when it was new
        self._looked = clock()

    def gone(self, runners: Iterable[Runner]) -> set[str]:
        """Returns the ids of those that are gone; to be called often.

        The runner that asks is not gone, whatever is recorded of it, so it leaves itself out.
        """
        now = self.clock()
        if now - self._looked > self.lease / 4:
            self._signs.clear()
        self._looked = now
        return {runner.id for runner in runners if self._is_gone(runner, now)}

    def _is_gone(self, runner: Runner, now: float) -> bool:
        sign, since = self._signs.get(runner.id, ("", 0.0))
        if sign != runner.seen:
            self._signs[runner.id] = (runner.seen, now)
            since = now
        return runner.left or is_dead(runner) or now - since >= self.lease


# Signals by which systems, schedulers and people end processes; others are a program's own fault.
OUTSIDE = (
    *(signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2),  # of schedulers: the end is near
)
SHELL = 128  # plus the signal: the exit code of a program that saved first, and of shells


def to_run_again(
    state: SweepState, me: Runner, gone: Collection[str], busy: Collection[int]
) -> Trial | None:
    """Returns the first trial that nobody runs any more though it did not come to an end.

    Args:
        state: What is known.
        me: This runner.
        gone: The ids of runners that are gone.
        busy: The numbers that this runner has in hand, which it never takes again. One that is
            recorded for it and not there was taken when the storage's answer got lost.
    """
    known = {runner.id for runner in state.runners} - set(gone)
    for trial in state.open:
        if trial.number in busy:
            continue
        is_lost = trial.runner not in known or trial.runner == me.id
        if trial.state in WAITING or (trial.state == "running" and is_lost):
            return trial
    return None


def first_attempt(number: int, point: Point, me: Runner, sweep: Path) -> Trial:
    """Returns a new trial, as it is claimed."""
    return Trial(
        number=number,
        folder=trial_folder(sweep, number),
        point=point,
        argv=(),
        run_id=secrets.token_hex(4),
        started=datetime.now(UTC),
        runner=me.id,
        host=me.host,
        rows=(),
        figures={},
    )


def next_attempt(trial: Trial, me: Runner) -> Trial:
    """Returns the same number once more; the earlier attempt stays a W&B run of its own."""
    new = first_attempt(trial.number, trial.point, me, trial.folder.parents[1])
    return replace(new, attempt=trial.attempt + 1, kills=trial.kills)


def judge(trial: Trial, ended: Exit | None, metric: Metric | None, *, attempts: int) -> Trial:
    """Returns a trial with how it went: it finished only if it exited with 0 and left its metric.

    Args:
        trial: It ran, and nobody asked it to end.
        ended: What its guard saw; None if the guard was killed.
        metric: What the sweep improves.
        attempts: How often a trial may be killed from outside before it counts as failed.
    """
    code = ended.code if ended else None
    if ended and ended.cause and code is not None:
        return replace(trial, state="interrupted", reason=ended.cause, exit_code=code)
    reason = (ended.cause or _problem(trial, code, metric)) if ended else "its guard was killed"
    if not reason:
        return replace(trial, state="finished", reason="", exit_code=code)
    number = _outside_signal(code)
    if not has_room(trial.folder) or tells_of_full_disk(trial.log_tail(LOG_LINES)):
        reason = NO_ROOM
    elif number is not None:
        hint = ", out of memory?" if number == signal.SIGKILL else ""
        reason = f"killed by {_signal_name(number)}{hint}"
    elif ended:
        return replace(trial, state="failed", reason=reason, exit_code=code)
    return _killed(trial, code, reason, attempts)  # its end may come again, so not without end


def without_room(trial: Trial, *, attempts: int) -> Trial:
    """Returns a trial that could not be started for want of room on its disk."""
    return _killed(trial, None, NO_ROOM, attempts)


def _outside_signal(code: int | None) -> int | None:
    """Returns the signal from outside that ended a process, if one did."""
    number = -code if code is not None and code < 0 else (code or 0) - SHELL
    return number if number in OUTSIDE else None


def _killed(trial: Trial, code: int | None, reason: str, attempts: int) -> Trial:
    kills = trial.kills + 1
    if kills >= attempts and attempts > 1:
        reason += f" ({kills} times)"
    state: State = "failed" if kills >= attempts else "interrupted"
    return replace(trial, state=state, reason=reason, exit_code=code, kills=kills)


def _problem(trial: Trial, code: int | None, metric: Metric | None) -> str:
    """Returns why a trial that ended by itself has no result; empty if it has one."""
    if code is not None and code < 0:
        return f"killed by {_signal_name(-code)}"
    if code != 0:
        return f"exit code {code}"
    content = peek_json(trial.folder / "metrics.json")
    if not isinstance(content, dict):
        return "exit code 0, but no complete metrics.json"
    if metric is None:
        return "" if finite_numbers(content) else "exit code 0, but metrics.json has no number"
    return _unusable(trial.folder, content, metric.name)


def _unusable(folder: Path, content: Mapping[str, object], metric: str) -> str:
    """Returns why a sweep can't use a trial's metric; empty if it is a finite number.

    As with W&B, a metric that the final figures lack is what was logged of it last.
    """
    values = {name: content[name] for name in (metric, bare(metric)) if name in content}
    if not values:
        with suppress(KeyError):
            values[metric] = last_logged(folder, metric)
    if any(map(is_finite_number, values.values())):
        return ""
    for name, value in values.items():
        undefined = ", undefined" if value is None else ""
        return f"exit code 0, but {name} is no number: {json.dumps(value)[:40]}{undefined}"
    known = ", ".join(sorted(finite_numbers(content))) or "no number"
    return f"exit code 0, but there is no metric {metric}; metrics.json has {known}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"
