"""From predictions of grid cells to detections in pixels of the original image."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from gridclip.errors import InputError
from gridclip.structures import Detections, Record
from gridclip.suppression import hard_nms, soft_nms


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
        pairs: (cell, name) pairs of an image that are scored. Where cells × names are more, only
            the most promising cells are scored (`candidates.promising`), so that the cost of a
            large vocabulary is bounded; the default scores a picture of 800 × 1333 exactly with
            up to 3000 names.
        suppression: `hard` drops what overlaps a better box of the same name by more than
            `nms_iou`; `soft` lowers its score instead, by the overlap (Gaussian soft-NMS).
        sigma: Of soft suppression: the larger, the milder.
        least: Of soft suppression: a box falls out when its score has fallen to this.
    """

    candidates: int = 2000
    threshold: float = 0.0
    nms_iou: float = 0.6
    limit: int = 300
    pairs: int = 2**26
    suppression: Literal["hard", "soft"] = "hard"
    sigma: float = 0.5
    least: float = 0.001

    def __post_init__(self) -> None:
        for name in ("threshold", "nms_iou", "least"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"{getattr(self, name)} is outside [0, 1]", field=name, fix="give a fraction"
                )
        for name in ("candidates", "limit", "pairs"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{getattr(self, name)} keeps nothing", field=name, fix="give 1 or more"
                )
        if not self.sigma > 0:
            raise InputError(f"{self.sigma} is refused", field="sigma", fix="give a number above 0")


class Candidates(NamedTuple):
    """The best (cell, name) pairs of one image, before suppression, best first."""

    scores: Float[Tensor, "C"]  # in [0, 1]
    cells: Int[Tensor, "C"]
    labels: Int[Tensor, "C"]  # rows of the vocabulary


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
    return suppress(top_pairs(scores, settings), boxes, size, record, settings)


def top_pairs(scores: Float[Tensor, "N K"], settings: DecodeSettings) -> Candidates:
    """The best pairs of a matrix of scores in [0, 1], as many as may enter suppression."""
    best, flat = scores.flatten().topk(min(settings.candidates, scores.numel()))
    best, flat = best[best >= settings.threshold], flat[best >= settings.threshold]
    return Candidates(best, flat // scores.shape[1], flat % scores.shape[1])


def suppress(
    found: Candidates,
    boxes: Float[Tensor, "N 4"],
    size: Int[Tensor, "2"],
    record: Record,
    settings: DecodeSettings,
) -> Detections:
    """Per-name suppression of candidates; arguments as in `decode`."""
    height, width = size.tolist()
    kept = clip_boxes_to_image(boxes[found.cells], (height, width))
    order, scores = _suppress(kept, found, settings)
    scale = torch.tensor([record.width / width, record.height / height], device=boxes.device)
    return Detections(kept[order] * scale.repeat(2), scores, found.labels[order])


def _suppress(
    boxes: Float[Tensor, "C 4"], found: Candidates, settings: DecodeSettings
) -> tuple[Int[Tensor, "kept"], Float[Tensor, "kept"]]:
    """Rows of what is left and its scores, best first."""
    if settings.suppression == "soft":
        sigma, least, limit = settings.sigma, settings.least, settings.limit
        return soft_nms(boxes, found.scores, found.labels, sigma=sigma, least=least, limit=limit)
    order = hard_nms(boxes, found.scores, found.labels, settings.nms_iou)[: settings.limit]
    return order, found.scores[order]
