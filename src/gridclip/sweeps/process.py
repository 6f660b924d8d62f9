"""The process of a trial: what it inherits, how it begins, how it is made to stop."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from gridclip.sweeps.spec import SweepSpec
from gridclip.sweeps.trial import Trial

PATIENCE = 30.0  # seconds between SIGTERM and SIGKILL, as W&B's agent has it


def environment(
    spec: SweepSpec, trial: Trial, *, group: str, jobs: int, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a trial.

    WANDB_SWEEP_ID is taken away: it would be kept in the run, and `wandb sync` would then look for
    a sweep that W&B does not know. The trials are one W&B group instead.

    Args:
        spec: Its sweep.
        trial: The trial.
        group: What W&B calls the trials of this sweep.
        jobs: How many trials share the machine.
        inherited: What this process has; a W&B mode or a thread count set there stays.
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
    }
    merged = chosen | dict(inherited) | forced
    return {
        name: value
        for name, value in merged.items()
        if name not in ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
    }


def start(argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a trial in a process group of its own, so that a Ctrl-C reaches the sweep alone.

    Raises:
        OSError: if there is no such program.
    """
    with log.open("wb") as output:
        return subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


class StopRequest:
    """How often this process was asked to stop, by Ctrl-C, SIGTERM or a closed terminal."""

    def __init__(self) -> None:
        self.count = 0
        self._asked = threading.Event()

    def wait(self, seconds: float) -> None:
        """Sleep, but wake up when asked to stop."""
        self._asked.wait(seconds)

    def take(self, _signal: int, _frame: FrameType | None) -> None:
        """Note a signal."""
        self.count += 1
        self._asked.set()


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn Ctrl-C and SIGTERM into a note, so that they never cut a trial's record in two."""
    request = StopRequest()
    before = {number: signal.signal(number, request.take) for number in _signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(
    processes: Sequence[subprocess.Popen[bytes]], request: StopRequest, patience: float = PATIENCE
) -> None:
    """Stop processes: SIGTERM, then SIGKILL to what is left of their groups.

    Args:
        processes: They are gone on return.
        request: A second request to stop ends the patience.
        patience: Seconds to wait for them to leave by themselves.
    """
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + patience
    asked = request.count
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline or request.count > asked:
            break
        time.sleep(0.05)
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _signals() -> list[signal.Signals]:
    """Those that ask to stop; a closed terminal does, unless nohup was used."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


def _cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
