"""Where the regions of image-text pairs come from: nobody has boxed them."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gridclip.clip.openclip import Frozen
from gridclip.detectors.two_stage.frozen import load_proposer
from gridclip.detectors.two_stage.regions import Proposals, TwoStageDetector
from gridclip.errors import InputError
from gridclip.structures import ConceptBatch, Images


class RegionSource(nn.Module, ABC):
    """Regions of pictures, of which `count` an image are drawn by chance at each step.

    Args:
        count: Regions an image and step, at most.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        if count < 1:
            raise InputError(f"{count} regions teach nothing", field="count", fix="give 1 or more")
        self.count = count

    @abstractmethod
    def propose(self, images: Images) -> list[Proposals]:
        """Every region of each image, best first, for detection."""

    def forward(self, batch: ConceptBatch) -> list[Float[Tensor, "_ 4"]]:
        """The regions of each image that a step sees: xyxy, pixels of the resized image."""
        return [draw(found.boxes, self.count) for found in self.propose(batch.images)]


class RandomRegions(RegionSource):
    """Boxes with corners on a grid, any with a side of at least one cell.

    The near corner is uniform, the far one uniform among those to its right and below, as in
    RegionCLIP's released code (2112.09106).

    Deviation: each picture has boxes of its own, inside it; there all of a batch share them.

    Args:
        count: Regions an image and step.
        cell: Pixels of the resized image between the lines of the grid.
    """

    def __init__(self, count: int = 100, cell: int = 8) -> None:
        super().__init__(count)
        if cell < 1:
            raise InputError(f"{cell} is no grid", field="cell", fix="give 1 pixel or more")
        self.cell = cell

    def propose(self, images: Images) -> list[Proposals]:
        """Draw anew; one is as good as another."""
        columns_rows = images.sizes.flip(1)
        cells = (columns_rows // self.cell).clamp(min=1)[:, None]
        shape = (len(cells), self.count, 2)
        near = uniform(cells.expand(shape))
        far = near + 1 + uniform(cells - near)
        boxes = self.cell * torch.cat([near, far], dim=-1).float()
        # A picture smaller than a cell is a region itself.
        boxes = boxes.minimum(columns_rows.repeat(1, 2)[:, None].float())
        return [Proposals(each, torch.ones_like(each[:, 0])) for each in boxes]


class StoredRegions(RegionSource):
    """The regions that the batch brings along: proposals from a file (`pairs.proposals`).

    Args:
        count: Regions an image and step, at most.
    """

    def __init__(self, count: int = 100) -> None:
        super().__init__(count)

    def propose(self, images: Images) -> list[Proposals]:
        """Refuse: images alone bring none.

        Raises:
            InputError: always.
        """
        raise InputError(
            "stored regions are for training only",
            field="source",
            fix="give the boxes of an annotation file (given), or take ProposedRegions",
        )

    def forward(self, batch: ConceptBatch) -> list[Float[Tensor, "_ 4"]]:
        """Draw among those of the batch.

        Raises:
            InputError: if it has none.
        """
        if batch.regions is None:
            raise InputError(
                "this batch carries no regions",
                field="data.init_args.pairs.proposals",
                fix="name a file that `gridclip propose` wrote for these images, or take "
                "RandomRegions or ProposedRegions",
            )
        return [draw(boxes, self.count) for boxes in batch.regions]


class ProposedRegions(RegionSource):
    """What a frozen proposal network finds at each step.

    Args:
        proposer: A two-stage detector; how many regions it proposes is its own setting, 300 as
            published.
        checkpoint: Of the proposer's training; None leaves it as it was made.
        count: Regions an image and step, at most.
    """

    def __init__(
        self, proposer: TwoStageDetector, checkpoint: str | None = None, count: int = 100
    ) -> None:
        super().__init__(count)
        if checkpoint is not None:
            load_proposer(proposer, checkpoint)
        self.frozen = Frozen(proposer)

    @torch.no_grad()
    def propose(self, images: Images) -> list[Proposals]:
        """Propose."""
        proposer = self.frozen.network
        assert isinstance(proposer, TwoStageDetector)
        return proposer.propose(images)


def draw(boxes: Float[Tensor, "R 4"], count: int) -> Float[Tensor, "_ 4"]:
    """At most so many, by chance."""
    return boxes[torch.randperm(len(boxes), device=boxes.device)[:count]]


def uniform(below: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Whole numbers from 0, each below its own limit."""
    return (torch.rand(below.shape, device=below.device) * below).long().minimum(below - 1)
