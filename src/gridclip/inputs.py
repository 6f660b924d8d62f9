"""What people hand over: pictures in any form, and boxes in them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from gridclip.data.pictures import read_picture
from gridclip.errors import InputError

Picture = str | Path | Image.Image | UInt8[np.ndarray, "height width 3"]


Boxes = Sequence[Sequence[float | int]] | Float[np.ndarray, "R 4"]
"""xyxy, pixels of the original image."""


def pixels_of(image: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """Give RGB pixels of whatever it is; a file is read."""
    if isinstance(image, str | Path):
        return read_picture(Path(image))
    return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


def corners_of(boxes: Boxes, width: int, height: int) -> Float[np.ndarray, "R 4"]:
    """Give boxes clipped to a picture of this size.

    Raises:
        InputError: naming the first that is no box, or outside.
    """
    try:
        corners = np.asarray(boxes, dtype=np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"are no boxes: {error}", field="boxes", fix="give [x1, y1, x2, y2] for each"
        ) from error
    inside = np.clip(corners, 0, np.array([width, height] * 2))
    wrong = ~np.isfinite(corners).all(1) | ~(inside[:, 2:] > inside[:, :2]).all(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{corners[row].tolist()} is no box of a picture of {width} x {height}",
            field=f"boxes[{row}]",
            fix="give [x1, y1, x2, y2] in pixels of the picture, x1 < x2 and y1 < y2",
        )
    return inside
