"""RegionCLIP (2112.09106) as a detector: transfer of a region encoder, and zero-shot inference.

A region is pooled in the middle of a CLIP's own image tower, whose last stage and attention pool
turn it into a vector of CLIP's space. Names' vectors are its classifier, so it names regions before
any training on boxes. Forms and settings are those of the released code where docs/papers.md says
so; how the encoder learns from captions is in `region_pretraining.py`.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.io.errors import require_positive
from gridclip.models.base import freeze_unused, unlearnable
from gridclip.models.encoders.region_encoders import RegionEncoder
from gridclip.models.encoders.text import TextBank
from gridclip.models.regionclip.released_weights import load_box_head
from gridclip.models.two_stage.detector import (
    GivenBoxes,
    RegionPredictions,
    RegionReader,
    TwoStageDetector,
    load_proposer,
)
from gridclip.models.two_stage.losses import (
    NamingLoss,
    RegionWeights,
    SamplingSettings,
    region_boxes,
    region_classification,
    sample_regions,
)
from gridclip.models.two_stage.roi_head import Background, Fusion, TextClassifier, fuse
from gridclip.models.two_stage.rpn import ProposalNetwork, ProposalSettings
from gridclip.ops.boxes import boxes_from_offsets
from gridclip.ops.postprocess import DecodeSettings
from gridclip.ops.vectors import require_same_width, unit
from gridclip.structures import Batch, DetectionBatch, Images, Proposals, Targets, Vocabulary

_WEIGHTS, _SAMPLING = RegionWeights(), SamplingSettings()
_NAMING = NamingLoss(gamma=0.5, background=0.2)
_PROPOSALS = ProposalSettings(anchor_scales=(2.0, 4.0, 8.0, 16.0, 32.0))
_DECODING = DecodeSettings(nms_iou=0.5)


class RegionCLIP(RegionReader):
    """Regions of a CLIP tower, named by text vectors; boxes refined, whatever the name.

    Where regions come from is one of three: a proposal network on the encoder's own map, trained
    here, which reads the map but does not change it; another detector's proposals, frozen, as
    published (`proposer`, `checkpoint`); the boxes of an annotation file, for evaluation (`given`).

    Args:
        regions: Images to a map, and boxes of it to vectors of CLIP's space.
        text: Names to unit vectors of the same space.
        proposer: Another detector, whose proposals are taken; None trains a network of its own.
        checkpoint: A checkpoint of a run with the proposer's recipe; None leaves it untrained.
        box_weights: The box head of a released detector (`gridclip clip convert-regionclip`).
        given: An annotation file: evaluation names its boxes, as they are, in place of proposals.
            What is then measured is whether names are distinguished.
        proposals: How many of its own network, and from which anchors.
        sampling: Which regions teach; `distilled` plays no part.
        weights: Weight of each loss; `image` plays no part.
        naming: How the cross-entropy weighs regions; the default is the released code's on COCO.
        background: Whether the background has a learned vector, or zero as published.
        temperature: What cosines are divided by.
        learn_temperature: Learn it, from there.
        fusion: How a proposal's objectness counts in a score. With `logit`, as released, scores may
            be above 1.
        refine: Whether detected boxes are refined; without training on boxes they must not be.
        decoding: How many detections leave.
    """

    past_arguments = ("checkpoint", "box_weights", "given")

    def __init__(
        self,
        regions: RegionEncoder,
        text: TextBank,
        proposer: TwoStageDetector | None = None,
        checkpoint: str | None = None,
        box_weights: str | None = None,
        given: str | None = None,
        proposals: ProposalSettings = _PROPOSALS,
        sampling: SamplingSettings = _SAMPLING,
        weights: RegionWeights = _WEIGHTS,
        naming: NamingLoss = _NAMING,
        background: Background = "zero",
        temperature: float = 0.01,
        learn_temperature: bool = False,
        fusion: Fusion = "sigmoid",
        refine: bool = True,
        decoding: DecodeSettings = _DECODING,
    ) -> None:
        super().__init__()
        require_same_width(regions.width, text.width, field="text")
        require_positive(temperature=temperature)
        self.regions, self.text, self.proposer = regions, text, proposer
        self.given = None if given is None else GivenBoxes(given)
        self.sampling, self.weights, self.naming = sampling, weights, naming
        self.refine, self.decoding = refine, decoding
        # All given boxes are objects, so their objectness says nothing.
        self.fusion: Fusion = fusion if given is None else "none"
        self.classifier = TextClassifier(text.width, temperature, learn_temperature, background)
        self.box = nn.Linear(text.width, 4)
        nn.init.normal_(self.box.weight, std=0.001)
        nn.init.zeros_(self.box.bias)
        if box_weights is not None:
            load_box_head(self.box, Path(box_weights))
        self.proposals: ProposalNetwork | None = None
        if proposer is None:
            self.proposals = ProposalNetwork(regions.channels, (regions.stride,), proposals)
        if checkpoint is not None:
            load_proposer(proposer, checkpoint)
        self._freeze_unused()

    def train(self, mode: bool = True) -> "RegionCLIP":
        """Switches the mode, but leaves a frozen proposer as it is."""
        super().train(mode)
        if self.proposer is not None:
            self.proposer.eval()
        return self

    def propose(self, images: Images) -> list[Proposals]:
        """Returns the proposals of each image, whatever they show."""
        if self.proposer is not None:
            return self.proposer.propose(images)
        return self._propose(images, self.regions.maps(images))[0]

    def forward(
        self, images: Images, vocabulary: Vocabulary, given: list[Proposals] | None = None
    ) -> RegionPredictions:
        """Proposes, embeds and refines, or embeds given boxes; names play no part in it."""
        maps = self.regions.maps(images)
        proposals = given or self._propose(images, maps)[0]
        boxes = [found.boxes for found in proposals]
        embeddings = self.regions.embed(maps, boxes).float()
        refined = torch.cat(boxes)
        if self.refine and given is None:
            refined = boxes_from_offsets(refined, self.box(embeddings).float())
        return RegionPredictions(proposals, refined, unit(embeddings), None)

    def fitting_cosine(self, region: Float[Tensor, "D"]) -> Float[Tensor, ""]:
        """The cosine of half the share, beside the names that were trained on and background."""
        assert self.trained_on is not None  # asked where it was
        return self.classifier.even_cosine(region, self.text(self.trained_on))

    def classify(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]], vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Probability of each name in each box, if it shows one of them: rows add up to 1."""
        features = self.region_features(images, boxes)
        return self.classifier.without_background(features, self.text(vocabulary)).softmax(-1)

    def scores(
        self, predictions: RegionPredictions, vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Score of every name in every region; `fusion.DROPPED` where nothing should leave."""
        assert predictions.text is not None
        logits = self.classifier(predictions.text, self.text(vocabulary))
        return fuse(logits.softmax(-1)[:, :-1], predictions.objectness, self.fusion)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses, of those whose weight is not zero.

        Raises:
            InputError: at another batch than one of boxes.
        """
        if not isinstance(batch, DetectionBatch):
            raise unlearnable("RegionCLIP", batch)
        maps = self.regions.maps(batch.images)
        learns = self.weights.objectness > 0 or self.weights.anchor > 0
        truth = batch.targets if learns else None
        proposals, losses = self._propose(batch.images, maps, truth)
        if self.weights.text or self.weights.box:
            losses |= self._region_losses(maps, proposals, batch)
        return self.weights.apply(losses)

    def _region_losses(
        self, maps: Tensor, proposals: list[Proposals], batch: DetectionBatch
    ) -> dict[str, Tensor]:
        names = len(batch.vocabulary)
        boxes, labels, wanted, _ = sample_regions(proposals, batch.targets, names, self.sampling)
        embeddings = self.regions.embed(maps, boxes).float()
        logits = self.classifier(unit(embeddings), self.text(batch.vocabulary))
        offsets = self.box(embeddings).float()
        return {
            "text": region_classification(logits, labels, self.naming),
            "box": region_boxes(offsets, torch.cat(boxes), wanted, labels, names, bend=0.0),
        }

    def _propose(
        self, images: Images, maps: Tensor, targets: list[Targets] | None = None
    ) -> tuple[list[Proposals], dict[str, Tensor]]:
        """Proposals of each image, and the losses of the network that made them, if it learns."""
        if self.proposer is not None:
            with torch.no_grad():
                return self.proposer.propose(images), {}
        assert self.proposals is not None  # there is one of the two
        # Without a gradient: what CLIP knows of regions is not to be forgotten where it finds them.
        return self.proposals([maps.detach()], images.sizes, targets)

    def _freeze_unused(self) -> None:
        weights = self.weights
        parts: list[tuple[nn.Module | nn.Parameter | None, float | bool]] = [
            (self.regions, weights.text or weights.box),
            (self.classifier, weights.text),
            (self.box, weights.box),
            (self.proposer, False),
        ]
        if self.proposals is not None:
            parts += self.proposals.parts(weights.objectness, weights.anchor)
        freeze_unused(parts)
