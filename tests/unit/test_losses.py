import math

import pytest
import torch
from torch.autograd import gradcheck

from gridclip import losses
from gridclip.boxes import boxes_from_distances, centreness, distances_from_boxes
from gridclip.losses import (
    Cosines,
    Counted,
    box_regression,
    centreness_agreement,
    grid_alignment,
    image_alignment,
    pool_log_sum_exp,
    pool_top,
    pseudo_label_agreement,
)

IMAGES, CELLS, NAMES, WIDTH = 2, 5, 4, 3
OWNER = {(0, 1): 3, (1, 0): 0, (1, 4): 2}


def grid(seed=0):
    """Cosines, positive cells and their labels, as of OWNER."""
    chance = torch.Generator().manual_seed(seed)
    made = [(IMAGES, CELLS, WIDTH), (NAMES, WIDTH), (), ()]
    parts = [torch.randn(shape, dtype=torch.float64, generator=chance) for shape in made]
    positive = torch.zeros(IMAGES, CELLS, dtype=torch.bool)
    positive[tuple(zip(*OWNER, strict=True))] = True
    return [part.requires_grad_() for part in parts], positive, torch.tensor([*OWNER.values()])


def counts(share, seed=1):
    """Any half of the names, and others in the cells of objects."""
    chance = torch.Generator().manual_seed(seed)
    return Counted(*(torch.rand(2, IMAGES, NAMES, generator=chance) < share))


def naive(parts, counted):
    """Focal loss in loops, term by term, differentiable."""
    logits, total = Cosines(*parts).logits(), 0.0
    for b in range(IMAGES):
        for n in range(CELLS):
            for k in range(NAMES):
                p, owner = logits[b, n, k].sigmoid(), OWNER.get((b, n))
                if owner == k:
                    total = total - 0.25 * (1 - p) ** 2 * p.log()
                elif counted is None or counted[owner is not None][b, k]:
                    total = total - 0.75 * p**2 * (1 - p).log()
    return total / len(OWNER)


@pytest.mark.parametrize("share", [None, 0.5, 0.0])
def test_grid_alignment_is_the_focal_loss_of_the_cells_and_names_that_count(share):
    parts, positive, labels = grid()
    counted = None if share is None else counts(share)
    ours = grid_alignment(Cosines(*parts), positive, labels, counted=counted)
    truth = naive(parts, counted)
    assert ours.item() == pytest.approx(truth.item(), rel=1e-9)
    for mine, slope in zip(
        torch.autograd.grad(ours, parts), torch.autograd.grad(truth, parts), strict=True
    ):
        assert torch.allclose(mine, slope, rtol=1e-9)


@pytest.mark.parametrize("counted", [None, counts(0.5)])
def test_the_gradient_of_grid_alignment_is_its_slope(counted):
    parts, positive, labels = grid()
    assert gradcheck(
        lambda *given: grid_alignment(
            Cosines(*given), positive, labels, counted=counted, alpha=0.4, gamma=1.5
        ),
        parts,
    )


@pytest.mark.parametrize("entries", [1, 7, 12])
@pytest.mark.parametrize("share", [None, 0.5])
def test_pieces_of_any_size_add_up_to_the_same_loss_and_gradients(monkeypatch, entries, share):
    parts, positive, labels = grid()
    counted = None if share is None else counts(share)
    results = []
    for limit in (entries, 2**22):
        monkeypatch.setattr(losses, "PIECE", limit)
        loss = grid_alignment(Cosines(*parts), positive, labels, counted=counted)
        results.append([loss, *torch.autograd.grad(loss, parts)])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-12)


def test_the_backward_pass_of_grid_alignment_keeps_nothing_of_cells_by_names():
    (embeddings, text, scale, bias), positive, labels = grid()
    text = text.detach().repeat(100, 1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, id):
        grid_alignment(Cosines(embeddings, text, scale, bias), positive, labels)
    assert 0 < sum(kept) < IMAGES * CELLS * len(text) / 2


def test_in_single_precision_grid_alignment_is_torchvisions_focal_loss():
    from torchvision.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    embeddings = unit(torch.randn(2, 300, 16), dim=-1).requires_grad_()
    cosines = Cosines(
        embeddings, unit(torch.randn(50, 16), dim=-1), torch.tensor(14.0), torch.tensor(-4.6)
    )
    positive = torch.rand(2, 300) < 0.1
    labels = torch.randint(50, (int(positive.sum()),))
    hits = torch.zeros(2, 300, 50)
    hits[(*positive.nonzero(as_tuple=True), labels)] = 1
    plain = sigmoid_focal_loss(cosines.logits(), hits, reduction="sum") / len(labels)
    ours = grid_alignment(cosines, positive, labels)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    slopes = [torch.autograd.grad(loss, embeddings)[0] for loss in (ours, plain)]
    assert torch.allclose(*slopes, atol=1e-6)


def test_grid_alignment_without_objects_still_pushes_scores_down():
    (embeddings, text, scale, bias), _, _ = grid()
    empty = torch.zeros(IMAGES, CELLS, dtype=torch.bool)
    nobody = torch.zeros(0, dtype=torch.long)
    grid_alignment(Cosines(embeddings, text, scale, bias), empty, nobody).backward()
    assert bias.grad > 0


def test_grid_alignment_of_nothing_that_counts_is_zero_and_so_are_its_gradients():
    parts, _, _ = grid()
    empty = torch.zeros(IMAGES, CELLS, dtype=torch.bool)
    nobody = torch.zeros(0, dtype=torch.long)
    loss = grid_alignment(Cosines(*parts), empty, nobody, counted=counts(0.0))
    assert loss == 0
    assert all((slope == 0).all() for slope in torch.autograd.grad(loss, parts))


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
    # Pictures for which nothing was kept divide by one, not by zero.
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
