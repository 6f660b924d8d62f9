"""An image with its boxes, resized, mirrored, cropped and joined as one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor


class Example(NamedTuple):
    """An image with its boxes, in one and the same frame."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    boxes: Float32[np.ndarray, "T 4"]  # xyxy, pixels of the image
    labels: Int64[np.ndarray, "T"]
    mirrored: bool = False  # left and right are exchanged
    # Names that `rare_split.verified_names` gives for the image; None: every name.
    verified: Int64[np.ndarray, "V"] | None = None
    # Proposals, xyxy like boxes, but neither clipped nor dropped where they leave the image.
    regions: Float32[np.ndarray, "R 4"] | None = None
    # Of each object, 0 and 1 on a grid that is stretched over its box, where masks are asked for.
    masks: UInt8[np.ndarray, "T S S"] | None = None


def to_tensor(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """Puts the channels first, without a copy where the memory may be written."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)


def resize(example: Example, size: tuple[int, int]) -> Example:
    """Resizes image and boxes to a height and width.

    Pixel edges map to pixel edges: x becomes x × (new width / width), with both whole widths. Masks
    go with their boxes.
    """
    height, width = example.image.shape[:2]
    factors = np.array([size[1] / width, size[0] / height] * 2)
    return _moved(
        example._replace(image=resample(example.image, size)),
        lambda boxes: (boxes * factors).astype(np.float32),
    )


def mirror(example: Example) -> Example:
    """Exchanges left and right of image, boxes and masks."""
    import cv2

    width = example.image.shape[1]

    def turned(boxes: Float32[np.ndarray, "T 4"]) -> Float32[np.ndarray, "T 4"]:
        turned = boxes.copy()
        turned[:, [2, 0]] = width - boxes[:, [0, 2]]
        return turned

    example = example._replace(
        image=cv2.flip(example.image, 1),
        mirrored=not example.mirrored,
        masks=None if example.masks is None else example.masks[:, :, ::-1],
    )
    return _moved(example, turned)


def crop(example: Example, window: tuple[int, int, int, int], min_visibility: float) -> Example:
    """Cuts a window out of image and boxes.

    A name whose box lies wholly outside stays verified: the window does not show that object. One
    that loses a box of which something is still to be seen is verified no more.

    Args:
        example: The image with its boxes.
        window: xyxy, whole pixels of the image.
        min_visibility: Boxes that keep less than this fraction of their area are dropped.
    """
    left, top, right, bottom = window
    near, far = np.array([(left, top) * 2, (right, bottom) * 2], dtype=np.float32)
    inside = example.boxes.clip(near, far)
    share = _areas(inside) / np.maximum(_areas(example.boxes), 1e-6)
    kept = (share > 0) & (share >= min_visibility)
    partial = example.labels[(share > 0) & ~kept]
    verified, masks = example.verified, example.masks
    if masks is not None:
        masks = cut_masks(masks[kept], example.boxes[kept], inside[kept])
    return example._replace(
        masks=masks,
        image=example.image[top:bottom, left:right],
        boxes=inside[kept] - near,
        labels=example.labels[kept],
        verified=None if verified is None else verified[~np.isin(verified, partial)],
        regions=None if example.regions is None else example.regions - near,
    )


def cut_masks(
    masks: UInt8[np.ndarray, "T S S"],
    boxes: Float32[np.ndarray, "T 4"],
    parts: Float32[np.ndarray, "T 4"],
) -> UInt8[np.ndarray, "T S S"]:
    """Returns masks on grids over parts of their boxes: the old cells in the new cells' middles.

    Args:
        masks: On grids over the boxes.
        boxes: xyxy, in any frame.
        parts: xyxy, in the same frame, each within its box.
    """
    if (boxes == parts).all():
        return masks
    side = masks.shape[-1]
    middles = (np.arange(side) + 0.5) / side

    def cells(low: int, high: int) -> Int64[np.ndarray, "T S"]:
        start, extent = boxes[:, low, None], boxes[:, high, None] - boxes[:, low, None]
        places = parts[:, low, None] + middles * (parts[:, high, None] - parts[:, low, None])
        return ((places - start) / extent * side).astype(np.int64).clip(0, side - 1)

    rows, columns = cells(1, 3), cells(0, 2)
    found: UInt8[np.ndarray, "T S S"] = masks[
        np.arange(len(masks))[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return found


def wholly_inside(
    boxes: Float32[np.ndarray, "R 4"], size: tuple[int, int]
) -> Bool[np.ndarray, "R"]:
    """Returns which boxes a view shows whole, but for a hundredth of a pixel of rounding.

    Args:
        boxes: xyxy, pixels of the view.
        size: Height and width of the view.
    """
    (left, top, right, bottom), (height, width) = boxes.T, size
    return (left >= -0.01) & (top >= -0.01) & (right <= width + 0.01) & (bottom <= height + 0.01)


def _moved(example: Example, move: Callable[[np.ndarray], np.ndarray]) -> Example:
    """Returns the same image with its boxes and regions moved."""
    regions = None if example.regions is None else move(example.regions)
    return example._replace(boxes=move(example.boxes), regions=regions)


def _areas(boxes: Float32[np.ndarray, "T 4"]) -> Float32[np.ndarray, "T"]:
    areas: Float32[np.ndarray, T] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def resample(
    image: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Resizes an image to a height and width."""
    height, width = size
    if image.shape[:2] == size:
        return image
    import cv2

    # Bilinear sampling reads two pixels of a row, which is enough down to half the size; below that
    # it would skip pixels, so there each is averaged over the area it covers.
    halved = 2 * height < image.shape[0]
    interpolation = cv2.INTER_AREA if halved else cv2.INTER_LINEAR
    resized: UInt8[np.ndarray, "h w 3"] = cv2.resize(
        image, (width, height), interpolation=interpolation
    )
    return resized


IMAGES = 4  # of a mosaic


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Joins parts of four images into one of the size of the first, objects as large as they are.

    Deviation: YOLOv4 and its kin draw four images around the middle of a canvas of twice the
    side and cut or shrink it; here each quarter is a window of its image, at the image's scale.

    Args:
        probability: Probability that a training image is joined with three others.
        min_visibility: Boxes that keep less than this fraction of their area are dropped.
    """

    probability: float = 0.0
    min_visibility: float = 0.1

    def join(self, views: Sequence[Example], generator: np.random.Generator) -> Example:
        """Joins views of four images, in reading order.

        What the whole verifies is what all parts do. Proposals are left out.

        Args:
            views: As training would show each alone. The first gives the size; a part is enlarged
                if its image is too small for its quarter.
            generator: Of the point where they meet, in the middle half of the image, and of what
                is seen of each.
        """
        height, width = views[0].image.shape[:2]
        y, x = (int(generator.uniform(0.25, 0.75) * side) for side in (height, width))
        canvas = np.empty((height, width, 3), dtype=np.uint8)
        corners = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        parts = []
        for view, (left, top, right, bottom) in zip(views, corners, strict=True):
            part = self._part(view, (bottom - top, right - left), generator)
            canvas[top:bottom, left:right] = part.image
            offset = np.array([left, top] * 2, dtype=np.float32)
            parts.append(part._replace(boxes=part.boxes + offset))
        masks = [part.masks for part in parts if part.masks is not None]
        return Example(
            canvas,
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.labels for part in parts]),
            verified=_by_all([part.verified for part in parts]),
            masks=np.concatenate(masks) if masks else None,
        )

    def _part(
        self, view: Example, size: tuple[int, int], generator: np.random.Generator
    ) -> Example:
        """Cuts a window of a height and width out of a view."""
        height, width = view.image.shape[:2]
        zoom = max(size[0] / height, size[1] / width)
        if zoom > 1:
            height, width = max(size[0], round(height * zoom)), max(size[1], round(width * zoom))
            view = resize(view, (height, width))
        top = int(generator.integers(height - size[0] + 1))
        left = int(generator.integers(width - size[1] + 1))
        return crop(view, (left, top, left + size[1], top + size[0]), self.min_visibility)


def _by_all(verified: Sequence[Int64[np.ndarray, "_"] | None]) -> Int64[np.ndarray, "V"] | None:
    """Returns the categories that every part verifies; a part without a list verifies all."""
    lists = [names for names in verified if names is not None]
    return reduce(np.intersect1d, lists) if lists else None
