"""Pictures of several sizes into one padded batch."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gridclip.data.unboxed.image_level import ImageSample
from gridclip.structures import (
    DetectionBatch,
    ImageBatch,
    Images,
    Record,
    RegionTargets,
    Targets,
    Vocabulary,
)

Part = TypeVar("Part")


class Sample(NamedTuple):
    """One image of a data set, ready for the network."""

    picture: UInt8[Tensor, "3 h w"]
    targets: Targets
    record: Record
    verified: Bool[Tensor, "K"] | None = None  # names whose presence or absence the boxes tell
    teacher: Float[Tensor, "E"] | None = None  # the stored embedding of this very view
    regions: RegionTargets | None = None  # proposals in it, with stored embeddings


def pad(pictures: Sequence[UInt8[Tensor, "3 _ _"]], multiple: int = 32) -> Images:
    """Put pictures into one tensor, zeros to the right and below.

    Args:
        pictures: RGB, any sizes.
        multiple: Height and width of the batch become multiples of this, so that each pyramid level
            is half of the one before.
    """
    sizes = torch.tensor([picture.shape[1:] for picture in pictures])
    height, width = (-(-sizes.amax(0) // multiple) * multiple).tolist()
    pixels = torch.empty(len(pictures), 3, height, width, dtype=torch.uint8)
    for canvas, picture in zip(pixels, pictures, strict=True):
        _, bottom, right = picture.shape
        _copy(picture, canvas[:, :bottom, :right])
        canvas[:, bottom:] = 0
        canvas[:, :bottom, right:] = 0
    return Images(pixels, sizes)


def _copy(picture: UInt8[Tensor, "3 h w"], canvas: UInt8[Tensor, "3 h w"]) -> None:
    """Copy a picture; OpenCV takes colours apart (channels last in memory) in half torch's time."""
    import cv2

    rows = picture.permute(1, 2, 0)
    if not rows.is_contiguous():
        canvas.copy_(picture)
        return
    for channel, plane in enumerate(canvas.numpy()):
        cv2.extractChannel(rows.numpy(), channel, plane)


class Collate:
    """Makes a batch of samples that share a vocabulary.

    Args:
        vocabulary: What the labels are rows of.
        multiple: As in `pad`.
        shares: Share of the training images that show each name; evaluation has none.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        multiple: int = 32,
        shares: Float[Tensor, "K"] | None = None,
    ) -> None:
        self.vocabulary, self.multiple, self.shares = vocabulary, multiple, shares

    def __call__(self, samples: list[Sample]) -> DetectionBatch:
        """Pad and gather."""
        return DetectionBatch(
            images=pad([sample.picture for sample in samples], self.multiple),
            targets=[sample.targets for sample in samples],
            vocabulary=self.vocabulary,
            records=[sample.record for sample in samples],
            verified=_stack([sample.verified for sample in samples]),
            teacher=_stack([sample.teacher for sample in samples]),
            shares=self.shares,
            regions=_all([sample.regions for sample in samples]),
        )


class CollateImages(Collate):
    """The same of images without boxes; the vocabulary is what the scores are of."""

    def __call__(self, samples: list[ImageSample]) -> ImageBatch:  # type: ignore[override]
        """Pad and gather."""
        return ImageBatch(
            images=pad([sample.picture for sample in samples], self.multiple),
            scores=torch.stack([sample.scores for sample in samples]),
            vocabulary=self.vocabulary,
            records=[sample.record for sample in samples],
            teacher=_stack([sample.teacher for sample in samples]),
        )


def _all(values: Sequence[Part | None]) -> list[Part] | None:
    """Give what all have; what one lacks all lack, because a data set has it or not."""
    return [value for value in values if value is not None] or None


def _stack(values: list[Tensor | None]) -> Tensor | None:
    present = _all(values)
    return None if present is None else torch.stack(present)
