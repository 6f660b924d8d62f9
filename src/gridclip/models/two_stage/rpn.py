"""Class-agnostic proposals: torchvision's region proposal network over a pyramid."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from gridclip.io.errors import require_range
from gridclip.structures import Proposals, Targets

_COARSEST = 32  # pixels of the resized image between neighbouring cells of C5


class RegionPyramid(nn.Module):
    """Feature pyramid network (1612.03144), its coarsest level pooled once more for proposals.

    Deviation: with a backbone that gives C3–C5 the finest level is P3; ViLD's is P2, which takes a
    backbone with `finest: 4`.

    Args:
        channels: Channels of the backbone's maps, the last one of stride 32.
        width: Channels of every output level.

    Attributes:
        strides: Pixels of the resized image between neighbouring cells of each level, finest first.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        finest = _COARSEST // 2 ** (len(channels) - 1)
        self.strides = tuple(finest * 2**level for level in range(len(channels) + 1))
        self.pyramid = FeaturePyramidNetwork(list(channels), width, LastLevelMaxPool())

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Levels, each (B, width, H / stride, W / stride), rounded up."""
        named = OrderedDict((str(level), each) for level, each in enumerate(maps))
        return list(self.pyramid(named).values())


@dataclass(frozen=True, kw_only=True)
class ProposalSettings:
    """How many proposals an image has, and from which anchors.

    The defaults are Faster R-CNN's (1506.01497) with a pyramid; the limits are those of ViLD's
    released configuration.

    Args:
        limit: Proposals an image.
        candidates: Best anchors of each level that enter suppression.
        nms_iou: Proposals that overlap a better one more than this are suppressed.
        anchor_scales: Sides of the anchors, in strides of their level.
        ratios: Height to width of the anchors.
        anchors: Anchors an image that teach the network, half of them on objects if there are.
    """

    limit: int = 1000
    candidates: int = 2000
    nms_iou: float = 0.7
    anchor_scales: tuple[float, ...] = (8.0,)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchors: int = 256

    def __post_init__(self) -> None:
        for field in ("limit", "candidates", "anchors"):
            require_range(getattr(self, field), f"proposals.{field}", least=1)
        require_range(self.nms_iou, "proposals.nms_iou", above=0)
        for field in ("anchor_scales", "ratios"):
            for value in getattr(self, field) or (0.0,):
                require_range(value, f"proposals.{field}", above=0)


class ProposalNetwork(nn.Module):
    """Where something may be, whatever it is.

    Args:
        width: Channels of the pyramid.
        strides: Pixels of the resized image between neighbouring cells of each level.
        settings: How many, from which anchors.
    """

    def __init__(self, width: int, strides: tuple[int, ...], settings: ProposalSettings) -> None:
        super().__init__()
        self.strides = strides
        sides = tuple(tuple(s * scale for scale in settings.anchor_scales) for s in strides)
        anchors = AnchorGenerator(sides, (tuple(settings.ratios),) * len(strides))
        limits = {"training": settings.limit, "testing": settings.limit}
        candidates = {"training": settings.candidates, "testing": settings.candidates}
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(width, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=settings.anchors,
            positive_fraction=0.5,
            pre_nms_top_n=candidates,
            post_nms_top_n=limits,
            nms_thresh=settings.nms_iou,
        )

    def forward(
        self, levels: list[Tensor], sizes: Int[Tensor, "B 2"], targets: list[Targets] | None = None
    ) -> tuple[list[Proposals], dict[str, Float[Tensor, ""]]]:
        """Proposes, with the losses: `RegionProposalNetwork.forward` with scores and our anchors.

        Args:
            levels: Pyramid, finest first.
            sizes: Height and width of each image inside the padding.
            targets: What is annotated, to learn from; None: nothing is learnt.

        Returns:
            Proposals of each image, without a gradient; losses `objectness` and `anchor`, none
            without targets.
        """
        anchors = [self._anchors(levels)] * len(sizes)
        proposals, logits, offsets = propose(self.rpn, levels, anchors, sizes)
        if targets is None:
            return proposals, {}
        truth = [{"boxes": target.boxes} for target in targets]
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, truth)
        wanted = self.rpn.box_coder.encode(matched, anchors)
        objectness, anchor = self.rpn.compute_loss(logits, offsets, labels, wanted)
        return proposals, {"objectness": objectness, "anchor": anchor}

    def parts(self, objectness: float, anchor: float) -> list[tuple[nn.Module, float]]:
        """Its parts with the weight of the losses that read them: see `freeze_unused`."""
        head = self.rpn.head
        return [
            (head.cls_logits, objectness),
            (head.bbox_pred, anchor),
            (head.conv, objectness + anchor),
        ]

    def _anchors(self, levels: list[Tensor]) -> Float[Tensor, "A 4"]:
        """Anchors of all levels, of the true strides.

        torchvision divides the image's side by the level's, which is less than the stride where a
        coarse level is rounded up.
        """
        generator = self.rpn.anchor_generator
        generator.set_cell_anchors(levels[0].dtype, levels[0].device)
        shapes = [level.shape[-2:] for level in levels]
        strides = [(stride, stride) for stride in self.strides]
        return torch.cat(generator.grid_anchors(shapes, strides)).float()


def propose(
    rpn: RegionProposalNetwork,
    levels: list[Tensor],
    anchors: list[Float[Tensor, "A 4"]],
    sizes: Int[Tensor, "B 2"],
) -> tuple[list[Proposals], Float[Tensor, "BA 1"], Float[Tensor, "BA 4"]]:
    """Proposes, with the scores that torchvision's own `forward` keeps to itself.

    Args:
        rpn: torchvision's network.
        levels: Pyramid, finest first.
        anchors: Of each image, of all levels: xyxy, pixels of the resized image.
        sizes: Height and width of each image inside the padding.

    Returns:
        Proposals of each image, without a gradient; the logits and the offsets of all anchors.
    """
    each_level, offsets = rpn.head(levels)
    counts = [logits[0].numel() for logits in each_level]
    # Both in single precision: a coordinate of 1333 pixels in bfloat16 is 8 pixels wide.
    logits, offsets = (part.float() for part in concat_box_prediction_layers(each_level, offsets))
    boxes = rpn.box_coder.decode(offsets.detach(), anchors).view(len(sizes), -1, 4)
    shapes = [(height, width) for height, width in sizes.tolist()]
    found = rpn.filter_proposals(boxes, logits, shapes, counts)
    return [Proposals(*each) for each in zip(*found, strict=True)], logits, offsets
