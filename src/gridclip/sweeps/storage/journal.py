"""A storage in one file that only grows: on this machine, or on a disk that many share.

Each line is one change, as JSON. Whoever changes something holds a lock of the system (on NFS too),
which goes away with its holder, reads what others wrote, decides, and appends. A line that was cut
short by a crash or a full disk counts for nothing.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gridclip.io.errors import InputError
from gridclip.sweeps.storage.protocol import (
    KnownTrials,
    Runner,
    StorageError,
    StorageLostError,
    SweepInfo,
    SweepState,
    may_claim,
    may_update,
)
from gridclip.sweeps.storage.trial import Row, Trial, read_record

PATIENCE = 30.0  # seconds to wait for the lock

Change = Mapping[str, Any]


class Journal:
    """A storage in a file.

    Args:
        file: Where; its folder is the sweep's.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = _lock(file.with_name(f".{file.name}.lock"), PATIENCE)
        self._read = 0  # bytes
        self._info: SweepInfo | None = None
        self._trials = KnownTrials()
        self._runners: dict[str, Runner] = {}

    def create(self, info: SweepInfo) -> None:
        """Begins the sweep."""
        with self._locked():
            if self._info is not None:
                raise InputError("is there already", fix="choose another name", file=self.file)
            self._append({"sweep": asdict(info)})

    def info(self) -> SweepInfo | None:
        """Returns what the sweep is; None if there is none."""
        with _answering(self.file):
            self._catch_up()
        return self._info

    def read(self) -> SweepState:
        """Returns all there is to know; readers need no lock."""
        with _answering(self.file):
            self._catch_up()
        return self._trials.state(self._runners.values())

    def claim(self, trial: Trial) -> bool:
        """Takes a number, unless another runner was quicker."""
        return self._write(trial, may_claim)

    def update(self, trial: Trial) -> bool:
        """Replaces what is known of a running trial, if its runner still has it."""
        return self._write(trial, may_update)

    def join(self, runner: Runner) -> None:
        """Makes a runner known."""
        with self._locked():
            self._append({"runner": asdict(runner)})

    def beat(self, runner: Runner) -> None:
        """Reports that a runner lives, or that it left."""
        with self._locked():
            self._append({"beat": runner.id, "seen": runner.seen, "left": runner.left})

    def ask_to_stop(self) -> list[Runner]:
        """Asks all runners that have not left to stop."""
        with self._locked():
            asked = [runner for runner in self._runners.values() if not runner.left]
            self._append({"stop": [runner.id for runner in asked]})
        return asked

    def _write(self, trial: Trial, may: Callable[[Trial | None, Trial], bool]) -> bool:
        with self._locked():
            if not may(self._trials.get(trial.number), trial):
                return False
            # Of the validations only the new ones are written, or a long history would fill disks.
            rows = (trial.rows or ())[len(self._rows(trial.number, trial.attempt)) :]
            self._append({"trial": trial.record(), "rows": rows, "figures": trial.figures})
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock and knows all that was written before."""
        with _answering(self.file):
            if self._read and not self.file.exists():  # the lock would make the folder again
                raise _gone(self.file)
            with self._lock:
                self._catch_up()
                yield

    def _append(self, change: Change) -> None:
        line = json.dumps(change, default=str).encode() + b"\n"
        begin = 0 if self._read else os.O_CREAT
        handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | begin, 0o644)
        try:
            if os.fstat(handle).st_size > self._read:  # the last writer was cut short: end its line
                line = b"\n" + line
            if os.write(handle, line) < len(line):
                raise OSError(f"{self.file}: only a part of a line could be written")
            os.fsync(handle)
        finally:
            os.close(handle)
        self._catch_up()

    def _catch_up(self) -> None:
        """Applies the whole lines that came since."""
        try:
            with self.file.open("rb") as journal:
                if os.fstat(journal.fileno()).st_size < self._read:
                    raise _gone(self.file)
                journal.seek(self._read)
                new = journal.read()
        except FileNotFoundError as error:
            if self._read:
                raise _gone(self.file) from error
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.split(b"\n")[:-1]:
            try:
                change = json.loads(line)
            except (ValueError, RecursionError):  # cut short, or not ours
                continue
            self._apply(change)

    def _apply(self, change: Change) -> None:
        if "trial" in change:
            self._apply_trial(change)
        elif "sweep" in change:
            self._info = SweepInfo(**change["sweep"])
        elif "runner" in change:
            self._runners[change["runner"]["id"]] = Runner(**change["runner"])
        elif "beat" in change and change["beat"] in self._runners:
            runner = self._runners[change["beat"]]
            self._runners[runner.id] = replace(runner, seen=change["seen"], left=change["left"])
        for name in change.get("stop", ()):
            self._runners[name] = replace(self._runners[name], asked=True)

    def _apply_trial(self, change: Change) -> None:
        record = change["trial"]
        rows = (*self._rows(record["number"], record["attempt"]), *change["rows"])
        trial = read_record(record, self.file.parent, rows, change["figures"])
        self._trials.put(trial)

    def _rows(self, number: int, attempt: int) -> tuple[Row, ...]:
        """Returns the validations of an attempt that are written already."""
        known = self._trials.get(number)
        return known.rows or () if known and known.attempt == attempt else ()


def require_locks(folder: Path) -> None:
    """Refuses a disk without locks, or with locks that keep nobody out.

    A file that is made exclusively could stand for a lock, but a runner that is killed would leave
    it behind, and all others would wait for nobody.

    Args:
        folder: Of a sweep.

    Raises:
        InputError: if so.
    """
    file = folder / f".{secrets.token_hex(4)}.lock"
    first, second = _lock(file, 0.0), _lock(file, 0.0)
    problem = "its locks keep nobody out"
    try:
        with first, suppress(Timeout), second:
            raise OSError(problem)
    except (OSError, NotImplementedError) as error:
        problem = f"the disk of this folder has no locks that runners could rely on ({error})"
        fix = "give a --dir on another disk, or a database as --storage"
        raise InputError(problem, fix=fix, file=folder, field="--dir") from error
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _lock(file: Path, patience: float) -> FileLock:
    return FileLock(file, timeout=patience, fallback_to_soft=False)


def _gone(file: Path) -> StorageLostError:
    return StorageLostError(f"{file} was deleted, or cut short, while the sweep ran")


@contextmanager
def _answering(file: Path) -> Iterator[None]:
    """Turns what disks and locks say into a StorageError."""
    try:
        yield
    except Timeout as error:
        raise StorageError(f"the lock of {file} is held by another for {PATIENCE} s") from error
    except OSError as error:
        raise StorageError(str(error)) from error
