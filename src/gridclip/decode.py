"""From predictions of grid cells to detections in pixels of the original image."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from gridclip.errors import InputError
from gridclip.structures import Detections, Record


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How many detections leave the detector.

    LVIS counts up to 300 boxes an image at any score, so there is no threshold by default: a
    threshold made for COCO (0.05) would cost the rare categories most.

    Args:
        candidates: Best (cell, name) pairs of an image that enter suppression.
        threshold: Least score of a candidate, in [0, 1].
        nms_iou: Boxes of the same name that overlap more are suppressed.
        limit: Detections that leave, per image.
    """

    candidates: int = 2000
    threshold: float = 0.0
    nms_iou: float = 0.6
    limit: int = 300

    def __post_init__(self) -> None:
        for name in ("threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"{getattr(self, name)} is outside [0, 1]", field=name, fix="give a fraction"
                )
        for name in ("candidates", "limit"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{getattr(self, name)} keeps nothing", field=name, fix="give 1 or more"
                )


def decode(
    scores: Float[Tensor, "N K"],
    boxes: Float[Tensor, "N 4"],
    size: Int[Tensor, "2"],
    record: Record,
    settings: DecodeSettings,
) -> Detections:
    """Best boxes of one image, per-name suppression, in pixels of the original image.

    Args:
        scores: Score in [0, 1] of every name in every cell.
        boxes: xyxy, pixels of the resized image.
        size: Height and width of the resized image, without padding.
        record: Where the image comes from; its height and width set the frame of the answer.
        settings: Limits and thresholds.
    """
    best, flat = scores.flatten().topk(min(settings.candidates, scores.numel()))
    best, flat = best[best >= settings.threshold], flat[best >= settings.threshold]
    cells, labels = flat // scores.shape[1], flat % scores.shape[1]
    kept = clip_boxes_to_image(boxes[cells], (int(size[0]), int(size[1])))
    order = batched_nms(kept, best, labels, settings.nms_iou)[: settings.limit]
    height, width = size.tolist()
    scale = torch.tensor([record.width / width, record.height / height], device=boxes.device)
    return Detections(kept[order] * scale.repeat(2), best[order], labels[order])
