"""ViLD (2104.13921): a two-stage detector whose regions live in CLIP's space.

Proposals know no names. A region is named by the cosine of its embedding with names' vectors
(ViLD-text), and its embedding is drawn to what a frozen CLIP says of the region cut out of the
image (ViLD-image); ViLD does both with one embedding, ViLD-ensemble with two. Forms and settings
are those of the released configuration where docs/papers.md says so.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.io.errors import InputError, require_at_least, require_fraction, require_positive
from gridclip.models.base import freeze_unused, unlearnable
from gridclip.models.encoders.backbones import Backbone
from gridclip.models.encoders.region_views import RegionView, embed_regions
from gridclip.models.encoders.teachers import Teacher
from gridclip.models.encoders.text import TextBank
from gridclip.models.two_stage.detector import RegionPredictions, TwoStageDetector
from gridclip.models.two_stage.losses import (
    RegionWeights,
    Sampled,
    SamplingSettings,
    region_boxes,
    region_classification,
    region_distillation,
    sample_regions,
)
from gridclip.models.two_stage.mask_head import MaskHead, MaskSettings
from gridclip.models.two_stage.roi_head import (
    BranchWeights,
    HeadSettings,
    RegionHead,
    RegionPool,
    TextClassifier,
    fuse,
    geometric_mean,
)
from gridclip.models.two_stage.rpn import ProposalNetwork, ProposalSettings, RegionPyramid
from gridclip.ops.boxes import boxes_from_offsets
from gridclip.ops.masks import mask_loss, project
from gridclip.ops.postprocess import DecodeSettings
from gridclip.ops.vectors import require_same_width
from gridclip.structures import Batch, DetectionBatch, Images, Proposals, RegionTargets, Vocabulary


def find_regions(
    batch: DetectionBatch,
    proposals: list[Proposals],
    teacher: Teacher | None,
    limit: int,
    view: RegionView,
) -> list[RegionTargets]:
    """Regions of each image with their CLIP embeddings, at most `limit`, the best.

    Stored ones are those of a frozen proposal network, as published. Without them the teacher
    sees the detector's own proposals at each step.

    Raises:
        InputError: if there is neither.
    """
    if batch.regions is not None:
        return [RegionTargets(*(part[:limit] for part in regions)) for regions in batch.regions]
    if teacher is None:
        raise InputError(
            "this batch carries no embeddings of regions, and there is no teacher",
            field="data.init_args.regions",
            fix="store them (gridclip propose, then gridclip clip embed-proposals) and name the "
            "file there, or give a teacher, or set weights.image to 0",
        )
    boxes = [proposed.boxes[:limit] for proposed in proposals]
    seen = embed_regions(teacher, batch.images, boxes, view)
    return [RegionTargets(*each) for each in zip(boxes, seen, strict=True)]


Variant = Literal["vild-text", "vild-image", "vild", "vild-ensemble"]


_WEIGHTS, _HEAD, _MASKS = RegionWeights(), HeadSettings(), MaskSettings()
_SAMPLING = SamplingSettings()
_PROPOSALS, _DECODING = ProposalSettings(), DecodeSettings(nms_iou=0.5)


class ViLD(TwoStageDetector):
    """Proposals, and a head whose region embeddings are aligned with text, with CLIP, or both.

    Args:
        backbone: Images to maps; with `finest: 4` small regions are pooled from P2 as published.
        text: Names to unit vectors of width D.
        variant: `vild-text` learns from names, `vild-image` from CLIP, `vild` from both with one
            head, `vild-ensemble` from each with a head of its own.
        teacher: The frozen image tower that embeds crops where the data carries no stored
            embeddings; slow, as it sees each region of each step anew.
        view: How the teacher is shown a region, now or when its embeddings were stored; `vild` is
            as published.
        width: Channels of the pyramid.
        head: How heavy each head is.
        proposals: How many, and from which anchors.
        sampling: Which regions teach.
        weights: Weight of each loss.
        temperature: What cosines are divided by.
        learn_temperature: Learn it, from there.
        ensemble: λ of ViLD-ensemble: how much the branch that knows a name better counts.
        canonical: Side in pixels of regions that are pooled from the level of stride 16.
        decoding: How many detections leave.
        masks: Find the objects' masks too, as published; the data then needs `masks: true`.
        mask_head: How heavy the mask branch is.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: TextBank,
        variant: Variant = "vild",
        teacher: Teacher | None = None,
        view: RegionView = "vild",
        width: int = 256,
        head: HeadSettings = _HEAD,
        proposals: ProposalSettings = _PROPOSALS,
        sampling: SamplingSettings = _SAMPLING,
        weights: RegionWeights = _WEIGHTS,
        temperature: float = 0.01,
        learn_temperature: bool = False,
        ensemble: float = 2 / 3,
        canonical: float = 224.0,
        decoding: DecodeSettings = _DECODING,
        masks: bool = False,
        mask_head: MaskSettings = _MASKS,
    ) -> None:
        super().__init__()
        require_at_least(8, width=width)
        if width % 8:
            raise InputError(f"{width} is no multiple of 8", field="width", fix="give one")
        require_positive(temperature=temperature)
        require_fraction(ensemble=ensemble)
        self.variant, self.backbone, self.text, self.view = variant, backbone, text, view
        self.sampling, self.weights, self.decoding = sampling, weights, decoding
        self.ensemble = ensemble
        backbone.pool = None  # a region's vector comes from the head
        self.pyramid = RegionPyramid(backbone.channels, width)
        strides = self.pyramid.strides
        self.proposals = ProposalNetwork(width, strides, proposals)
        self.region_pool = RegionPool(strides[:-1], head.side, canonical)
        self.head = RegionHead(width, text.width, head)
        self.image_head = (
            RegionHead(width, text.width, head, boxes=False) if variant == "vild-ensemble" else None
        )
        self.classifier = TextClassifier(text.width, temperature, learn_temperature)
        self.finds_masks = masks
        self.mask_head = (
            MaskHead(width, strides[:-1], canonical, mask_head, head.norm) if masks else None
        )
        self.names = variant != "vild-image" and weights.text > 0
        self.distils = variant != "vild-text" and weights.image > 0
        self.region_view = view if self.distils else None
        self.teacher = teacher if self.distils else None
        if self.teacher is not None:
            self.teacher.load()
        self._freeze_unused()

    def pretrained(self) -> list[nn.Module]:
        """The backbone starts from CLIP or ImageNet."""
        return [self.backbone]

    @property
    def image_encoder(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    def teacher_fingerprint(self) -> str | None:
        """That of the teacher of regions, where it sees them itself."""
        return None if self.teacher is None else self.teacher.fingerprint()

    def propose(self, images: Images) -> list[Proposals]:
        """Returns the proposals of each image, whatever they show."""
        return self.proposals(self.pyramid(self.backbone(images)), images.sizes)[0]

    def forward(self, images: Images, vocabulary: Vocabulary) -> RegionPredictions:
        """Proposes, embeds and refines; names play no part in it."""
        levels = self.pyramid(self.backbone(images))
        proposals, _ = self.proposals(levels, images.sizes)
        boxes = [found.boxes for found in proposals]
        pooled = self.region_pool(levels, boxes)
        seen = self.head(pooled)
        alone = self.variant == "vild-image"
        text, image = (None, seen.embeddings) if alone else (seen.embeddings, None)
        if self.image_head is not None:
            image = self.image_head(pooled).embeddings
        refined = boxes_from_offsets(torch.cat(boxes), seen.offsets)
        kept = levels if self.finds_masks else None
        return RegionPredictions(proposals, refined, text, image, kept)

    @torch.no_grad()
    def region_features(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P D"]:
        """Unit vectors of the boxes of all images, by the head that learned from names, if any.

        Args:
            images: The images.
            boxes: xyxy of each image, pixels of the resized image.
        """
        return self.head(self.region_pool(self.pyramid(self.backbone(images)), boxes)).embeddings

    def fitting_cosine(self, region: Float[Tensor, "D"]) -> Float[Tensor, ""]:
        """The cosine of half the share, beside the names that were trained on and background."""
        assert self.trained_on is not None  # asked where it was
        return self.classifier.even_cosine(region, self.text(self.trained_on))

    def scores(
        self, predictions: RegionPredictions, vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Score in [0, 1] of every name in every region."""
        vectors, text, image = self.text(vocabulary), predictions.text, predictions.image
        named = None if text is None else self.classifier(text, vectors).softmax(-1)[:, :-1]
        if image is None:
            assert named is not None  # a region has one of the two embeddings at least
            return named
        seen = self.classifier.without_background(image, vectors).softmax(-1)
        if named is not None:
            weights = BranchWeights(self.ensemble, 1 - self.ensemble)
            return geometric_mean(named, seen, self.learned(vocabulary), weights)
        # Our reading: without a background, only the proposal knows whether anything is there.
        return fuse(seen, predictions.objectness, "sigmoid")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses, of those whose weight is not zero.

        Raises:
            InputError: at another batch than one of boxes; or if CLIP's view of regions is neither
                stored nor is there a teacher that could look.
        """
        if not isinstance(batch, DetectionBatch):
            raise unlearnable("ViLD", batch)
        levels = self.pyramid(self.backbone(batch.images))
        learns = self.weights.objectness > 0 or self.weights.anchor > 0
        truth = batch.targets if learns else None
        proposals, losses = self.proposals(levels, batch.images.sizes, truth)
        losses |= self._region_losses(levels, proposals, batch)
        return self.weights.apply(losses)

    def _region_losses(
        self, levels: list[Tensor], proposals: list[Proposals], batch: DetectionBatch
    ) -> dict[str, Tensor]:
        """Losses of the heads; a head sees all its regions at once, as batch norm wants."""
        names = len(batch.vocabulary)
        sampled = sample_regions(proposals, batch.targets, names, self.sampling)
        regions = self._regions(batch, proposals) if self.distils else []
        read = self.names or self.weights.box
        boxes = sampled.boxes if read else [each[:0] for each in sampled.boxes]
        pooled = self.region_pool(levels, boxes)
        shown = (
            self.region_pool(levels, [each.boxes for each in regions]) if regions else pooled[:0]
        )
        apart = self.image_head
        seen = self.head(torch.cat([pooled, shown]) if apart is None else pooled)
        count, losses = len(pooled), {}
        if self.names:
            logits = self.classifier(seen.embeddings[:count], self.text(batch.vocabulary))
            losses["text"] = region_classification(logits, sampled.labels)
        if self.weights.box:
            offsets = seen.offsets[:count]
            losses["box"] = region_boxes(
                offsets, torch.cat(boxes), sampled.truth, sampled.labels, names
            )
        if self.mask_head is not None and self.weights.mask:
            losses["mask"] = self._mask_loss(self.mask_head, levels, sampled, batch)
        if self.distils:
            truth = torch.cat([each.embeddings for each in regions])
            student = seen.embeddings[count:] if apart is None else apart(shown).embeddings
            losses["image"] = region_distillation(student, truth)
        return losses

    def _mask_loss(
        self, head: MaskHead, levels: list[Tensor], sampled: Sampled, batch: DetectionBatch
    ) -> Float[Tensor, ""]:
        """Loss of the masks in the sampled regions that are on objects."""
        masks = [target.masks for target in batch.targets if target.masks is not None]
        if len(masks) < len(batch.targets):
            raise InputError(
                "this batch carries no masks of objects",
                field="data.init_args.masks",
                fix="set it to true, or the detector's masks to false",
            )
        objects = sampled.labels < len(batch.vocabulary)
        parts = objects.split([len(each) for each in sampled.boxes])
        boxes = [each[on] for each, on in zip(sampled.boxes, parts, strict=True)]
        owners, truth = sampled.owners[objects], sampled.truth[objects]
        wanted = project(torch.cat(masks), owners, truth, torch.cat(boxes), head.side)
        return mask_loss(head(levels, boxes), wanted)

    def _regions(self, batch: DetectionBatch, proposals: list[Proposals]) -> list[RegionTargets]:
        """What CLIP saw in regions of each image."""
        regions = find_regions(batch, proposals, self.teacher, self.sampling.distilled, self.view)
        seen = regions[0].embeddings.shape[1]
        require_same_width(seen, self.text.width, field="data.init_args.regions")
        return regions

    def _freeze_unused(self) -> None:
        weights = self.weights
        embeds = self.names or (self.distils and self.image_head is None)
        freeze_unused(
            [
                (self.classifier, self.names),
                (self.head.project, embeds),
                (self.head.box, weights.box),
                (self.head.tower, embeds or weights.box),
                (self.image_head, self.distils),
                (self.mask_head, weights.mask),
                *self.proposals.parts(weights.objectness, weights.anchor),
            ]
        )
