"""Best pairs and suppression in lists of fixed length, as a graph of another runtime needs them.

`postprocess` and `nms` have the same rules where the sizes of what is found may vary; here places
without a box have the score `ABSENT`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gridclip.ops.nms import hard_nms
from gridclip.ops.postprocess import Candidates

ABSENT = -1.0
"""Score of a place that holds no box."""

EXCLUDED = -1e30
"""Added to the logit of a name that does not compete: its share is zero, and no sum infinite."""


class Contest(NamedTuple):
    """Cells of one image, and all vectors that they are compared with, not multiplied out.

    The names that are asked for come first, then those that only compete.
    """

    cells: Float[Tensor, "N D"]  # unit vectors times the scale of the logits
    vectors: Float[Tensor, "V D"]
    bias: Float[Tensor, ""]
    # Added to the logits in sums over names: 0, or EXCLUDED. None: names do not compete.
    counted: Float[Tensor, "V"] | None


def top_pairs_of(
    contest: Contest, asked: int, factor: Float[Tensor, "N"], count: int
) -> Candidates:
    """Returns the `count` best pairs of a cell and a name that is asked for, best first.

    The rule of `postprocess.best_pairs`. A pair among the best `count` lies in one of the `count`
    cells whose best name scores highest, so only these are multiplied out once more.

    Args:
        contest: Cells and names.
        asked: How many of the names are asked for.
        factor: Of each cell, what multiplies the share of a name under the root.
        count: Length of the answer.
    """
    total, highest = None, _logits(contest, contest.cells)
    if contest.counted is not None:
        total = log_sum_exp(highest + contest.counted)
    best = _scores(highest[:, :asked].amax(1, keepdim=True), total, factor)[:, 0]
    # Where there are fewer cells than that, the rest of the list is made of none.
    order = F.pad(best, (0, count), value=ABSENT).topk(count)
    real, cells = order.values >= 0, order.indices.clamp(max=best.shape[0] - 1)
    own = contest._replace(vectors=contest.vectors[:asked])
    scores = _scores(
        _logits(own, contest.cells[cells]), None if total is None else total[cells], factor[cells]
    )
    found = torch.where(real[:, None], scores, ABSENT).flatten().topk(count)
    rows = found.indices // asked
    return Candidates(found.values, cells[rows], found.indices - rows * asked)


def log_sum_exp(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    """Returns the log-sum-exp of each row, safe in every runtime."""
    top = logits.amax(1, keepdim=True)
    return (logits - top).exp().sum(1).log() + top[:, 0]


def best_counted(contest: Contest) -> Float[Tensor, "N"]:
    """Returns the logit of each cell's best name, of those that count."""
    assert contest.counted is not None
    return (_logits(contest, contest.cells) + contest.counted).amax(1)


def _logits(contest: Contest, cells: Float[Tensor, "n D"]) -> Float[Tensor, "n V"]:
    return cells @ contest.vectors.mT + contest.bias


def _scores(
    logits: Float[Tensor, "n K"], total: Float[Tensor, "n"] | None, factor: Float[Tensor, "n"]
) -> Float[Tensor, "n K"]:
    if total is None:
        return (logits.sigmoid() * factor[:, None]).sqrt()
    return ((logits - total[:, None]).exp().clamp(max=1) * factor[:, None]).sqrt()


@torch.library.custom_op("gridclip::unsuppressed", mutates_args=())
def unsuppressed(
    boxes: Tensor, scores: Tensor, labels: Tensor, categories: Tensor, iou: float
) -> Tensor:
    """Returns which boxes no better one of their category overlaps by more than `iou`.

    One operator, so that a graph may have that of its runtime.

    Args:
        boxes: xyxy (C × 4).
        scores: At least 0, or `ABSENT`.
        labels: Of each box, a number of `categories`.
        categories: 0, 1, … (K).
        iou: The overlap.

    Returns:
        A mask (C).
    """
    kept = hard_nms(boxes, scores, labels, iou)
    return torch.zeros_like(labels, dtype=torch.bool).index_fill(0, kept, True)


@unsuppressed.register_fake
def _(
    boxes: Float[Tensor, "C 4"],
    scores: Float[Tensor, "C"],
    labels: Int[Tensor, "C"],
    categories: Int[Tensor, "K"],
    iou: float,
) -> Bool[Tensor, "C"]:
    return torch.empty_like(labels, dtype=torch.bool)
