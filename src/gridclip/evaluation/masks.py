"""Masks of annotated and of detected objects as columns: codes (`ops.rle`) and sizes of images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from gridclip.ops.masks import paste
from gridclip.ops.rle import Size, areas, encode
from gridclip.structures import Detections


class Masks(NamedTuple):
    """Masks of M objects."""

    codes: Shaped[np.ndarray, "M"]  # bytes, each a Python object
    sizes: Int[np.ndarray, "M 2"]  # height and width of the image of each

    @staticmethod
    def of(codes: Sequence[bytes], sizes: Int[np.ndarray, "M 2"]) -> "Masks":
        """Makes a column of codes."""
        column = np.empty(len(codes), dtype=object)
        column[:] = codes
        return Masks(column, sizes)

    def take(self, rows: Int[np.ndarray, "S"] | Bool[np.ndarray, "M"]) -> "Masks":
        """Returns the masks at these indices, or where this mask is true."""
        return Masks(self.codes[rows], self.sizes[rows])

    @property
    def areas(self) -> Float[np.ndarray, "M"]:
        """Pixels of each."""
        sizes = [(height, width) for height, width in self.sizes.tolist()]
        return areas(self.codes.tolist(), sizes)

    def to_json(self) -> list[dict[str, Any]]:
        """Returns each as COCO's json has it, its counts as text."""
        return [
            {"size": size, "counts": code.decode()}
            for code, size in zip(self.codes.tolist(), self.sizes.tolist(), strict=True)
        ]


def mask_codes(found: Detections, size: Size) -> list[bytes]:
    """Returns the masks of detections of one image as codes of it.

    Args:
        found: With masks on grids over the boxes.
        size: Of the original image, in whose pixels the boxes are.
    """
    assert found.masks is not None  # of a detector that finds them
    codes = []
    for mask, box in zip(found.masks.cpu().float(), found.boxes.cpu().float(), strict=True):
        pixels, corner = paste(mask, box, size)
        codes.append(encode(pixels.numpy(), corner, size))
    return codes
