"""Pictures of several sizes into one padded batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from gridclip.structures import DetectionBatch, Images, Record, Targets, Vocabulary


class Sample(NamedTuple):
    """One image of a data set, ready for the network."""

    picture: UInt8[Tensor, "3 h w"]
    targets: Targets
    record: Record


def pad(pictures: Sequence[UInt8[Tensor, "3 _ _"]], multiple: int = 32) -> Images:
    """Put pictures into one tensor, zeros to the right and below.

    Args:
        pictures: RGB, any sizes.
        multiple: Height and width of the batch become multiples of this, so that each pyramid level
            is half of the one before.
    """
    sizes = torch.tensor([picture.shape[1:] for picture in pictures])
    height, width = (-(-sizes.amax(0) // multiple) * multiple).tolist()
    pixels = torch.zeros(len(pictures), 3, height, width, dtype=torch.uint8)
    for canvas, picture in zip(pixels, pictures, strict=True):
        canvas[:, : picture.shape[1], : picture.shape[2]] = picture
    return Images(pixels, sizes)


class Collate:
    """Makes a batch of samples that share a vocabulary.

    Args:
        vocabulary: What the labels are rows of.
        multiple: As in `pad`.
    """

    def __init__(self, vocabulary: Vocabulary, multiple: int = 32) -> None:
        self.vocabulary, self.multiple = vocabulary, multiple

    def __call__(self, samples: list[Sample]) -> DetectionBatch:
        """Pad and gather."""
        return DetectionBatch(
            images=pad([sample.picture for sample in samples], self.multiple),
            targets=[sample.targets for sample in samples],
            vocabulary=self.vocabulary,
            records=[sample.record for sample in samples],
        )
