"""GridCLIP (2303.09252): a one-stage detector whose grid cells live in CLIP's space.

The paper's body could not be read when this was written. Its abstract names grid-level alignment
with category text and, in training only, image-level alignment with CLIP's image encoder. Their
forms here are our reading: docs/papers.md lists every choice.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from gridclip.io.errors import InputError
from gridclip.models.base import Weights, as_boxes, freeze_unused, unlearnable
from gridclip.models.dense.detector import Grid, box_losses, grid_of, inside
from gridclip.models.dense.grid_head import Projections
from gridclip.models.dense.region_ensemble import RegionEnsemble
from gridclip.models.dense.second_opinion import SecondOpinion
from gridclip.models.dense.word_region import WordRegionLoss
from gridclip.models.encoders.attention_pool import Pooled
from gridclip.models.encoders.backbones import Backbone, student_projection
from gridclip.models.encoders.teachers import Teacher
from gridclip.models.encoders.text import TextBank
from gridclip.models.gridclip.keeping import Keeping, OldSelf, SideBranches, lost
from gridclip.models.gridclip.losses import Negatives, PseudoLabelLoss
from gridclip.models.gridclip.prompt import Prompt, PromptedDetector
from gridclip.models.gridclip.region_alignment import (
    RegionAlignment,
    look_at,
    owners_of,
    unannotated,
)
from gridclip.ops.assigners import Assigner
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.losses import ImageDistance, image_alignment
from gridclip.ops.postprocess import DecodeSettings
from gridclip.ops.vectors import require_same_width
from gridclip.structures import (
    Batch,
    ConceptBatch,
    DetectionBatch,
    ImageBatch,
    Images,
    Predictions,
    RegionTargets,
)


@dataclass(frozen=True, kw_only=True)
class LossWeights(Weights):
    """Weight of each loss; at zero it is not computed, nor is the teacher loaded for it.

    Args:
        grid: Grid-level alignment: cells against category text.
        image: Image-level alignment: the image's embedding against the frozen teacher's.
        region: Region-level alignment: cells of a region against the frozen teacher's view of it.
        box: Generalised IoU of boxes.
        centreness: How central a cell is to its box.
        unboxed: Image-level alignment too, of image-level batches: images without boxes.
        pseudo: Pseudo-labels of image-level batches: pooled cells against category text.
        words: Captions of images without boxes: phrases against regions (DetCLIPv2).
    """

    grid: float = 1.0
    image: float = 0.1
    region: float = 0.0
    box: float = 2.0
    centreness: float = 1.0
    unboxed: float = 0.0
    pseudo: float = 0.0
    words: float = 0.0


def load_teacher(teacher: Teacher | None, weights: LossWeights) -> Teacher | None:
    """Builds the teacher's network if a loss needs it.

    Raises:
        InputError: if one does, and there is no teacher.
    """
    if not (weights.image or weights.unboxed or (weights.region and teacher is not None)):
        return None
    if teacher is None:
        asked = f"weights.image = {weights.image}, weights.unboxed = {weights.unboxed}"
        raise InputError(
            f"image-level alignment ({asked}) has no teacher",
            field="teacher",
            fix="name a teacher, such as ClipTeacher, or set both weights to 0",
        )
    teacher.load()
    return teacher


def check_residual(backbone: Backbone, text_width: int) -> None:
    """Refuses to add a pool's map to embeddings of another width.

    Raises:
        InputError: if the backbone has no attention pool, or one of another width.
    """
    pool = backbone.pool
    if pool is None or pool.embed_dim != text_width:
        has = "no attention pool" if pool is None else f"a pool of width {pool.embed_dim}"
        raise InputError(
            f"the backbone has {has}, the text vectors have width {text_width}",
            field="clip_residual",
            fix="take backbone and text from the same CLIP, or set clip_residual to false",
        )


_WEIGHTS, _NEGATIVES = LossWeights(), Negatives()
_REGIONS, _KEEPING = RegionAlignment(), Keeping()
_PSEUDO_LABEL_LOSS, _WORDS = PseudoLabelLoss(), WordRegionLoss()


class GridCLIP(PromptedDetector):
    """Backbone, pyramid and grid head, aligned with CLIP at the level of cells and of images.

    Args:
        backbone: Images to maps; a CLIP image tower, or any timm network.
        text: Names to unit vectors of width D.
        assigner: Which cell learns which object.
        teacher: The frozen image tower that teaches; needed where `weights.image` or
            `weights.unboxed` > 0, or `weights.region` > 0 and the data stores no regions, and not
            loaded where none is.
        width: Channels of pyramid and head.
        num_convs: Convolutions of each head tower; 4 in FCOS.
        clip_residual: Add the attention pool's map of cells, upsampled, to the embeddings. The pool
            must have the width of the text vectors, as it has in one and the same CLIP.
        weights: Weight of each loss.
        image_distance: Form of the image-level alignment.
        regions: Form of the region-level alignment. Regions are those that the data stores
            (`data.init_args.regions`), or else those that the teacher is shown at each step.
        negatives: Which names count as negatives in grid-level alignment.
        pseudo_labels: What image-level batches teach where `weights.pseudo` > 0.
        words: What captions teach where `weights.words` > 0.
        decoding: How many detections leave.
        prior: Score of every cell and name at the start (focal loss, 1708.02002, section 3.3).
        temperature: 1 / scale of the cosine at the start; the scale is learned.
        recompute: Make activations again for the gradients: less memory, about a third more time.
        ensemble: A frozen tower's second opinion on the boxes, at inference.
        keeping: How a training that starts from a run keeps what that knew.
        prompt: Learn shifts of the text vectors of these names, and nothing else.
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
        image_distance: ImageDistance = "cosine",
        regions: RegionAlignment = _REGIONS,
        negatives: Negatives = _NEGATIVES,
        pseudo_labels: PseudoLabelLoss = _PSEUDO_LABEL_LOSS,
        words: WordRegionLoss = _WORDS,
        decoding: DecodeSettings = DecodeSettings(),
        prior: float = 0.01,
        temperature: float = 0.07,
        recompute: bool = False,
        ensemble: RegionEnsemble | None = None,
        keeping: Keeping = _KEEPING,
        prompt: Prompt | None = None,
    ) -> None:
        grid = Grid(width, num_convs, prior, temperature, foldable=not clip_residual)
        super().__init__(backbone, text, assigner, grid, decoding, ensemble, prompt)
        self.weights, self.image_distance, self.regions = weights, image_distance, regions
        self.region_view = regions.view if weights.region else None
        self.clip_residual = clip_residual
        self.negatives, self.pseudo_labels, self.words = negatives, pseudo_labels, words
        self.teacher = load_teacher(teacher, weights)
        self.to_teacher = self.teacher and student_projection(backbone, self.teacher.width)
        if weights.region and regions.branch == "own":
            self._add_branch()
        if clip_residual:
            check_residual(backbone, text.width)
        if recompute:
            self.recompute()
        self._freeze_unused()
        self.keeping = keeping
        self.old: OldSelf | None = None
        self.branches: SideBranches | None = None
        keeping.rest(self)
        self.rest()

    def remember(self) -> None:
        """Keeps a frozen copy where the training looks back at it."""
        if self.keeping.looks_back:
            self.old = OldSelf(self)
        if self.old is not None and self.keeping.fined:
            self.branches = SideBranches(self.head, self.old)

    def train(self, mode: bool = True) -> "GridCLIP":
        """A frozen backbone keeps its statistics too."""
        super().train(mode)
        if self.keeping.learns != "all":
            self.backbone.eval()
        return self

    def _add_branch(self) -> None:
        """Gives region-level alignment an embedding of its own, and a say in the score.

        Raises:
            InputError: if it should have a say, and the teacher's space is not that of the text.
        """
        seen = self.text.width if self.teacher is None else self.teacher.width
        if self.regions.opinion:
            require_same_width(seen, self.text.width, field="regions.opinion")
        align = self.head.add_second(seen)
        if self.regions.opinion:
            weights = self.regions.opinion, self.regions.novel_opinion
            self.opinion = SecondOpinion(align, self.text, *weights)

    def pretrained(self) -> list[nn.Module]:
        """The backbone starts from CLIP or ImageNet, a text tower that is trained from CLIP."""
        return [self.backbone, self.text] if self.prompt is None else []

    def teacher_fingerprint(self) -> str | None:
        """That of the teacher of image-level alignment."""
        return None if self.teacher is None else self.teacher.fingerprint()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses, of those whose weight is not zero.

        Of boxes, of names or phrases: grid, box, centreness, and image. Of image-level batches:
        unboxed and pseudo. Of captions: words.

        Raises:
            InputError: at image-level batches or captions, if no weight lets them teach.
        """
        if isinstance(batch, ImageBatch):
            return self._image_level_losses(batch)
        if isinstance(batch, DetectionBatch):
            if self.prompt is not None:
                return self.prompt_losses(batch, self.negatives)
            return self._detection_losses(batch)
        if batch.kind != "pairs":
            return self._detection_losses(as_boxes(batch))
        if not self.weights.words:
            raise unlearnable("GridCLIP", batch)
        return {"words": self.weights.words * self._word_loss(batch)}

    def _predict(self, images: Images, projections: Projections | None = None) -> Predictions:
        maps = self.backbone(images)
        aligned = self.training and self.weights.image > 0
        pooled = self._pool(images, maps, aligned)
        predictions = self._read(maps, projections, self._residual(pooled))
        if not aligned:
            return predictions
        return predictions._replace(image=self._image_embedding(maps, pooled))

    def _detection_losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        if self.keeping.looks_back and self.old is None:
            raise lost(self.keeping)
        if self.branches is not None:
            self.branches.forget()
        predictions = self(batch.images, batch.vocabulary)
        assigned = self.assigner(predictions.cells, batch.targets)
        losses = box_losses(predictions, assigned, self.weights.box, self.weights.centreness)
        cosines = self.cosines(predictions.embeddings, batch.vocabulary)
        leniency = self.negatives.leniency(cosines, predictions.cells, batch.targets)
        if self.weights.region:
            regions = self._regions(batch, predictions, cosines)
            if self.regions.spare:
                spared = unannotated(predictions.cells, regions, batch.targets)
                leniency = leniency.sparing(spared)
            losses["region"] = self._region_loss(predictions, regions)
        if self.opinion is not None and predictions.aligned is not None:
            self.opinion.follow(predictions.aligned, cosines.text, assigned.labels)
        if self.weights.grid:
            losses["grid"] = self.weights.grid * self.alignment(
                cosines, assigned.labels, self.negatives.mask(batch), leniency
            )
        if self.weights.image:
            losses["image"] = self.weights.image * self._gap_to_teacher(predictions.image, batch)
        return losses | self.keeping.losses(
            predictions, batch, assigned.positive, self.old, self.branches
        )

    def _regions(
        self, batch: DetectionBatch, predictions: Predictions, cosines: Cosines
    ) -> list[RegionTargets]:
        """Regions with the teacher's embeddings: the stored ones, or what it is shown now.

        Raises:
            InputError: if there is neither.
        """
        if batch.regions is not None:
            return batch.regions
        if self.teacher is None:
            raise InputError(
                f"weights.region = {self.weights.region}, but this batch carries no embeddings of "
                "regions, and there is no teacher",
                field="teacher",
                fix="name a teacher, or store regions (gridclip propose, gridclip clip "
                "embed-proposals) and name the file as data.init_args.regions",
            )
        proposed = [
            each.boxes[each.scores >= self.regions.least]
            for each in self.proposals(predictions, cosines)
        ]
        return look_at(self.teacher, batch, proposed, self.regions)

    def _region_loss(
        self, predictions: Predictions, regions: list[RegionTargets]
    ) -> Float[Tensor, ""]:
        """Region-level alignment with the weight that it has by now."""
        own = self.regions.branch == "own"
        student = predictions.aligned if own else predictions.embeddings
        assert student is not None  # the head makes it in training
        seen = regions[0].embeddings.shape[1]
        require_same_width(seen, student.shape[-1], field="data.init_args.regions")
        owners = owners_of(self.assigner, predictions.cells, regions)
        weight = self.weights.region * self.regions.share(self.progress)
        return weight * self.regions.gap(student, owners, regions)

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
            cells, embeddings = grid_of(towers, self._residual(pooled))
            losses["pseudo"] = weights.pseudo * self.pseudo_labels.loss(
                self.cosines(embeddings, batch.vocabulary),
                inside(cells, batch.images),
                batch.scores,
            )
        return losses

    def _word_loss(self, batch: ConceptBatch) -> Float[Tensor, ""]:
        """Phrases against the regions of their images (DetCLIPv2), with the residual if any."""
        maps = self.backbone(batch.images)
        residual = self._residual(self._pool(batch.images, maps, aligned=False))
        predictions = self._read(maps, residual=residual)
        cosines = self.cosines(predictions.embeddings, batch.vocabulary)
        return self.words.loss(
            cosines, predictions.boxes, inside(predictions.cells, batch.images), batch
        )

    def _gap_to_teacher(
        self, student: Float[Tensor, "B E"], batch: DetectionBatch | ImageBatch
    ) -> Float[Tensor, ""]:
        """The teacher runs only if the batch does not carry its embeddings."""
        assert self.teacher is not None  # loaded where a weight asks for it
        truth = self.teacher(batch.images) if batch.teacher is None else batch.teacher
        return image_alignment(student, truth, distance=self.image_distance)

    def _pool(self, images: Images, maps: list[Tensor], aligned: bool) -> Pooled | None:
        """The backbone's own embeddings, where something reads them."""
        return self.backbone.embed(images, maps[-1]) if self.clip_residual or aligned else None

    def _residual(self, pooled: Pooled | None) -> Float[Tensor, "B D h w"] | None:
        """The attention pool's map of cells, where that is to be added to their embeddings."""
        return pooled.grid if self.clip_residual and pooled is not None else None

    def _image_embedding(self, maps: list[Tensor], pooled: Pooled | None) -> Float[Tensor, "B E"]:
        """The image's embedding in the teacher's space."""
        assert self.to_teacher is not None  # made with the teacher
        seen = maps[-1].mean((2, 3)) if pooled is None else pooled.image
        embedding: Tensor = self.to_teacher(seen)
        return embedding

    def _freeze_unused(self) -> None:
        """Freezes what no loss reads; drops the attention pool where nothing reads it at all."""
        weights, head, pool = self.weights, self.head, self.backbone.pool
        logits = weights.grid + weights.pseudo
        embeddings = logits + weights.words
        features = embeddings + weights.region
        parts: list[tuple[nn.Module | nn.Parameter | None, float | bool]] = [
            (head.embedding_tower, features),
            (head.embed, embeddings),
            (head.align, weights.region),
            (self.log_scale, logits),
            (self.bias, logits),
            (head.box, weights.box),
            (head.scales, weights.box),
            (head.centreness, weights.centreness),
        ]
        if self.teacher is None and pool is not None:
            # Without the image's own vector only the values of cells are read: the residual.
            parts += [(pool, embeddings), (pool.query, False), (pool.key, False)]
            if not self.clip_residual:
                self.backbone.pool = None
        freeze_unused(parts)
