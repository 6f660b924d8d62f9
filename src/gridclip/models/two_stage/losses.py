"""Which regions the second stage learns from."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou

from gridclip.io.errors import require_range
from gridclip.models.base import Weights
from gridclip.ops.boxes import offsets_from_boxes
from gridclip.structures import Proposals, Targets


@dataclass(frozen=True, kw_only=True)
class RegionWeights(Weights):
    """Weight of each loss; at zero it is not computed, and what only it would train is frozen.

    Args:
        text: Regions against names and background; not of vild-image.
        image: Regions against CLIP's view of them; not of vild-text.
        box: Class-agnostic refinement of boxes.
        objectness: Proposals: object or not.
        anchor: Proposals: boxes of anchors.
        mask: Masks of objects, where the detector has them.
    """

    text: float = 1.0
    image: float = 0.5
    box: float = 1.0
    objectness: float = 1.0
    anchor: float = 1.0
    mask: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How many regions an image teaches with; the defaults are ViLD's released configuration.

    Args:
        regions: Sampled proposals an image, annotated boxes among them.
        positive: At most this share of them on objects.
        iou: A proposal is of an object from this overlap on, and background below.
        distilled: At most so many regions an image are compared with CLIP, the best.
    """

    regions: int = 512
    positive: float = 0.25
    iou: float = 0.5
    distilled: int = 300

    def __post_init__(self) -> None:
        for field in ("regions", "distilled"):
            require_range(getattr(self, field), f"sampling.{field}", least=1)
        for field in ("positive", "iou"):
            require_range(getattr(self, field), f"sampling.{field}", above=0, most=1)


class Sampled(NamedTuple):
    """Regions to learn from: of each image, and what each of the S of all images shows."""

    boxes: list[Float[Tensor, "_ 4"]]  # xyxy, pixels of the resized image
    labels: Int[Tensor, "S"]  # rows of the vocabulary, K for background
    truth: Float[Tensor, "S 4"]  # the object's box; the region's own where it is background
    owners: Int[Tensor, "S"]  # the object among those of all images; any where it is background


def sample_regions(
    proposals: list[Proposals], targets: list[Targets], names: int, settings: SamplingSettings
) -> Sampled:
    """Draws proposals and annotated boxes at random, objects and background apart.

    Args:
        proposals: Of each image.
        targets: What is annotated in each image.
        names: Names K of the vocabulary.
        settings: How many.
    """
    drawn = [
        _sample(torch.cat([target.boxes, found.boxes]), target, names, settings)
        for found, target in zip(proposals, targets, strict=True)
    ]
    boxes, labels, truth, owners = zip(*drawn, strict=True)
    before = accumulate((len(target.boxes) for target in targets), initial=0)
    own = torch.cat([rows + first for rows, first in zip(owners, before, strict=False)])
    return Sampled(list(boxes), torch.cat(labels), torch.cat(truth), own)


def _sample(
    boxes: Float[Tensor, "R 4"], target: Targets, names: int, settings: SamplingSettings
) -> tuple[Float[Tensor, "S 4"], Int[Tensor, "S"], Float[Tensor, "S 4"], Int[Tensor, "S"]]:
    labels = torch.full((len(boxes),), names, device=boxes.device)
    owner = torch.zeros_like(labels)
    truth = boxes
    if len(target.boxes):
        overlap, owner = box_iou(target.boxes, boxes).max(0)
        positive = overlap >= settings.iou
        labels = torch.where(positive, target.labels[owner], labels)
        truth = torch.where(positive[:, None], target.boxes[owner], boxes)
    objects = _draw(labels < names, int(settings.regions * settings.positive))
    others = _draw(labels == names, settings.regions - len(objects))
    chosen = torch.cat([objects, others])
    return boxes[chosen], labels[chosen], truth[chosen], owner[chosen]


def _draw(among: Bool[Tensor, "R"], count: int) -> Int[Tensor, "_"]:
    """At most `count` of the marked rows, at random."""
    rows = among.nonzero().squeeze(1)
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]


@dataclass(frozen=True, kw_only=True)
class NamingLoss:
    """How cross-entropy weighs regions; as it is, or as RegionCLIP's released code (2112.09106).

    RegionCLIP takes `gamma: 0.5, background: 0.2` on COCO, and `background: 0.8, average: weight`
    on LVIS.

    Args:
        gamma: Focal scaling: a region counts by (1 - p)^gamma, p being the probability of what it
            shows, so that what is known already does not erase what was learnt before.
        background: Weight of regions that show nothing, against 1 of those that show something.
        average: What the sum is divided by: the `count` of regions, or the sum of their `weight`.
    """

    gamma: float = 0.0
    background: float = 1.0
    average: Literal["count", "weight"] = "count"

    def __post_init__(self) -> None:
        for field in ("gamma", "background"):
            require_range(getattr(self, field), f"naming.{field}", least=0)


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
