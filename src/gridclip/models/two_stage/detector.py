"""What a two-stage detector is, and what it says of its proposals."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.data.annotations.reader import read_annotations
from gridclip.data.annotations.table import Annotations, Ragged
from gridclip.io.errors import InputError
from gridclip.io.state_dicts import fill, read_torch
from gridclip.models.base import Detector
from gridclip.models.encoders.region_encoders import RegionEncoder
from gridclip.models.encoders.text import TextBank
from gridclip.models.two_stage.mask_head import MaskHead
from gridclip.ops.postprocess import DecodeSettings, decode
from gridclip.ops.vectors import unit
from gridclip.structures import Detections, Images, Proposals, Record, Vocabulary


class RegionPredictions(NamedTuple):
    """What a two-stage detector says of the P proposals of all images, image after image."""

    proposals: list[Proposals]
    boxes: Float[Tensor, "P 4"]  # the proposals, refined; xyxy, pixels of the resized image
    text: Float[Tensor, "P D"] | None  # unit vectors that learned from names
    image: Float[Tensor, "P D"] | None  # unit vectors that learned from a CLIP's view of regions
    levels: list[Tensor] | None = None  # pyramid, finest first, of a detector that has masks

    @property
    def objectness(self) -> Float[Tensor, "P"]:
        """Score of every proposal, whatever it shows."""
        return torch.cat([found.scores for found in self.proposals])


class TwoStageDetector(Detector):
    """A detector whose first stage knows no names; its second compares regions with text.

    Attributes:
        text: Names to unit vectors.
        decoding: How many detections leave.
        given: Boxes that `detect` names in place of proposals; `forward` then takes them too.
        mask_head: What finds the objects' masks in the boxes that leave, if it finds any.
    """

    text: TextBank
    decoding: DecodeSettings
    given: "GivenBoxes | None" = None
    mask_head: MaskHead | None  # where `finds_masks`

    def fingerprint(self) -> str:
        """Regions are aligned with these text vectors; others would be another language."""
        return self.text.fingerprint()

    @abstractmethod
    def propose(self, images: Images) -> list[Proposals]:
        """Returns the proposals of each image, whatever they show."""

    @abstractmethod
    def scores(
        self, predictions: RegionPredictions, vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Score of every name in every region."""

    @torch.no_grad()
    def detect(
        self, images: Images, vocabulary: Vocabulary, records: list[Record]
    ) -> list[Detections]:
        """Detections of each image, best first, in pixels of the original images."""
        if self.given is None:
            predictions: RegionPredictions = self(images, vocabulary)
        else:
            predictions = self(images, vocabulary, self.given.of(images, records))
        scores = self.scores(predictions, vocabulary)
        counts = [len(found.boxes) for found in predictions.proposals]
        parts = (scores.split(counts), predictions.boxes.split(counts), images.sizes, records)
        found = [decode(*each, self.decoding) for each in zip(*parts, strict=True)]
        if not self.finds_masks:
            return found
        assert self.mask_head is not None  # it finds them
        assert predictions.levels is not None  # which are kept for it
        return self.mask_head.complete(predictions.levels, found, images, records)


class RegionReader(TwoStageDetector):
    """A two-stage detector that says of any box what it shows, not of its own proposals alone.

    Attributes:
        regions: Images to a map, and boxes of it to vectors in the space of the text vectors.
    """

    regions: RegionEncoder

    def pretrained(self) -> list[nn.Module]:
        """The encoder starts from CLIP, or from pre-training on regions."""
        return [self.regions]

    @property
    def image_encoder(self) -> nn.Module:
        """The region encoder."""
        return self.regions

    def region_features(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P D"]:
        """Unit vectors of the boxes of all images, in the space of the text vectors.

        Args:
            images: The images.
            boxes: xyxy of each image, pixels of the resized image.
        """
        return unit(self.regions(images, boxes))

    @abstractmethod
    def classify(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]], vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Probability of each name in each box, if it shows one of them: rows add up to 1.

        Args:
            images: The images.
            boxes: xyxy of each image, pixels of the resized image.
            vocabulary: What it may show.
        """


_MARK = "detector."
_FIX = "give a checkpoint of a run, and that run's recipe as the proposer: config.yaml beside it"


def load_proposer(proposer: TwoStageDetector | None, file: str) -> None:
    """Loads the detector of a run's checkpoint.

    Raises:
        InputError: if there is no proposer, or the file is missing, unreadable, or of another
            detector.
    """
    if proposer is None:
        fix = "give the recipe of its detector as the proposer"
        raise InputError("is a checkpoint of nothing", field="checkpoint", fix=fix)
    state = read_torch(file, field="checkpoint", fix=_FIX).get("state_dict", {})
    own = {name.removeprefix(_MARK): state[name] for name in state if name.startswith(_MARK)}
    fill(proposer, own, file, field="checkpoint", fix=_FIX)


class GivenBoxes:
    """The annotated boxes of each image of a file, by the image's id.

    Args:
        file: A json file in LVIS or COCO form; read when it is first asked.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def of(self, images: Images, records: list[Record]) -> list[Proposals]:
        """Returns each image's boxes in pixels of the resized image, each with the score 1.

        Raises:
            InputError: if an image is not of the file.
        """
        found = []
        for record, size in zip(records, images.sizes, strict=True):
            row = self._rows.get(record.image_id)
            if row is None:
                raise InputError(
                    f"has no image {record.image_id}",
                    fix="give the annotation file of the images that are evaluated",
                    file=self.file,
                    field="given",
                )
            boxes = torch.tensor(self._boxes.of(row))
            height, width = size.tolist()
            scale = torch.tensor([width / record.width, height / record.height]).repeat(2)
            corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1) * scale
            corners = corners.float().to(images.pixels.device)
            found.append(Proposals(corners, torch.ones_like(corners[:, 0])))
        return found

    @cached_property
    def _annotations(self) -> Annotations:
        return read_annotations(self.file, rules="evaluation")

    @property
    def _boxes(self) -> Ragged:
        assert self._annotations.scored is not None  # the rules of evaluation read them
        return self._annotations.scored.boxes

    @cached_property
    def _rows(self) -> dict[int, int]:
        """Row of each image, by its id."""
        return {image: row for row, image in enumerate(self._annotations.image_ids.tolist())}
