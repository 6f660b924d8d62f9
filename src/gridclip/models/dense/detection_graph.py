"""A trained dense detector as one function of tensors: an image in, boxes out.

`DenseDetector.detect` in a form that can be exported: sizes of lists are fixed where they can be,
and nothing is looked up by name. Which names compete is known beforehand, or found by vectors.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from gridclip.io.errors import InputError
from gridclip.models.dense.detector import DenseDetector
from gridclip.models.dense.grid_head import Projections
from gridclip.models.dense.second_opinion import Voices
from gridclip.models.dense.text_folding import TWINS
from gridclip.ops.fixed_size import (
    ABSENT,
    EXCLUDED,
    Contest,
    best_counted,
    top_pairs_of,
    unsuppressed,
)
from gridclip.ops.postprocess import Competition
from gridclip.ops.vectors import unit
from gridclip.structures import Images, Predictions, Vocabulary

MULTIPLE = 32
"""Height and width are padded to multiples of this, as `ops.images.pad` does."""

_SAME = 1 - 1e-5  # cosine of two vectors of one name that were made at different times


class Output(NamedTuple):
    """What is found in one image, best first."""

    boxes: Float[Tensor, "M 4"]  # xyxy, pixels of the image that was given
    scores: Float[Tensor, "M"]  # in [0, 1]
    labels: Int[Tensor, "M"]  # rows of the names


class _Names(NamedTuple):
    """Vectors that cells are compared with: names asked for, then those that only compete."""

    vectors: Float[Tensor, "V D"]
    voices: Float[Tensor, "V E"] | None  # the same for the second embedding, if that has a say
    counted: Float[Tensor, "V"] | None  # 0 or EXCLUDED; None: names do not compete


class DetectionGraph(nn.Module):
    """Finds names in one image of any size; exact, and without a limit on pairs.

    Args:
        detector: With its weights; it is not changed.
        vocabulary: The names, folded in; None: their vectors are an input.
        suppress: Whether suppression is part of it; without it the candidates leave.

    Raises:
        InputError: if the detector's scores need more than its own network, or the suppression is
            of a kind that is not exported.
    """

    vectors: Tensor
    voices: Tensor | None
    known: Tensor | None

    def __init__(
        self, detector: DenseDetector, vocabulary: Vocabulary | None, suppress: bool
    ) -> None:
        super().__init__()
        settings = detector.decoding
        if detector.ensemble is not None:
            raise InputError(
                "an ensemble scores the boxes by another network, which is not exported",
                field="model.detector.init_args.ensemble",
                fix="set it to null in the config.yaml of a copy of the run",
            )
        if suppress and settings.suppression == "soft":
            raise InputError(
                "soft suppression is not part of graphs",
                field="nms",
                fix="leave suppression outside: --nms outside",
            )
        if detector.opinion is not None and detector.opinion.novel_weight is not None:
            raise InputError(
                "a weight of its own for names that no training box showed is not exported",
                field="model.detector.init_args.regions.novel_opinion",
                fix="set it to null in the config.yaml of a copy of the run",
            )
        self.detector, self.suppress, self.settings = detector, suppress, settings
        projections = Projections(detector.folding.projection() or detector.head.projection)
        self.opinion = detector.opinion if settings.score == "competing" else None
        if self.opinion is not None:
            projections = projections._replace(align=self.opinion.projection())
        self.projections, self.fixed = projections, vocabulary is not None
        reference = detector.trained_on if settings.reference else None
        self.competing = settings.score == "competing"
        self.asked = 0 if vocabulary is None else len(vocabulary)
        self.basis = detector.folding.basis()
        self.second_basis = None if self.opinion is None else self.opinion.basis()
        self.register_buffer("known", None)
        if vocabulary is not None:
            self._fix(vocabulary, reference)
        elif self.competing and reference is not None:
            self.known = detector.text(reference)

    @torch.no_grad()
    def _fix(self, vocabulary: Vocabulary, reference: Vocabulary | None) -> None:
        """Makes the vectors of names that are known beforehand, by the detector's own rules."""
        asked = self.detector._asked(vocabulary)
        vectors, voices = asked.names.text, asked.voices
        if asked.rivals is not None:
            vectors = torch.cat([vectors, asked.rivals.others])
        self.register_buffer("vectors", vectors)
        self.register_buffer("voices", None if voices is None else torch.cat(voices[:2]))

    def forward(
        self, image: UInt8[Tensor, "H W 3"], text: Float[Tensor, "K D"] | None = None
    ) -> Output:
        """Finds the names.

        Args:
            image: RGB, resized as for evaluation; any size.
            text: Vectors of the names, of any length, in the space of the detector's text bank;
                where names are folded in, None.
        """
        height, width = image.shape[:2]
        predictions = self._predict(image)
        names = self._names(text)
        asked = self.asked if text is None else text.shape[0]
        with torch.autocast(image.device.type, enabled=False):
            contest, factor = self._contest(predictions, names)
            found = top_pairs_of(contest, asked, factor, self.settings.candidates)
        boxes = clip_boxes_to_image(predictions.boxes[0][found.cells], (height, width))
        scores, labels = found.scores, found.labels
        scores = torch.where(scores >= self.settings.threshold, scores, ABSENT)
        if self.suppress:
            categories = torch.arange(asked, device=labels.device)
            kept = unsuppressed(boxes, scores, labels, categories, self.settings.nms_iou)
            count = min(self.settings.limit, self.settings.candidates)
            scores, rows = torch.where(kept, scores, ABSENT).topk(count)
            boxes, labels = boxes[rows], labels[rows]
        real = (scores >= 0).nonzero()[:, 0]
        return Output(boxes[real], scores[real], labels[real])

    def _predict(self, image: UInt8[Tensor, "H W 3"]) -> Predictions:
        height, width = image.shape[:2]
        # Other runtimes divide negative numbers towards zero, so there are none here.
        right, bottom = (
            (side + MULTIPLE - 1) // MULTIPLE * MULTIPLE - side for side in (width, height)
        )
        pixels = F.pad(image.permute(2, 0, 1)[None].float(), (0, right, 0, bottom))
        sizes = torch.tensor([[height, width]], device=image.device)
        return self.detector._predict(Images(pixels, sizes), self.projections)

    def _names(self, text: Float[Tensor, "K D"] | None) -> _Names:
        if text is None:
            vectors = self.vectors
            counted = vectors.new_zeros(len(vectors)) if self.competing else None
            return _Names(vectors, self.voices, counted)
        text = unit(text)
        if not self.competing:
            return _Names(_in(self.basis, text), None, None)
        everything, counted = text, text.new_zeros(text.shape[0])
        if self.known is not None:
            counted = _counted(text, self.known)
            everything = torch.cat([text, self.known])
        voices = None if self.opinion is None else _in(self.second_basis, everything)
        return _Names(_in(self.basis, everything), voices, counted)

    def _contest(
        self, predictions: Predictions, names: _Names
    ) -> tuple[Contest, Float[Tensor, "N"]]:
        """What scores the cells of the image, and what multiplies the shares of names."""
        central = predictions.centreness[0].sigmoid()
        own = self.detector.against(predictions.embeddings[0], names.vectors)
        contest = Contest(own.scale * own.embeddings, own.text, own.bias, names.counted)
        if names.counted is None:
            return contest, central
        factor = central * best_counted(contest).sigmoid()
        scale = self.detector.score_scale.value
        if self.opinion is not None and names.voices is not None:
            assert predictions.aligned is not None  # made where there is an opinion
            nobody = own.text[:0]
            joined, _ = self.opinion.join(
                own,
                Competition(nobody, scale),
                predictions.aligned[0],
                Voices(names.voices, names.voices[:0]),
            )
            nothing = torch.zeros_like(scale)
            return Contest(joined.embeddings, joined.text, nothing, names.counted), factor
        return contest._replace(cells=scale * contest.cells, bias=scale * contest.bias), factor


def _in(basis: Float[Tensor, "D d"] | None, text: Float[Tensor, "K D"]) -> Float[Tensor, "K _"]:
    return text if basis is None else text @ basis


def _counted(text: Float[Tensor, "K D"], known: Float[Tensor, "R D"]) -> Float[Tensor, "V"]:
    """Which names count in sums, of those that are asked for and of the reference: 0 or EXCLUDED.

    The rule of `Folding.others`, by vectors. What is asked for and has the vector of a reference
    name is that name, which counts once, among the reference. Any other name counts, and those of
    the reference that nearly have its vector do not.
    """
    alike = text @ known.mT
    stranger = alike.amax(1) < _SAME
    displaced = ((alike >= TWINS) & stranger[:, None]).any(0)
    return EXCLUDED * torch.cat([~stranger, displaced]).to(text.dtype)
