import math

import pytest
import torch
from torch.autograd import gradcheck

from gridclip.boxes import boxes_from_distances, centreness, distances_from_boxes
from gridclip.losses import box_regression, centreness_agreement, grid_alignment, image_alignment


def test_grid_alignment_is_the_focal_loss_of_every_cell_and_name():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, dtype=torch.float64)
    positive = torch.zeros(2, 5, dtype=torch.bool)
    positive[0, 1] = positive[1, 0] = positive[1, 4] = True
    labels = torch.tensor([3, 0, 2])
    owner = {(0, 1): 3, (1, 0): 0, (1, 4): 2}
    total = 0.0
    for b in range(2):
        for n in range(5):
            for k in range(4):
                p = 1 / (1 + math.exp(-logits[b, n, k].item()))
                if owner.get((b, n)) == k:
                    total += -0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    total += -0.75 * p**2 * math.log(1 - p)
    assert grid_alignment(logits, positive, labels).item() == pytest.approx(total / 3, rel=1e-9)


def test_grid_alignment_without_objects_still_pushes_scores_down():
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    empty = torch.zeros(1, 3, dtype=torch.bool)
    grid_alignment(logits, empty, torch.zeros(0, dtype=torch.long)).backward()
    assert (logits.grad > 0).all()


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


def test_central_cells_count_more_in_the_box_loss():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 2)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 15.0, 15.0]])
    first = box_regression(boxes, truth, torch.tensor([0.9, 0.1]))
    second = box_regression(boxes, truth, torch.tensor([0.1, 0.9]))
    assert first < second


def test_losses_of_no_positives_are_zero_not_nan():
    nothing = torch.zeros(0, 4)
    assert box_regression(nothing, nothing, torch.zeros(0)) == 0
    assert centreness_agreement(torch.zeros(0), torch.zeros(0)) == 0


def test_distances_and_boxes_are_inverse():
    centres = torch.rand(9, 2) * 100
    boxes = torch.rand(9, 4) * 100
    there = distances_from_boxes(centres, boxes)
    assert torch.allclose(boxes_from_distances(centres, there), boxes, atol=1e-4)


def test_centreness_is_one_in_the_middle_and_zero_at_the_side():
    distances = torch.tensor([[5.0, 5, 5, 5], [0, 5, 10, 5], [1, 4, 4, 1]])
    assert centreness(distances).tolist() == pytest.approx([1, 0, 0.25])
