"""What one-stage detectors share: backbone, pyramid and grid head, and names by cosine."""

import logging
import math
from collections.abc import Set
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from gridclip.io.errors import InputError
from gridclip.models.base import Detector
from gridclip.models.dense.grid_head import FPN, STRIDES, DeformableGridHead, GridHead, Projections
from gridclip.models.dense.region_ensemble import RegionEnsemble
from gridclip.models.dense.score_scale import ScoreScale
from gridclip.models.dense.second_opinion import SecondOpinion, Voices
from gridclip.models.dense.text_folding import FoldedNames, Folding
from gridclip.models.encoders.backbones import Backbone, recompute_backbone, recompute_blocks
from gridclip.models.encoders.text import TextBank
from gridclip.ops.assigners import Assigner, Assignment
from gridclip.ops.boxes import boxes_from_distances, centreness, distances_from_boxes, grid_cells
from gridclip.ops.focal_loss import STRICT, Cosines, Leniency, NegativeMask
from gridclip.ops.losses import box_regression, centreness_agreement, grid_alignment
from gridclip.ops.postprocess import (
    Candidates,
    Competition,
    DecodeSettings,
    all_scores,
    best_logits,
    best_pairs,
    promising,
    suppress,
    top_pairs,
)
from gridclip.ops.vectors import precise, unit
from gridclip.structures import (
    Cells,
    Detections,
    Images,
    Predictions,
    Proposals,
    Record,
    Vocabulary,
)

logger = logging.getLogger(__name__)


def box_losses(
    predictions: Predictions, assigned: Assignment, weight: float, centreness_weight: float
) -> dict[str, Tensor]:
    """`box` and `centreness` of the positive cells, weighted; without those of weight zero.

    As in FCOS (1904.01355, section 3.2), a cell's box counts by how central the cell lies in it.
    """
    positive, boxes = assigned.positive.flatten(), assigned.boxes
    centres = predictions.cells.centres
    truth = centreness(distances_from_boxes(centres.expand(len(boxes), -1, -1), boxes))
    truth = truth.flatten() * positive
    losses = {}
    if weight:
        gap = box_regression(predictions.boxes.flatten(0, 1), boxes.flatten(0, 1), truth)
        losses["box"] = weight * gap
    if centreness_weight:
        gap = centreness_agreement(predictions.centreness.flatten(), truth, positive)
        losses["centreness"] = centreness_weight * gap
    return losses


_CONSIDERED = 1000  # cells of an image that may become proposals
_APART = 0.5  # IoU above which of two proposals only the better is kept


class Grid(NamedTuple):
    """How the head of a dense detector is built, and where its scores start."""

    width: int  # channels of pyramid and head
    num_convs: int  # of each tower
    prior: float  # score of every cell and name
    temperature: float  # 1 / scale of the cosine
    deformable: bool = False  # the embedding tower begins where the box tower points
    foldable: bool = True  # nothing is added to what the last convolution makes


class _Asked(NamedTuple):
    """What scores cells by the names that are asked for."""

    names: FoldedNames
    rivals: Competition | None = None  # where names compete
    voices: Voices | None = None  # for the second embedding, if that has a say

    @property
    def compared(self) -> int:
        """Names that a cell is compared with."""
        return len(self.names.text) + (0 if self.rivals is None else len(self.rivals.others))


class DenseDetector(Detector):
    """Backbone, pyramid and grid head; a cell is named by the cosine with names' vectors.

    Args:
        backbone: Images to maps.
        text: Names to unit vectors of width D.
        assigner: Which cell learns which object.
        grid: The head.
        decoding: How many detections leave.
        ensemble: A frozen tower's opinion on the boxes.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: TextBank,
        assigner: Assigner,
        grid: Grid,
        decoding: DecodeSettings,
        ensemble: RegionEnsemble | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.text, self.assigner = backbone, text, assigner
        self.decoding, self.ensemble = decoding, ensemble
        if ensemble is not None:
            ensemble.check(text.width)
        if grid.width < 8 or grid.width % 8:
            raise InputError(
                f"{grid.width} channels cannot be normalised in groups of 8",
                field="width",
                fix="give a multiple of 8",
            )
        self.neck = FPN(backbone.channels, grid.width)
        head = DeformableGridHead if grid.deformable else GridHead
        self.head: GridHead = head(grid.width, text.width, len(STRIDES), grid.num_convs)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(grid.temperature)))
        self.bias = nn.Parameter(torch.tensor(math.log(grid.prior / (1 - grid.prior))))
        self.folding = Folding(self.head.embed, text, enabled=grid.foldable)
        self.score_scale = ScoreScale()
        self.opinion: SecondOpinion | None = None  # of the second embedding, if it has a say

    def recompute(self) -> None:
        """Makes activations again for the gradients: less memory, about a third more time."""
        recompute_backbone(self.backbone)
        recompute_blocks([self.head.embedding_tower, self.head.box_tower])

    @property
    def image_encoder(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    def younger(self, names: Set[str]) -> dict[str, Tensor]:
        """Returns the scale of competing scores, which runs before it existed never fitted."""
        fresh = ScoreScale().state_dict(prefix="score_scale.")
        if fresh.keys() <= names or names | fresh.keys() != self.state_dict().keys():
            return {}
        if self.decoding.score == "competing":
            logger.warning(
                "the checkpoint is older than the scale of competing scores, which is 1: not fitted"
            )
        return fresh

    def fingerprint(self) -> str:
        """Cells were aligned with these text vectors; others would be another language."""
        return self.text.fingerprint()

    def forward(self, images: Images, vocabulary: Vocabulary) -> Predictions:
        """Predicts for every grid cell, in pixels of the resized images."""
        return self._predict(images)

    def cosines(self, embeddings: Float[Tensor, "*B N D"], vocabulary: Vocabulary) -> Cosines:
        """Scaled and shifted cosine of cells with names, not yet multiplied out."""
        return self.against(embeddings, self.text(vocabulary))

    @torch.no_grad()
    def detect(
        self, images: Images, vocabulary: Vocabulary, records: list[Record]
    ) -> list[Detections]:
        """Detections of each image, best first, in pixels of the original images.

        A score is the geometric mean of the name's probability and the cell's centreness, or what
        `Competition` says; with an ensemble, the mean of that and of what it says of the box.
        """
        asked = self._asked(vocabulary)
        projections = Projections(self.folding.projection() or self.head.projection)
        if self.opinion is not None and asked.voices is not None:
            projections = projections._replace(align=self.opinion.projection())
        predictions = self._predict(images, projections)
        best = [self._best(predictions, row, asked) for row in range(len(records))]
        if self.ensemble is not None:
            best = self._reconsidered(images, vocabulary, predictions, best)
        each = zip(best, predictions.boxes, images.sizes, records, strict=True)
        return [suppress(*image, self.decoding) for image in each]

    @torch.no_grad()
    def region_features(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P D"]:
        """Unit vectors of the boxes of all images, in the space of the text vectors.

        It is the mean of those cells that would learn the box in training, were it alone in its
        image; where none would, the cell whose own box fits it best.

        Args:
            images: The images.
            boxes: xyxy of each image, pixels of the resized image.
        """
        predictions, found = self._predict(images), []
        for row, each in enumerate(boxes):
            overlaps = box_iou(each, predictions.boxes[row])
            for box, overlap in zip(each, overlaps, strict=True):
                own = self.assigner.match(predictions.cells, box[None]) >= 0
                own = own if own.any() else overlap == overlap.max()
                found.append(precise(predictions.embeddings[row][own]).mean(0))
        return unit(torch.stack(found))

    def fitting_cosine(self, region: Float[Tensor, "D"]) -> Float[Tensor, ""]:
        """The cosine whose sigmoid is a half, for any region."""
        return (-self.bias / self.log_scale.exp()).detach().clamp(-1, 1)

    def against(self, embeddings: Float[Tensor, "*B N D"], text: Float[Tensor, "K D"]) -> Cosines:
        """As `cosines`, of vectors."""
        return Cosines(embeddings, text, self.log_scale.exp(), self.bias)

    def alignment(
        self,
        cosines: Cosines,
        labels: Int[Tensor, "B N"],
        negative_mask: NegativeMask | None = None,
        leniency: Leniency = STRICT,
    ) -> Float[Tensor, ""]:
        """`grid_alignment` with its arguments; beside it the scale of scores follows training."""
        if self.training:
            self.score_scale.follow(cosines, labels)
        return grid_alignment(cosines, labels, negative_mask=negative_mask, leniency=leniency)

    @torch.no_grad()
    def propose(self, images: Images) -> list[Proposals]:
        """Where something may be in each image, whatever it is: any name that was trained on.

        Raises:
            InputError: if it was trained on no list of names.
        """
        if self.trained_on is None:
            raise InputError(
                f"this {type(self).__name__} was trained on no list of names",
                fix="give the run of a training on DetectionData, or of a two-stage detector",
                field="run",
            )
        predictions = self._predict(images)
        return self.proposals(predictions, self.cosines(predictions.embeddings, self.trained_on))

    @torch.no_grad()
    def proposals(self, predictions: Predictions, cosines: Cosines) -> list[Proposals]:
        """The boxes of cells that any name fits, best first, those that overlap a better one less.

        Args:
            predictions: Of every cell.
            cosines: Every cell and every name.
        """
        found = []
        with torch.autocast(predictions.boxes.device.type, enabled=False):
            for embeddings, boxes, central in zip(
                predictions.embeddings,
                predictions.boxes.float(),
                predictions.centreness.float(),
                strict=True,
            ):
                highest = best_logits(cosines._replace(embeddings=embeddings.float()))
                scores = (highest.sigmoid() * central.sigmoid()).sqrt()
                best = scores.topk(min(_CONSIDERED, len(scores))).indices
                kept = best[nms(boxes[best], scores[best], _APART)]
                found.append(Proposals(boxes[kept], scores[kept]))
        return found

    def _asked(self, vocabulary: Vocabulary) -> _Asked:
        """The names and what they compete with; with none but one another, before any training."""
        names = self.folding.names(vocabulary)
        if self.decoding.score == "independent":
            return _Asked(names)
        reference = self.trained_on if self.decoding.reference else None
        others = names.text[:0]
        if reference is not None:
            others = self.folding.others(vocabulary, reference)
        opinion = self.opinion
        voices = None
        if opinion is not None:
            voices = opinion.voices(vocabulary, reference, self.trained_on)
        return _Asked(names, Competition(others, self.score_scale.value), voices)

    def _contest(
        self, predictions: Predictions, row: int, asked: _Asked, at: Int[Tensor, "n"] | slice
    ) -> tuple[Cosines, Competition | None]:
        """What scores some cells of one image."""
        cosines = self.against(predictions.embeddings[row, at], asked.names.text)
        if self.opinion is None or asked.rivals is None or asked.voices is None:
            return cosines, asked.rivals
        assert predictions.aligned is not None  # made where there is an opinion
        aligned = predictions.aligned[row, at]
        return self.opinion.join(cosines, asked.rivals, aligned, asked.voices)

    def _best(self, predictions: Predictions, row: int, asked: _Asked) -> Candidates:
        """The best pairs of one image; of its promising cells only, where pairs are too many."""
        settings, central = self.decoding, predictions.centreness[row].sigmoid()
        with torch.autocast(central.device.type, enabled=False):
            if len(central) * asked.compared <= settings.pairs:
                cosines, rivals = self._contest(predictions, row, asked, slice(None))
                return best_pairs(cosines, central, settings, rivals)
            share = max(settings.candidates, settings.pairs // asked.compared)
            prototypes = self.against(predictions.embeddings[row], asked.names.prototypes)
            cells = promising(prototypes, central, share)
            cosines, rivals = self._contest(predictions, row, asked, cells)
            found = best_pairs(cosines, central[cells], settings, rivals)
            return found._replace(cells=cells[found.cells])

    def _reconsidered(
        self,
        images: Images,
        vocabulary: Vocabulary,
        predictions: Predictions,
        best: list[Candidates],
    ) -> list[Candidates]:
        """Pairs by the detector and the ensemble: any name, in the cells that were best before."""
        assert self.ensemble is not None  # asked for where there is one
        asked, central = self._asked(vocabulary), predictions.centreness.sigmoid()
        cells, own = [each.cells.unique() for each in best], []
        with torch.autocast(central.device.type, enabled=False):
            for row, at in enumerate(cells):
                cosines, rivals = self._contest(predictions, row, asked, at)
                own.append(all_scores(cosines, central[row, at], rivals))
        boxes = [predictions.boxes[row][at] for row, at in enumerate(cells)]
        both = self.ensemble(images, boxes, own, self.text(vocabulary), self.learned(vocabulary))
        pairs = [top_pairs(scores, self.decoding) for scores in both]
        return [of._replace(cells=at[of.cells]) for of, at in zip(pairs, cells, strict=True)]

    def _predict(self, images: Images, projections: Projections | None = None) -> Predictions:
        return self._read(self.backbone(images), projections)

    def _read(
        self,
        maps: list[Tensor],
        projections: Projections | None = None,
        residual: Float[Tensor, "B D h w"] | None = None,
    ) -> Predictions:
        """What pyramid and head make of the backbone's maps."""
        levels = self.head(self.neck(maps), projections)
        cells, embeddings = grid_of([level.embeddings for level in levels], residual)
        distances = torch.cat([level.distances.flatten(2) for level in levels], dim=2).mT
        return Predictions(
            embeddings=embeddings,
            boxes=boxes_from_distances(
                cells.centres.expand(len(distances), -1, -1), distances * cells.strides[:, None]
            ),
            centreness=torch.cat([level.centreness.flatten(1) for level in levels], dim=1),
            cells=cells,
            image=None,
            aligned=_joined([level.aligned for level in levels]),
        )


def _joined(levels: list[Float[Tensor, "B E _ _"] | None]) -> Float[Tensor, "B N E"] | None:
    """Unit vectors of the cells of all levels, if there are any."""
    made = [level.flatten(2).mT for level in levels if level is not None]
    return unit(torch.cat(made, dim=1)) if made else None


def grid_of(
    levels: list[Tensor], residual: Float[Tensor, "B D h w"] | None = None
) -> tuple[Cells, Float[Tensor, "B N D"]]:
    """Cells and their unit vectors; a residual map is added to every level, upsampled."""
    if residual is not None:
        levels = [
            level + F.interpolate(residual, level.shape[-2:], mode="bilinear", align_corners=False)
            for level in levels
        ]
    shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
    embeddings = torch.cat([level.flatten(2).mT for level in levels], dim=1)
    cells = grid_cells(shapes, STRIDES, embeddings.device)
    return cells, unit(embeddings)


def inside(cells: Cells, images: Images) -> Bool[Tensor, "B N"]:
    """Cells whose centre lies in the image, not in its padding."""
    return (cells.centres < images.sizes[:, None].flip(-1)).all(-1)
