"""Two processes that train together, on one machine, for tests of what they exchange."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def on_two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Give what a function of a module answers as rank 0 and as rank 1: tensors, numbers, lists."""
    # Both are forks of a server that has imported all: a fork of this process could hang in the
    # pools of threads of what other tests ran here, and a spawned one takes seconds to import.
    multiprocessing.set_forkserver_preload(["gridclip.engine.lightning_module"])
    multiprocessing.start_processes(_run, args=(work, folder), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _run(rank, work, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.save(work(rank), folder / f"{rank}.pt")
    distributed.destroy_process_group()
