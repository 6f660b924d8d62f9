"""What one-stage detectors share: backbone, pyramid and grid head, and names by cosine."""

import logging
import math
from collections.abc import Set
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gridclip.io.errors import InputError
from gridclip.models.base import Detector
from gridclip.models.dense.grid_head import FPN, STRIDES, DeformableGridHead, GridHead, Projection
from gridclip.models.dense.region_ensemble import RegionEnsemble
from gridclip.models.dense.score_scale import ScoreScale
from gridclip.models.dense.text_folding import FoldedNames, Folding
from gridclip.models.encoders.backbones import Backbone, recompute_backbone, recompute_blocks
from gridclip.models.encoders.text import TextBank
from gridclip.ops.assigners import Assigner, Assignment
from gridclip.ops.boxes import boxes_from_distances, centreness, distances_from_boxes, grid_cells
from gridclip.ops.focal_loss import Cosines, NegativeMask
from gridclip.ops.losses import box_regression, centreness_agreement, grid_alignment
from gridclip.ops.postprocess import (
    Candidates,
    Competition,
    DecodeSettings,
    all_scores,
    best_pairs,
    promising,
    suppress,
    top_pairs,
)
from gridclip.ops.vectors import unit
from gridclip.structures import Cells, Detections, Images, Predictions, Record, Vocabulary

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


class Grid(NamedTuple):
    """How the head of a dense detector is built, and where its scores start."""

    width: int  # channels of pyramid and head
    num_convs: int  # of each tower
    prior: float  # score of every cell and name
    temperature: float  # 1 / scale of the cosine
    deformable: bool = False  # the embedding tower begins where the box tower points
    foldable: bool = True  # nothing is added to what the last convolution makes


class DenseDetector(Detector):
    """Backbone, pyramid and grid head; a cell is named by the cosine with names' vectors.

    Args:
        backbone: Images to maps.
        text: Names to unit vectors of width D.
        assigner: Which cell learns which object.
        grid: The head.
        decoding: How many detections leave.
        ensemble: A second opinion on the boxes.
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
        names, rivals = self.folding.names(vocabulary), self._competition(vocabulary)
        predictions = self._predict(images, self.folding.projection())
        central = predictions.centreness.sigmoid()
        best = [
            self._best(self.against(embeddings, names.text), central[index], names, rivals)
            for index, embeddings in enumerate(predictions.embeddings)
        ]
        if self.ensemble is not None:
            best = self._reconsidered(images, vocabulary, predictions, best)
        each = zip(best, predictions.boxes, images.sizes, records, strict=True)
        return [suppress(*image, self.decoding) for image in each]

    def against(self, embeddings: Float[Tensor, "*B N D"], text: Float[Tensor, "K D"]) -> Cosines:
        """As `cosines`, of vectors."""
        return Cosines(embeddings, text, self.log_scale.exp(), self.bias)

    def alignment(
        self,
        cosines: Cosines,
        labels: Int[Tensor, "B N"],
        negative_mask: NegativeMask | None = None,
    ) -> Float[Tensor, ""]:
        """`grid_alignment` with its arguments; beside it the scale of scores follows training."""
        if self.training:
            self.score_scale.follow(cosines, labels)
        return grid_alignment(cosines, labels, negative_mask=negative_mask)

    def _competition(self, asked: Vocabulary) -> Competition | None:
        """What names compete with; with none but one another, before any training."""
        if self.decoding.score == "independent":
            return None
        reference = self.trained_on if self.decoding.reference else None
        if reference is None:
            others = self.folding.names(asked).text[:0]
        else:
            others = self.folding.others(asked, reference)
        return Competition(others, self.score_scale.value)

    def _best(
        self,
        cosines: Cosines,
        central: Float[Tensor, "N"],
        names: FoldedNames,
        rivals: Competition | None,
    ) -> Candidates:
        """The best pairs of one image; of its promising cells only, where pairs are too many."""
        settings = self.decoding
        count = len(names.text) + (0 if rivals is None else len(rivals.others))
        with torch.autocast(central.device.type, enabled=False):
            if len(central) * count <= settings.pairs:
                return best_pairs(cosines, central, settings, rivals)
            share = max(settings.candidates, settings.pairs // count)
            cells = promising(cosines._replace(text=names.prototypes), central, share)
            fewer = cosines._replace(embeddings=cosines.embeddings[cells])
            found = best_pairs(fewer, central[cells], settings, rivals)
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
        names, central = self.folding.names(vocabulary), predictions.centreness.sigmoid()
        rivals = self._competition(vocabulary)
        cells = [each.cells.unique() for each in best]
        with torch.autocast(central.device.type, enabled=False):
            own = [
                all_scores(
                    self.against(predictions.embeddings[row][at], names.text),
                    central[row, at],
                    rivals,
                )
                for row, at in enumerate(cells)
            ]
        boxes = [predictions.boxes[row][at] for row, at in enumerate(cells)]
        both = self.ensemble(images, boxes, own, self.text(vocabulary), self.learned(vocabulary))
        pairs = [top_pairs(scores, self.decoding) for scores in both]
        return [of._replace(cells=at[of.cells]) for of, at in zip(pairs, cells, strict=True)]

    def _predict(self, images: Images, projection: Projection | None = None) -> Predictions:
        return self._read(self.backbone(images), projection)

    def _read(
        self,
        maps: list[Tensor],
        projection: Projection | None = None,
        residual: Float[Tensor, "B D h w"] | None = None,
    ) -> Predictions:
        """What pyramid and head make of the backbone's maps."""
        levels = self.head(self.neck(maps), projection)
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
        )


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
