"""Masks of what is found: with the objects above the threshold, in rows, and drawn."""

import numpy as np
import torch
from pycocotools import mask as coco

from gridclip.engine.detect.finder import Finder
from gridclip.engine.detect.pictures import with_boxes
from gridclip.structures import Detections

BOXES = torch.tensor([[100.0, 200, 300, 400], [350, 100, 550, 300], [0, 0, 50, 50]])


class Halves(Finder):
    """Finds three objects, each in the left half of its box."""

    def search(self, pixels, vocabulary):
        masks = torch.zeros(3, 8, 8)
        masks[:, :, :4] = 1
        labels = torch.tensor([0, 1, 0])
        return [Detections(BOXES, torch.tensor([0.9, 0.6, 0.2]), labels, masks) for _ in pixels]


def found_in(image, **asked):
    return Halves().detect(image, ["cup", "fork"], **asked)


def test_masks_go_with_the_objects_that_are_kept():
    image = np.full((600, 800, 3), 128, dtype=np.uint8)
    found = found_in(image, threshold=0.5)
    assert [each.name for each in found] == ["cup", "fork"]
    for row, (x1, y1, x2, y2) in zip(found.to_rows(), BOXES.int().tolist(), strict=False):
        assert row["segmentation"]["size"] == [600, 800]
        expected = np.zeros((600, 800), dtype=np.uint8)
        expected[y1:y2, x1 : (x1 + x2) // 2] = 1
        pixels = coco.decode(row["segmentation"])
        # A cell at the border fades out over itself, as in torchvision.
        assert (pixels & expected).sum() / (pixels | expected).sum() > 0.85
    assert len(found.above(0.7).masks) == len(found_in(image, limit=1).masks) == 1
    assert found.above(0.7).masks == found_in(image, limit=1).masks
    assert found_in(image, threshold=0.95).to_rows() == []


def test_objects_are_tinted_and_what_is_beside_them_is_not():
    image = np.full((600, 800, 3), 128, dtype=np.uint8)
    drawn = with_boxes(image, found_in(image, threshold=0.5))
    changed = (drawn != image).any(-1)
    assert changed[300, 150]
    assert changed[200, 400]
    assert not changed[300, 280]
    assert not changed[500, 700]
    assert (image == 128).all()
    assert (drawn[300, 150] != drawn[200, 400]).any()  # a colour a name
