"""GridCLIP (2303.09252): a one-stage detector whose grid cells live in CLIP's space.

The paper's body could not be read when this was written. Its abstract names grid-level alignment
with category text and, in training only, image-level alignment with CLIP's image encoder. Their
forms here are our reading: docs/papers.md lists every choice.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.assign import Assigner, Assignment
from gridclip.boxes import boxes_from_distances, centreness, distances_from_boxes, grid_cells
from gridclip.clip.image import Pooled
from gridclip.clip.teacher import Teacher
from gridclip.clip.text import TextBank
from gridclip.decode import DecodeSettings, decode
from gridclip.detectors.base import Detector
from gridclip.errors import InputError
from gridclip.losses import (
    ImageDistance,
    box_regression,
    centreness_agreement,
    grid_alignment,
    image_alignment,
)
from gridclip.networks.backbone import Backbone
from gridclip.networks.head import GridHead, LevelOutput
from gridclip.networks.neck import FPN, STRIDES
from gridclip.structures import (
    Cells,
    DetectionBatch,
    Detections,
    Images,
    Predictions,
    Record,
    Vocabulary,
)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each loss; at zero it is not computed, nor is the teacher loaded for `image`.

    Args:
        grid: Grid-level alignment: cells against category text.
        image: Image-level alignment: the picture's embedding against the frozen teacher's.
        box: Generalised IoU of boxes.
        centreness: How central a cell is to its box.
    """

    grid: float = 1.0
    image: float = 0.1
    box: float = 2.0
    centreness: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(
                    f"{value} is no weight", field=f"weights.{name}", fix="give a number >= 0"
                )


class GridCLIP(Detector):
    """Backbone, pyramid and grid head, aligned with CLIP at the level of cells and of pictures.

    Args:
        backbone: Pictures to maps; a CLIP image tower, or any timm network.
        text: Names to unit vectors of width D.
        assigner: Which cell learns which object.
        teacher: The frozen image tower that teaches; needed where `weights.image` > 0, and not
            loaded otherwise.
        width: Channels of pyramid and head.
        num_convs: Convolutions of each head tower; 4 in FCOS.
        clip_residual: Add the attention pool's map of cells, upsampled, to the embeddings. The pool
            must have the width of the text vectors, as it has in one and the same CLIP.
        weights: Weight of each loss.
        image_distance: Form of the image-level alignment.
        decoding: How many detections leave.
        prior: Score of every cell and name at the start (focal loss, 1708.02002, section 3.3).
        temperature: 1 / scale of the cosine at the start; the scale is learned.
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
        weights: LossWeights = LossWeights(),
        image_distance: ImageDistance = "l1",
        decoding: DecodeSettings = DecodeSettings(),
        prior: float = 0.01,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.backbone, self.text, self.assigner = backbone, text, assigner
        self.weights, self.image_distance, self.decoding = weights, image_distance, decoding
        self.clip_residual = clip_residual
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
        self.teacher = self._load_teacher(teacher)
        self.to_teacher = self._student_projection()
        self._check_residual()
        self._rest_idle_parts()

    def pretrained(self) -> list[nn.Module]:
        """The backbone starts from CLIP or ImageNet."""
        return [self.backbone]

    def fingerprint(self) -> str:
        """Cells were aligned with these text vectors; others would be another language."""
        return self.text.fingerprint()

    def forward(self, images: Images, vocabulary: Vocabulary) -> Predictions:
        """Predict for every grid cell, in pixels of the resized images."""
        maps = self.backbone(images)
        pooled = self._pool(images, maps)
        levels = self.head(self.neck(maps))
        shapes = [(level.centreness.shape[-2], level.centreness.shape[-1]) for level in levels]
        cells = grid_cells(shapes, STRIDES, images.pixels.device)
        embeddings = torch.cat([self._embed(level, pooled) for level in levels], dim=1)
        distances = torch.cat([level.distances.flatten(2) for level in levels], dim=2).mT
        return Predictions(
            embeddings=F.normalize(embeddings, dim=-1, eps=1e-6),
            boxes=boxes_from_distances(
                cells.centres.expand(len(distances), -1, -1), distances * cells.strides[:, None]
            ),
            centreness=torch.cat([level.centreness.flatten(1) for level in levels], dim=1),
            cells=cells,
            image=self._image_embedding(maps, pooled),
        )

    def logits(
        self, embeddings: Float[Tensor, "*B N D"], text: Float[Tensor, "K D"]
    ) -> Float[Tensor, "*B N K"]:
        """Scaled and shifted cosine of cells with names."""
        return self.log_scale.exp() * (embeddings @ text.mT) + self.bias

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """Weighted losses: grid, box, centreness, and image where a teacher is loaded."""
        predictions = self(batch.images, batch.vocabulary)
        assigned = self.assigner(predictions.cells, batch.targets)
        losses = self._box_losses(predictions, assigned)
        if self.weights.grid:
            logits = self.logits(predictions.embeddings, self.text(batch.vocabulary))
            losses["grid"] = self.weights.grid * grid_alignment(
                logits, assigned.positive, assigned.labels
            )
        if self.teacher is not None:
            losses["image"] = self.weights.image * image_alignment(
                predictions.image, self.teacher(batch.images), distance=self.image_distance
            )
        return losses

    @torch.no_grad()
    def detect(
        self, images: Images, vocabulary: Vocabulary, records: list[Record]
    ) -> list[Detections]:
        """Detections of each image, best first, in pixels of the original images.

        A score is the geometric mean of the name's probability and the cell's centreness.
        """
        predictions, text = self(images, vocabulary), self.text(vocabulary)
        found = []
        for index, record in enumerate(records):
            named = self.logits(predictions.embeddings[index], text).sigmoid()
            central = predictions.centreness[index].sigmoid()
            scores = (named * central[:, None]).sqrt()
            boxes, size = predictions.boxes[index], images.sizes[index]
            found.append(decode(scores, boxes, size, record, self.decoding))
        return found

    def _box_losses(self, predictions: Predictions, assigned: Assignment) -> dict[str, Tensor]:
        positive, weights = assigned.positive, self.weights
        cells = Cells(
            predictions.cells.centres.expand(*positive.shape, 2)[positive],
            predictions.cells.strides.expand(positive.shape)[positive],
        )
        truth = centreness(distances_from_boxes(cells.centres, assigned.boxes))
        losses = {}
        if weights.box:
            gap = box_regression(predictions.boxes[positive], assigned.boxes, truth)
            losses["box"] = weights.box * gap
        if weights.centreness:
            gap = centreness_agreement(predictions.centreness[positive], truth)
            losses["centreness"] = weights.centreness * gap
        return losses

    def _pool(self, images: Images, maps: list[Tensor]) -> Pooled | None:
        """The backbone's own embeddings, where something reads them."""
        wanted = self.clip_residual or (self.training and self.teacher is not None)
        return self.backbone.embed(images, maps[-1]) if wanted else None

    def _embed(self, level: LevelOutput, pooled: Pooled | None) -> Float[Tensor, "B n D"]:
        """Embeddings of one level's cells, with the attention pool's map where that is asked."""
        embeddings = level.embeddings
        if self.clip_residual and pooled is not None:
            embeddings = embeddings + F.interpolate(
                pooled.grid, embeddings.shape[-2:], mode="bilinear", align_corners=False
            )
        return embeddings.flatten(2).mT

    def _image_embedding(
        self, maps: list[Tensor], pooled: Pooled | None
    ) -> Float[Tensor, "B E"] | None:
        """The picture's embedding in the teacher's space, in training with a teacher only."""
        if self.to_teacher is None or not self.training:
            return None
        seen = maps[-1].mean((2, 3)) if pooled is None else pooled.image
        embedding: Tensor = self.to_teacher(seen)
        return embedding

    def _load_teacher(self, teacher: Teacher | None) -> Teacher | None:
        if self.weights.image == 0:
            return None
        if teacher is None:
            raise InputError(
                f"image-level alignment (weights.image = {self.weights.image}) has no teacher",
                field="teacher",
                fix="name a teacher, such as ClipTeacher, or set weights.image to 0",
            )
        teacher.load()
        return teacher

    def _student_projection(self) -> nn.Module | None:
        """From the student's picture embedding to the teacher's width."""
        if self.teacher is None:
            return None
        pool = self.backbone.pool
        width = self.backbone.channels[-1] if pool is None else pool.embed_dim
        if pool is not None and width == self.teacher.width:
            return nn.Identity()
        return nn.Linear(width, self.teacher.width)

    def _check_residual(self) -> None:
        pool = self.backbone.pool
        if self.clip_residual and (pool is None or pool.embed_dim != self.text.width):
            has = "no attention pool" if pool is None else f"a pool of width {pool.embed_dim}"
            raise InputError(
                f"the backbone has {has}, the text vectors have width {self.text.width}",
                field="clip_residual",
                fix="take backbone and text from the same CLIP, or set clip_residual to false",
            )

    def _rest_idle_parts(self) -> None:
        """Stop gradients of what no loss reads: it costs nothing, and does not stall DDP."""
        idle: list[nn.Module | nn.Parameter] = []
        pool = self.backbone.pool
        if self.teacher is None and pool is not None:
            if not self.clip_residual:
                self.backbone.pool = None
            idle += [pool.query, pool.key] if self.weights.grid else [pool]
        if self.weights.grid == 0:
            idle += [self.head.embedding_tower, self.head.embed, self.log_scale, self.bias]
        if self.weights.box == 0:
            idle += [self.head.box, self.head.scales]
        if self.weights.centreness == 0:
            idle += [self.head.centreness]
        for part in idle:
            part.requires_grad_(False)
