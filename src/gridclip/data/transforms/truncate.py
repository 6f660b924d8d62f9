"""Objects of which one side is hidden, with boxes that end where the objects now end.

A box regression learns the outlines of the objects that it has boxes of, and completes those that
it has none of to them: a crescent to a disc. Boxes mark what is visible, so hiding a side of an
object and moving the side of its box teaches to look for the end of what is there, whatever it is.
"""

import numpy as np
from jaxtyping import Float32, UInt8

from gridclip.data.transforms.example import Example, cut_masks

_LEAST, _MOST = 0.1, 0.4  # share of a box that is hidden; beyond half, a disc's height changes too
_MARGIN = 1.0  # pixels around a box that may still show its object
_SAME = 0.5  # least IoU of a region that shows the object of a box


def truncate(example: Example, probability: float, generator: np.random.Generator) -> Example:
    """Hides one side of some objects behind a copy of what lies beside them.

    The side of the box moves with it; the two sides next to it stay, which is exact for an object
    that is as wide in what is left of it. Nothing is hidden where another box would be touched, or
    where the image ends too early. Regions that show the object, as judged by their IoU with its
    box, end with it.

    Args:
        example: An image with its boxes.
        probability: For each box.
        generator: Of all choices.

    Returns:
        The same example if nothing was hidden; its image is never written to.
    """
    image, boxes, regions = example.image, example.boxes, example.regions
    for row in np.flatnonzero(generator.random(len(boxes)) < probability):
        side, share = int(generator.integers(4)), generator.uniform(_LEAST, _MOST)
        others = np.delete(boxes, row, axis=0)
        if image is example.image:
            image, boxes = image.copy(), boxes.copy()
        end = _hide(image, boxes[row], others, (side, share))
        if end is None:
            continue
        if regions is not None:
            same = _ious(regions, boxes[row]) > _SAME
            regions = regions.copy()
            clip = np.maximum if side < 2 else np.minimum
            regions[same, side] = clip(regions[same, side], end)
        boxes[row, side] = end
    masks = example.masks
    if masks is not None:
        masks = cut_masks(masks, example.boxes, boxes)
    return example._replace(image=image, boxes=boxes, regions=regions, masks=masks)


def _hide(
    image: UInt8[np.ndarray, "h w 3"],
    box: Float32[np.ndarray, "4"],
    others: Float32[np.ndarray, "T 4"],
    cut: tuple[int, float],
) -> int | None:
    """Hides one side of a box in place.

    Args:
        image: What is written to.
        box: xyxy.
        others: Boxes that must not be touched.
        cut: Which of x1, y1, x2, y2 moves, and by what share of the box.

    Returns:
        Where that side is now; None if nothing was hidden.
    """
    side, share = cut
    across, far = side % 2, side >= 2
    # Whatever the side, it becomes the left one of a view of the same pixels.
    view = image.swapaxes(0, 1) if across else image
    view = view[:, ::-1] if far else view
    length = view.shape[1]
    turned = [_turned(each, across, length if far else 0) for each in (box[None], others)]
    (left, top, right, bottom), rest = turned[0][0], turned[1]
    end = round(float(left + share * (right - left)))
    start = int(np.floor(left - _MARGIN))
    above, below = max(0, int(top - _MARGIN)), int(np.ceil(bottom + _MARGIN))
    source = 2 * start - end
    touched = (rest[:, [0, 1]] < [end, below]).all(1) & (rest[:, [2, 3]] > [source, above]).all(1)
    if end <= left or source < 0 or touched.any():
        return None
    view[above:below, start:end] = view[above:below, source:start]
    return length - end if far else end


def _turned(
    boxes: Float32[np.ndarray, "T 4"], across: int, mirrored: int
) -> Float32[np.ndarray, "T 4"]:
    """Returns boxes in the view that has the wanted side at its left.

    Args:
        boxes: xyxy.
        across: Whether x and y are exchanged.
        mirrored: The view's width where left and right are exchanged, else 0.
    """
    turned = boxes[:, [1, 0, 3, 2]] if across else boxes.copy()
    if mirrored:
        turned[:, [2, 0]] = mirrored - turned[:, [0, 2]]
    return turned


def _ious(
    boxes: Float32[np.ndarray, "R 4"], box: Float32[np.ndarray, "4"]
) -> Float32[np.ndarray, "R"]:
    """Returns the IoU of each box with one."""
    shared = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    overlap = shared.clip(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - overlap
    ious: Float32[np.ndarray, R] = overlap / np.maximum(areas, 1e-6)
    return ious
