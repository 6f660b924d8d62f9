"""A trial in the hands of a runner, from its claim to its result."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from gridclip.io.run_metrics import read_history, read_metrics
from gridclip.sweeps.running import guard
from gridclip.sweeps.running.claims import SILENCE, judge, without_room
from gridclip.sweeps.running.disk import is_full
from gridclip.sweeps.running.process import Exit, TrialProcess, environment, read_exit
from gridclip.sweeps.search.search import Search
from gridclip.sweeps.spec.parameters import arguments
from gridclip.sweeps.spec.sweep_file import SweepSpec, expand_command, write_arguments
from gridclip.sweeps.storage.protocol import SweepInfo
from gridclip.sweeps.storage.trial import FINAL, State, Trial

# What a training leaves that `gridclip fit` goes on from, exactly, in the same folder.
RESUMABLE = ("config.yaml", "checkpoints/last.ckpt")
GO_ON = "GRIDCLIP_GO_ON"  # set to 1, a fit does so


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a runner is to do.

    Args:
        info: What was fixed when the sweep started.
        spec: Its file.
        search: What to try.
        folder: Its folder on this machine.
        jobs: How many trials this runner runs at once.
        planned: How many there will be at most, of all runners.
        attempts: How often a trial may be killed from outside before it counts as failed.
        gpus: Those of this machine that trials share, as CUDA_VISIBLE_DEVICES names them; each
            trial gets one, whichever has the fewest. None leaves that variable as it is.
    """

    info: SweepInfo
    spec: SweepSpec
    search: Search
    folder: Path
    jobs: int
    planned: int
    attempts: int = 3
    gpus: tuple[str, ...] = ()


class RunningTrial:
    """A trial that this runner has claimed.

    Args:
        plan: What the runner is to do.
        trial: As it was claimed.
        gpu: Which one it gets, if that is told.

    Attributes:
        trial: As it was last recorded.
        result: What it came to, once that is known.
        fate: What it is to be called, once it was asked to end.
    """

    def __init__(self, plan: Plan, trial: Trial, gpu: str | None = None) -> None:
        self.plan, self.trial, self.gpu = plan, trial, gpu
        self.result: Trial | None = None
        self.fate: State | None = None
        self.is_lost = False
        self._why = ""
        self._process: TrialProcess | None = None
        self._goes_on = False
        self._argv: tuple[str, ...] = ()  # with the secrets that the record of it leaves out

    def start(self, earlier: Trial | None) -> bool:
        """Starts it, once nothing is left of an earlier attempt; returns whether it was started.

        It is not where it cannot be, or where the earlier attempt came to an end that nobody saw,
        because its runner was gone.
        """
        mark = f"{self.plan.info.uid}/{self.trial.number}"
        if earlier and not guard.kill_all(mark):
            self._fail("processes of its earlier attempt cannot be ended")
        elif earlier and (result := self._unseen_result(earlier)):
            self._conclude(result)
        else:
            try:
                self.trial = self._prepare()
                self._process = self._start_process(mark)
            except OSError as error:
                self._cannot_start(error)
        return self._process is not None

    def feed(self) -> None:
        """Reports to its guard that the runner lives."""
        if self._process:
            self._process.feed()

    def end(self, fate: State, why: str) -> None:
        """Asks it to end, and what to call it then."""
        if self.fate is None and self._process and self.result is None:
            self.fate, self._why = fate, why
            self._process.end()

    def lose(self) -> None:
        """Ends it at once and records nothing, for another runner has it now."""
        if not self.is_lost:
            self.is_lost = True
            self.kill()

    def kill(self) -> None:
        """Ends it at once."""
        if self._process:
            self._process.kill()

    def has_ended(self) -> bool:
        """Returns whether its process is gone; `result` is known then."""
        if self.result is None and self._process and self._process.has_ended():
            self._conclude(self._judged())
        return self.result is not None

    def news(self) -> Trial | None:
        """Returns the trial with validations that are not recorded yet, if there are any."""
        rows = read_history(self.trial.folder)
        if len(rows) <= len(self.trial.rows or ()):
            return None
        steps = self.trial.steps or _planned_steps(self.trial.folder / "config.yaml")
        return replace(self.trial, rows=rows, steps=steps)

    def _unseen_result(self, earlier: Trial) -> Trial | None:
        ended = read_exit(earlier) if earlier.state == "running" else None
        if ended is None:
            return None
        seen = self._judge(earlier, ended)
        if seen.state not in FINAL:
            return None
        trial = self.trial
        return replace(seen, attempt=trial.attempt, runner=trial.runner, host=trial.host)

    def _prepare(self) -> Trial:
        """Makes its folder and its command.

        What an earlier attempt left is put aside, unless it can be gone on with.
        """
        spec, trial, folder = self.plan.spec, self.trial, self.trial.folder
        self._goes_on = all((folder / name).exists() for name in RESUMABLE)
        if folder.exists() and not self._goes_on:
            aside = self.plan.folder / "attempts" / f"{folder.name}-{trial.attempt - 1}"
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
        folder.mkdir(parents=True, exist_ok=True)
        given = arguments(spec.parameters, trial.point)
        json_file = (folder / "parameters.json").absolute()
        write_arguments(spec.command, given, json_file)
        expand = partial(expand_command, spec.command, given, program=spec.program)
        self._argv = expand(json_file=json_file)
        # The record goes to files, databases and pages, so it has no secret in it.
        trial = replace(trial, argv=expand(json_file=json_file, reveal=False))
        trial.save()
        return trial

    def _start_process(self, mark: str) -> TrialProcess:
        plan, info = self.plan, self.plan.info
        env = environment(plan.spec, self.trial, group=info.id, mark=mark, jobs=plan.jobs)
        if self.gpu is not None:
            env["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self._goes_on:
            env[GO_ON] = "1"
        return TrialProcess(self.trial, self._argv, env, silence=SILENCE * info.lease)

    def _judge(self, trial: Trial, ended: Exit | None) -> Trial:
        return judge(trial, ended, self.plan.spec.metric, attempts=self.plan.attempts)

    def _judged(self) -> Trial:
        ended = read_exit(self.trial)
        if self.fate is None:
            return self._judge(self.trial, ended)
        code = ended.code if ended else None
        by_itself = self._judge(self.trial, Exit(code, ""))
        if self.fate != "pruned" and by_itself.state == "finished":
            return by_itself  # it just made it
        return replace(self.trial, state=self.fate, reason=self._why, exit_code=code)

    def _cannot_start(self, error: OSError) -> None:
        if is_full(error):
            self._conclude(without_room(self.trial, attempts=self.plan.attempts))
        else:
            self._fail(f"can't start: {error}")

    def _fail(self, reason: str) -> None:
        self._conclude(replace(self.trial, state="failed", reason=reason))

    def _conclude(self, trial: Trial) -> None:
        """Adds what was measured: the storage must have it, for machines without this folder."""
        self.result = replace(
            trial,
            ended=datetime.now(UTC),
            rows=read_history(trial.folder),
            figures=read_metrics(trial.folder),
        )


def _planned_steps(recipe: Path) -> int | None:
    """Returns the steps that a recipe of `gridclip fit` asks for."""
    try:
        content: Any = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        steps = content["trainer"]["max_steps"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    return steps if isinstance(steps, int) and steps > 0 else None
