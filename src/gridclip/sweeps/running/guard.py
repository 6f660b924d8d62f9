"""The small program between a runner and a trial, which ends the trial when the runner is gone.

It is started with a pipe from the runner as its standard input. A first byte starts the trial;
further bytes say that the runner lives and is in touch with its storage. When the pipe closes, or
stays silent for too long, all processes of the trial are killed at once: another runner, maybe on
another machine, may start it again. How the trial ended is left in exit.json, for this runner or
the next. It runs as a script, by the path of this file, and needs psutil only.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

# The variable by which all processes of a trial are known, wherever they went.
MARK = "GRIDCLIP_TRIAL"
GRACE = 5.0  # seconds for what a trial that ended well has left behind, such as an upload


def processes_of(mark: str) -> list[psutil.Process]:
    """Returns the living processes of a trial but this one, without those of other users."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return [process for process in found if _lives(process)]


def kill_all(mark: str, within: float = 10.0) -> bool:
    """Kills all processes of a trial but this one; returns whether they are gone."""
    deadline = time.monotonic() + within
    while found := processes_of(mark):
        if time.monotonic() > deadline:
            return False
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.02)  # psutil could wait, but would take the exit code of a child of ours
    return True


class Guard:
    """Watches over one trial.

    Args:
        exit_file: Where to leave how the trial ended.
        attempt: Which attempt at its number this is.
        silence: Seconds without a byte from the runner after which the trial is killed.
        patience: Seconds between SIGTERM and SIGKILL, where the trial is asked to end.
        argv: The words of its command.
    """

    def __init__(
        self, exit_file: Path, attempt: int, silence: float, patience: float, argv: list[str]
    ) -> None:
        self.exit_file, self.attempt, self.argv = exit_file, attempt, argv
        self.silence, self.patience = silence, patience
        self.mark = os.environ.get(MARK, "")
        self.asked: float | None = None  # when to end the trial
        self.cause = ""
        self.wake, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._ask)
        # SLURM tells all processes of a job that its end is near. Runners act on it: they ask each
        # trial to end by SIGTERM. A trial would die of it at once, so it inherits that these are
        # ignored, unless it listens for them itself.
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    def run(self) -> None:
        """Starts the trial when asked to, watches it, and records its end."""
        ready, _, _ = select.select([0], [], [], self.silence)
        if not (ready and os.read(0, 1)):
            return  # the runner died before it could record what it was about to start
        try:
            child = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            # Not the error's own text: it names the program, in which a secret may be expanded.
            self._record_end(None, f"can't start: its program: {error.strerror}")
            return
        self._watch(child)
        if self.cause:
            kill_all(self.mark)
        elif self.asked is not None:
            self.cause = "asked to end"
        self._record_end(child.wait(), self.cause)
        self._clean_up(child.returncode)

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Returns when the trial has ended, or is to be killed for a cause."""
        heard, forwarded = time.monotonic(), False
        while child.poll() is None:
            now = time.monotonic()
            if self.asked is not None and not forwarded:
                child.terminate()
                forwarded = True
            deadline = heard + self.silence
            if self.asked is not None:
                deadline = min(deadline, self.asked + self.patience)
            ready, _, _ = select.select([0, self.wake], [], [], max(0.0, deadline - now))
            if self.wake in ready:
                os.read(self.wake, 4096)
            if 0 in ready and not os.read(0, 4096):
                self.cause = "the runner is gone"
                return
            if 0 in ready:
                heard = time.monotonic()
            elif not ready and time.monotonic() >= deadline:
                self.cause = "asked to end" if self.asked else "the runner is silent"
                return

    def _ask(self, *_: object) -> None:
        self.asked = self.asked or time.monotonic()

    def _clean_up(self, exit_code: int) -> None:
        """Ends what the trial left behind: the ranks of a training whose first one died, say."""
        deadline = time.monotonic() + (GRACE if exit_code == 0 else 0.0)
        while time.monotonic() < deadline and processes_of(self.mark):
            if select.select([0], [], [], 0.2)[0] and not os.read(0, 4096):
                break
        kill_all(self.mark)

    def _record_end(self, exit_code: int | None, cause: str) -> None:
        word = {"attempt": self.attempt, "exit_code": exit_code, "cause": cause}
        part = self.exit_file.with_name(f".{self.exit_file.name}.part")
        part.write_text(json.dumps(word), encoding="utf-8")
        part.replace(self.exit_file)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


if __name__ == "__main__":
    given, attempt, silence, patience, *words = sys.argv[1:]
    Guard(Path(given), int(attempt), float(silence), float(patience), words).run()
