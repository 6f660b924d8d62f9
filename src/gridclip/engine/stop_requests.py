"""Ends a run that is asked to: the batch is finished, the weights are saved, the status is 143.

SIGTERM asks for that: `kill`, `scancel`, torchrun and a sweep's runner send it, and preemption
does. A second signal, which SLURM sends some time before its limit (`sbatch --signal`), also has
SLURM put the job back into its queue, where the same command goes on by itself.

Lightning has handlers of its own. Its SIGTERM ends a training with status 0 and saves nothing;
its SIGUSR1 saves at whatever place the program is, to a checkpoint that the final evaluation loads
instead of the weights it should measure. So they are not installed.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from types import FrameType
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer

from gridclip.sweeps.running.guard import MARK

logger = logging.getLogger(__name__)

STOPPED = 128 + signal.SIGTERM
"""Exit status of a run that was asked to stop, as shells have it for one that SIGTERM ended: 143"""

RequeueSignal = Literal["SIGUSR1", "SIGUSR2"]


class StopRequests:
    """Notes who asks this process to stop, in the place of Lightning's own handlers.

    They stand while a Trainer runs. Before and after, SIGTERM ends the process at once.

    Args:
        requeue: Name of the signal that also has the job put back into SLURM's queue, if any.
        goes_on: Whether the same command would go on with this run, since it names the folder.
    """

    received_sigterm = False  # Lightning's loops would end by it, with status 0

    def __init__(self, requeue: RequeueSignal | None = "SIGUSR1", *, goes_on: bool = True) -> None:
        self.goes_on = goes_on
        self.requeue = None if requeue is None else signal.Signals[requeue]
        self.asked: set[int] = set()  # signals that came
        self._before: dict[int, Any] = {}

    def listen_for(self, trainer: Trainer) -> None:
        """Takes the place of the handlers of a Trainer, for which there is no public way."""
        self.trainer = trainer
        trainer._signal_connector = self  # type: ignore[assignment]

    def register_signal_handlers(self) -> None:
        """Begins to listen; Lightning calls it when all is built and restored."""
        if threading.current_thread() is threading.main_thread():
            wanted = {signal.SIGTERM} | ({self.requeue} if self.requeue else set())
            self._before = {each: signal.signal(each, self._note) for each in wanted}

    def teardown(self) -> None:
        """Gives the signals back to who had them."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out handlers, which no other process can have."""
        return {**vars(self), "_before": {}}

    def agreed(self) -> bool:
        """Returns whether any process of the run was asked; all must call it, and get one answer.

        Lightning waits for all processes at each step anyway, so this costs one small message.
        """
        asked = bool(self.asked)
        if self.trainer.world_size > 1:
            return self.trainer.strategy.reduce_boolean_decision(asked, all=False)
        return asked

    def leave(self, told: str) -> None:
        """Ends this process, and puts its job into the queue again if that was asked.

        Args:
            told: What was saved, or was not.

        Raises:
            SystemExit: with STOPPED.
        """
        if self.trainer.is_global_zero:
            logger.warning("stopped as asked at step %d; %s", self.trainer.global_step, told)
            if self.requeue in self.asked and self.goes_on:
                requeue_job()
            elif self.requeue in self.asked:
                logger.error("a job put back into the queue would begin anew: give a --run_dir")
        raise SystemExit(STOPPED)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, launcher = number not in self.asked, self.trainer.strategy.launcher
        self.asked.add(number)
        if first and launcher is not None:
            launcher.kill(number)  # to the processes that this one started


class LeaveEvaluation(Callback):
    """Ends an evaluation when this process is asked to; within a fit a checkpoint stands before it.

    Args:
        requests: Who asks.
    """

    def __init__(self, requests: StopRequests) -> None:
        self.requests = requests

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - Lightning's hook
        """Leaves, without figures: they would be of a part of the images."""
        if self.requests.asked:
            self.requests.leave("the evaluation was cut off, and what it counted is dropped")

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end


def requeue_job() -> bool:
    """Asks SLURM to run this job again; returns whether it will.

    Nothing is asked outside a job, nor by a trial of a sweep, whose runner decides about its job.
    """
    job = slurm_job()
    if job is None or MARK in os.environ:
        return False
    scontrol = shutil.which("scontrol")
    if scontrol is None:
        logger.error("job %s is not put back into the queue: there is no scontrol here", job)
        return False
    answer = subprocess.run([scontrol, "requeue", job], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        logger.error("job %s is not put back into the queue: %s", job, answer.stderr.strip())
        return False
    logger.warning("job %s is in the queue again, and will go on from this checkpoint", job)
    return True


def slurm_job() -> str | None:
    """Returns the number of this SLURM job, of an array with its task; None outside one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    return job if re.fullmatch(r"\d+(_\d+)?", job) else None
