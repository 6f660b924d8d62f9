"""Rows of all processes that train together, with gradients, however many each has.

A loss whose negatives are other rows (contrastive losses) should not depend on how many processes
share a batch. Where every process computes the whole batch's loss from gathered rows, as one mean
over all rows, each gets the same value, and DDP's mean of gradients is the gradient of one process
on the concatenated batch. So it is where a process computes its own rows' share alone: their sum
over the count of all rows, times the number of processes.
"""

from typing import Any

import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def num_processes() -> int:
    """Processes that train together; 1 without a process group."""
    return distributed.get_world_size() if _together() else 1


def gather(rows: Shaped[Tensor, "b *row"]) -> tuple[Shaped[Tensor, "n *row"], int]:
    """Rows of all processes, in the order of their ranks, and where this one's begin.

    The gradient of this process' rows is the sum of what every process' loss says of them, so
    every process must call it, and go backward through it, in the same order; one without rows
    too, with a tensor of shape (0, ...) that has a gradient where theirs have.

    Args:
        rows: This process' rows, any number of them, of the same row shape and type everywhere.

    Returns:
        The rows of all, and the index of this process' first; `(rows, 0)` without process group.
    """
    if not _together():
        return rows, 0
    counts = _counts(len(rows), rows.device)
    gathered: Tensor = _Gather.apply(rows, counts)
    return gathered, sum(counts[: distributed.get_rank()])


def gather_strings(strings: list[str]) -> list[list[str]]:
    """Strings of each process, in the order of their ranks."""
    if not _together():
        return [strings]
    everyones: list[list[str]] = [[] for _ in range(num_processes())]
    distributed.all_gather_object(everyones, strings)
    return everyones


def total(amount: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Sums over all processes, without a gradient: the count that a mean divides by."""
    everyones = amount.detach().clone()
    if _together():
        distributed.all_reduce(everyones)
    return everyones


def share_of_mean(
    loss: Float[Tensor, ""], count: int | Num[Tensor, ""], least: float = 1.0
) -> Float[Tensor, ""]:
    """This process' share of a mean over the rows of all processes, times their number.

    DDP's mean of the shares is the loss of one process that has the whole batch, however unevenly
    it is shared out. Alone it is the plain mean.

    Args:
        loss: Sum over this process' rows.
        count: How many rows that is, or what they weigh.
        least: What the sum is divided by where the rows of all are fewer.
    """
    everyones = total(torch.as_tensor(count, dtype=loss.dtype, device=loss.device))
    return loss * num_processes() / everyones.clamp(min=least)


class _Gather(torch.autograd.Function):
    """All rows forward, the sum of everyone's gradient of this process' rows backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:  # noqa: ANN401
        ctx.counts = counts
        # Collectives want equal shapes: shorter ones are padded, and cut again.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        everyones = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(everyones, padded)
        return torch.cat([each[:n] for each, n in zip(everyones, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        everyones = gradient.contiguous().clone()
        distributed.all_reduce(everyones)
        return everyones.split(ctx.counts)[distributed.get_rank()], None


def _counts(own: int, device: torch.device) -> list[int]:
    """Rows of each process."""
    mine = torch.tensor([own], device=device)
    counts = [torch.zeros_like(mine) for _ in range(num_processes())]
    distributed.all_gather(counts, mine)
    return [int(count) for count in counts]


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
