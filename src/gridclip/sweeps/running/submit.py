"""`gridclip sweep submit`: runners of one sweep as jobs of SLURM, by submitit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import psutil

from gridclip.io.errors import InputError, needing, require_at_least, require_range
from gridclip.io.tables import make_console, say
from gridclip.sweeps.running.command import ROOT, answering
from gridclip.sweeps.running.start import (
    SWEEP_FILE,
    Start,
    StoredSweep,
    start_or_resume,
    without_password,
)
from gridclip.sweeps.spec.sweep_file import read_sweep

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

LOGS = "jobs"  # within the sweep's folder: logs of the jobs, and what submitit keeps
ENDLESS = 1_000_000  # times a job may run out of its hours and be put back
NOTICE = 120  # seconds before a job's end at which its trials are asked to save
GPUS = "CUDA_VISIBLE_DEVICES"  # by which SLURM tells a job those that it got


def submit_sweep(  # noqa: PLR0913 - the options of a command
    file: Path,
    array: int = 1,
    jobs: int | None = None,
    gpus: int = 0,
    per_gpu: int = 1,
    hours: float = 24.0,
    sbatch: str | None = None,
    seed: int | None = None,
    dir: Path = ROOT,
    cap: int | None = None,
    storage: str | None = None,
    resume: str | None = None,
    cluster: Literal["slurm", "local"] = "slurm",
) -> None:
    """Run a sweep by jobs of SLURM, each of which runs trials until none is left.

    All jobs share one sweep, as the runners of several machines do: on a disk that they share, or
    in a database. A job that is preempted or runs out of its hours stops its trials, which save,
    and is put back into the queue; trainings go on from their last checkpoint, in whichever job.
    `gridclip sweep status` and `stop` work from anywhere. What is not told here is as in `run`.

    Args:
        file: The sweep file.
        array: How many jobs.
        jobs: How many trials each runs at once; by default 1, or as many as its GPUs take.
        gpus: How many each job gets.
        per_gpu: How many trials share a GPU.
        hours: After which SLURM ends a job, which is put back.
        sbatch: Other options of sbatch, as in partition=gpu,cpus-per-task=8,mem=32G.
        seed: Of the search.
        dir: Where the folder of this sweep is made.
        cap: No more trials than this.
        storage: A database, without a password: jobs find it where its driver does. The folder is
            on a disk that all share even so: the jobs themselves lie there.
        resume: Give a sweep that was begun these jobs: its name, its folder, or latest.
        cluster: local starts the same jobs on this machine, in the background.

    Raises:
        InputError: if the file or an option is wrong, or the jobs are refused.
    """
    counts = {"--array": array, "--jobs": jobs, "--per_gpu": per_gpu, "--cap": cap}
    require_at_least(1, **{name: count for name, count in counts.items() if count is not None})
    require_at_least(0, **{"--gpus": gpus})
    require_range(hours, "--hours", above=0)
    resources = _resources(array, gpus, hours, sbatch)
    _require_cluster(cluster)
    _require_no_password(storage)
    start = Start(resume=resume, seed=seed, cap=cap)
    with answering():
        stored = start_or_resume(read_sweep(file), dir, storage, start)
    words = [str(stored.folder.absolute() / SWEEP_FILE), f"--resume={stored.folder.absolute()}"]
    words += [f"--jobs={jobs or max(1, per_gpu * gpus)}", f"--per_gpu={per_gpu}"]
    words += [] if cap is None else [f"--cap={cap}"]
    ids = _submit(stored, [RunnerJob(words, takes_gpus=gpus > 0)] * array, cluster, resources)
    console = make_console()
    say(console, f"{stored.folder.name}: jobs of {cluster}: {', '.join(ids)}")
    say(console, f"their logs: {stored.folder / LOGS}")
    say(console, f"how it stands: gridclip sweep status {stored.folder}")


class RunnerJob:
    """What a job does: it runs a runner, and has it stop before the job is put back.

    The runner is a process of its own. Its signals thus stay its own, where submitit has handlers
    that act in the middle of anything, and ignore SIGTERM, by which `scancel` asks to stop.

    Args:
        words: Those of `gridclip sweep run`.
        takes_gpus: Whether its trials share the GPUs that the job got.
    """

    def __init__(self, words: list[str], *, takes_gpus: bool = False) -> None:
        self.words, self.takes_gpus = words, takes_gpus
        self._runner: subprocess.Popen[bytes] | None = None
        self._asked = False

    def __call__(self) -> int:
        """Runs it to its end, and returns its exit status."""
        signal.signal(signal.SIGTERM, self._stop)
        gpus = ["--gpus", os.environ[GPUS]] if self.takes_gpus and os.environ.get(GPUS) else []
        command = [sys.executable, "-m", "gridclip", "sweep", "run", *self.words, *gpus]
        self._runner = subprocess.Popen(command)
        if self._asked:
            self._stop()
        while self._runner.poll() is None:  # wait() holds a lock that checkpoint() would run into
            time.sleep(0.2)
        return self._runner.returncode

    def checkpoint(self) -> "DelayedSubmission":
        """Stops the runner and returns what the job is to do once SLURM runs it again.

        submitit calls it out of its handler of SIGUSR2, and puts the job back after it.
        """
        from submitit.helpers import DelayedSubmission  # it is running this job

        self._stop()
        if self._runner is not None:
            with suppress(psutil.NoSuchProcess):
                runner = psutil.Process(self._runner.pid)
                while runner.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.1)
        return DelayedSubmission(RunnerJob(self.words, takes_gpus=self.takes_gpus))

    def _stop(self, *_: int | FrameType | None) -> None:
        self._asked = True
        if self._runner is not None:
            self._runner.terminate()


def _submit(
    stored: StoredSweep, jobs: Sequence[RunnerJob], cluster: str, resources: Mapping[str, Any]
) -> list[str]:
    """Submits jobs as one array; returns their ids."""
    with needing("slurm"):
        import submitit

    folder = stored.folder.absolute() / LOGS
    try:
        executor = submitit.AutoExecutor(folder, cluster, slurm_max_num_timeout=ENDLESS)
        executor.update_parameters(**resources)
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
        return [each.job_id for each in submitted]
    except (submitit.core.utils.FailedJobError, ValueError, OSError) as error:
        fix = f"mend it, and submit with --resume {stored.folder}"
        raise InputError(f"{cluster} refuses the jobs: {error}", fix=fix) from error


def _require_cluster(cluster: str) -> None:
    """Raises InputError, before a sweep is made, if nothing could be submitted to it."""
    with needing("slurm"):
        import submitit  # noqa: F401
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if cluster == "slurm" and missing:
        fix = "run it on a machine of the cluster, or try it here with --cluster local"
        raise InputError(f"SLURM is not here: no {' or '.join(missing)} on the path", fix=fix)


def _require_no_password(storage: str | None) -> None:
    if storage is not None and without_password(storage) != storage:
        fix = "leave it out, and give it to the driver by ~/.pgpass or PGPASSWORD"
        raise InputError("jobs would have the password in files", fix=fix, field="--storage")


def _resources(array: int, gpus: int, hours: float, sbatch: str | None) -> dict[str, Any]:
    """Returns what to ask a cluster for, as submitit has it."""
    options = {"requeue": True} | _sbatch_options(sbatch)
    return {
        "name": "gridclip",
        "timeout_min": max(1, round(60 * hours)),
        "slurm_array_parallelism": array,
        "slurm_signal_delay_s": NOTICE,
        "slurm_additional_parameters": options,
        **({"gpus_per_node": gpus} if gpus else {}),  # 0 is an option that some clusters refuse
    }


def _sbatch_options(text: str | None) -> dict[str, Any]:
    """Returns options of sbatch by their names; one without a value is a switch."""
    options: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, value = part.strip().lstrip("-").partition("=")
        if not name or (equals and not value):
            fix = "write it as in account=me,constraint=a100"
            raise InputError(f"--sbatch {text} is no list of options", fix=fix, field="--sbatch")
        options[name] = value if equals else True
    return options
