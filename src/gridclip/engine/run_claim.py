"""Which folder a run gets, and that no other run writes there: none before it, none beside it."""

import itertools
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from gridclip.io.errors import InputError
from gridclip.io.files import require_writable

RUN_DIR_VARIABLE = "GRIDCLIP_RUN_DIR"

_LOCKS = {".claim": FileLock, ".claim-file": SoftFileLock}
_CHECKPOINT = "checkpoints/last.ckpt"
_RESULTS = ("metrics.json", "detections.json", "history.jsonl", "categories.csv", _CHECKPOINT)
"""What a run measured or learnt; the figures of a folder are those of its weights and data."""
_PREEMPTED = "hpc_ckpt_*.ckpt"  # Lightning writes it where SLURM preempts, and goes on from it


def choose_run_dir(
    asked: str | None, configs: list[Path], root: Path = Path("runs"), *, make: bool = True
) -> Path:
    """Returns the folder of a run: as given, of the environment, or runs/<row>/<time>.

    Args:
        asked: --run_dir, if it is given.
        configs: Configuration files; the first one names the row.
        root: Where runs go that nobody named.
        make: Whether a folder that nobody named is made, for this run alone: the second of a second
            ends in -2.
    """
    chosen = asked or os.environ.get(RUN_DIR_VARIABLE)
    if chosen:
        return Path(chosen)
    row = "-".join(configs[0].with_suffix("").parts[-2:]) if configs else "run"
    moment = root / row / time.strftime("%Y%m%d-%H%M%S")
    if not make:
        return moment
    require_writable(moment.parent / "config.yaml", field="run_dir")
    folders = (moment.with_name(f"{moment.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([moment], folders) if _is_made(folder))


def _is_made(folder: Path) -> bool:
    """Makes a folder; returns whether it was not there, so that one process alone gets it."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


@contextmanager
def shared_run_dir() -> Iterator[None]:
    """Lets only the processes that Lightning starts for DDP inherit the run folder.

    They get it by the environment, which is restored afterwards.
    """
    before = os.environ.get(RUN_DIR_VARIABLE)
    try:
        yield
    finally:
        os.environ.pop(RUN_DIR_VARIABLE, None)
        if before is not None:
            os.environ[RUN_DIR_VARIABLE] = before


def is_first_process() -> bool:
    """Returns whether this process is the first of its run, or starts the others.

    Lightning reads the rank from what torchrun, SLURM, jsrun or it itself has set; of a run that is
    started by hand on every machine, NODE_RANK says which machine this is.
    """
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return int(node) == 0 and not vars(rank_zero_only).get("rank")


def claim(folder: Path) -> BaseFileLock:
    """Claims a run folder for this process, until the lock that is returned is released.

    It is a lock of the system, on network disks too, so a process that ends in whatever way, by
    `kill -9` too, lets go of it: no claim is ever stale. (Of a machine that is lost, a network disk
    lets go when it notices.) The processes of one run share the claim of the first. Where the disk
    knows no locks, a file that is made exclusively stands for it. It names process and machine, and
    is stale if they are gone; one of another machine that was lost has to be removed by hand.

    Raises:
        InputError: if another run has it, or it cannot be written.
    """
    require_writable(folder / "config.yaml", field="run_dir")
    for name, kind in _LOCKS.items():
        lock = kind(folder / name, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(
                "another run is writing into this folder",
                file=folder,
                field="run_dir",
                fix="give another --run_dir, or wait until that run has ended",
            ) from error
        except (OSError, NotImplementedError):
            continue  # a disk without locks
        return lock
    raise InputError(
        "cannot be claimed", fix="give another --run_dir", file=folder, field="run_dir"
    )


def refuse_results(folder: Path, command: str, checkpoint: str | None) -> None:
    """Refuses a folder with the results of another run: they would be mixed with its own.

    Only a training goes on in a folder: from a checkpoint in it that is named, or where SLURM
    preempted it. One that ended before it measured or learnt anything has left nothing to lose.

    Args:
        folder: The run folder.
        command: fit, validate, test or predict.
        checkpoint: --ckpt_path, if it is given.

    Raises:
        InputError: naming what is there, and the command that goes on.
    """
    held = [name for name in _RESULTS if (folder / name).exists()]
    if command != "fit":
        held += ["config.yaml"] * (folder / "config.yaml").exists()
    if not held or (command == "fit" and _goes_on(folder, checkpoint)):
        return
    fix = "give another --run_dir, or move this one away"
    if (folder / _CHECKPOINT).exists():
        fix = f"go on with it: {_command(folder)}\n  or {fix}" if command == "fit" else fix
    if "metrics.json" in held:
        what = "a finished run"
    elif {"history.jsonl", _CHECKPOINT} & set(held):
        what = "a training that was cut off"
    else:
        what = f"what another run left: {held[0]}"
    raise InputError(f"this folder holds {what}", file=folder, field="run_dir", fix=fix)


def _goes_on(folder: Path, checkpoint: str | None) -> bool:
    if checkpoint is not None:
        return Path(checkpoint).resolve().is_relative_to(folder.resolve())
    return not (folder / "metrics.json").exists() and any(folder.glob(_PREEMPTED))


def _command(folder: Path) -> str:
    """Returns what to type to go on with a training that was cut off."""
    options = {
        "--config": folder / "config.yaml",
        "--ckpt_path": folder / _CHECKPOINT,
        "--run_dir": folder,
    }
    words = ["gridclip", "fit", *(str(word) for pair in options.items() for word in pair)]
    return shlex.join(words)
