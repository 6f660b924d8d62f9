import math

import pytest
import torch
from torch.autograd import gradcheck

from gridclip.ops.boxes import boxes_from_distances, centreness, distances_from_boxes
from gridclip.ops.losses import (
    box_regression,
    centreness_agreement,
    image_alignment,
    pool_log_sum_exp,
    pool_top,
    pseudo_label_agreement,
)


def test_pools_lie_between_mean_and_maximum_and_follow_their_formulas():
    logits = torch.randn(9, 4, dtype=torch.float64)
    for name in range(4):
        column = logits[:, name].tolist()
        best = sorted(column, reverse=True)
        assert pool_top(logits, top_k=3)[name].item() == pytest.approx(sum(best[:3]) / 3)
        soft = math.log(sum(math.exp(2 * x) for x in column) / 9) / 2
        assert pool_log_sum_exp(logits, sharpness=2.0)[name].item() == pytest.approx(soft)
    assert torch.allclose(pool_top(logits, top_k=50), logits.mean(0))
    assert torch.allclose(pool_log_sum_exp(logits, sharpness=1e4), logits.amax(0), atol=1e-3)


def test_pseudo_labels_are_soft_targets_and_other_names_weak_negatives():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, dtype=torch.float64)
    scores = torch.tensor([[0.7, 0, 0], [0, 1, 0.2]], dtype=torch.float64)
    total = 0.0
    for b in range(2):
        for k in range(3):
            p, y = logits[b, k].sigmoid().item(), scores[b, k].item()
            weight = 1 if y else 0.1
            total -= weight * (y * math.log(p) + (1 - y) * math.log(1 - p))
    ours = pseudo_label_agreement(logits, scores, absent=0.1)
    assert ours.item() == pytest.approx(total / 3)
    # Images for which nothing was kept divide by one, not by zero.
    assert pseudo_label_agreement(logits, scores * 0, absent=0.0) == 0


def test_image_alignment_ignores_length_and_equals_its_formulas():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 6).double(), torch.randn(3, 6).double()
    a = student / student.norm(dim=1, keepdim=True)
    b = teacher / teacher.norm(dim=1, keepdim=True)
    expected = {
        "l1": 6 * (a - b).abs().mean(),
        "l2": ((a - b) ** 2).sum() / 3,
        "cosine": 1 - (a * b).sum() / 3,
    }
    for distance, value in expected.items():
        ours = image_alignment(student * 7, teacher / 3, distance=distance)
        assert ours.item() == pytest.approx(value.item())


def test_image_alignment_teaches_the_student_only():
    student = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    image_alignment(student, teacher, distance="l2").backward()
    assert student.grad is not None
    assert teacher.grad is None
    fixed = teacher.detach()
    assert gradcheck(lambda s: image_alignment(s, fixed, distance="l1"), (student,))


def test_exact_boxes_cost_nothing_and_far_ones_more_than_near_ones():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    weight = torch.ones(1)
    assert box_regression(truth, truth, weight).item() == pytest.approx(0, abs=1e-5)
    near, far = truth + 2, truth + 100
    assert 0 < box_regression(near, truth, weight) < box_regression(far, truth, weight) < 2


def test_the_box_loss_is_torchvisions_with_its_gradient():
    from torchvision.ops import generalized_box_iou_loss

    torch.manual_seed(0)
    corners = torch.rand(2, 200, 2, dtype=torch.float64) * 40
    boxes, truth = torch.cat([corners, corners + 1 + torch.rand(2, 200, 2) * 30], dim=2)
    boxes.requires_grad_()
    weight = torch.rand(200, dtype=torch.float64)
    theirs = (generalized_box_iou_loss(boxes, truth) * weight).sum() / weight.sum()
    ours = box_regression(boxes, truth, weight)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    slopes = [torch.autograd.grad(loss, boxes)[0] for loss in (ours, theirs)]
    assert torch.allclose(*slopes, rtol=1e-6, atol=1e-12)
    disjoint = torch.tensor([[50.0, 50, 60, 60]], requires_grad=True)
    box_regression(disjoint, torch.tensor([[0.0, 0, 9, 9]]), torch.ones(1)).backward()
    assert (disjoint.grad != 0).any()


def test_central_cells_count_more_in_the_box_loss():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 2)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 15.0, 15.0]])
    first = box_regression(boxes, truth, torch.tensor([0.9, 0.1]))
    second = box_regression(boxes, truth, torch.tensor([0.1, 0.9]))
    assert first < second


def test_losses_of_no_positives_are_zero_not_nan():
    nothing = torch.zeros(0, 4)
    assert box_regression(nothing, nothing, torch.zeros(0)) == 0
    assert centreness_agreement(torch.zeros(2), torch.zeros(2), torch.zeros(2).bool()) == 0


def test_cells_of_no_object_take_no_part_in_the_losses_of_boxes():
    torch.manual_seed(0)
    boxes, truth = torch.rand(6, 4).sort(1).values * 50, torch.rand(6, 4).sort(1).values * 50
    logits, central = torch.randn(6), torch.rand(6)
    positive = torch.tensor([True, False, True, True, False, False])
    weight = central * positive
    all_cells = box_regression(boxes, truth, weight)
    assert all_cells == pytest.approx(
        box_regression(boxes[positive], truth[positive], central[positive]).item()
    )
    plain = [
        -(y * math.log(1 / (1 + math.exp(-x))) + (1 - y) * math.log(1 - 1 / (1 + math.exp(-x))))
        for x, y in zip(logits[positive].tolist(), central[positive].tolist(), strict=True)
    ]
    assert centreness_agreement(logits, central, positive).item() == pytest.approx(sum(plain) / 3)


def test_distances_and_boxes_are_inverse():
    centres = torch.rand(9, 2) * 100
    boxes = torch.rand(9, 4) * 100
    there = distances_from_boxes(centres, boxes)
    assert torch.allclose(boxes_from_distances(centres, there), boxes, atol=1e-4)


def test_centreness_is_one_in_the_middle_and_zero_at_the_side():
    distances = torch.tensor([[5.0, 5, 5, 5], [0, 5, 10, 5], [1, 4, 4, 1]])
    assert centreness(distances).tolist() == pytest.approx([1, 0, 0.25])
