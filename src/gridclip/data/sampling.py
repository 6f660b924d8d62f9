"""Which images make up which training batch: a function of seed, epoch and step.

Nothing here has a state. The order of an epoch is drawn from (seed, epoch), the batch from its
step, so an interrupted training resumes exactly where the trainer's own counters are, with any
number of workers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch.utils.data import Dataset, DistributedSampler

Kind = Literal["detection", "image_level", "grounding", "pairs"]

# Sets the orders of the kinds apart; numbers that never change, or resumed trainings would.
_STREAMS: dict[Kind, int] = {"detection": 0, "image_level": 1, "grounding": 2, "pairs": 3}


class SampleIndex(NamedTuple):
    """One turn of one image. It carries the epoch, because workers live through epochs."""

    row: int
    epoch: int = 0  # how many times all images of this kind had their turn before
    turn: int = 0  # of an image that is drawn several times in its epoch
    source: Kind = "detection"


class Position(NamedTuple):
    """How far a training is."""

    epoch: int
    step: int  # batches of this epoch that are done


class RankShard(NamedTuple):
    """Which part of every batch this process has."""

    processes: int
    rank: int


ALONE = RankShard(processes=1, rank=0)


class SamplingPool(NamedTuple):
    """Images to draw from."""

    sizes: Int[np.ndarray, "I 2"]  # height and width; only which is longer counts
    batch_size: int  # of one process
    repeats: Float[np.ndarray, "I"] | None = None  # turns of each image in an epoch, on average
    ratio: float = 1.0  # of its batches to those of other pools


class Order(NamedTuple):
    """All draws of an epoch, one batch after the other."""

    rows: Int[np.ndarray, "T"]
    turns: Int[np.ndarray, "T"]


def draw_order(pool: SamplingPool, share: RankShard, rng: np.random.Generator) -> Order:
    """Shuffles an epoch so that each batch has images of one orientation, and so little padding.

    Every image has its turn. Landscape and portrait images are batched apart; what does not fill
    a batch of its own orientation fills batches of both. Only the last batch may be short. Where
    the draws do not divide by the processes, the first ones fill up.
    """
    rows, turns = _turns(pool, rng)
    shuffled = rng.permutation(len(rows))
    tall = (pool.sizes[:, 0] > pool.sizes[:, 1])[rows[shuffled]]
    size = pool.batch_size * share.processes
    grouped = _fill_batches(shuffled, tall, size)
    whole = len(grouped) // size * size
    batches = rng.permutation(grouped[:whole].reshape(-1, size))
    order = np.concatenate([batches.ravel(), grouped[whole:]])
    order = np.resize(order, -(-len(order) // share.processes) * share.processes)
    return Order(rows[order], turns[order])


def count_batches(pool: SamplingPool, share: RankShard) -> int:
    """Returns the number of batches an epoch of each process: the same in every epoch."""
    draws = len(pool.sizes) if pool.repeats is None else _largest_count(pool.repeats)
    return -(-draws // (pool.batch_size * share.processes))


def batches_before(step: int, counts: Sequence[int]) -> list[int]:
    """Returns how many of the first `step` batches are of each kind, spread evenly.

    The last kind is spread among all batches, the one before it among those that are left, and so
    on; the first kind has the rest.

    Args:
        step: Batches of all kinds.
        counts: Batches of each kind in an epoch, some of the first kind at least.
    """
    before = [0] * len(counts)
    for kind in reversed(range(len(counts))):
        before[kind] = step * counts[kind] // sum(counts[: kind + 1])
        step -= before[kind]
    return before


class MixedSampler(DistributedSampler[list[SampleIndex]]):
    """Draws whole batches of one kind of image, of several kinds in turn.

    An epoch is one pass over the images of the first kind. Batches of the others go through their
    own images at their own pace, in as many passes as it takes, and the next epoch continues where
    this one ended. At each step every process has the same kind.

    A DistributedSampler by type, so Lightning leaves it alone, also in a single process.

    Args:
        pools: The images of each kind. An epoch has batches of the kinds in proportion to their
            ratios, at least one of each.
        seed: Of every order.
        share: Which part of each batch is drawn here.
        position: Returns where to begin, at each pass; without it, at the epoch of `set_epoch`.
            Lightning 2.6 sets one too many after some resumes, so a trainer is asked itself.
    """

    def __init__(
        self,
        pools: Mapping[Kind, SamplingPool],
        *,
        seed: int = 0,
        share: RankShard = ALONE,
        position: Callable[[], Position] | None = None,
    ) -> None:
        first, *others = pools.values()
        rows: Dataset[object] = first.sizes  # type: ignore[assignment]  # only its length counts
        super().__init__(rows, num_replicas=share.processes, rank=share.rank, seed=seed)
        self.pools, self.share, self.position = dict(pools), share, position
        leading = count_batches(first, share)
        self.counts = [
            leading,
            *(max(1, round(pool.ratio / first.ratio * leading)) for pool in others),
        ]

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        epoch, first = self.position() if self.position else Position(self.epoch, 0)
        orders: dict[Kind, tuple[int, Order]] = {}  # of each kind: which pass, and its order
        before = batches_before(first, self.counts)
        for step in range(first, len(self)):
            after = batches_before(step + 1, self.counts)
            (row,) = (row for row, count in enumerate(before) if after[row] > count)
            kind = [*self.pools][row]
            done = epoch * self.counts[row] + before[row]  # batches of this kind, ever
            number, turn = divmod(done, count_batches(self.pools[kind], self.share))
            if kind not in orders or orders[kind][0] != number:
                rng = np.random.default_rng((self.seed, number, _STREAMS[kind]))
                orders[kind] = number, draw_order(self.pools[kind], self.share, rng)
            yield self._batch(orders[kind][1], turn, kind, number)
            before = after

    def _batch(self, order: Order, number: int, kind: Kind, epoch: int) -> list[SampleIndex]:
        size = self.pools[kind].batch_size * self.share.processes
        mine = slice(number * size + self.share.rank, (number + 1) * size, self.share.processes)
        pairs = zip(order.rows[mine].tolist(), order.turns[mine].tolist(), strict=True)
        return [SampleIndex(row, epoch, turn, kind) for row, turn in pairs]


def _turns(pool: SamplingPool, rng: np.random.Generator) -> Order:
    """Returns every turn that images have in this epoch.

    An image of repeat factor r (LVIS, 1908.03195, appendix) has floor(r) turns and one more with
    the probability r - floor(r). All are drawn together, by systematic sampling: images lie
    along a line in random order, each as long as its fraction, and one comb of spacing 1 is laid
    over it at random. So each has its exact probability, yet every epoch is equally long.
    """
    images = len(pool.sizes)
    if pool.repeats is None:
        return Order(np.arange(images), np.zeros(images, dtype=np.int64))
    whole = np.floor(pool.repeats).astype(np.int64)
    line = rng.permutation(images)
    ends = np.cumsum((pool.repeats - whole)[line])
    teeth = np.floor(ends + rng.random()).astype(np.int64)
    counts = whole.copy()
    counts[line] += np.diff(teeth, prepend=0)
    longest = _largest_count(pool.repeats)
    if counts.sum() < longest:  # one less, where the fractions add up to no whole number
        counts[rng.integers(images)] += 1
    rows = np.repeat(np.arange(images), counts)[:longest]
    first = np.cumsum(counts) - counts
    return Order(rows, np.arange(len(rows)) - first[rows])


def _largest_count(repeats: Float[np.ndarray, "I"]) -> int:
    """Draws of an epoch: the sum of the factors, rounded up."""
    whole = np.floor(repeats)
    return int(whole.sum() + np.ceil(round(float((repeats - whole).sum()), 6)))


def _fill_batches(
    shuffled: Int[np.ndarray, "T"], tall: Bool[np.ndarray, "T"], size: int
) -> Int[np.ndarray, "T"]:
    """Puts whole batches of one orientation first, then what is left of both."""
    groups = [shuffled[~tall], shuffled[tall]]
    cuts = [len(group) // size * size for group in groups]
    whole = [group[:cut] for group, cut in zip(groups, cuts, strict=True)]
    return np.concatenate([*whole, *(group[cut:] for group, cut in zip(groups, cuts, strict=True))])
