"""The mask branch: its shapes, what it learns, and whose masks it completes."""

import pytest
import torch
from torch.nn import functional as F

from gridclip.models.two_stage.mask_head import MaskHead, MaskSettings
from gridclip.ops.masks import mask_loss, project
from gridclip.structures import Detections, Images, Record


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MaskHead(8, (4, 8), 32.0, MaskSettings(num_convs=1, side=7), "group")


def levels():
    return [torch.randn(2, 8, 16, 16), torch.randn(2, 8, 8, 8), torch.randn(2, 8, 4, 4)]


def test_published_masks_have_28_cells_a_side_from_four_convolutions_and_a_deconvolution():
    head = MaskHead(16, (4, 8, 16), 224.0, MaskSettings(), "batch")
    kinds = [type(layer).__name__ for layer in head.layers]
    assert (kinds.count("Conv2d"), kinds.count("ConvTranspose2d")) == (5, 1)
    assert head.layers[-1].out_channels == 1  # whatever the name
    pyramid = [torch.randn(1, 16, 64 // step, 64 // step) for step in (4, 8, 16)]
    assert head(pyramid, [torch.tensor([[4.0, 4, 40, 40]])]).shape == (1, 28, 28)


def test_masks_go_with_the_boxes_that_leave_in_the_frame_of_the_network(head):
    images = Images(
        torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64], [32, 64]])
    )
    records = [Record(1, "", 128, 128), Record(2, "", 32, 64)]
    seen, pyramid = torch.tensor([[4.0, 8, 40, 44], [0, 0, 30, 30]]), levels()
    scores, labels = torch.tensor([0.9, 0.5]), torch.tensor([0, 1])
    found = [Detections(seen * 2, scores, labels), Detections(seen[:1], scores[:1], labels[:1])]
    first, second = head.complete(pyramid, found, images, records)
    expected = head(pyramid, [seen, seen[:1]]).sigmoid()
    torch.testing.assert_close(torch.cat([first.masks, second.masks]), expected)
    torch.testing.assert_close(first.boxes, seen * 2)
    assert first.take(torch.tensor([1])).masks.shape == (1, 14, 14)


def test_no_detection_has_no_mask(head):
    images = Images(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]]))
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    (found,) = head.complete(
        [level[:1] for level in levels()], [nothing], images, [Record(1, "", 64, 64)]
    )
    assert found.masks.shape == (0, 14, 14)


def test_the_branch_learns_masks_that_it_can_see(head):
    """The object is where a channel of the map is high."""
    shown = torch.zeros(1, 1, 64, 64)
    shown[0, 0, 16:48, 20:36] = 1
    pyramid = [F.avg_pool2d(shown, step).expand(1, 8, -1, -1) for step in (4, 8, 16)]
    box = torch.tensor([[8.0, 8, 56, 56]])
    mask = F.interpolate(shown[..., 8:56, 8:56], (112, 112))[0].to(torch.uint8)
    wanted = project(mask, torch.zeros(1, dtype=torch.long), box, box, head.side)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(60):
        loss = mask_loss(head(pyramid, [box]), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (head(pyramid, [box]) > 0) == (wanted > 0.5)
    assert right.float().mean() > 0.97
