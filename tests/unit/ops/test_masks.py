"""Masks on the grids of boxes, held against torchvision's masks of whole images."""

import math

import pytest
import torch
from torchvision.models.detection.roi_heads import maskrcnn_loss, paste_masks_in_image
from torchvision.ops import box_iou

from gridclip.ops.masks import mask_loss, paste, project

SIDE, CELLS = 28, 112


@pytest.fixture(autouse=True)
def _chance():
    torch.manual_seed(0)


def objects():
    """Three objects whose boxes are as many pixels as a grid has cells, and one of half of them."""
    boxes = torch.tensor([[10.0, 20, 122, 132], [100, 50, 212, 162], [60, 130, 172, 242]])
    masks = (torch.rand(3, 8, 8) < 0.6).to(torch.uint8)
    return boxes, masks.repeat_interleave(14, 1).repeat_interleave(14, 2)


def regions_on(boxes):
    owners = torch.arange(len(boxes)).repeat_interleave(6)
    moved = boxes[owners] + torch.randn(len(owners), 4) * 12
    return owners, moved


def test_the_loss_is_torchvisions_of_masks_of_whole_images():
    boxes, masks = objects()
    owners, regions = regions_on(boxes)
    logits = torch.randn(len(owners), SIDE, SIDE)
    ours = mask_loss(logits, project(masks, owners, boxes[owners], regions, SIDE))
    whole = torch.zeros(3, 260, 240, dtype=torch.uint8)
    for image, mask, (x1, y1, x2, y2) in zip(whole, masks, boxes.int().tolist(), strict=True):
        image[y1:y2, x1:x2] = mask
    # torchvision's points lie half a pixel further right and down than the region says.
    theirs = maskrcnn_loss(
        logits[:, None], [regions - 0.5], [whole], [torch.zeros(3, dtype=torch.long)], [owners]
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_grid_follows_a_box_of_any_size():
    boxes, masks = objects()
    owners, regions = regions_on(boxes)
    scale = torch.tensor([0.3, 2.5, 0.3, 2.5])
    one = project(masks, owners, boxes[owners], regions, SIDE)
    other = project(masks, owners, boxes[owners] * scale, regions * scale, SIDE)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_a_region_beside_its_object_shows_nothing_of_it():
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    masks = torch.ones(1, CELLS, CELLS, dtype=torch.uint8)
    beside = torch.tensor([[12.0, 0, 22, 10]])
    assert project(masks, torch.zeros(1, dtype=torch.long), boxes, beside, 4).abs().max() == 0


def test_no_region_costs_nothing_and_keeps_a_gradient():
    logits = torch.zeros(0, SIDE, SIDE, requires_grad=True)
    loss = mask_loss(logits, torch.zeros(0, SIDE, SIDE))
    loss.backward()
    assert loss.item() == 0


def naive(mask, box, size):
    """Whether each pixel's middle is inside, by bilinear interpolation written as a loop."""
    (x1, y1, x2, y2), side = box.tolist(), len(mask)

    def cell(row, column):
        inside = 0 <= row < side and 0 <= column < side
        return mask[row, column].item() if inside else 0.0

    seen = torch.zeros(size, dtype=torch.bool)
    for y in range(max(0, math.floor(y1)), min(size[0], math.ceil(y2))):
        for x in range(max(0, math.floor(x1)), min(size[1], math.ceil(x2))):
            u = (x + 0.5 - x1) / (x2 - x1) * side - 0.5
            v = (y + 0.5 - y1) / (y2 - y1) * side - 0.5
            left, top = math.floor(u), math.floor(v)
            a, b = u - left, v - top
            upper = (1 - a) * cell(top, left) + a * cell(top, left + 1)
            lower = (1 - a) * cell(top + 1, left) + a * cell(top + 1, left + 1)
            seen[y, x] = (1 - b) * upper + b * lower > 0.5
    return seen


def whole(mask, box, size):
    seen = torch.zeros(size, dtype=torch.bool)
    pixels, (left, top) = paste(mask, box, size)
    seen[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return seen


@pytest.mark.parametrize(
    "box", [[3.2, 4.9, 21.7, 17.1], [-6.5, 5, 12, 30], [10, 12, 11.5, 12.4], [5, 5, 5, 9]]
)
def test_a_mask_is_pasted_where_its_box_lies(box):
    mask, size = torch.rand(6, 6), (24, 30)
    box = torch.tensor(box, dtype=torch.float32)
    seen = whole(mask, box, size)
    assert (seen == (naive(mask, box, size) if box[2] > box[0] else False)).all()


def test_large_masks_lie_where_torchvision_pastes_them():
    mask = torch.zeros(SIDE, SIDE)
    mask[3:20, 5:25] = 1
    box, size = torch.tensor([20.0, 30, 160, 150]), (200, 220)
    ours = whole(mask, box, size)
    theirs = paste_masks_in_image(mask[None, None], box[None], size)[0, 0] > 0.5
    both = [
        torch.tensor([[x.min(), y.min(), x.max() + 1, y.max() + 1]]).float()
        for y, x in (ours.nonzero().T, theirs.nonzero().T)
    ]
    assert box_iou(*both).item() > 0.97
