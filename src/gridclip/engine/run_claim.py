"""Which folder a run gets, and that no other run writes there: none before it, none beside it."""

import itertools
import os
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


def claim(folder: Path, patience: float = 0.0) -> BaseFileLock:
    """Claims a run folder for this process, until the lock that is returned is released.

    It is a lock of the system, on network disks too, so a process that ends in whatever way, by
    `kill -9` too, lets go of it: no claim is ever stale. (Of a machine that is lost, a network disk
    lets go when it notices.) The processes of one run share the claim of the first. Where the disk
    knows no locks, a file that is made exclusively stands for it. It names process and machine, and
    is stale if they are gone; one of another machine that was lost has to be removed by hand.

    Args:
        folder: The run folder.
        patience: Seconds to wait for who has it: loading processes of a training that was killed
            hold its lock until they notice, after about 5 s.

    Raises:
        InputError: if another run has it, or it cannot be written.
    """
    require_writable(folder / "config.yaml", field="run_dir")
    for name, kind in _LOCKS.items():
        lock = kind(folder / name, timeout=patience)
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
