"""Which grid cell learns which object: FCOS (1904.01355) and ATSS (1912.02424).

Both take one image at a time and return the index of each cell's object, or -1.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_area, box_iou

from gridclip.ops.boxes import distances_from_boxes
from gridclip.structures import Cells, Targets


class Assignment(NamedTuple):
    """What each cell of each image has to learn; of fixed size, so that no step waits to count."""

    labels: Int[Tensor, "B N"]  # of the cell's object, a row of the vocabulary; -1: none
    boxes: Float[Tensor, "B N 4"]  # its object, pixels of the resized image; of others any box

    @property
    def positive(self) -> Bool[Tensor, "B N"]:
        """Whether the cell belongs to an object."""
        return self.labels >= 0


class Assigner(ABC):
    """A rule from cells and objects to positives."""

    @abstractmethod
    def match(self, cells: Cells, boxes: Float[Tensor, "T 4"]) -> Int[Tensor, "N"]:
        """Returns the row of each cell's object among the T boxes of one image, -1 for none."""

    @torch.no_grad()
    def __call__(self, cells: Cells, targets: list[Targets]) -> Assignment:
        """Assigns every image of a batch."""
        labels, boxes = zip(*[self._assign(cells, target) for target in targets], strict=True)
        return Assignment(torch.stack(labels), torch.stack(boxes))

    def _assign(
        self, cells: Cells, target: Targets
    ) -> tuple[Int[Tensor, "N"], Float[Tensor, "N 4"]]:
        if not len(target.boxes):
            return (
                cells.strides.new_full(cells.strides.shape, -1, dtype=torch.long),
                cells.strides.new_zeros(len(cells.strides), 4),
            )
        match = self.match(cells, target.boxes)
        index = match.clamp(min=0)
        return target.labels[index].masked_fill(match < 0, -1), target.boxes[index]


@dataclass(frozen=True, kw_only=True)
class FCOSAssigner(Assigner):
    """A cell learns the smallest box whose middle it lies in and whose size its level is for.

    Args:
        radius: Half the side of the central region, in strides (FCOS, "centre sampling").
        size_factor: A level of stride s takes boxes whose farthest side lies up to this times s
            from the cell; the level above starts there. 8 gives the paper's 64, 128, 256, 512.
    """

    radius: float = 1.5
    size_factor: float = 8.0

    def match(self, cells: Cells, boxes: Float[Tensor, "T 4"]) -> Int[Tensor, "N"]:
        """Returns the row of each cell's object among the T boxes of one image, -1 for none."""
        centres, strides = cells.centres[:, None], cells.strides[:, None]
        distances = distances_from_boxes(
            centres.expand(-1, len(boxes), -1), boxes.expand(len(centres), -1, -1)
        )
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        central = (centres - middles).abs().amax(-1) < self.radius * strides
        inside = distances.amin(-1) > 0
        reach = distances.amax(-1)
        upper = strides * self.size_factor
        lower = (upper / 2).masked_fill(strides == strides.min(), 0)
        upper = upper.masked_fill(strides == strides.max(), torch.inf)
        eligible = central & inside & (reach > lower) & (reach < upper)
        area = box_area(boxes).expand_as(reach).masked_fill(~eligible, torch.inf)
        smallest, index = area.min(dim=1)
        return index.masked_fill(smallest.isinf(), -1)


@dataclass(frozen=True, kw_only=True)
class ATSSAssigner(Assigner):
    """Each box sets its own IoU threshold from the statistics of its nearest cells (ATSS, Alg. 1).

    Args:
        top_k: Nearest cells of each level that become candidates of a box.
        anchor_size: Side of the square anchor of a cell, in strides.
    """

    top_k: int = 9
    anchor_size: float = 8.0

    def match(self, cells: Cells, boxes: Float[Tensor, "T 4"]) -> Int[Tensor, "N"]:
        """Returns the row of each cell's object among the T boxes of one image, -1 for none."""
        half = cells.strides[:, None] * self.anchor_size / 2
        iou = box_iou(torch.cat([cells.centres - half, cells.centres + half], dim=1), boxes)
        candidate = self._nearest(cells, boxes)
        count = candidate.sum(0)
        mean = (iou * candidate).sum(0) / count
        variance = ((iou - mean).square() * candidate).sum(0) / (count - 1).clamp(min=1)
        threshold = mean + variance.sqrt()
        distances = distances_from_boxes(
            cells.centres[:, None].expand(-1, len(boxes), -1), boxes.expand(len(iou), -1, -1)
        )
        # Deviation: a centre must lie 0.01 px inside, as a distance of zero has no centreness.
        positive = candidate & (iou >= threshold) & (distances.amin(-1) > 0.01)
        best, index = iou.masked_fill(~positive, -1).max(dim=1)
        return index.masked_fill(best < 0, -1)

    def _nearest(self, cells: Cells, boxes: Float[Tensor, "T 4"]) -> Bool[Tensor, "N T"]:
        """Returns the `top_k` cells of each level nearest to each box, by their centres."""
        gap = torch.cdist(cells.centres, (boxes[:, :2] + boxes[:, 2:]) / 2)
        near = torch.zeros_like(gap, dtype=torch.bool)
        for stride in cells.strides.unique():
            level = (cells.strides == stride).nonzero().squeeze(1)
            closest = gap[level].topk(min(self.top_k, len(level)), dim=0, largest=False).indices
            near.scatter_(0, level[closest], True)
        return near
