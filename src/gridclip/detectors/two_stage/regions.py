"""What a two-stage detector is, and what it says of its proposals."""

from abc import abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from gridclip.decode import DecodeSettings, decode
from gridclip.detectors.base import Detector
from gridclip.structures import Detections, Images, Record, Vocabulary


class Proposals(NamedTuple):
    """Where something may be in one image, best first."""

    boxes: Float[Tensor, "R 4"]  # xyxy, pixels of the resized image
    scores: Float[Tensor, "R"]  # objectness in [0, 1]


class RegionPredictions(NamedTuple):
    """What a two-stage detector says of the P proposals of all images, image after image."""

    proposals: list[Proposals]
    boxes: Float[Tensor, "P 4"]  # the proposals, refined; xyxy, pixels of the resized image
    text: Float[Tensor, "P D"] | None  # unit vectors that learned from names
    image: Float[Tensor, "P D"] | None  # unit vectors that learned from a CLIP's view of regions

    def decoded(
        self,
        scores: Float[Tensor, "P K"],
        images: Images,
        records: list[Record],
        settings: DecodeSettings,
    ) -> list[Detections]:
        """Detections of each image, best first, in pixels of the original images."""
        counts = [len(found.boxes) for found in self.proposals]
        each = zip(
            scores.split(counts), self.boxes.split(counts), images.sizes, records, strict=True
        )
        return [decode(*image, settings) for image in each]


class TwoStageDetector(Detector):
    """A detector whose first stage knows no names."""

    @abstractmethod
    def propose(self, images: Images) -> list[Proposals]:
        """Give the proposals of each image, whatever they show."""


class RegionReader(TwoStageDetector):
    """A two-stage detector that says of any box what it shows, not of its own proposals alone."""

    @abstractmethod
    def region_features(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P D"]:
        """Unit vectors of the boxes of all images, in the space of the text vectors.

        Args:
            images: The pictures.
            boxes: xyxy of each picture, pixels of the resized image.
        """

    @abstractmethod
    def classify(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]], vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Probability of each name in each box, if it shows one of them: rows add up to 1.

        Args:
            images: The pictures.
            boxes: xyxy of each picture, pixels of the resized image.
            vocabulary: What it may show.
        """
