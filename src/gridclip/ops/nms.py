"""Suppression of boxes that show what a better box shows, category by category."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import box_area, nms


def hard_nms(
    boxes: Float[Tensor, "C 4"], scores: Float[Tensor, "C"], labels: Int[Tensor, "C"], iou: float
) -> Int[Tensor, "kept"]:
    """Returns rows of boxes that no better one of their category overlaps by more than `iou`.

    They come best first. All categories in one call: the boxes of each are moved apart. In double
    precision, so that boxes that far away are as exact as before.
    """
    if not len(boxes):
        return labels
    group = labels.unique(return_inverse=True)[1]
    apart = boxes.double() + (group * (boxes.max() + 1))[:, None]
    return nms(apart, scores.double(), iou)


def nms_by_smaller(
    boxes: Float[Tensor, "C 4"], scores: Float[Tensor, "C"], labels: Int[Tensor, "C"], share: float
) -> Int[Tensor, "kept"]:
    """Returns rows of boxes that share at most this much with each better one of their category.

    What two boxes share is their intersection over the area of the smaller (IoS), so that a part of
    an object is suppressed by the whole of it. Rows come best first.
    """
    areas, left = box_area(boxes), scores.argsort(descending=True, stable=True)
    kept = [left[:0]]
    while len(left):
        best, left = left[:1], left[1:]
        kept.append(best)
        shared = _intersection(boxes[left], boxes[best])
        smaller = torch.minimum(areas[left], areas[best])
        left = left[(labels[left] != labels[best]) | (shared <= share * smaller)]
    return torch.cat(kept)


def soft_nms(
    boxes: Float[Tensor, "C 4"],
    scores: Float[Tensor, "C"],
    labels: Int[Tensor, "C"],
    *,
    sigma: float,
    least: float,
    limit: int,
) -> tuple[Int[Tensor, "kept"], Float[Tensor, "kept"]]:
    """Applies Gaussian soft-NMS (1704.04503): a better box of the category lowers a score.

    One box after the other, the best that is left, lowers all others of its category by
    exp(-IoU² / sigma). All categories take a turn at once: as many turns as the largest has boxes,
    and at most `limit`, since a category's later boxes score lower.

    Args:
        boxes: xyxy.
        scores: At least 0.
        labels: A number for each category.
        sigma: The larger, the milder.
        least: Boxes are dropped when their score has fallen to this.
        limit: At most so many are kept.

    Returns:
        Rows of the boxes that are kept and their lowered scores, best first.
    """
    group = labels.unique(return_inverse=True)[1]
    sizes = group.bincount(minlength=1)
    left = torch.where(scores > least, scores, 0)
    rows, final = [labels[:0]], [scores[:0]]
    for _ in range(min(limit, int(sizes.max()))):
        best = _best_of_each(left, group, len(sizes))
        chosen = best[best < len(left)]
        if not len(chosen):
            break
        rows.append(chosen)
        final.append(left[chosen])
        better = boxes[best.clamp(max=len(left) - 1)[group]]  # any, if none is left
        left = left * (-_overlap(boxes, better).square() / sigma).exp()
        left[chosen] = 0
        left = torch.where(left > least, left, 0)
    found, order = torch.cat(final).sort(descending=True, stable=True)
    return torch.cat(rows)[order[:limit]], found[:limit]


def _best_of_each(
    scores: Float[Tensor, "C"], group: Int[Tensor, "C"], groups: int
) -> Int[Tensor, "G"]:
    """Returns the row of each group's best score, the first of equals; C if none is above 0."""
    highest = scores.new_zeros(groups).scatter_reduce(0, group, scores, "amax")
    leads = (scores > 0) & (scores == highest[group])
    rows = torch.where(leads, torch.arange(len(scores), device=scores.device), len(scores))
    return torch.full_like(highest, len(scores)).long().scatter_reduce(0, group, rows, "amin")


def _overlap(some: Float[Tensor, "C 4"], others: Float[Tensor, "C 4"]) -> Float[Tensor, "C"]:
    """Returns the IoU of each box with its partner."""
    shared = _intersection(some, others)
    return shared / (box_area(some) + box_area(others) - shared).clamp(min=1e-9)


def _intersection(some: Float[Tensor, "C 4"], others: Float[Tensor, "D 4"]) -> Float[Tensor, "C"]:
    """Returns the area that each box shares with its partner, or with the only one there is."""
    low, high = torch.maximum(some, others)[:, :2], torch.minimum(some, others)[:, 2:]
    return (high - low).clamp(min=0).prod(1)
