"""A picture with its boxes, resized, mirrored and cropped as one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor


class Example(NamedTuple):
    """A picture with its boxes, in one and the same frame."""

    picture: UInt8[np.ndarray, "h w 3"]  # RGB
    boxes: Float32[np.ndarray, "T 4"]  # xyxy, pixels of the picture
    labels: Int64[np.ndarray, "T"]
    mirrored: bool = False  # left and right are exchanged
    # Names that `rare_split.verified_names` gives for the image; None: every name.
    verified: Int64[np.ndarray, "V"] | None = None
    # Proposals, xyxy like boxes, but neither clipped nor dropped: what leaves the picture is told.
    regions: Float32[np.ndarray, "R 4"] | None = None


def to_tensor(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """Put the channels first, without a copy where the memory may be written."""
    return torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)


def resize(example: Example, size: tuple[int, int]) -> Example:
    """Resize picture and boxes to a height and width.

    Pixel edges map to pixel edges: x becomes x × (new width / width), with both whole widths.
    """
    height, width = example.picture.shape[:2]
    factors = np.array([size[1] / width, size[0] / height] * 2)
    return _moved(
        example._replace(picture=resample(example.picture, size)),
        lambda boxes: (boxes * factors).astype(np.float32),
    )


def mirror(example: Example) -> Example:
    """Exchange left and right of picture and boxes."""
    import cv2

    width = example.picture.shape[1]

    def turned(boxes: Float32[np.ndarray, "T 4"]) -> Float32[np.ndarray, "T 4"]:
        turned = boxes.copy()
        turned[:, [2, 0]] = width - boxes[:, [0, 2]]
        return turned

    return _moved(
        example._replace(picture=cv2.flip(example.picture, 1), mirrored=not example.mirrored),
        turned,
    )


def crop(example: Example, window: tuple[int, int, int, int], min_visibility: float) -> Example:
    """Cut a window out of picture and boxes.

    A name whose box lies wholly outside stays verified: the window does not show that object. One
    that loses a box of which something is still to be seen is verified no more.

    Args:
        example: The picture with its boxes.
        window: xyxy, whole pixels of the picture.
        min_visibility: Boxes that keep less than this fraction of their area are dropped.
    """
    left, top, right, bottom = window
    near, far = np.array([(left, top) * 2, (right, bottom) * 2], dtype=np.float32)
    inside = example.boxes.clip(near, far)
    share = _areas(inside) / np.maximum(_areas(example.boxes), 1e-6)
    kept = (share > 0) & (share >= min_visibility)
    partial = example.labels[(share > 0) & ~kept]
    verified = example.verified
    return example._replace(
        picture=example.picture[top:bottom, left:right],
        boxes=inside[kept] - near,
        labels=example.labels[kept],
        verified=None if verified is None else verified[~np.isin(verified, partial)],
        regions=None if example.regions is None else example.regions - near,
    )


def wholly_inside(
    boxes: Float32[np.ndarray, "R 4"], size: tuple[int, int]
) -> Bool[np.ndarray, "R"]:
    """Tell which boxes a view shows whole, but for a hundredth of a pixel of rounding.

    Args:
        boxes: xyxy, pixels of the view.
        size: Height and width of the view.
    """
    (left, top, right, bottom), (height, width) = boxes.T, size
    return (left >= -0.01) & (top >= -0.01) & (right <= width + 0.01) & (bottom <= height + 0.01)


def _moved(example: Example, move: Callable[[np.ndarray], np.ndarray]) -> Example:
    """The same picture with its boxes and regions elsewhere."""
    regions = None if example.regions is None else move(example.regions)
    return example._replace(boxes=move(example.boxes), regions=regions)


def _areas(boxes: Float32[np.ndarray, "T 4"]) -> Float32[np.ndarray, "T"]:
    areas: Float32[np.ndarray, "T"] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def resample(
    picture: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Resize a picture to a height and width."""
    height, width = size
    if picture.shape[:2] == size:
        return picture
    import cv2

    # Bilinear sampling reads two pixels of a row, which is enough down to half the size; below that
    # it would skip pixels, so there each is averaged over the area it covers.
    halved = 2 * height < picture.shape[0]
    interpolation = cv2.INTER_AREA if halved else cv2.INTER_LINEAR
    resized: UInt8[np.ndarray, "h w 3"] = cv2.resize(
        picture, (width, height), interpolation=interpolation
    )
    return resized
