"""Losses of the second stage: pure functions."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gridclip.detectors.two_stage.offsets import offsets_from_boxes
from gridclip.errors import InputError


@dataclass(frozen=True, kw_only=True)
class NamingLoss:
    """How cross-entropy weighs regions; as it is, or as RegionCLIP's released code (2112.09106).

    RegionCLIP takes `gamma: 0.5, background: 0.2` on COCO, and `background: 0.8, average: weight`
    on LVIS.

    Args:
        gamma: Focal scaling: a region counts by (1 - p)^gamma, p being the probability of what it
            shows, so that what is known already does not wear off what was learnt before.
        background: Weight of regions that show nothing, against 1 of those that show something.
        average: What the sum is divided by: the `count` of regions, or the sum of their `weight`.
    """

    gamma: float = 0.0
    background: float = 1.0
    average: Literal["count", "weight"] = "count"

    def __post_init__(self) -> None:
        for field in ("gamma", "background"):
            value = getattr(self, field)
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(
                    f"{value} is refused", field=f"naming.{field}", fix="give a number >= 0"
                )


PLAIN = NamingLoss()


def region_classification(
    logits: Float[Tensor, "S _"], labels: Int[Tensor, "S"], naming: NamingLoss = PLAIN
) -> Float[Tensor, ""]:
    """Cross-entropy over names and (last) background, mean over the sampled regions.

    Deviation: held-out names have no logit; ViLD's released code leaves them in with a zero.
    """
    gaps = F.cross_entropy(logits, labels, reduction="none")
    weight = torch.where(labels == logits.shape[1] - 1, naming.background, 1.0).to(gaps.dtype)
    total = weight.sum() if naming.average == "weight" else weight.new_tensor(len(labels))
    if naming.gamma:
        # 1 - p from the logarithm, exact near p = 1, where a power below 1 is steep without end.
        missed = -torch.expm1(-gaps)
        gaps = gaps * missed.clamp(min=torch.finfo(gaps.dtype).tiny) ** naming.gamma
    return (weight * gaps).sum() / total.clamp(min=1e-6)


def region_boxes(
    offsets: Float[Tensor, "S 4"],
    boxes: Float[Tensor, "S 4"],
    truth: Float[Tensor, "S 4"],
    labels: Int[Tensor, "S"],
    background: int,
    bend: float = 1 / 9,
) -> Float[Tensor, ""]:
    """Smooth L1 of class-agnostic offsets of regions on objects, over the count of all regions.

    Fast R-CNN's (1504.08083, Eq. 3), with torchvision's bend at 1/9; without any it is L1, as in
    RegionCLIP.
    """
    objects = labels < background
    wanted = offsets_from_boxes(boxes[objects], truth[objects])
    gap = F.smooth_l1_loss(offsets[objects], wanted, beta=bend, reduction="sum")
    return gap / max(len(labels), 1)


def region_distillation(
    student: Float[Tensor, "P D"], teacher: Float[Tensor, "P D"]
) -> Float[Tensor, ""]:
    """L1 between unit vectors of the same regions, summed over D, mean over regions (ViLD)."""
    return (student - teacher.detach()).abs().sum() / max(len(student), 1)
