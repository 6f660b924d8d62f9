"""Masks of objects on the grids of their boxes: what regions show of them, and where they lie.

A mask is kept as the cells of a square grid that is stretched over its box, so that it costs the
same whatever the size of the image.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torchvision.ops import roi_align

MASK_SIDE = 112
"""Cells along one side of an annotated mask's grid."""


def project(
    masks: UInt8[Tensor, "T S S"],
    owners: Int[Tensor, "P"],
    truth: Float[Tensor, "P 4"],
    boxes: Float[Tensor, "P 4"],
    side: int,
) -> Float[Tensor, "P side side"]:
    """Returns what each region shows of its object's mask, on a grid of the region's own.

    RoIAlign of the mask, as in Mask R-CNN (1703.06870) and torchvision, but that sampling points
    are not shifted by half a cell (`aligned`). Outside the object's box there is nothing.

    Args:
        masks: 0 and 1 on the grids of the objects' boxes.
        owners: The object of each region, a row of masks.
        truth: The object's box of each region: xyxy, in any frame.
        boxes: The regions, in the same frame.
        side: Cells along one side of the answer.
    """
    cells = masks.shape[-1]
    # A margin of nothing, into which RoIAlign interpolates; beyond it there is nothing anyway.
    padded = F.pad(masks, (1, 1, 1, 1)).float()
    origin, extent = truth[:, :2].repeat(1, 2), (truth[:, 2:] - truth[:, :2]).repeat(1, 2)
    on_grid = (boxes - origin) / extent.clamp(min=1e-6) * cells + 1
    regions = torch.cat([owners[:, None].to(on_grid.dtype), on_grid], dim=1)
    seen: Tensor = roi_align(padded[:, None], regions, side, aligned=True)
    return seen[:, 0]


def mask_loss(
    logits: Float[Tensor, "P side side"], wanted: Float[Tensor, "P side side"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy, mean over the cells of all regions on objects (1703.06870); 0 of none.

    Args:
        logits: Of each cell, whether the object is there.
        wanted: What `project` returns.
    """
    if not len(logits):
        return logits.sum()  # with a gradient, for which other processes wait
    return F.binary_cross_entropy_with_logits(logits, wanted)


def paste(
    mask: Float[Tensor, "side side"], box: Float[Tensor, "4"], size: tuple[int, int]
) -> tuple[Bool[Tensor, "h w"], tuple[int, int]]:
    """Returns which pixels a mask covers by more than one half, where its box lies in the image.

    Interpolated between the middles of cells. torchvision's `paste_masks_in_image` rounds boxes to
    whole pixels and makes them a pixel larger; here the box stays where it is.

    Args:
        mask: Probability that the object is in a cell of the box's grid.
        box: xyxy, pixels of the image.
        size: Height and width of the image.

    Returns:
        The pixels of the smallest window of whole pixels around the box, and its left upper corner
        (x, y).
    """
    height, width = size
    x1, y1, x2, y2 = box.tolist()
    left, top = max(0, int(x1 // 1)), max(0, int(y1 // 1))
    right, bottom = min(width, -int(-x2 // 1)), min(height, -int(-y2 // 1))

    def places(first: int, end: int, low: float, high: float) -> Float[Tensor, "n"]:
        middles = torch.arange(first, max(first, end), device=mask.device) + 0.5
        return (middles - low) / max(high - low, 1e-6) * 2 - 1

    xs, ys = places(left, right, x1, x2), places(top, bottom, y1, y2)
    if not len(xs) or not len(ys):
        return torch.zeros(len(ys), len(xs), dtype=torch.bool), (left, top)
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
    seen = F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)
    return seen[0, 0] > 0.5, (left, top)
