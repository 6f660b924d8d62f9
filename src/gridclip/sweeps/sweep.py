"""The loop of a sweep: start trials, watch them, record them, and leave no process behind."""

import os
import secrets
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

from gridclip.sweeps.command import expand_command
from gridclip.sweeps.parameters import Point, arguments
from gridclip.sweeps.process import StopRequest, environment, start, stop
from gridclip.sweeps.progress import Progress
from gridclip.sweeps.search import Search
from gridclip.sweeps.spec import SweepSpec
from gridclip.sweeps.table import best_trial, write_results
from gridclip.sweeps.trial import Trial

POLL = 0.05  # seconds between two looks at the processes


class Sweep:
    """The trials of one sweep: those that ended, and the processes of those that run.

    Args:
        spec: What to run.
        search: What to try.
        folder: The folder of this sweep; its name is the sweep's id.
        jobs: How many trials run at once.
        planned: How many there will be at most.
        seed: Kept in the results.
    """

    def __init__(
        self, spec: SweepSpec, search: Search, folder: Path, *, jobs: int, planned: int, seed: int
    ) -> None:
        self.spec, self.search, self.folder = spec, search, folder
        self.jobs, self.planned, self.seed = jobs, planned, seed
        self.trials: list[Trial] = []
        self._processes: dict[int, Popen[bytes]] = {}  # by the trial's place in the list

    def run(self, progress: Progress, request: StopRequest) -> None:
        """Run trials until none is left or a stop is requested; no process outlives this call."""
        try:
            while not request.count:
                self._fill(progress)
                if not self._processes:
                    break
                request.wait(POLL)
                self._collect(progress)
                progress.show(self.trials)
        finally:
            self._stop(progress, request)

    def _fill(self, progress: Progress) -> None:
        """Start trials until all jobs are busy or there is nothing left to try."""
        while len(self._processes) < self.jobs and len(self.trials) < self.planned:
            if self._target_reached():
                return
            point = self.search.propose(len(self.trials) + 1, self.trials)
            if point is None:
                return
            self._start(point, progress)

    def _start(self, point: Point, progress: Progress) -> None:
        place = len(self.trials)
        folder = self.folder / "trials" / f"{place + 1:03d}"
        folder.mkdir(parents=True)
        trial = Trial(
            number=place + 1,
            folder=folder,
            point=point,
            argv=expand_command(
                self.spec.command,
                arguments(self.spec.parameters, point),
                program=self.spec.program,
                json_file=(folder / "parameters.json").absolute(),
            ),
            run_id=secrets.token_hex(4),
            started=datetime.now(UTC),
        )
        trial.save()
        self.trials.append(trial)
        progress.started(trial)
        env = environment(
            self.spec, trial, group=self.folder.name, jobs=self.jobs, inherited=os.environ
        )
        try:
            self._processes[place] = start(trial.argv, log=folder / "log.txt", env=env)
        except OSError as error:
            self._record(place, replace(trial, state="failed", reason=f"can't start: {error}"))
            progress.ended(self.trials[place], self.trials)

    def _collect(self, progress: Progress) -> None:
        """Record the trials whose process is gone."""
        for place, process in list(self._processes.items()):
            code = process.poll()
            if code is not None:
                del self._processes[place]
                self._record(place, judge(self.trials[place], code))
                progress.ended(self.trials[place], self.trials)

    def _stop(self, progress: Progress, request: StopRequest) -> None:
        """Stop what still runs; a trial that just made it is not called stopped."""
        stop(list(self._processes.values()), request)
        for place, process in self._processes.items():
            trial = judge(self.trials[place], process.returncode)
            if trial.state != "finished":
                trial = replace(trial, state="stopped", reason="the sweep was stopped")
            self._record(place, trial)
        for place in self._processes:  # after all records, for a closed terminal may refuse lines
            progress.ended(self.trials[place], self.trials)
        self._processes.clear()

    def _record(self, place: int, trial: Trial) -> None:
        self.trials[place] = replace(trial, ended=datetime.now(UTC))
        self.trials[place].save()
        write_results(self.folder, self.spec, self.trials, seed=self.seed)

    def _target_reached(self) -> bool:
        metric = self.spec.metric
        best = best_trial(self.trials, metric) if metric and metric.target is not None else None
        return best is not None and metric is not None and metric.reached(best[1])


def judge(trial: Trial, exit_code: int) -> Trial:
    """Say how a trial went: it finished only if it exited with 0 and left its figures."""
    if exit_code == 0 and trial.metrics():
        return replace(trial, state="finished", exit_code=0)
    if exit_code == 0:
        reason = "exit code 0, but no complete metrics.json"
    elif exit_code > 0:
        reason = f"exit code {exit_code}"
    else:
        name = signal.Signals(-exit_code).name
        reason = f"killed by {name}" + (", out of memory?" if name == "SIGKILL" else "")
    return replace(trial, state="failed", reason=reason, exit_code=exit_code)
