"""What the runners of a sweep know of each other, and the atomic acts by which they do.

A trial's number is taken by `claim`, which only one runner can win, and recorded by `update`, which
only the runner that has it can do, and only until it has ended. So a result is recorded once,
whoever was killed when.
"""

from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple, Protocol, runtime_checkable

from gridclip.sweeps.storage.trial import FINAL, WAITING, Trial


class StorageError(Exception):
    """A storage does not answer now; later it may."""


class StorageLostError(StorageError):
    """A storage was deleted or replaced under its runners, so to try again is of no use."""


@dataclass(frozen=True, kw_only=True)
class SweepInfo:
    """What a sweep is, fixed when it begins.

    Args:
        id: Its name: that of its folder.
        uid: A word that no other sweep has, by which its processes are known.
        text: The sweep file, word for word.
        seed: Of its search.
        cap: No more trials than this, where its first runner was given one.
        lease: Seconds of silence after which a runner counts as gone.
        created: When, in ISO form.
    """

    id: str
    uid: str
    text: str
    seed: int
    cap: int | None
    lease: float
    created: str


@dataclass(frozen=True, kw_only=True)
class Runner:
    """One `gridclip sweep run`.

    Args:
        id: A word that no other runner has.
        host: The name of its machine, for people.
        machine: By which a runner knows whether it can see its processes.
        pid: Its process.
        born: When its process began, by the clock of its machine.
        seen: When it last gave a sign of life, by its own clock; others look for a change only.
        left: Whether it ended of its own accord.
        asked: Whether it is asked to stop.
    """

    id: str
    host: str
    machine: str
    pid: int
    born: float
    seen: str
    left: bool = False
    asked: bool = False


class SweepState(NamedTuple):
    """All that a storage knows at one moment.

    Args:
        trials: By number, with their validations and figures.
        runners: In the order in which they came.
        open: Those of the trials that have not come to a final end. A runner looks at these with
            every event, so the time an event takes does not grow with what is done.
    """

    trials: tuple[Trial, ...]
    runners: tuple[Runner, ...]
    open: tuple[Trial, ...]


class KnownTrials:
    """The trials that were read from a storage so far.

    Args:
        trials: To begin with.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._ordered: list[Trial] = []
        self._places: dict[int, int] = {}  # by number
        self._open: dict[int, Trial] = {}  # by number
        for trial in trials:
            self.put(trial)

    def put(self, trial: Trial) -> None:
        """Takes a new trial, or what is new of one."""
        place = self._places.get(trial.number)
        if place is not None:
            self._ordered[place] = trial
        else:
            place = bisect(self._ordered, trial.number, key=attrgetter("number"))
            self._ordered.insert(place, trial)
            for later in range(place, len(self._ordered)):  # mostly this one alone
                self._places[self._ordered[later].number] = later
        self._open.pop(trial.number, None)
        if trial.state not in FINAL:
            self._open[trial.number] = trial

    def get(self, number: int) -> Trial | None:
        """Returns the trial of a number, if there is one."""
        place = self._places.get(number)
        return None if place is None else self._ordered[place]

    def done(self) -> int:
        """Returns the number up to which all trials are known and have come to a final end."""
        if not self._ordered or self._ordered[-1].number != len(self._ordered):
            return 0  # one is missing in between
        return min(self._open) - 1 if self._open else len(self._ordered)

    def state(self, runners: Iterable[Runner]) -> SweepState:
        """Returns all that is known, with these runners."""
        still = tuple(self._open[number] for number in sorted(self._open))
        return SweepState(tuple(self._ordered), tuple(runners), still)


@runtime_checkable
class Storage(Protocol):
    """Where the runners of one sweep meet.

    Every method raises a StorageError where the storage does not answer; nothing has been changed
    then, or all of it. It is a StorageLostError where it was deleted.
    """

    def create(self, info: SweepInfo) -> None:
        """Begins the sweep; an InputError if there is one of this name."""

    def info(self) -> SweepInfo | None:
        """Returns what the sweep is; None if there is none."""

    def read(self) -> SweepState:
        """Returns all there is to know."""

    def claim(self, trial: Trial) -> bool:
        """Takes a number for the runner that the trial names, unless another was quicker.

        It is the first attempt at a number that nobody has taken, or one more than the recorded
        attempt, which has not come to a final end.
        """

    def update(self, trial: Trial) -> bool:
        """Replaces what is known of a running trial, if its runner still has it."""

    def join(self, runner: Runner) -> None:
        """Makes a runner known."""

    def beat(self, runner: Runner) -> None:
        """Reports that a runner lives, or that it left."""

    def ask_to_stop(self) -> list[Runner]:
        """Asks all runners that have not left to stop; those that join later are not meant."""


def may_claim(known: Trial | None, trial: Trial) -> bool:
    """Returns whether `claim` succeeds, after what is known of the number."""
    if known is None:
        return trial.attempt == 1
    return trial.attempt == known.attempt + 1 and known.state in ("running", *WAITING)


def may_update(known: Trial | None, trial: Trial) -> bool:
    """Returns whether `update` succeeds, after what is known of the number."""
    return (
        known is not None
        and known.state == "running"
        and (known.attempt, known.runner) == (trial.attempt, trial.runner)
    )
