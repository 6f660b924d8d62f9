"""The order of training images: a function of seed and epoch."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, DistributedSampler


class Draw(NamedTuple):
    """One turn of one image. The epoch travels with it, because workers live through epochs."""

    row: int
    epoch: int


class EpochSampler(DistributedSampler[Draw]):
    """A new order each epoch, shared out among processes.

    A DistributedSampler by type, so Lightning leaves it alone and tells it the epoch, also in a
    single process. Where the images do not divide by the processes, the first ones fill up.

    Args:
        dataset: What to draw from.
        seed: Of the order; with the epoch it says all.
        processes: How many share the images.
        rank: Which of them this is.
        current_epoch: Tells the epoch; without it, what `set_epoch` said last. Lightning 2.6 says
            one too many after a resume from the end of an epoch, so its own count is asked.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        *,
        seed: int,
        processes: int = 1,
        rank: int = 0,
        current_epoch: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=processes, rank=rank, seed=seed)
        self.current_epoch = current_epoch

    def __iter__(self) -> Iterator[Draw]:
        epoch = self.current_epoch() if self.current_epoch else self.epoch
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))  # type: ignore[arg-type]
        mine = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        return (Draw(row, epoch) for row in mine.tolist())
