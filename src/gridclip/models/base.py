"""What every detector is: a module with three verbs, and what shared code asks of it besides."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gridclip.io.errors import InputError, require_range
from gridclip.models.encoders.region_encoders import encoder_weights, load_encoder
from gridclip.structures import (
    Batch,
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
        """Weights losses, and leaves out those whose weight is zero."""
        weights = asdict(self)
        return {name: weights[name] * loss for name, loss in losses.items() if weights[name]}


class Detector(nn.Module, ABC):
    """A detector of whatever a vocabulary names: `forward`, `losses`, `detect`.

    Attributes:
        progress: Share of the training that is done, in [0, 1], for weights that rise with it.
        trained_on: The names it has been trained on; None before any training.
        region_view: How the teacher of its regions is shown one; None if it learns from none.
        finds_masks: Whether its detections have masks, and it learns from those of objects.
        past_arguments: Arguments of the constructor that a trained detector no longer needs: files
            of parts whose weights its checkpoint holds, and what only its evaluation was given.
            `gridclip.load` sets them to None, since the files may be gone.
    """

    progress: float = 0.0
    trained_on: Vocabulary | None = None
    region_view: str | None = None
    finds_masks: bool = False
    past_arguments: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, images: Images, vocabulary: Vocabulary) -> tuple[Any, ...]:
        """Predicts, in pixels of the resized images: a NamedTuple, of grid cells or of regions."""

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

    def region_features(
        self, images: Images, boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P D"]:
        """Unit vectors of the boxes of all images, in the space of the text vectors.

        Args:
            images: The images.
            boxes: xyxy of each image, pixels of the resized image.

        Raises:
            InputError: if the detector cannot see boxes that it is given.
        """
        raise self._reads_no_boxes()

    def fitting_cosine(self, region: Float[Tensor, "D"]) -> Float[Tensor, ""]:
        """The cosine at which a new name fits a region as well as not.

        Args:
            region: Unit vector, of `region_features`.

        Raises:
            InputError: if the detector cannot see boxes that it is given.
        """
        raise self._reads_no_boxes()

    def _reads_no_boxes(self) -> InputError:
        return InputError(
            f"{type(self).__name__} finds its own regions and reads no others",
            field="run",
            fix="give a run of GridCLIP, DetCLIPv2, ViLD or RegionCLIP",
        )

    def pretrained(self) -> list[nn.Module]:
        """Parts that start from pre-trained weights and should learn more slowly."""
        return []

    def meet(self, vocabulary: Vocabulary) -> None:
        """Takes note of the names that it is being trained on."""
        self.trained_on = vocabulary

    def learned(self, vocabulary: Vocabulary) -> Bool[Tensor, "K"]:
        """Names that were trained on; before any training all count as such."""
        known = set((self.trained_on or vocabulary).names)
        marks = [name in known for name in vocabulary.names]
        return torch.tensor(marks, device=next(self.parameters()).device)

    def younger(self, names: Set[str]) -> dict[str, Tensor]:
        """Returns what a checkpoint of an earlier version lacks, as it starts.

        Args:
            names: Of the checkpoint's tensors. If it is one of another model, nothing is returned.
        """
        return {}

    def remember(self) -> None:
        """Is called once the weights of another training of this model are loaded to go on from."""

    def fingerprint(self) -> str:
        """Names the frozen networks that a checkpoint leaves out but its weights depend on."""
        return ""

    def teacher_fingerprint(self) -> str | None:
        """Names the frozen teacher whose embeddings it learns from; None if it has none."""
        return None

    @property
    def image_encoder(self) -> nn.Module | None:
        """The part that sees images, if a pre-trained region encoder can initialise it."""
        return None

    def initialise_from(self, state: Mapping[str, Tensor], file: str | Path) -> bool:
        """Initialises parts from a checkpoint of another detector.

        Here it is `image_encoder`, from a checkpoint that holds a region encoder and nothing else.

        Args:
            state: Weights by their names in the checkpoint.
            file: Where they were read.

        Returns:
            Whether the checkpoint is of a kind that the detector knows. If not, nothing has
            changed, and it can only be one of the very same model.

        Raises:
            InputError: if it is, but of another network than the detector's.
        """
        weights = encoder_weights(state)
        if weights is None:
            return False
        if self.image_encoder is None:
            raise InputError(
                f"holds a region encoder, of which {type(self).__name__} has no use",
                file=file,
                field="init_from",
                fix="start a detector from it that has a backbone, or regions, of that network",
            )
        load_encoder(self.image_encoder, weights, file)
        return True


def freeze_unused(parts: Iterable[tuple[nn.Module | nn.Parameter | None, float | bool]]) -> None:
    """Freezes what no loss reads: it costs no backward pass, and DDP does not wait for it.

    Args:
        parts: Parts, if they are there, each with the weight of the losses that read it, or with
            whether one does.
    """
    for part, weight in parts:
        if part is not None and not weight:
            part.requires_grad_(False)


def as_boxes(batch: ConceptBatch) -> DetectionBatch:
    """Concepts with boxes as any names with boxes; what has no box there verifies nothing."""
    boxed = torch.zeros_like(batch.present)
    for row, target in zip(boxed, batch.targets, strict=True):
        row[target.labels] = True
    verified = boxed | ~batch.present
    if batch.verified is not None:
        verified &= batch.verified
    return DetectionBatch(batch.images, batch.targets, batch.vocabulary, batch.records, verified)


def unlearnable(detector: str, batch: Batch) -> InputError:
    """Returns the refusal of a kind of batch from which a detector learns nothing."""
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
