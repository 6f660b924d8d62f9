"""What the runners of a sweep know of each other, and the atomic acts by which they do.

A trial's number is taken by `claim`, which only one runner can win, and recorded by `update`, which
only the runner that has it can do, and only until it has ended. So a result is recorded once,
whoever was killed when.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from gridclip.sweeps.storage.trial import WAITING, Trial


class StorageError(Exception):
    """A storage does not answer now; later it may."""


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
    """

    trials: tuple[Trial, ...]
    runners: tuple[Runner, ...]


@runtime_checkable
class Storage(Protocol):
    """Where the runners of one sweep meet.

    Every method raises a StorageError where the storage does not answer; nothing has been changed
    then, or all of it.
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
