"""The parts of two-stage detectors, held against torchvision and against loops in fp64."""

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou, roi_align

from gridclip.io.errors import InputError
from gridclip.models.two_stage.losses import (
    SamplingSettings,
    region_boxes,
    region_classification,
    region_distillation,
    sample_regions,
)
from gridclip.models.two_stage.roi_head import (
    BranchWeights,
    HeadSettings,
    RegionHead,
    RegionPool,
    TextClassifier,
    geometric_mean,
)
from gridclip.models.two_stage.rpn import ProposalNetwork, ProposalSettings
from gridclip.ops.boxes import boxes_from_offsets, offsets_from_boxes
from gridclip.structures import Proposals, Targets


@pytest.fixture(autouse=True)
def _chance():
    torch.manual_seed(0)


def boxes_in(side, count, dtype=torch.float32):
    corners = torch.rand(count, 2, dtype=dtype) * side * 0.7
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, dtype=dtype) * side * 0.28], 1)


def pyramid(side, strides, images=2, width=8):
    return [torch.randn(images, width, -(-side // s), -(-side // s)) for s in strides]


def test_proposals_and_their_losses_are_torchvisions():
    """All sides of the levels divide the image's here, so that torchvision's strides are ours."""
    levels, sizes = pyramid(128, (8, 16, 32, 64)), torch.tensor([[128, 128], [96, 128]])
    network = ProposalNetwork(8, (8, 16, 32, 64), ProposalSettings(limit=20, candidates=50))
    targets = [Targets(boxes_in(90, 3), torch.zeros(3, dtype=torch.long)) for _ in range(2)]
    with torch.random.fork_rng():
        found, losses = network(levels, sizes, targets)
    images = ImageList(torch.zeros(2, 3, 128, 128), [tuple(size) for size in sizes.tolist()])
    features = {str(row): level for row, level in enumerate(levels)}
    theirs, theirs_lost = network.rpn(images, features, [{"boxes": t.boxes} for t in targets])
    for mine, boxes in zip(found, theirs, strict=True):
        assert len(boxes) == 20
        torch.testing.assert_close(mine.boxes, boxes)
        assert (mine.scores.diff() <= 0).all()
    torch.testing.assert_close(losses["objectness"], theirs_lost["loss_objectness"])
    torch.testing.assert_close(losses["anchor"], theirs_lost["loss_rpn_box_reg"])


def test_anchors_keep_the_stride_of_levels_that_are_rounded_up():
    network = ProposalNetwork(8, (8, 16, 32, 64), ProposalSettings(ratios=(1.0,)))
    anchors = network._anchors(pyramid(96, (8, 16, 32, 64)))
    coarsest = anchors[-4:]  # 96 pixels are one and a half cells of 64, so there are two
    centres = (coarsest[:, :2] + coarsest[:, 2:]) / 2
    assert centres.tolist() == [[0, 0], [64, 0], [0, 64], [64, 64]]
    assert (coarsest[:, 2:] - coarsest[:, :2]).unique().tolist() == [8 * 64]


def test_without_targets_nothing_is_learnt_and_proposals_carry_no_gradient():
    network = ProposalNetwork(8, (8, 16), ProposalSettings(limit=5))
    levels = [level.requires_grad_() for level in pyramid(64, (8, 16))]
    found, losses = network(levels, torch.tensor([[64, 64]] * 2))
    assert losses == {}
    assert not any(part.requires_grad for each in found for part in each)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"ratios": ()}, {"anchor_scales": (0.0,)}])
def test_settings_that_propose_nothing_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=rf"proposals\.{next(iter(wrong))}"):
        ProposalSettings(**wrong)


def test_regions_are_pooled_from_the_level_that_torchvision_would_take():
    strides, levels = (4, 8, 16, 32), pyramid(512, (4, 8, 16, 32), width=2)
    boxes = [boxes_in(500, 30), boxes_in(60, 20)]
    for each in boxes:
        each[:, 2:] += 4  # theirs lets no region be smaller than a cell
    mine = RegionPool(strides, side=3)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 3, 2)
    named = {str(row): level for row, level in enumerate(levels)}
    theirs(named, boxes, [(512, 512)] * 2)  # makes its own scales
    assert theirs.scales == [1 / stride for stride in strides]
    assert mine.level_of(torch.cat(boxes)).equal(theirs.map_levels(boxes))
    shifted = [
        box + 0.5 * torch.tensor(strides)[theirs.map_levels([box])][:, None] for box in boxes
    ]
    # Theirs lies half a cell off: moved there, both read the same points.
    torch.testing.assert_close(mine(levels, shifted), theirs(named, boxes, [(512, 512)] * 2))


def test_a_pooled_region_is_the_mean_of_bilinear_samples():
    level = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    box = torch.tensor([[13.0, 22.0, 77.0, 70.0]], dtype=torch.float64)
    found = RegionPool((8,), side=2)([level], [box])[0, 0]
    for row in range(2):
        for column in range(2):
            total = 0.0
            for i in range(2):
                for j in range(2):
                    y = (22 + 48 * (row + (i + 0.5) / 2) / 2) / 8 - 0.5
                    x = (13 + 64 * (column + (j + 0.5) / 2) / 2) / 8 - 0.5
                    y0, x0 = math.floor(y), math.floor(x)
                    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                        weight = (1 - abs(y - y0 - dy)) * (1 - abs(x - x0 - dx))
                        total += weight * level[0, 0, y0 + dy, x0 + dx].item() / 4
            assert found[row, column].item() == pytest.approx(total, abs=1e-10)


def test_every_level_has_a_gradient_even_where_no_region_is_pooled_from_it():
    levels = [level.requires_grad_() for level in pyramid(64, (8, 16, 32))]
    RegionPool((8, 16, 32))(levels, [boxes_in(20, 2), boxes_in(20, 0)]).sum().backward()
    assert [level.grad.any().item() for level in levels] == [True, False, False]


def test_offsets_are_torchvisions_and_the_two_ways_are_inverse():
    boxes, truth = boxes_in(100, 20), boxes_in(100, 20)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    offsets = offsets_from_boxes(boxes, truth)
    torch.testing.assert_close(offsets, coder.encode([truth], [boxes])[0])
    torch.testing.assert_close(boxes_from_offsets(boxes, offsets), truth, atol=1e-4, rtol=1e-5)
    wild = 30 * torch.randn(20, 4)
    torch.testing.assert_close(boxes_from_offsets(boxes, wild), coder.decode(wild, [boxes])[:, 0])


def test_sampled_regions_obey_overlap_share_and_count():
    targets = Targets(torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90]]), torch.tensor([3, 1]))
    proposals = torch.cat([boxes_in(90, 200), targets.boxes.repeat(20, 1) + torch.rand(40, 4)])
    settings = SamplingSettings(regions=64, positive=0.25)
    given = [Proposals(proposals, torch.rand(240))]
    boxes, labels, truth, _ = sample_regions(given, [targets], 7, settings)
    assert len(boxes[0]) == len(labels) == len(truth) == 64
    assert (labels < 7).sum() == 16
    candidates = torch.cat([targets.boxes, proposals]).tolist()
    for box, label, owner in zip(boxes[0], labels.tolist(), truth, strict=True):
        overlaps = box_iou(box[None], targets.boxes)[0]
        assert box.tolist() in candidates
        best = int(overlaps.argmax())
        assert label == (int(targets.labels[best]) if overlaps[best] >= 0.5 else 7)
        if label < 7:
            assert owner.equal(targets.boxes[best])
    assert len({tuple(box.tolist()) for box in boxes[0]}) == 64


def test_images_without_boxes_teach_background_alone():
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    given = [Proposals(boxes_in(50, 9), torch.rand(9))]
    boxes, labels, _, _ = sample_regions(given, [nothing], 5, SamplingSettings(regions=6))
    assert len(boxes[0]) == 6
    assert labels.tolist() == [5] * 6


def test_classification_is_a_softmax_over_names_and_background_in_a_loop():
    classifier = TextClassifier(6, 0.1, learn_temperature=False).double()
    regions, text = (
        torch.nn.functional.normalize(torch.randn(n, 6).double(), dim=1) for n in (5, 3)
    )
    labels = torch.tensor([0, 3, 2, 3, 1])
    found = region_classification(classifier(regions, text), labels)
    background = classifier.background / classifier.background.norm()
    total = 0.0
    for region, label in zip(regions, labels.tolist(), strict=True):
        cosines = [float(region @ vector) for vector in [*text, background]]
        weights = [math.exp(cosine / 0.1) for cosine in cosines]
        total -= math.log(weights[label] / sum(weights))
    assert found.item() == pytest.approx(total / 5, rel=1e-6)
    found.backward()
    assert classifier.background.grad.abs().sum() > 0
    assert classifier.log_scale.grad is None


def test_a_learned_temperature_has_a_gradient():
    classifier = TextClassifier(6, 0.1, learn_temperature=True)
    classifier(torch.randn(2, 6), torch.randn(3, 6)).sum().backward()
    assert classifier.log_scale.grad is not None


def test_the_box_loss_is_smooth_l1_over_objects_in_a_loop():
    boxes, truth = boxes_in(90, 6, torch.float64), boxes_in(90, 6, torch.float64)
    offsets, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 4, 1, 4, 4, 2])
    total = 0.0
    for row in (0, 2, 5):
        (x1, y1, x2, y2), (a1, b1, a2, b2) = boxes[row].tolist(), truth[row].tolist()
        wanted = [
            10 * ((a1 + a2) - (x1 + x2)) / 2 / (x2 - x1),
            10 * ((b1 + b2) - (y1 + y2)) / 2 / (y2 - y1),
            5 * math.log((a2 - a1) / (x2 - x1)),
            5 * math.log((b2 - b1) / (y2 - y1)),
        ]
        for mine, right in zip(offsets[row].tolist(), wanted, strict=True):
            gap = abs(mine - right)
            total += gap - 1 / 18 if gap > 1 / 9 else gap * gap * 4.5
    found = region_boxes(offsets, boxes, truth, labels, background=4)
    assert found.item() == pytest.approx(total / 6, rel=1e-9)


def test_distillation_is_the_sum_of_absolute_gaps_a_region_and_none_costs_nothing():
    student, teacher = torch.randn(4, 5).double().requires_grad_(), torch.randn(4, 5).double()
    total = sum(
        abs(float(s - t)) for s, t in zip(student.flatten(), teacher.flatten(), strict=True)
    )
    assert region_distillation(student, teacher).item() == pytest.approx(total / 4)
    assert torch.autograd.gradcheck(region_distillation, (student, teacher))
    assert region_distillation(student[:0], teacher[:0]).item() == 0


def test_the_ensembles_score_is_the_published_power_by_hand():
    text, image = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.1, 0.8]])
    found = geometric_mean(text, image, torch.tensor([True, False]), BranchWeights(2 / 3, 1 / 3))
    # As released: the cube root of text · text · image of a base name, text · image · image else.
    base, novel = (0.5 * 0.5 * 0.1) ** (1 / 3), (0.2 * 0.8 * 0.8) ** (1 / 3)
    assert found[0].tolist() == pytest.approx([base, novel])


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("num_convs", [0, 2])
def test_a_head_gives_unit_vectors_and_offsets(norm, num_convs):
    settings = HeadSettings(num_convs=num_convs, num_fcs=2, fc_width=16, side=3, norm=norm)
    embeddings, offsets = RegionHead(8, 5, settings)(torch.randn(7, 8, 3, 3))
    assert embeddings.shape == (7, 5)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(7))
    assert offsets.shape == (7, 4)
    assert RegionHead(8, 5, settings, boxes=False)(torch.randn(7, 8, 3, 3)).offsets is None


def test_a_head_without_a_layer_is_refused():
    with pytest.raises(InputError, match=r"head\.num_fcs"):
        HeadSettings(num_fcs=0)


def test_roi_align_of_nothing_is_nothing():
    """What the pool relies on, for levels that no region belongs to."""
    assert roi_align(torch.zeros(1, 2, 4, 4), torch.zeros(0, 5), 3, 1.0, 2, True).shape[0] == 0
