"""Masks go where their objects go, held against the pixels of images that move by the same way."""

import numpy as np
import pytest

from gridclip.data.transforms.augment import Augmentation, Resize, TrainingTransform
from gridclip.data.transforms.example import Example, Mosaic, crop, mirror
from gridclip.ops.masks import MASK_SIDE
from gridclip.ops.rle import encode, grids

SIZE = (200, 240)
BOXES = np.array([[10, 20, 110, 100], [130, 10, 230, 90], [60, 110, 190, 190]], np.float32)


def shapes():
    """An L, a disc and a triangle, each in a channel of its own."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    pixels = np.zeros((*SIZE, 3), dtype=bool)
    pixels[20:100, 10:50, 0] = pixels[70:100, 10:110, 0] = True
    pixels[..., 1] = ((x - 180) / 50) ** 2 + ((y - 50) / 40) ** 2 < 1
    pixels[..., 2] = (y > 110) & (y < 190) & (abs(x - 125) < (y - 110) * 65 / 80)
    return pixels


def example():
    pixels = shapes()
    codes = [encode(pixels[..., row], (0, 0), SIZE) for row in range(3)]
    image = pixels.astype(np.uint8) * 255
    return Example(image, BOXES.copy(), np.arange(3), masks=grids(codes, BOXES, SIZE, MASK_SIDE))


def raster(box, mask, size):
    """Every pixel whose middle lies in a cell of the mask that is 1."""
    x1, y1, x2, y2 = box.tolist()
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    u, v = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)
    inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
    row, column = ((each.clip(0, 0.999) * len(mask)).astype(int) for each in (v, u))
    return inside & (mask[row, column] == 1)


def require_on_their_objects(seen, least):
    for box, label, mask in zip(seen.boxes, seen.labels, seen.masks, strict=True):
        painted = seen.image[..., label] > 127
        ours = raster(box, mask, painted.shape)
        assert (painted & ours).sum() / (painted | ours).sum() > least


def test_masks_on_grids_are_those_of_the_pixels():
    require_on_their_objects(example(), 0.98)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "chances",
    [
        Augmentation(flip=1.0),
        Augmentation(crop=1.0, erosion=0.6, min_visibility=0.05),
        Augmentation(canvas=150, scale=(0.6, 2.5), min_visibility=0.05),
        Augmentation(truncate=0.7, flip=0.0),
    ],
    ids=["flip", "crop", "jitter", "truncate"],
)
def test_masks_stay_on_their_objects(chances, seed):
    transform = TrainingTransform(Resize(shortest=(90, 130), longest=300), chances)
    seen = transform(example(), np.random.default_rng(seed))
    assert len(seen.masks) == len(seen.boxes)
    require_on_their_objects(seen, 0.9)


def test_masks_of_a_mosaic_are_those_of_its_parts():
    views = [example(), mirror(example()), crop(example(), (30, 30, 220, 190), 0.1), example()]
    seen = Mosaic(probability=1.0, min_visibility=0.1).join(views, np.random.default_rng(3))
    assert len(seen.masks) == len(seen.boxes)
    for box, label, mask in zip(seen.boxes, seen.labels, seen.masks, strict=True):
        x1, y1, x2, y2 = box.round().astype(int)
        painted = (seen.image[..., label] > 127)[y1:y2, x1:x2]
        ours = raster(box, mask, seen.image.shape[:2])[y1:y2, x1:x2]
        assert (painted != ours).mean() < 0.1


def test_without_masks_nothing_has_any():
    seen = TrainingTransform(Resize(), Augmentation(crop=1.0, flip=1.0))(
        example()._replace(masks=None), np.random.default_rng(0)
    )
    assert seen.masks is None
