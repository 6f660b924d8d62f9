"""The loop of a runner: take up trials, watch them, record them, and leave no process behind."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from gridclip.sweeps.results.progress import Progress
from gridclip.sweeps.results.table import best_trial, write_results
from gridclip.sweeps.running.claims import (
    BEATS,
    Heartbeats,
    first_attempt,
    next_attempt,
    now,
    this_runner,
    to_run_again,
)
from gridclip.sweeps.running.disk import has_room
from gridclip.sweeps.running.process import StopRequest
from gridclip.sweeps.running.running_trial import Plan, RunningTrial
from gridclip.sweeps.search.search import stragglers
from gridclip.sweeps.storage.protocol import Storage, StorageError, StorageLostError, SweepState
from gridclip.sweeps.storage.trial import State, Trial

POLL = 0.05  # seconds between two looks at the processes
LOOK = 0.5  # seconds between two looks at the storage
RARELY = 100  # results are written this many times the seconds apart that writing them takes
LAST_WORDS = 10.0  # seconds to try a storage that does not answer, before leaving


class Sweep:
    """One runner of a sweep.

    Args:
        plan: What to do.
        storage: Where the runners meet.
        progress: What people see.

    Attributes:
        state: What is known of the sweep.
        stopping: Why no trial is started any more; empty while they are.
    """

    def __init__(self, plan: Plan, storage: Storage, progress: Progress) -> None:
        self.plan, self.storage, self.progress = plan, storage, progress
        self.me = this_runner()
        self.state = SweepState((), (), ())
        self.stopping = ""
        self._heartbeats = Heartbeats(plan.info.lease)
        self._gone: set[str] = set()  # runners
        self._running: dict[int, RunningTrial] = {}  # by the trial's number
        self._looked = self._beaten = self._answered = time.monotonic()
        self._validations = 0
        self._unsaved: dict[int, Trial] = {}  # that ended, by number
        self._stale = False  # whether something ended since the results were written
        self._write_next = 0.0  # when they may be written again
        self._waits_for_room = False
        self._over = False
        self._request, self._followed = StopRequest(), 0  # how many requests to stop it followed

    def run(self, request: StopRequest) -> None:
        """Runs trials until none is left or a stop is requested; no process outlives this call.

        Raises:
            StorageLostError: if the storage was deleted.
        """
        self.storage.join(self.me)
        self._request = request
        try:
            while not self._over:
                self._heed()
                self._step()
                request.wait(POLL)
        finally:
            self._leave()

    def _heed(self) -> None:
        """Follows a request to stop that is new; every loop that may last asks for one."""
        if self._request.count > self._followed:
            self._followed = self._request.count
            if self.stopping:
                self._kill()
            self._stop("interrupted", "the sweep was stopped")

    def _step(self) -> None:
        """Looks at the processes, and at the storage where there is news or it is time."""
        has_news = [running.has_ended() for running in self._running.values()]
        if self._running and not any(has_news) and time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        try:
            self._exchange()
            self._answered = time.monotonic()
        except StorageLostError:
            raise
        except StorageError as error:
            self.progress.trouble(f"the storage does not answer, trying again: {error}")
            silent = time.monotonic() - self._answered
            self._over = bool(self.stopping) and all(has_news) and silent > LAST_WORDS
        self.progress.show(self.state)

    def _exchange(self) -> None:
        """Writes to the storage what happened here, reads what happened elsewhere, and acts."""
        self._beat()
        self._record_validations()
        ended = self._record_results()
        self._look()
        self._report(ended)
        self._prune()
        self._fill()
        running = [trial for trial in self.state.open if trial.state == "running"]
        idle = not running and not self._waits_for_room
        self._over = not self._running and (bool(self.stopping) or idle)
        if not self._running and not self._over and not self._waits_for_room:
            self.progress.waiting(running)

    def _beat(self) -> None:
        """Reports that this runner lives, to the others and then to the guards of its trials."""
        began = time.monotonic()
        if began - self._beaten >= self.plan.info.lease / BEATS:
            self.storage.beat(replace(self.me, seen=now()))
            self._beaten = began
            for running in self._running.values():
                running.feed()

    def _record_validations(self) -> None:
        for running in self._running.values():
            trial = running.news() if running.result is None and not running.is_lost else None
            if trial is None:
                continue
            if self.storage.update(trial):
                running.trial = trial
            else:
                running.lose()

    def _record_results(self) -> list[Trial]:
        """Records the trials that ended; each result is taken once."""
        recorded = []
        for number, running in list(self._running.items()):
            if running.result is None:
                continue
            if not running.is_lost and self.storage.update(running.result):
                recorded.append(running.result)
            else:
                self.progress.trouble(f"trial {number} was taken over by another runner")
            del self._running[number]
        return recorded

    def _look(self) -> None:
        """Reads the storage; gives up what others took, and stops if asked to."""
        self.state = self.storage.read()
        others = [runner for runner in self.state.runners if runner.id != self.me.id]
        self._gone = self._heartbeats.gone(others)
        holders = {trial.number: (trial.attempt, trial.runner) for trial in self.state.open}
        for number, running in self._running.items():
            if holders.get(number) != (running.trial.attempt, self.me.id):
                running.lose()
        if any(runner.id == self.me.id and runner.asked for runner in self.state.runners):
            self._stop("stopped", "by gridclip sweep stop")

    def _report(self, ended: Sequence[Trial]) -> None:
        """Writes down and shows what ended, all files first: a closed terminal may refuse lines."""
        self._unsaved |= {trial.number: trial for trial in ended}
        self._stale |= bool(ended)
        try:
            self._save(at_once=False)
        except OSError as error:
            self.progress.trouble(f"can't write: {error}")
        for trial in ended:
            self.progress.ended(trial, self.state)

    def _save(self, *, at_once: bool) -> None:
        """Writes down what ended, which is tried again later where the disk refuses.

        The results are of all trials, so of a long sweep they are not written after each.
        """
        for number, trial in list(self._unsaved.items()):
            trial.save()
            del self._unsaved[number]
        began = time.monotonic()
        if self._stale and (at_once or began >= self._write_next):
            plan = self.plan
            write_results(plan.folder, plan.spec, self.state.trials, seed=plan.info.seed)
            self._stale = False
            self._write_next = began + RARELY * (time.monotonic() - began)

    def _prune(self) -> None:
        """Ends those of our trials that W&B's rule would stop now, if anybody validated since."""
        rule, metric = self.plan.spec.early_terminate, self.plan.spec.metric
        if rule is None or metric is None:
            return
        validations = sum(len(trial.history()) for trial in self.state.trials)
        if validations == self._validations:
            return
        self._validations = validations
        for trial in stragglers(rule, metric, self.state.trials):
            if trial.number in self._running:
                self._running[trial.number].end("pruned", "behind the others (hyperband)")

    def _fill(self) -> None:
        """Takes up trials until all jobs are busy or there is nothing to take up."""
        self._waits_for_room = False
        while not self.stopping and len(self._running) < self.plan.jobs:
            earlier = to_run_again(self.state, self.me, self._gone, self._running.keys())
            trial = next_attempt(earlier, self.me) if earlier else self._new_trial()
            if trial is None or self._target_reached():
                return
            if not has_room(self.plan.folder):
                self._waits_for_room = True
                self.progress.trouble(f"the disk of {self.plan.folder} is full: waiting for room")
                return
            if self.storage.claim(trial):
                self._take_up(trial, earlier)
            self._look()
            self._heed()

    def _new_trial(self) -> Trial | None:
        trials = self.state.trials
        number = trials[-1].number + 1 if trials else 1
        if number > self.plan.planned:
            return None
        point = self.plan.search.propose(number, trials)
        if point is None:
            return None
        return first_attempt(number, point, self.me, self.plan.folder)

    def _take_up(self, trial: Trial, earlier: Trial | None) -> None:
        busy = Counter(running.gpu for running in self._running.values())
        gpu = min(self.plan.gpus, key=lambda each: busy[each], default=None)
        running = self._running[trial.number] = RunningTrial(self.plan, trial, gpu)
        if running.start(earlier):
            self.progress.started(running.trial)

    def _target_reached(self) -> bool:
        metric = self.plan.spec.metric
        if metric is None or metric.target is None:
            return False
        best = best_trial(self.state.trials, metric)
        return best is not None and metric.reached(best[1])

    def _stop(self, fate: State, why: str) -> None:
        self.stopping = self.stopping or why
        for running in self._running.values():
            running.end(fate, why)

    def _kill(self) -> None:
        for running in self._running.values():
            running.kill()

    def _leave(self) -> None:
        """Ends all processes of this runner, whatever went wrong, and records that it left."""
        for running in self._running.values():
            running.end("interrupted", "its runner broke off")
            running.kill()
        deadline = time.monotonic() + LAST_WORDS
        while not all(running.has_ended() for running in self._running.values()):
            if time.monotonic() > deadline:
                break
            self._heed()
            time.sleep(POLL)
        with suppress(StorageError, OSError):
            ended = self._record_results()
            self._unsaved |= {trial.number: trial for trial in ended}
            self.storage.beat(replace(self.me, seen=now(), left=True))
            self.state = self.storage.read()
        with suppress(OSError):
            if self.plan.folder.exists():  # else it would be made again
                self._stale = True  # others may have recorded more
                self._save(at_once=True)
