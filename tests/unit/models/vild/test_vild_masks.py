"""ViLD with its mask branch, whole."""

import pytest
import torch

from gridclip.data.datamodules.noise import ellipses
from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText
from gridclip.models.two_stage.losses import RegionWeights, SamplingSettings
from gridclip.models.two_stage.mask_head import MaskSettings
from gridclip.models.two_stage.roi_head import HeadSettings
from gridclip.models.two_stage.rpn import ProposalSettings
from gridclip.models.vild.model import ViLD
from gridclip.structures import DetectionBatch, Images, Record, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="random")
VOCABULARY = Vocabulary(["red star", "green ring"])


def detector(**settings):
    torch.manual_seed(0)
    return ViLD(
        ClipResNet(MINI),
        ClipText(MINI),
        "vild-text",
        width=16,
        head=HeadSettings(num_convs=0, num_fcs=1, fc_width=32, side=3, norm="group"),
        proposals=ProposalSettings(limit=20, candidates=40, anchor_scales=(4.0,), anchors=32),
        sampling=SamplingSettings(regions=16, positive=0.5),
        mask_head=MaskSettings(num_convs=1, side=5),
        **settings,
    )


def batch(masks=True):
    """Two images, the objects of the second at other places; the second is half as wide."""
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=chance)
    boxes = torch.tensor([[4.0, 4, 40, 44], [2, 30, 30, 60], [3, 3, 28, 33]])
    labels = torch.tensor([1, 0, 1])
    targets = [
        Targets(boxes[rows], labels[rows], ellipses(len(boxes[rows])) if masks else None)
        for rows in (slice(0, 1), slice(1, 3))
    ]
    images = Images(pixels, torch.tensor([[64, 64], [64, 32]]))
    records = [Record(1, "", 128, 128), Record(2, "", 128, 64)]
    return DetectionBatch(images, targets, VOCABULARY, records)


def test_the_mask_loss_comes_beside_the_others_and_reaches_the_branch_and_the_backbone():
    plain, with_masks = detector(), detector(masks=True)
    torch.manual_seed(1)
    expected = plain.losses(batch(masks=False))
    torch.manual_seed(1)
    losses = with_masks.losses(batch())
    assert losses.keys() - expected.keys() == {"mask"}
    assert 0.3 < losses["mask"].item() < 3  # log 2 is that of no idea
    losses["mask"].backward()
    for part in (with_masks.mask_head, with_masks.pyramid, with_masks.backbone):
        assert any(w.grad is not None and w.grad.abs().sum() > 0 for w in part.parameters())
    assert all(w.grad is not None for w in with_masks.mask_head.parameters())


def test_each_object_teaches_the_regions_on_it(monkeypatch):
    """Sampled regions are matched with the masks of their own objects, in both images."""
    seen = {}
    from gridclip.models.vild import model

    def project(masks, owners, truth, boxes, side):
        seen.update(owners=owners, truth=truth, masks=masks)
        return torch.zeros(len(boxes), side, side)

    monkeypatch.setattr(model, "project", project)
    detector(masks=True).losses(batch())
    every = torch.cat([target.boxes for target in batch().targets])
    assert len(seen["masks"]) == 3
    assert set(seen["owners"].tolist()) == {0, 1, 2}
    assert seen["truth"].equal(every[seen["owners"]])


def test_a_batch_without_masks_is_refused():
    with pytest.raises(InputError, match=r"data\.init_args\.masks: this batch carries no masks"):
        detector(masks=True).losses(batch(masks=False))


def test_detections_are_those_of_boxes_alone_with_masks_beside():
    given = batch()
    plain, with_masks = detector().eval(), detector(masks=True).eval()
    with_masks.load_state_dict(plain.state_dict(), strict=False)
    both = [each.detect(given.images, VOCABULARY, given.records) for each in (plain, with_masks)]
    for ours, alone in zip(both[1], both[0], strict=True):
        assert alone.masks is None
        assert ours.masks.shape == (len(ours.boxes), 10, 10)
        assert ((ours.masks >= 0) & (ours.masks <= 1)).all()
        assert [*map(torch.Tensor.tolist, ours[:3])] == [*map(torch.Tensor.tolist, alone[:3])]


def test_a_weight_of_zero_freezes_the_branch_and_asks_for_no_masks():
    resting = detector(masks=True, weights=RegionWeights(mask=0.0))
    assert "mask" not in resting.losses(batch(masks=False))
    assert not any(weight.requires_grad for weight in resting.mask_head.parameters())
