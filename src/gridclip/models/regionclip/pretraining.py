"""RegionCLIP's pre-training (2112.09106): regions learn concepts from captions, without boxes.

Regions of captioned images are named by a frozen teacher, from a pool of concepts that all
captions together mention. The student learns these names (contrast), the teacher's doubts
(distillation), and which caption belongs to which image. Student and teacher start as the same
encoder. What is learnt is the encoder alone: `RegionCLIP` and `GridCLIP` can start from it.
"""

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gridclip.data.category_names import read_names
from gridclip.io.errors import InputError, require_at_least, require_range
from gridclip.models.base import Weights
from gridclip.models.encoders.open_clip import Frozen
from gridclip.models.encoders.region_encoders import RegionEncoder, whole
from gridclip.models.encoders.text import TextBank
from gridclip.models.regionclip.region_sources import RandomRegions, RegionSource
from gridclip.models.two_stage.detector import GivenBoxes, RegionPredictions, RegionReader
from gridclip.models.two_stage.roi_head import Fusion, fuse
from gridclip.ops.distributed import share_of_mean, total
from gridclip.ops.losses import info_nce
from gridclip.ops.postprocess import DecodeSettings
from gridclip.ops.vectors import require_same_width, unit
from gridclip.structures import Batch, ConceptBatch, Images, Proposals, Vocabulary


@dataclass(frozen=True, kw_only=True)
class PretrainingWeights(Weights):
    """Weight of each loss; at zero it is not computed. All 1 as published.

    Args:
        region: Regions against the concepts that the teacher sees in them.
        distillation: Regions against the teacher's distribution over the pool.
        image: Images against captions, both ways.
    """

    region: float = 1.0
    distillation: float = 1.0
    image: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Temperatures:
    """What cosines are divided by, in each loss. All 0.01 as published.

    Args:
        teacher: Where the teacher decides which regions it is sure of.
        region: In the contrast of regions with concepts.
        distillation: In both distributions over the pool.
        image: In the contrast of images with captions.
    """

    teacher: float = 0.01
    region: float = 0.01
    distillation: float = 0.01
    image: float = 0.01

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            require_range(value, f"temperatures.{name}", above=0)


_WEIGHTS, _TEMPERATURES = PretrainingWeights(), Temperatures()
_DECODING = DecodeSettings(nms_iou=0.5)


class RegionPretraining(RegionReader):
    """Student, teacher, text and concepts; detection is zero-shot, by the student's cosines.

    Args:
        regions: The student.
        text: Names and captions to unit vectors of the student's space.
        concepts: The pool: names, or a file of them, as `gridclip data concepts` writes it.
        source: Where regions come from; random boxes by default.
        teacher: Another encoder than the student as it starts.
        teacher_text: The teacher's text vectors, where it lives in another space.
        teacher_scale: The teacher sees images enlarged so many times: small objects have more
            cells of its map. 1 as published.
        weights: Weight of each loss.
        temperatures: What cosines are divided by.
        threshold: Regions teach whose likeliest concept the teacher gives more than this; all do
            where there is none.
        given: An annotation file: evaluation names its boxes, in place of those of the source.
        fusion: How a proposal's objectness counts in a score.
        decoding: How many detections leave.
    """

    past_arguments = ("given",)

    def __init__(
        self,
        regions: RegionEncoder,
        text: TextBank,
        concepts: str | list[str],
        source: RegionSource | None = None,
        teacher: RegionEncoder | None = None,
        teacher_text: TextBank | None = None,
        teacher_scale: int = 1,
        weights: PretrainingWeights = _WEIGHTS,
        temperatures: Temperatures = _TEMPERATURES,
        threshold: float = 0.1,
        given: str | None = None,
        fusion: Fusion = "sigmoid",
        decoding: DecodeSettings = _DECODING,
    ) -> None:
        super().__init__()
        self.regions, self.text, self.source = regions, text, source or RandomRegions()
        self.concepts = (
            read_names(Path(concepts)) if isinstance(concepts, str) else Vocabulary(concepts)
        )
        self.weights, self.temperatures, self.threshold = weights, temperatures, threshold
        self.given = None if given is None else GivenBoxes(given)
        self.decoding = decoding
        # All given boxes are objects, so their objectness says nothing.
        self.fusion: Fusion = fusion if given is None else "none"
        self.looks = weights.region > 0 or weights.distillation > 0
        self.teacher: Frozen | None = None
        self.teacher_text, self.teacher_scale = teacher_text or text, teacher_scale
        require_at_least(1, teacher_scale=teacher_scale)
        if self.looks:
            teacher = teacher or copy.deepcopy(regions)
            require_same_width(teacher.width, self.teacher_text.width, field="teacher")
            self.teacher = Frozen(teacher)
        require_same_width(regions.width, text.width, field="regions")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses, of those whose weight is not zero: region, distillation, image.

        Raises:
            InputError: at another batch than one of captioned images.
        """
        if not isinstance(batch, ConceptBatch) or batch.kind != "pairs":
            raise InputError(
                "RegionPretraining learns from captioned images alone",
                field="data.class_path",
                fix="use HybridData with pairs, and neither detection nor grounding",
            )
        boxes = self._boxes(batch)
        regions, images = self._see(batch.images, boxes)
        taught = self._taught(batch.images, boxes)
        captions = self.text.say(batch.captions) if self.weights.image else None
        losses: dict[str, Tensor] = {}
        # In single precision, as everything that a small temperature divides.
        with torch.autocast(regions.device.type, enabled=False):
            if taught is not None:
                losses |= self._region_losses(regions, taught)
            if captions is not None:
                losses["image"] = info_nce(images, captions, self.temperatures.image)
        return self.weights.apply(losses)

    def propose(self, images: Images) -> list[Proposals]:
        """Returns the regions of each image, whatever they show."""
        return self.source.propose(images)

    def forward(
        self, images: Images, vocabulary: Vocabulary, given: list[Proposals] | None = None
    ) -> RegionPredictions:
        """Embeds the regions of each image, or given ones; names play no part in it."""
        proposals = given or self.propose(images)
        boxes = [found.boxes for found in proposals]
        features = self.region_features(images, boxes)
        return RegionPredictions(proposals, torch.cat(boxes), features, None)

    def classify(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]], vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Probability of each name in each box, if it shows one of them: rows add up to 1."""
        return self._logits(self.region_features(images, boxes), vocabulary).softmax(-1)

    def scores(
        self, predictions: RegionPredictions, vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Score of every name in every region.

        A background scores as a cosine of zero would, as in RegionCLIP's released code.
        """
        assert predictions.text is not None
        named = F.pad(self._logits(predictions.text, vocabulary), (0, 1)).softmax(-1)[:, :-1]
        return fuse(named, predictions.objectness, self.fusion)

    def _boxes(self, batch: ConceptBatch) -> list[Float[Tensor, "_ 4"]]:
        """The regions that a step sees, if a loss reads any."""
        if self.looks:
            return self.source(batch)
        return [box[:0] for box in whole(batch.images.sizes)]

    def _see(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]]
    ) -> tuple[Float[Tensor, "P D"], Float[Tensor, "B D"]]:
        """The student's unit vectors of regions, and of whole images without their padding."""
        wholes = whole(images.sizes)
        both = [torch.cat(each) for each in zip(boxes, wholes, strict=True)]
        vectors = unit(self.regions(images, both)).split([len(each) for each in both])
        return torch.cat([each[:-1] for each in vectors]), torch.stack([v[-1] for v in vectors])

    def _taught(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P E"] | None:
        """The teacher's unit vectors of regions, if a loss looks at any."""
        if self.teacher is None:
            return None
        return unit(self.teacher(*enlarged(images, boxes, self.teacher_scale)))

    def _region_losses(
        self, regions: Float[Tensor, "P D"], taught: Float[Tensor, "P E"]
    ) -> dict[str, Tensor]:
        truth = taught @ self.teacher_text(self.concepts).mT
        kept = confident(truth, self.temperatures.teacher, self.threshold)
        truth, cosines = truth[kept], regions[kept] @ self.text(self.concepts).mT
        return {
            "region": region_contrast(cosines, truth.argmax(-1), self.temperatures.region),
            "distillation": concept_distillation(cosines, truth, self.temperatures.distillation),
        }

    def _logits(
        self, features: Float[Tensor, "P D"], vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        with torch.autocast(features.device.type, enabled=False):
            return features @ self.text(vocabulary).mT / self.temperatures.region


def enlarged(
    images: Images, boxes: list[Float[Tensor, "_ 4"]], scale: int
) -> tuple[Images, list[Float[Tensor, "_ 4"]]]:
    """Images and boxes in them so many times as large; the padding grows as well."""
    if scale == 1:
        return images, boxes
    pixels = images.pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    for shown, image, (height, width) in zip(
        pixels, images.pixels, images.sizes.tolist(), strict=True
    ):
        alone = image[None, :, :height, :width].float()
        smooth = F.interpolate(alone, scale_factor=scale, mode="bilinear")[0]
        shown[:, : scale * height, : scale * width] = smooth.round().byte()
    return Images(pixels, images.sizes * scale), [each * scale for each in boxes]


def confident(
    cosines: Float[Tensor, "P C"], temperature: float, threshold: float
) -> Bool[Tensor, "P"]:
    """Regions whose likeliest concept the teacher gives more than the threshold.

    All of them where none of any process is so sure, as in the released code.

    Args:
        cosines: The teacher's, of regions with all concepts of the pool.
        temperature: What cosines are divided by.
        threshold: Least probability of the likeliest concept.
    """
    sure = (cosines / temperature).softmax(-1).amax(-1) > threshold
    return sure | (total(sure.sum().float()) == 0)


def region_contrast(
    cosines: Float[Tensor, "P C"], labels: Int[Tensor, "P"], temperature: float
) -> Float[Tensor, ""]:
    """Region to text: the labels of all regions compete, all equal ones are positives.

    -log of the share of the columns k with m_k = m_i in the softmax over the labels m_k of all
    regions. Equal columns have equal cosines, so n of them are one whose logit is greater by log n,
    and the loss is a cross-entropy over concepts: of other processes only counts are needed.

    Deviation: regions of all processes compete; in the released code only those of one GPU do.

    Args:
        cosines: The student's, of this process' regions with all concepts of the pool.
        labels: The concept of each region, as the teacher sees it: rows of the pool.
        temperature: What cosines are divided by.
    """
    counts = total(torch.bincount(labels, minlength=cosines.shape[1]).to(cosines.dtype))
    logits = cosines / temperature + counts.log()
    return share_of_mean(F.cross_entropy(logits, labels, reduction="sum"), len(labels))


def concept_distillation(
    student: Float[Tensor, "P C"], teacher: Float[Tensor, "P C"], temperature: float
) -> Float[Tensor, ""]:
    """KL divergence of the student's distribution over the pool from the teacher's.

    Args:
        student: Cosines of regions with concepts.
        teacher: The same regions' and concepts'; it gets no gradient.
        temperature: What both are divided by.
    """
    own = (student / temperature).log_softmax(-1)
    truth = (teacher.detach() / temperature).log_softmax(-1)
    return share_of_mean(F.kl_div(own, truth, reduction="sum", log_target=True), len(student))
