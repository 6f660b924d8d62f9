"""Regions that a Faster R-CNN of torchvision proposes, from a file of its weights."""

from typing import Any

import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from gridclip.clip.openclip import Frozen
from gridclip.detectors.two_stage.region_sources import RegionSource
from gridclip.detectors.two_stage.regions import Proposals
from gridclip.errors import InputError
from gridclip.pixels import PixelNorm
from gridclip.structures import Images
from gridclip.weight_files import fill, read_state

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
        """Propose at the size that the pictures have; it is `RegionProposalNetwork` with scores."""
        backbone: Any
        rpn: Any
        backbone, rpn = self.frozen.network  # type: ignore[misc] # a list of two modules
        pixels = self.norm(images.pixels)
        levels = list(backbone(pixels).values())
        logits, offsets = rpn.head(levels)
        counts = [each[0].numel() for each in logits]
        shapes: list[Any] = [(height, width) for height, width in images.sizes.tolist()]
        anchors = rpn.anchor_generator(ImageList(pixels, shapes), levels)
        logits, offsets = concat_box_prediction_layers(logits, offsets)
        boxes = rpn.box_coder.decode(offsets, anchors).view(len(shapes), -1, 4)
        found = rpn.filter_proposals(boxes, logits, shapes, counts)
        return [Proposals(*each) for each in zip(*found, strict=True)]
