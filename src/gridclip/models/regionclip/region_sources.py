"""Where the regions of image-text pairs come from: they are not annotated."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from gridclip.io.errors import InputError, require_at_least
from gridclip.io.state_dicts import fill, read_state
from gridclip.models.encoders.open_clip import Frozen
from gridclip.models.two_stage.detector import TwoStageDetector, load_proposer
from gridclip.models.two_stage.rpn import propose
from gridclip.ops.images import PixelNorm
from gridclip.structures import ConceptBatch, Images, Proposals


class RegionSource(nn.Module, ABC):
    """Regions of images, of which `count` an image are drawn at random at each step.

    Args:
        count: Regions an image and step, at most.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        require_at_least(1, count=count)
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

    Deviation: each image has boxes of its own, inside it; there all of a batch share them.

    Args:
        count: Regions an image and step.
        cell: Pixels of the resized image between the lines of the grid.
    """

    def __init__(self, count: int = 100, cell: int = 8) -> None:
        super().__init__(count)
        require_at_least(1, cell=cell)
        self.cell = cell

    def propose(self, images: Images) -> list[Proposals]:
        """Draws anew; one is as good as another."""
        columns_rows = images.sizes.flip(1)
        cells = (columns_rows // self.cell).clamp(min=1)[:, None]
        shape = (len(cells), self.count, 2)
        near = uniform(cells.expand(shape))
        far = near + 1 + uniform(cells - near)
        boxes = self.cell * torch.cat([near, far], dim=-1).float()
        # An image smaller than a cell is a region itself.
        boxes = boxes.minimum(columns_rows.repeat(1, 2)[:, None].float())
        return [Proposals(each, torch.ones_like(each[:, 0])) for each in boxes]


class BatchRegions(RegionSource):
    """The regions that the batch carries: proposals from a file (`pairs.proposals`).

    Args:
        count: Regions an image and step, at most.
    """

    def __init__(self, count: int = 100) -> None:
        super().__init__(count)

    def propose(self, images: Images) -> list[Proposals]:
        """Refuses: images alone carry none.

        Raises:
            InputError: always.
        """
        raise InputError(
            "stored regions are for training only",
            field="source",
            fix="give the boxes of an annotation file (given), or take ProposedRegions",
        )

    def forward(self, batch: ConceptBatch) -> list[Float[Tensor, "_ 4"]]:
        """Draws among those of the batch.

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
        """Proposes."""
        proposer = self.frozen.network
        assert isinstance(proposer, TwoStageDetector)
        return proposer.propose(images)


def draw(boxes: Float[Tensor, "R 4"], count: int) -> Float[Tensor, "_ 4"]:
    """At most so many, at random."""
    return boxes[torch.randperm(len(boxes), device=boxes.device)[:count]]


def uniform(below: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Whole numbers from 0, each below its own limit."""
    return (torch.rand(below.shape, device=below.device) * below).long().minimum(below - 1)


_FIX = "give a state dict of the torchvision detector that is named"


class TorchvisionRegions(RegionSource):
    """What the first stage of a torchvision Faster R-CNN finds; the second is left out.

    Args:
        weights: A torch state dict of the whole detector, as torchvision gives them.
        name: torchvision's name of the detector.
        limit: Proposals an image.
        nms_iou: Proposals that overlap a better one more than this are suppressed.
        count: Regions an image and step, at most.
    """

    def __init__(
        self,
        weights: str,
        name: str = "fasterrcnn_resnet50_fpn",
        limit: int = 300,
        nms_iou: float = 0.5,
        count: int = 100,
    ) -> None:
        super().__init__(count)
        limits = {"rpn_post_nms_top_n_test": limit, "rpn_nms_thresh": nms_iou}
        detector = get_model(name, weights=None, weights_backbone=None, **limits)
        if not isinstance(detector, FasterRCNN):
            raise InputError(f"{name} is no Faster R-CNN", field="name", fix="name one")
        state = read_state(weights, field="weights", fix=_FIX)
        fill(detector, state, weights, field="weights", fix=_FIX)
        scale = detector.transform
        self.norm = PixelNorm(tuple(scale.image_mean), tuple(scale.image_std))
        self.frozen = Frozen(nn.ModuleList([detector.backbone, detector.rpn]))

    @torch.no_grad()
    def propose(self, images: Images) -> list[Proposals]:
        """Proposes at the size that the images have."""
        backbone: Any
        rpn: Any
        backbone, rpn = self.frozen.network  # type: ignore[misc] # a list of two modules
        pixels = self.norm(images.pixels)
        levels = list(backbone(pixels).values())
        shapes: list[Any] = [(height, width) for height, width in images.sizes.tolist()]
        anchors = rpn.anchor_generator(ImageList(pixels, shapes), levels)
        return propose(rpn, levels, anchors, images.sizes)[0]
