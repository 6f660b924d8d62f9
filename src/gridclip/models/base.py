"""What every detector is: a module with three verbs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from gridclip.io.errors import InputError, require_range
from gridclip.structures import (
    ConceptBatch,
    DetectionBatch,
    Detections,
    ImageBatch,
    Images,
    Record,
    Vocabulary,
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of losses by their names.

    Raises:
        InputError: if one is negative or no finite number.
    """

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            require_range(value, f"weights.{name}", least=0)

    def apply(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weight losses, and leave out those whose weight is zero."""
        weights = asdict(self)
        return {name: weights[name] * loss for name, loss in losses.items() if weights[name]}


Batch = DetectionBatch | ImageBatch | ConceptBatch
"""What a training step may be given."""


class Detector(nn.Module, ABC):
    """A detector of whatever a vocabulary names: `forward`, `losses`, `detect`.

    Attributes:
        trained_on: The names it has been trained on; None before any training.
    """

    trained_on: Vocabulary | None = None

    @abstractmethod
    def forward(self, images: Images, vocabulary: Vocabulary) -> tuple[Any, ...]:
        """Predict, in pixels of the resized images: a NamedTuple, of grid cells or of regions."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted scalar losses to be summed; the keys are the names they are logged under.

        Raises:
            InputError: if the detector cannot learn from this kind of batch.
        """

    @abstractmethod
    def detect(
        self, images: Images, vocabulary: Vocabulary, records: list[Record]
    ) -> list[Detections]:
        """Detections of each image, best first, in pixels of the original images."""

    def pretrained(self) -> list[nn.Module]:
        """Parts that start from pre-trained weights and should learn more slowly."""
        return []

    def learned(self, vocabulary: Vocabulary) -> Bool[Tensor, "K"]:
        """Names that were trained on; before any training all count as such."""
        known = set((self.trained_on or vocabulary).names)
        marks = [name in known for name in vocabulary.names]
        return torch.tensor(marks, device=next(self.parameters()).device)

    def fingerprint(self) -> str:
        """Names the frozen networks that a checkpoint leaves out but its weights depend on."""
        return ""


def as_boxes(batch: ConceptBatch) -> DetectionBatch:
    """Concepts with boxes as any names with boxes; what is said without a box verifies nothing."""
    boxed = torch.zeros_like(batch.present)
    for row, target in zip(boxed, batch.targets, strict=True):
        row[target.labels] = True
    verified = boxed | ~batch.present
    if batch.verified is not None:
        verified &= batch.verified
    return DetectionBatch(batch.images, batch.targets, batch.vocabulary, batch.records, verified)


def unlearnable(detector: str, batch: Batch) -> InputError:
    """What to tell when a detector is given a kind of batch from which it learns nothing."""
    if isinstance(batch, ImageBatch):
        problem, field = "images without boxes", "data.init_args.image_level"
        return InputError(
            f"{detector} learns nothing from {problem}", field=field, fix=f"leave {field} out"
        )
    return InputError(
        f"{detector} learns nothing from concepts of several kinds of data",
        field="data.class_path",
        fix="use DetectionData, or a detector that is made for hybrid training",
    )
