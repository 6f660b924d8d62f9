"""Region-level alignment: the cells of a region learn what a frozen CLIP says of that region.

Image-level alignment ends in a vector of the whole image, which no cell reads. Here the same
teacher looks at regions, those of objects that nobody annotated among them, and the cells that
belong to a region are drawn to its embedding: ViLD's distillation (2104.13921, section 3.4) and
CLIPSelf's (2310.01403), carried to the cells of a one-stage detector. The teacher is absent at
inference.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from gridclip.io.errors import InputError, require_at_least, require_fraction, require_positive
from gridclip.models.encoders.region_views import RegionView, embed_regions
from gridclip.models.encoders.teachers import Teacher
from gridclip.ops.assigners import Assigner
from gridclip.ops.boxes import contained
from gridclip.ops.distributed import share_of_mean
from gridclip.structures import Cells, DetectionBatch, RegionTargets, Targets

RegionDistance = Literal["cosine", "l1", "contrastive"]
Branch = Literal["own", "shared"]


@dataclass(frozen=True, kw_only=True)
class RegionAlignment:
    """What is aligned in the cells of regions, from when on, and which cells it spares.

    Args:
        branch: `own`: a second embedding beside the one that names learn from, made of the same
            features by one more 1 × 1 convolution, so that both need not be met by one vector.
            `shared`: the one embedding learns both, in the space of the text vectors.
        opinion: Of an own branch: its weight, in [0, 1], in the score at inference, where names
            compete (`decoding.score`); 0 leaves it out.
        novel_opinion: The same for names that no training box showed; None: as for all.
            ViLD-ensemble has a third and two thirds (section 3.4).
        distance: `cosine`: 1 - cos. `l1`: the sum of differences (ViLD). `contrastive`: a cell
            finds its region among all of the batch, as alike as the teacher finds them.
        temperature: Of contrastive: what cosines are divided by.
        begin: Share of the training after which it begins, in [0, 1); its weight then rises in a
            straight line over a tenth of the training.
        spare: Whether cells in a region that no box overlaps are nobody's negatives: they may show
            an object that nobody annotated.
        found: Where the data stores no regions: at most so many of the network's own proposals of
            an image are shown to the teacher at each step, beside the annotated boxes.
        least: Least score, in [0, 1], of such a proposal.
        jitter: Annotated boxes are shown to the teacher moved by up to this share of their sides.
        view: How the teacher is shown what is not stored.
    """

    branch: Branch = "own"
    opinion: float = 0.5
    novel_opinion: float | None = None
    distance: RegionDistance = "cosine"
    temperature: float = 0.05
    begin: float = 0.0
    spare: bool = True
    found: int = 8
    least: float = 0.2
    jitter: float = 0.1
    view: RegionView = "pasted"

    def __post_init__(self) -> None:
        require_positive(**{"regions.temperature": self.temperature})
        require_fraction(
            **{
                "regions.begin": self.begin,
                "regions.opinion": self.opinion,
                "regions.novel_opinion": self.novel_opinion or 0.0,
                "regions.least": self.least,
                "regions.jitter": self.jitter,
            }
        )
        require_at_least(0, **{"regions.found": self.found})
        if self.begin == 1:
            raise InputError(
                "region-level alignment would never begin",
                field="regions.begin",
                fix="give less than 1, or set weights.region to 0",
            )

    def share(self, progress: float) -> float:
        """Share of the weight after this share of the training, in [0, 1]."""
        return min(1.0, max(0.0, (progress - self.begin) / _RISE)) if self.begin else 1.0

    def gap(
        self,
        student: Float[Tensor, "B N E"],
        owners: Int[Tensor, "B N"],
        regions: list[RegionTargets],
    ) -> Float[Tensor, ""]:
        """Mean distance of the cells that belong to a region from its embedding.

        Args:
            student: Unit vectors of the cells.
            owners: Row of each cell's region in its image; -1: none.
            regions: Boxes and unit vectors of each image.
        """
        counts = torch.tensor([0, *(len(each.boxes) for each in regions)], device=owners.device)
        rows = (owners + counts.cumsum(0)[:-1, None])[owners >= 0]
        vectors = torch.cat([each.embeddings for each in regions]).to(student.dtype)
        cells = student[owners >= 0]
        return share_of_mean(self._gaps(cells, vectors, rows).sum(), len(cells))

    def _gaps(
        self, cells: Float[Tensor, "n E"], vectors: Float[Tensor, "R E"], rows: Int[Tensor, "n"]
    ) -> Float[Tensor, "n"]:
        """Gap between each cell and the vector of its region, one of the batch's R."""
        match self.distance:
            case "cosine":
                return 1 - (cells * vectors[rows]).sum(-1)
            case "l1":
                return (cells - vectors[rows]).abs().sum(-1)
            case "contrastive":
                if not len(vectors):
                    return cells.sum(-1)  # of no cell
                alike = (vectors[rows] @ vectors.mT / self.temperature).softmax(-1)
                logits = cells @ vectors.mT / self.temperature
                return F.cross_entropy(logits, alike, reduction="none")


_RISE = 0.1  # share of the training over which the weight rises
_OVERLAP = 0.5  # IoU from which a region and an annotated box are one object


def owners_of(assigner: Assigner, cells: Cells, regions: list[RegionTargets]) -> Int[Tensor, "B N"]:
    """Row of the region that each cell belongs to, by the rule that assigns objects; -1: none."""
    device = cells.centres.device
    rows = [torch.arange(len(each.boxes), device=device) for each in regions]
    shown = [Targets(each.boxes, row) for each, row in zip(regions, rows, strict=True)]
    return assigner(cells, shown).labels


def unannotated(
    cells: Cells, regions: list[RegionTargets], targets: list[Targets]
) -> Bool[Tensor, "B N"]:
    """Cells that lie in a region which no annotated box overlaps, and in no annotated box."""
    rows = []
    for each, target in zip(regions, targets, strict=True):
        free = each.boxes
        if len(free) and len(target.boxes):
            free = free[box_iou(free, target.boxes).amax(1) < _OVERLAP]
        inside = contained(cells.centres, free)
        rows.append(inside & ~contained(cells.centres, target.boxes))
    return torch.stack(rows)


@torch.no_grad()
def look_at(
    teacher: Teacher,
    batch: DetectionBatch,
    proposals: list[Float[Tensor, "_ 4"]],
    settings: RegionAlignment,
) -> list[RegionTargets]:
    """What the teacher says of annotated boxes, jittered, and of proposals that none overlaps.

    Args:
        teacher: Loaded.
        batch: Images and annotated boxes.
        proposals: xyxy of each image, pixels of the resized image, best first.
        settings: How many, and how they are shown.
    """
    boxes = []
    for target, proposed, (height, width) in zip(
        batch.targets, proposals, batch.images.sizes.tolist(), strict=True
    ):
        moved = clip_boxes_to_image(jittered(target.boxes, settings.jitter), (height, width))
        free = proposed
        if len(free) and len(target.boxes):
            free = free[box_iou(free, target.boxes).amax(1) < _OVERLAP]
        free = clip_boxes_to_image(free[: settings.found], (height, width))
        both = torch.cat([moved, free])
        boxes.append(both[(both[:, 2:] - both[:, :2] >= 1).all(1)])
    seen = embed_regions(teacher, batch.images, boxes, settings.view)
    return [RegionTargets(*pair) for pair in zip(boxes, seen, strict=True)]


def jittered(boxes: Float[Tensor, "T 4"], share: float) -> Float[Tensor, "T 4"]:
    """Boxes with each corner moved by up to this share of their sides, at random."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + share * sides * (2 * torch.rand_like(boxes) - 1)
