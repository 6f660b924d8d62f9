"""Images as callers give them: files, PIL images and arrays, all as RGB pixels of 8 bits.

What says itself what it is gets converted; an array says nothing of itself, so it must be right.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gridclip.data.images.decode import read_upright, rgb_of
from gridclip.io.errors import InputError

ImageLike = str | Path | Image.Image | UInt8[np.ndarray, "height width 3"]

_ARRAY = "an array of RGB, height x width x 3, uint8"
_RANGE = (
    "give RGB from 0 to 255 as uint8: (255 * pixels).round().astype(np.uint8) if they end at 1, "
    "(pixels // 257).astype(np.uint8) if at 65535, pixels.astype(np.uint8) if at 255"
)


def pixels_of(image: object) -> UInt8[np.ndarray, "height width 3"]:
    """Returns RGB pixels of whatever a caller gives.

    A file is read and turned upright, as its EXIF orientation says. A PIL image is converted by its
    mode, and not turned. An array is taken as it is, and nothing about it is guessed: neither where
    its numbers end nor which axis has the channels.

    Args:
        image: A file, a PIL image of 8 bits a channel, or RGB pixels, height x width x 3, uint8.

    Raises:
        InputError: for anything else, with how to make it right.
    """
    if isinstance(image, str | Path):
        return read_upright(Path(image)).pixels
    if isinstance(image, Image.Image):
        pixels = rgb_of(image, "image")
    elif isinstance(image, np.ndarray):
        _require_rgb(image)
        pixels = image
    else:
        kind = f"{type(image).__module__}.{type(image).__qualname__}"
        fix = f"give a file, a PIL image, or {_ARRAY}"
        if hasattr(image, "permute"):  # torch has channels first
            fix += "; of a tensor 3 x height x width: tensor.permute(1, 2, 0).cpu().numpy()"
        raise InputError(f"{kind} is no image", fix=fix, field="image")
    if not pixels.size:
        raise InputError("has no pixels", fix="give one of a pixel or more", field="image")
    return pixels


def listed(images: Sequence[ImageLike] | ImageLike) -> Sequence[ImageLike]:
    """Returns images that are given as a list.

    Raises:
        InputError: for a single one, whose letters or rows would be taken for images.
    """
    if isinstance(images, str | Path | Image.Image | np.ndarray) and getattr(images, "ndim", 0) < 4:
        raise InputError("is one image", fix="give a list: [image]", field="images")
    return cast(Sequence[ImageLike], images)  # an array of several images is a sequence too


def _require_rgb(pixels: np.ndarray) -> None:
    shape = tuple(pixels.shape)
    if pixels.ndim != 3 or shape[2] != 3:
        raise InputError(
            f"its shape {shape} is not height x width x 3", fix=_reshape(shape), field="image"
        )
    if pixels.dtype != np.uint8:
        raise InputError(f"its pixels are {pixels.dtype}", fix=_RANGE, field="image")


def _reshape(shape: tuple[int, ...]) -> str:
    """Returns how to make RGB pixels of an array of this shape."""
    match shape:
        case (_, _):
            return "of grey make three channels: np.stack([pixels] * 3, axis=2)"
        case (_, _, 1):
            return "of grey make three channels: np.repeat(pixels, 3, axis=2)"
        case (_, _, 4):
            return "leave out the transparency: pixels[:, :, :3]"
        case (3, _, _):
            return "put the channels last: pixels.transpose(1, 2, 0)"
        case (_, _, _, 3):
            return "give one image, or all of them to detect_many"
    return f"give {_ARRAY}"
