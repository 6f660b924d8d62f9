"""Who this runner is, and which of the others are gone."""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import psutil

from gridclip.sweeps.storage.protocol import Runner

BEATS = 12  # in a lease
SILENCE = 0.6  # of a lease: when a guard ends its trial, well before others may start it again


def this_runner() -> Runner:
    """A new runner: this process."""
    return Runner(
        id=secrets.token_hex(6),
        host=socket.gethostname(),
        machine=this_machine(),
        pid=os.getpid(),
        born=psutil.Process().create_time(),
        seen=now(),
    )


def this_machine() -> str:
    """What two processes have in common that see each other by their process ids.

    A container may share its name or its kernel with another, so the start of the system and the
    space of process ids are part of it, where the system tells them.
    """
    parts = [socket.gethostname()]
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and space.is_symlink():
        parts += [boot.read_text(encoding="utf-8").strip(), str(space.readlink())]
    return " ".join(parts)


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_dead(runner: Runner) -> bool:
    """Whether a runner's process is known to have ended; of another machine nobody knows."""
    if runner.machine != this_machine():
        return False
    try:
        process = psutil.Process(runner.pid)
        same = abs(process.create_time() - runner.born) < 1.0
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Leases:
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
        """The ids of those that are gone; to be called often."""
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
