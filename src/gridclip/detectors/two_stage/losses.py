"""Losses of the second stage: pure functions."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gridclip.detectors.two_stage.offsets import offsets_from_boxes


def region_classification(
    logits: Float[Tensor, "S _"], labels: Int[Tensor, "S"]
) -> Float[Tensor, ""]:
    """Cross-entropy over names and (last) background, mean over the sampled regions.

    Deviation: held-out names have no logit; ViLD's released code leaves them in with a zero.
    """
    return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)


def region_boxes(
    offsets: Float[Tensor, "S 4"],
    boxes: Float[Tensor, "S 4"],
    truth: Float[Tensor, "S 4"],
    labels: Int[Tensor, "S"],
    background: int,
) -> Float[Tensor, ""]:
    """Smooth L1 of class-agnostic offsets of regions on objects, over the count of all regions.

    Fast R-CNN's (1504.08083, Eq. 3), with torchvision's bend at 1/9.
    """
    objects = labels < background
    wanted = offsets_from_boxes(boxes[objects], truth[objects])
    gap = F.smooth_l1_loss(offsets[objects], wanted, beta=1 / 9, reduction="sum")
    return gap / max(len(labels), 1)


def region_distillation(
    student: Float[Tensor, "P D"], teacher: Float[Tensor, "P D"]
) -> Float[Tensor, ""]:
    """L1 between unit vectors of the same regions, summed over D, mean over regions (ViLD)."""
    return (student - teacher.detach()).abs().sum() / max(len(student), 1)
