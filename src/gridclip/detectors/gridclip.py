"""GridCLIP (2303.09252): a one-stage detector whose grid cells live in CLIP's space.

The paper's body could not be read when this was written. Its abstract names grid-level alignment
with category text and, in training only, image-level alignment with CLIP's image encoder. Their
forms here are our reading: docs/papers.md lists every choice.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.assign import Assigner
from gridclip.boxes import boxes_from_distances, grid_cells
from gridclip.candidates import best_pairs, promising
from gridclip.clip.image import Pooled
from gridclip.clip.teacher import Teacher
from gridclip.clip.text import TextBank
from gridclip.decode import Candidates, DecodeSettings, suppress
from gridclip.detectors.alignment import check_residual, load_teacher, student_projection
from gridclip.detectors.base import Batch, Detector, unlearnable
from gridclip.detectors.box_losses import box_losses
from gridclip.detectors.folding import Folding, Names
from gridclip.detectors.negatives import Negatives
from gridclip.detectors.pseudo_label_loss import PseudoLabelLoss
from gridclip.detectors.weights import LossWeights
from gridclip.errors import InputError
from gridclip.focal import Cosines
from gridclip.losses import (
    ImageDistance,
    grid_alignment,
    image_alignment,
)
from gridclip.networks.backbone import Backbone
from gridclip.networks.head import GridHead, Projection, precise
from gridclip.networks.neck import FPN, STRIDES
from gridclip.networks.recompute import recompute_backbone, recompute_blocks
from gridclip.structures import (
    Cells,
    DetectionBatch,
    Detections,
    ImageBatch,
    Images,
    Predictions,
    Record,
    Vocabulary,
)

_WEIGHTS, _NEGATIVES, _PSEUDO_LABEL_LOSS = LossWeights(), Negatives(), PseudoLabelLoss()


class GridCLIP(Detector):
    """Backbone, pyramid and grid head, aligned with CLIP at the level of cells and of pictures.

    Args:
        backbone: Pictures to maps; a CLIP image tower, or any timm network.
        text: Names to unit vectors of width D.
        assigner: Which cell learns which object.
        teacher: The frozen image tower that teaches; needed where `weights.image` or
            `weights.unboxed` > 0, and not loaded otherwise.
        width: Channels of pyramid and head.
        num_convs: Convolutions of each head tower; 4 in FCOS.
        clip_residual: Add the attention pool's map of cells, upsampled, to the embeddings. The pool
            must have the width of the text vectors, as it has in one and the same CLIP.
        weights: Weight of each loss.
        image_distance: Form of the image-level alignment.
        negatives: Which names count as negatives in grid-level alignment.
        pseudo_labels: What image-level batches teach where `weights.pseudo` > 0.
        decoding: How many detections leave.
        prior: Score of every cell and name at the start (focal loss, 1708.02002, section 3.3).
        temperature: 1 / scale of the cosine at the start; the scale is learned.
        recompute: Make activations again for the gradients: less memory, about a third more time.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: TextBank,
        assigner: Assigner,
        teacher: Teacher | None = None,
        width: int = 256,
        num_convs: int = 4,
        clip_residual: bool = False,
        weights: LossWeights = _WEIGHTS,
        image_distance: ImageDistance = "l1",
        negatives: Negatives = _NEGATIVES,
        pseudo_labels: PseudoLabelLoss = _PSEUDO_LABEL_LOSS,
        decoding: DecodeSettings = DecodeSettings(),
        prior: float = 0.01,
        temperature: float = 0.07,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.text, self.assigner = backbone, text, assigner
        self.weights, self.image_distance, self.decoding = weights, image_distance, decoding
        self.clip_residual = clip_residual
        self.negatives, self.pseudo_labels = negatives, pseudo_labels
        if width < 8 or width % 8:
            raise InputError(
                f"{width} channels cannot be normalised in groups of 8",
                field="width",
                fix="give a multiple of 8",
            )
        self.neck = FPN(backbone.channels, width)
        self.head = GridHead(width, text.width, len(STRIDES), num_convs)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(math.log(prior / (1 - prior))))
        self.teacher = load_teacher(teacher, weights)
        self.to_teacher = self.teacher and student_projection(backbone, self.teacher.width)
        if clip_residual:
            check_residual(backbone, text.width)
        if recompute:
            recompute_backbone(backbone)
            recompute_blocks([self.head.embedding_tower, self.head.box_tower])
        # The residual is added in CLIP's own basis, so there is nothing to fold then.
        self.folding = Folding(self.head.embed, text, enabled=not clip_residual)
        self._rest_idle_parts()

    def pretrained(self) -> list[nn.Module]:
        """The backbone starts from CLIP or ImageNet."""
        return [self.backbone]

    def fingerprint(self) -> str:
        """Cells were aligned with these text vectors; others would be another language."""
        return self.text.fingerprint()

    def forward(self, images: Images, vocabulary: Vocabulary) -> Predictions:
        """Predict for every grid cell, in pixels of the resized images."""
        return self._predict(images)

    def cosines(self, embeddings: Float[Tensor, "*B N D"], vocabulary: Vocabulary) -> Cosines:
        """Scaled and shifted cosine of cells with names, not yet multiplied out."""
        return Cosines(embeddings, self.text(vocabulary), self.log_scale.exp(), self.bias)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses, of those whose weight is not zero.

        Of boxes: grid, box, centreness, and image. Of image-level batches: unboxed and pseudo.

        Raises:
            InputError: at an image-level batch if neither of its weights is set; at concepts.
        """
        if isinstance(batch, ImageBatch):
            return self._image_level_losses(batch)
        if isinstance(batch, DetectionBatch):
            return self._detection_losses(batch)
        raise unlearnable("GridCLIP", batch)

    @torch.no_grad()
    def detect(
        self, images: Images, vocabulary: Vocabulary, records: list[Record]
    ) -> list[Detections]:
        """Detections of each image, best first, in pixels of the original images.

        A score is the geometric mean of the name's probability and the cell's centreness.
        """
        names = self.folding.names(vocabulary)
        predictions, found = self._predict(images, self.folding.projection()), []
        for index, record in enumerate(records):
            cosines = Cosines(
                predictions.embeddings[index], names.text, self.log_scale.exp(), self.bias
            )
            best = self._best(cosines, predictions.centreness[index].sigmoid(), names)
            boxes, size = predictions.boxes[index], images.sizes[index]
            found.append(suppress(best, boxes, size, record, self.decoding))
        return found

    def _best(self, cosines: Cosines, central: Float[Tensor, "N"], names: Names) -> Candidates:
        """The best pairs of one image; of its promising cells only, where pairs are too many."""
        settings, count = self.decoding, len(names.text)
        with torch.autocast(central.device.type, enabled=False):
            if len(central) * count <= settings.pairs:
                return best_pairs(cosines, central, settings)
            share = max(settings.candidates, settings.pairs // count)
            cells = promising(cosines._replace(text=names.prototypes), central, share)
            fewer = cosines._replace(embeddings=cosines.embeddings[cells])
            found = best_pairs(fewer, central[cells], settings)
            return found._replace(cells=cells[found.cells])

    def _predict(self, images: Images, projection: Projection | None = None) -> Predictions:
        maps = self.backbone(images)
        aligned = self.training and self.weights.image > 0
        pooled = self._pool(images, maps, aligned)
        levels = self.head(self.neck(maps), projection)
        cells, embeddings = self._grid([level.embeddings for level in levels], pooled)
        distances = torch.cat([level.distances.flatten(2) for level in levels], dim=2).mT
        return Predictions(
            embeddings=embeddings,
            boxes=boxes_from_distances(
                cells.centres.expand(len(distances), -1, -1), distances * cells.strides[:, None]
            ),
            centreness=torch.cat([level.centreness.flatten(1) for level in levels], dim=1),
            cells=cells,
            image=self._image_embedding(maps, pooled) if aligned else None,
        )

    def _detection_losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        predictions = self(batch.images, batch.vocabulary)
        assigned = self.assigner(predictions.cells, batch.targets)
        losses = box_losses(predictions, assigned, self.weights.box, self.weights.centreness)
        if self.weights.grid:
            losses["grid"] = self.weights.grid * grid_alignment(
                self.cosines(predictions.embeddings, batch.vocabulary),
                assigned.labels,
                counted=self.negatives.counted(batch),
            )
        if self.weights.image:
            losses["image"] = self.weights.image * self._gap_to_teacher(predictions.image, batch)
        return losses

    def _image_level_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Only what they read is run: neither boxes, nor the grid where nothing labels it."""
        weights, losses = self.weights, {}
        if not (weights.unboxed or weights.pseudo):
            raise InputError(
                "images without boxes teach nothing at weights.unboxed = weights.pseudo = 0",
                field="weights",
                fix="set one of the two, or leave the image-level data out",
            )
        maps = self.backbone(batch.images)
        pooled = self._pool(batch.images, maps, weights.unboxed > 0)
        if weights.unboxed:
            student = self._image_embedding(maps, pooled)
            losses["unboxed"] = weights.unboxed * self._gap_to_teacher(student, batch)
        if weights.pseudo:
            towers = [self.head.embed(self.head.embedding_tower(x)) for x in self.neck(maps)]
            cells, embeddings = self._grid(towers, pooled)
            losses["pseudo"] = weights.pseudo * self.pseudo_labels.loss(
                self.cosines(embeddings, batch.vocabulary),
                (cells.centres < batch.images.sizes[:, None].flip(-1)).all(-1),
                batch.scores,
            )
        return losses

    def _gap_to_teacher(
        self, student: Float[Tensor, "B E"], batch: DetectionBatch | ImageBatch
    ) -> Float[Tensor, ""]:
        """The teacher is run only if the batch does not bring its embeddings along."""
        assert self.teacher is not None  # loaded where a weight asks for it
        truth = self.teacher(batch.images) if batch.teacher is None else batch.teacher
        return image_alignment(student, truth, distance=self.image_distance)

    def _pool(self, images: Images, maps: list[Tensor], aligned: bool) -> Pooled | None:
        """The backbone's own embeddings, where something reads them."""
        return self.backbone.embed(images, maps[-1]) if self.clip_residual or aligned else None

    def _grid(
        self, levels: list[Tensor], pooled: Pooled | None
    ) -> tuple[Cells, Float[Tensor, "B N D"]]:
        """Cells and their unit vectors; the attention pool's map is added where that is asked."""
        if self.clip_residual and pooled is not None:
            levels = [
                level
                + F.interpolate(pooled.grid, level.shape[-2:], mode="bilinear", align_corners=False)
                for level in levels
            ]
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        embeddings = torch.cat([level.flatten(2).mT for level in levels], dim=1)
        cells = grid_cells(shapes, STRIDES, embeddings.device)
        return cells, F.normalize(precise(embeddings), dim=-1, eps=1e-6)

    def _image_embedding(self, maps: list[Tensor], pooled: Pooled | None) -> Float[Tensor, "B E"]:
        """The picture's embedding in the teacher's space."""
        assert self.to_teacher is not None  # made with the teacher
        seen = maps[-1].mean((2, 3)) if pooled is None else pooled.image
        embedding: Tensor = self.to_teacher(seen)
        return embedding

    def _rest_idle_parts(self) -> None:
        """Stop gradients of what no loss reads: it costs nothing, and does not stall DDP."""
        idle: list[nn.Module | nn.Parameter] = []
        pool = self.backbone.pool
        gridless = self.weights.grid == 0 and self.weights.pseudo == 0
        if self.teacher is None and pool is not None:
            if not self.clip_residual:
                self.backbone.pool = None
            idle += [pool] if gridless else [pool.query, pool.key]
        if gridless:
            idle += [self.head.embedding_tower, self.head.embed, self.log_scale, self.bias]
        if self.weights.box == 0:
            idle += [self.head.box, self.head.scales]
        if self.weights.centreness == 0:
            idle += [self.head.centreness]
        for part in idle:
            part.requires_grad_(False)
