"""Boxes as offsets from other boxes (R-CNN, 1311.2524): torchvision's coder, as two functions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Offsets of well-placed proposals are small: these bring them near a deviation of one (Fast R-CNN).
_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_LARGEST = math.log(1000 / 16)  # of a logarithm of sizes, before the exponential


def offsets_from_boxes(
    boxes: Float[Tensor, "R 4"], truth: Float[Tensor, "R 4"]
) -> Float[Tensor, "R 4"]:
    """Centre and logarithm of size of each true box, as seen from its proposal."""
    (centres, sides), (true_centres, true_sides) = _parts(boxes), _parts(truth)
    moved = (true_centres - centres) / sides
    return torch.cat([moved, (true_sides / sides).log()], dim=1) * boxes.new_tensor(_WEIGHTS)


def boxes_from_offsets(
    boxes: Float[Tensor, "R 4"], offsets: Float[Tensor, "R 4"]
) -> Float[Tensor, "R 4"]:
    """The inverse of `offsets_from_boxes`; sizes grow at most 62.5 times."""
    centres, sides = _parts(boxes)
    moved, grown = (offsets.to(boxes.dtype) / boxes.new_tensor(_WEIGHTS)).split(2, dim=1)
    centres, half = centres + moved * sides, 0.5 * sides * grown.clamp(max=_LARGEST).exp()
    return torch.cat([centres - half, centres + half], dim=1)


def _parts(boxes: Float[Tensor, "R 4"]) -> tuple[Float[Tensor, "R 2"], Float[Tensor, "R 2"]]:
    """Centres and sides; a side of nothing would have no logarithm."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
