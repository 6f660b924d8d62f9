"""DetCLIPv2 (2304.04514): one stage, trained on boxes of names, boxes of phrases, and captions.

No code or weights of it were published. What the paper says, what was recalled and what is our
choice is listed in docs/papers.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gridclip.io.errors import InputError
from gridclip.models.base import Weights, as_boxes, freeze_unused, unlearnable
from gridclip.models.dense.detector import DenseDetector, Grid, box_losses, inside
from gridclip.models.dense.region_ensemble import RegionEnsemble
from gridclip.models.dense.word_region import WordRegionLoss
from gridclip.models.encoders.backbones import Backbone
from gridclip.models.encoders.text import TextBank
from gridclip.ops.assigners import Assigner, ATSSAssigner
from gridclip.ops.distributed import gather, gather_strings
from gridclip.ops.focal_loss import NegativeMask
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import Batch, ConceptBatch, DetectionBatch, ImageBatch


class ConceptColumns(NamedTuple):
    """What the cells of one process are compared with."""

    text: Float[Tensor, "C D"]  # of every concept that some process has; gradients go to its owner
    own: Int[Tensor, "K"]  # the column of each concept of this process

    @classmethod
    def alone(cls, text: Float[Tensor, "K D"]) -> "ConceptColumns":
        """Those of one process, or of several that all have the same concepts."""
        return cls(text, torch.arange(len(text), device=text.device))


def gather_columns(names: Sequence[str], text: Float[Tensor, "K D"]) -> ConceptColumns:
    """Brings the concepts of all processes together.

    The concepts of one process' batch are negatives of the images of the others. Where several
    have the same string, the first one's vector stands for all.

    Args:
        names: This process' concepts, all distinct.
        text: Their vectors.
    """
    everyones = [name for names in gather_strings(list(names)) for name in names]
    first: dict[str, int] = {}
    for row, name in enumerate(everyones):
        first.setdefault(name, row)
    column = {name: number for number, name in enumerate(first)}
    vectors, _ = gather(text)
    rows = torch.tensor(list(first.values()), device=text.device)
    own = torch.tensor([column[name] for name in names], device=text.device)
    return ConceptColumns(vectors[rows], own)


@dataclass(frozen=True, kw_only=True)
class ConceptWeights(Weights):
    """Weight of each loss; at zero it is not computed.

    Args:
        align: Cells of boxes against concepts (focal loss).
        box: Generalised IoU of boxes.
        centreness: How central a cell is to its box.
        words: Captions: phrases against regions; λ of the paper.
        grounding_boxes: Learn boxes and centreness of grounding data too. The paper does not, as
            phrases are boxed loosely.
    """

    align: float = 1.0
    box: float = 2.0
    centreness: float = 1.0
    words: float = 0.1
    grounding_boxes: bool = False


_WEIGHTS, _WORDS, _ATSS = ConceptWeights(), WordRegionLoss(), ATSSAssigner()


class DetCLIPv2(DenseDetector):
    """Backbone, pyramid and a head whose cells are compared with sentences; no fusion of the two.

    Args:
        backbone: Images to maps; Swin in the paper.
        text: Names, phrases and captions to unit vectors of width D: `TrainedText`, as in the
            paper, or frozen vectors.
        assigner: Which cell learns which object.
        width: Channels of pyramid and head.
        num_convs: Convolutions of each head tower.
        deformable: The embedding tower begins with a convolution that samples where the box tower
            points, so that captions teach the box tower as well.
        weights: Weight of each loss.
        words: What captions teach.
        decoding: How many detections leave.
        prior: Score of every cell and concept at the start.
        temperature: 1 / scale of the cosine at the start; the scale is learned.
        slow_backbone: Let the backbone learn as slowly as the text tower does
            (`optimizer.pretrained_factor`). In the paper the text tower alone does.
        recompute: Make activations again for the gradients: less memory, about a third more time.
        ensemble: A frozen tower's second opinion on the boxes, at inference.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: TextBank,
        assigner: Assigner = _ATSS,
        width: int = 256,
        num_convs: int = 4,
        deformable: bool = True,
        weights: ConceptWeights = _WEIGHTS,
        words: WordRegionLoss = _WORDS,
        decoding: DecodeSettings = DecodeSettings(),
        prior: float = 0.01,
        temperature: float = 0.07,
        slow_backbone: bool = False,
        recompute: bool = False,
        ensemble: RegionEnsemble | None = None,
    ) -> None:
        grid = Grid(width, num_convs, prior, temperature, deformable)
        super().__init__(backbone, text, assigner, grid, decoding, ensemble)
        self.weights, self.words, self.slow_backbone = weights, words, slow_backbone
        backbone.pool = None  # a CLIP's attention pool has no part in this
        if recompute:
            self.recompute()
        self._freeze_unused()

    def pretrained(self) -> list[nn.Module]:
        """The text tower, and the backbone if that is wanted."""
        return [self.text, self.backbone] if self.slow_backbone else [self.text]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses, of those whose weight is not zero.

        Of boxes of names: align, box and centreness. Of boxes of phrases: align. Of captions:
        words.

        Raises:
            InputError: at image-level batches, or captions at `weights.words` = 0.
        """
        if isinstance(batch, ImageBatch):
            raise unlearnable("DetCLIPv2", batch)
        if isinstance(batch, DetectionBatch):
            columns = ConceptColumns.alone(
                self.text(batch.vocabulary)
            )  # all processes have these names
            return self._box_losses(batch, columns, located=True)
        if batch.kind == "pairs":
            return self._pair_losses(batch)
        text = self.text(batch.vocabulary)
        located = batch.kind == "detection" or self.weights.grounding_boxes
        return self._box_losses(
            as_boxes(batch), gather_columns(batch.vocabulary.names, text), located=located
        )

    def _box_losses(
        self, batch: DetectionBatch, columns: ConceptColumns, *, located: bool
    ) -> dict[str, Tensor]:
        predictions = self(batch.images, batch.vocabulary)
        assigned, weights = self.assigner(predictions.cells, batch.targets), self.weights
        losses = {}
        if located:
            losses = box_losses(predictions, assigned, weights.box, weights.centreness)
        if weights.align:
            labels = columns.own[assigned.labels.clamp(min=0)]
            losses["align"] = weights.align * self.alignment(
                self.against(predictions.embeddings, columns.text),
                labels.masked_fill(~assigned.positive, -1),
                _negative_mask(batch.verified, columns),
            )
        return losses

    def _pair_losses(self, batch: ConceptBatch) -> dict[str, Tensor]:
        if not self.weights.words:
            raise InputError(
                "captions teach nothing at weights.words = 0",
                field="weights.words",
                fix="set it above 0, or leave data.init_args.pairs out",
            )
        seen = self(batch.images, batch.vocabulary)
        cosines = self.cosines(seen.embeddings, batch.vocabulary)
        shown = inside(seen.cells, batch.images)
        return {"words": self.weights.words * self.words.loss(cosines, seen.boxes, shown, batch)}

    def _freeze_unused(self) -> None:
        weights, head = self.weights, self.head
        freeze_unused(
            [
                (head.embedding_tower, weights.align + weights.words),
                (head.embed, weights.align + weights.words),
                (self.log_scale, weights.align + weights.words * self.words.scaled),
                (self.bias, weights.align),
                (head.box, weights.box),
                (head.scales, weights.box),
                (head.centreness, weights.centreness),
            ]
        )


def _negative_mask(
    verified: Bool[Tensor, "B K"] | None, columns: ConceptColumns
) -> NegativeMask | None:
    """Where each column is a negative: all are, but those that the image does not verify.

    Concepts of other processes' images are drawn at random as far as this image is concerned.
    """
    if verified is None:
        return None
    negative = verified.new_ones(len(verified), len(columns.text))
    negative[:, columns.own] = verified
    return NegativeMask(negative, negative)
