"""Images without boxes: the shape of every source of them."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.sampling import Draw
from gridclip.structures import Record, Vocabulary


class ImageSample(NamedTuple):
    """One image without boxes, ready for the network."""

    picture: UInt8[Tensor, "3 h w"]
    scores: Float[Tensor, "K"]  # pseudo-label of each name in [0, 1]; 0 where it was not kept
    record: Record
    teacher: Float[Tensor, "E"] | None = None  # the stored embedding of this very view


class ImageLevelSource(Dataset[ImageSample], ABC):
    """Images read by index, so that any order can be had and resumed.

    Attributes:
        vocabulary: What the scores are of.
        sizes: Height and width of each image, in pixels of the original image.
    """

    vocabulary: Vocabulary
    sizes: Int64[np.ndarray, "I 2"]

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def check(self) -> None:
        """Refuse, before any training, what cannot be read.

        Raises:
            InputError: naming file, field and fix.
        """

    @abstractmethod
    def __getitem__(self, draw: Draw | int) -> ImageSample:
        """Read and transform one image; augmentation is a function of (seed, epoch, row) alone."""
