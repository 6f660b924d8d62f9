"""Geometry of grid cells and boxes that torchvision.ops lacks. All coordinates are pixels."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gridclip.structures import Cells


def grid_cells(
    shapes: list[tuple[int, int]], strides: tuple[int, ...], device: torch.device
) -> Cells:
    """Returns the cells of a pyramid, row by row, finest level first.

    A cell's centre lies half a stride inside, so that the grid is symmetric in the image
    (FCOS, section 3.1).

    Args:
        shapes: Height and width of each level's map.
        strides: Pixels of the resized image between neighbouring cells, for each level.
        device: Where to make them.
    """
    centres, spacing = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y = (torch.arange(height, device=device) + 0.5) * stride
        x = (torch.arange(width, device=device) + 0.5) * stride
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([columns.flatten(), rows.flatten()], dim=1))
        spacing.append(torch.full((height * width,), float(stride), device=device))
    return Cells(torch.cat(centres), torch.cat(spacing))


def boxes_from_distances(
    centres: Float[Tensor, "*N 2"], distances: Float[Tensor, "*N 4"]
) -> Float[Tensor, "*N 4"]:
    """Returns boxes from cells' centres and distances to the left, top, right and bottom side."""
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1)


def distances_from_boxes(
    centres: Float[Tensor, "*N 2"], boxes: Float[Tensor, "*N 4"]
) -> Float[Tensor, "*N 4"]:
    """Returns distances from a cell's centre to the box's sides, negative where it lies outside."""
    return torch.cat([centres - boxes[..., :2], boxes[..., 2:] - centres], dim=-1)


def contained(points: Float[Tensor, "N 2"], boxes: Float[Tensor, "T 4"]) -> Bool[Tensor, "N"]:
    """Returns which points lie inside a box, whichever."""
    low, high = boxes[None, :, :2], boxes[None, :, 2:]
    return ((points[:, None] > low) & (points[:, None] < high)).all(-1).any(1)


def centreness(distances: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Returns how central a cell is to its box, in [0, 1] (FCOS, Eq. 3)."""
    across, down = distances[..., 0::2], distances[..., 1::2]
    ratio = (across.amin(-1) * down.amin(-1)) / (across.amax(-1) * down.amax(-1))
    # Deviation: clamped at zero, because a cell outside its box (ATSS has none, rounding may)
    # would have no real root.
    return ratio.clamp(min=0).sqrt()


# Offsets of well-placed proposals are small: these bring them near a deviation of one (Fast R-CNN).
_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_LARGEST = math.log(1000 / 16)  # of a logarithm of sizes, before the exponential


def offsets_from_boxes(
    boxes: Float[Tensor, "R 4"], truth: Float[Tensor, "R 4"]
) -> Float[Tensor, "R 4"]:
    """Returns the centre and logarithm of size of each true box, as seen from its proposal."""
    (centres, sides), (true_centres, true_sides) = _parts(boxes), _parts(truth)
    moved = (true_centres - centres) / sides
    return torch.cat([moved, (true_sides / sides).log()], dim=1) * boxes.new_tensor(_WEIGHTS)


def boxes_from_offsets(
    boxes: Float[Tensor, "R 4"], offsets: Float[Tensor, "R 4"]
) -> Float[Tensor, "R 4"]:
    """Inverts `offsets_from_boxes`; sizes grow at most 62.5 times."""
    centres, sides = _parts(boxes)
    moved, grown = (offsets.to(boxes.dtype) / boxes.new_tensor(_WEIGHTS)).split(2, dim=1)
    centres, half = centres + moved * sides, 0.5 * sides * grown.clamp(max=_LARGEST).exp()
    return torch.cat([centres - half, centres + half], dim=1)


def _parts(boxes: Float[Tensor, "R 4"]) -> tuple[Float[Tensor, "R 2"], Float[Tensor, "R 2"]]:
    """Returns centres and sides; a side of nothing would have no logarithm."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
