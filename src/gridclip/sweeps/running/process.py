"""The process of a trial: what it inherits, how it begins, how it is made to stop."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NamedTuple

from gridclip.io.run_metrics import peek_json
from gridclip.sweeps.running import guard
from gridclip.sweeps.spec.sweep_file import SweepSpec
from gridclip.sweeps.storage.trial import Trial

PATIENCE = 30.0  # seconds between SIGTERM and SIGKILL, as W&B's agent has it
EXIT_FILE = "exit.json"


class Exit(NamedTuple):
    """How a trial's process ended.

    Args:
        code: Its exit code, negative for a signal; None if it never began or nobody knows.
        cause: Why its guard ended it, or why it never began; empty if it ended by itself.
    """

    code: int | None
    cause: str


def environment(
    spec: SweepSpec, trial: Trial, *, group: str, mark: str, jobs: int
) -> dict[str, str]:
    """Returns the environment of a trial: that of this process, and what is set for the trial.

    A W&B mode or a thread count that is set already stays.

    WANDB_SWEEP_ID is taken away: it would be kept in the run, and `wandb sync` would then look for
    a sweep that W&B does not know. The trials are one W&B group instead.

    Args:
        spec: Its sweep.
        trial: The trial.
        group: What W&B calls the trials of this sweep.
        mark: By what its processes are known.
        jobs: How many trials share the machine.
    """
    folder = str(trial.folder.absolute())
    chosen = {"WANDB_MODE": "offline", "PYTHONUNBUFFERED": "1"}
    chosen |= {"WANDB_PROJECT": spec.project} if spec.project else {}
    chosen |= {"WANDB_ENTITY": spec.entity} if spec.entity else {}
    if jobs > 1:
        chosen["OMP_NUM_THREADS"] = str(max(1, _cores() // jobs))
    forced = {
        "GRIDCLIP_RUN_DIR": folder,
        "WANDB_DIR": folder,
        "WANDB_RUN_ID": trial.run_id,
        "WANDB_RUN_GROUP": group,
        guard.MARK: mark,
    }
    merged = chosen | dict(os.environ) | forced
    return {
        name: value
        for name, value in merged.items()
        if name not in ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
    }


class TrialProcess:
    """A trial at work behind its guard, in a session of its own, which no Ctrl-C reaches.

    Args:
        trial: Its folder takes the log.
        argv: The words of its command, secrets included, which its record has not.
        env: Its environment, with the mark.
        silence: Seconds after which the guard ends a trial whose runner feeds it no more.
        patience: Seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        trial: Trial,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        silence: float,
        patience: float = PATIENCE,
    ) -> None:
        self.trial, self.mark = trial, env[guard.MARK]
        orders = [str(trial.folder.absolute() / EXIT_FILE), str(trial.attempt)]
        orders += [str(silence), str(patience)]
        with (trial.folder / "log.txt").open("ab") as output:  # it may go on with an earlier one
            self._guard = subprocess.Popen(
                [sys.executable, guard.__file__, *orders, *argv],
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert self._guard.stdin is not None
        self._pipe = self._guard.stdin
        os.set_blocking(self._pipe.fileno(), False)  # a guard that hangs must not hang the runner
        self.feed()

    def feed(self) -> None:
        """Reports that the runner lives, which starts the trial the first time."""
        with suppress(OSError, ValueError):
            os.write(self._pipe.fileno(), b".")

    def has_ended(self) -> bool:
        """Returns whether trial and guard have ended; kills what a killed guard has left."""
        if self._guard.poll() is None:
            return False
        self.kill()  # which closes the pipe
        if self._guard.returncode != 0:
            guard.kill_all(self.mark)
        return True

    def end(self) -> None:
        """Asks the trial to end; it has `patience` seconds."""
        self._guard.terminate()

    def kill(self) -> None:
        """Ends the trial at once, and all processes it started: its guard sees the pipe close."""
        with suppress(OSError):
            self._pipe.close()


def read_exit(trial: Trial) -> Exit | None:
    """Returns what the guard of this attempt left; None if it was killed itself."""
    word = peek_json(trial.folder / EXIT_FILE)
    if not isinstance(word, dict) or word.get("attempt") != trial.attempt:
        return None
    return Exit(word["exit_code"], word["cause"])


class StopRequest:
    """How often this process was asked to stop.

    A second Ctrl-C is one who waits no longer. Other signals count once: a scheduler sends one
    after another, and trials are to have their time to save in between.
    """

    def __init__(self) -> None:
        self.count = 0
        self._asked = threading.Event()

    def wait(self, seconds: float) -> None:
        """Sleeps, but wakes up when asked to stop for the first time."""
        if self.count:
            threading.Event().wait(seconds)
        else:
            self._asked.wait(seconds)

    def take(self, number: int, _frame: FrameType | None) -> None:
        """Notes a signal."""
        if number == signal.SIGINT or not self.count:
            self.count += 1
        self._asked.set()


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns signals that ask to stop into a note, so that they never cut a trial's record in two.

    A scheduler sends SIGUSR1 or SIGUSR2, whichever it was told to, some time before SIGTERM.
    """
    request = StopRequest()
    before = {number: signal.signal(number, request.take) for number in _signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals() -> list[signal.Signals]:
    """Returns those that ask to stop; a closed terminal does, unless nohup was used."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, *hung_up]


def _cores() -> int:
    """Returns the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
