"""Losses as pure functions: tensors in, one scalar out; no weights, logging or ranks inside."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

ImageDistance = Literal["l1", "l2", "cosine"]


def grid_alignment(
    logits: Float[Tensor, "B N K"],
    positive: Bool[Tensor, "B N"],
    labels: Int[Tensor, "P"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, ""]:
    """Align grid cells with category text: sigmoid focal loss, a sum over the positives' count.

    The abstract of GridCLIP (2303.09252) names the alignment; its form here is our reading: focal
    loss (1708.02002, Eq. 5) on scaled cosines, as in the paper's base detector (FCOS, Eq. 2).

    Args:
        logits: Scaled and shifted cosine of every cell with every name.
        positive: Cells that belong to an object; all others are negatives for every name.
        labels: Row of the vocabulary for each of the P positive cells, in row order.
        alpha: Weight of the positive term; 1 - alpha for the negatives.
        gamma: How strongly well-classified cells are played down.
    """
    hits = torch.zeros_like(logits)
    image, cell = positive.nonzero(as_tuple=True)
    hits[image, cell, labels] = 1
    total = sigmoid_focal_loss(logits, hits, alpha=alpha, gamma=gamma, reduction="sum")
    return total / max(len(labels), 1)


def image_alignment(
    student: Float[Tensor, "B E"], teacher: Float[Tensor, "B E"], *, distance: ImageDistance
) -> Float[Tensor, ""]:
    """Gap between unit vectors of the same images, summed over E, mean over images.

    `l1` is E · mean|Δ|, the form of ViLD's distillation (2104.13921); `l2` the squared distance;
    `cosine` is 1 - cos. GridCLIP's own form was not seen, so all three are our reading.
    """
    student, teacher = F.normalize(student, dim=-1), F.normalize(teacher.detach(), dim=-1)
    match distance:
        case "l1":
            return (student - teacher).abs().sum(-1).mean()
        case "l2":
            return (student - teacher).square().sum(-1).mean()
        case "cosine":
            return (1 - (student * teacher).sum(-1)).mean()


def box_regression(
    boxes: Float[Tensor, "P 4"], truth: Float[Tensor, "P 4"], weight: Float[Tensor, "P"]
) -> Float[Tensor, ""]:
    """Generalised IoU loss (1902.09630), averaged with the cells' centreness as weight."""
    gap = generalized_box_iou_loss(boxes, truth, reduction="none")
    return (gap * weight).sum() / weight.sum().clamp(min=1e-6)


def centreness_agreement(
    logits: Float[Tensor, "P"], truth: Float[Tensor, "P"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of predicted centreness, mean over the positive cells (FCOS, Eq. 3)."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / max(len(truth), 1)
