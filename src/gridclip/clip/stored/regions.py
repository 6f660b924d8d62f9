"""Stored embeddings of regions of training images, so that no step pays for their crops."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from gridclip.clip.stored.by_path import StoredByPath


class RegionsOfImage(NamedTuple):
    """What a frozen CLIP saw in regions of one image, best proposal first."""

    boxes: Float32[np.ndarray, "R 4"]  # xyxy, pixels of the original image, not mirrored
    embeddings: Float32[np.ndarray, "R E"]  # unit length, but for the rounding of float16


class StoredRegions(StoredByPath):
    """A teacher's embeddings of proposals, as they are and mirrored, by the path of their image.

    They are of crops of the stored picture, so they hold for a proposal that a view shows whole,
    resized and perhaps mirrored; not for one that a crop cuts, nor under other colours.

    Attributes:
        recipe: How the crops were made.
    """

    form = "gridclip regions 1"
    maker = "gridclip clip embed-proposals"
    lacking = "have no embedded proposals"
    fix = (
        "propose for all training images and embed them: gridclip propose, then "
        "gridclip clip embed-proposals"
    )

    def __init__(self, file: str | Path) -> None:
        super().__init__(file)
        self.recipe = self.columns.header["recipe"]
        self._limit = int(self.columns.header["limit"])
        self._counts, self._boxes = (self.columns.column(name) for name in ("counts", "boxes"))

    def __len__(self) -> int:
        return int(self._counts.sum())

    def of(self, path: str, mirrored: bool) -> RegionsOfImage:
        """Give the regions of an image, with the embeddings of their crops or mirrored crops.

        Args:
            path: As the annotation file or source names it.
            mirrored: Which of the two.

        Raises:
            InputError: if the image is not among those embedded.
        """
        row = self._row(path)
        first = row * self._limit
        rows = slice(first, first + int(self._counts[row]))
        vectors = np.asarray(self._vectors[rows, int(mirrored)], dtype=np.float32)
        return RegionsOfImage(np.asarray(self._boxes[rows]), vectors)
