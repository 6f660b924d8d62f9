"""Which regions the second stage learns from."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou

from gridclip.detectors.two_stage.regions import Proposals
from gridclip.errors import InputError
from gridclip.structures import Targets


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
        rules = {
            "regions": self.regions >= 1,
            "positive": 0 < self.positive <= 1,
            "iou": 0 < self.iou <= 1,
            "distilled": self.distilled >= 1,
        }
        for field, right in rules.items():
            if not right:
                raise InputError(
                    f"{getattr(self, field)} is out of range",
                    field=f"sampling.{field}",
                    fix="give counts from 1, shares above 0 up to 1",
                )


class Sampled(NamedTuple):
    """Regions to learn from: of each image, and what each of the S of all images shows."""

    boxes: list[Float[Tensor, "_ 4"]]  # xyxy, pixels of the resized image
    labels: Int[Tensor, "S"]  # rows of the vocabulary, K for background
    truth: Float[Tensor, "S 4"]  # the object's box; the region's own where it is background


def sample_regions(
    proposals: list[Proposals], targets: list[Targets], names: int, settings: SamplingSettings
) -> Sampled:
    """Draw proposals and annotated boxes by chance, objects and background apart.

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
    boxes, labels, truth = zip(*drawn, strict=True)
    return Sampled(list(boxes), torch.cat(labels), torch.cat(truth))


def _sample(
    boxes: Float[Tensor, "R 4"], target: Targets, names: int, settings: SamplingSettings
) -> tuple[Float[Tensor, "S 4"], Int[Tensor, "S"], Float[Tensor, "S 4"]]:
    labels = torch.full((len(boxes),), names, device=boxes.device)
    truth = boxes
    if len(target.boxes):
        overlap, owner = box_iou(target.boxes, boxes).max(0)
        positive = overlap >= settings.iou
        labels = torch.where(positive, target.labels[owner], labels)
        truth = torch.where(positive[:, None], target.boxes[owner], boxes)
    objects = _draw(labels < names, int(settings.regions * settings.positive))
    rest = _draw(labels == names, settings.regions - len(objects))
    chosen = torch.cat([objects, rest])
    return boxes[chosen], labels[chosen], truth[chosen]


def _draw(among: Bool[Tensor, "R"], count: int) -> Int[Tensor, "_"]:
    """At most `count` of the marked rows, by chance."""
    rows = among.nonzero().squeeze(1)
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]
