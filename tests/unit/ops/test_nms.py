"""Suppression, against loops that take one box after the other."""

import math

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from gridclip.io.errors import InputError
from gridclip.ops.nms import hard_nms, soft_nms
from gridclip.ops.postprocess import DecodeSettings, decode
from gridclip.structures import Record


def _found(seed, count, names, side=40.0):
    chance = torch.Generator().manual_seed(seed)
    corners = side * torch.rand(count, 2, generator=chance)
    sides = 5 + side * torch.rand(count, 2, generator=chance)
    scores = torch.rand(count, generator=chance)
    labels = torch.randint(names, (count,), generator=chance)
    return torch.cat([corners, corners + sides], 1), scores, labels


def _loop(boxes, scores, labels, sigma, least):
    """Soft-NMS as the paper's algorithm says it: pick the best, lower the others of its name."""
    left = {row: score for row, score in enumerate(scores.tolist()) if score > least}
    kept = []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for row in list(left):
            if labels[row] == labels[best]:
                overlap = box_iou(boxes[best][None], boxes[row][None]).item()
                left[row] *= math.exp(-(overlap**2) / sigma)
                if left[row] <= least:
                    del left[row]
    return kept


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("sigma", "least"), [(0.5, 0.001), (0.1, 0.2)])
def test_soft_suppression_is_the_loop_that_takes_one_box_after_the_other(seed, sigma, least):
    boxes, scores, labels = _found(seed, 60, 1 + seed % 4)
    expected = _loop(boxes, scores, labels, sigma, least)
    rows, final = soft_nms(boxes, scores, labels, sigma=sigma, least=least, limit=100)
    assert rows.tolist() == [row for row, _ in expected]
    assert final.tolist() == pytest.approx([score for _, score in expected], rel=1e-4)


def test_a_limit_takes_the_first_of_what_there_would_be_without():
    boxes, scores, labels = _found(3, 80, 5)
    rows, final = soft_nms(boxes, scores, labels, sigma=0.5, least=0.001, limit=200)
    some, lowered = soft_nms(boxes, scores, labels, sigma=0.5, least=0.001, limit=7)
    assert some.tolist() == rows[:7].tolist()
    assert lowered.tolist() == final[:7].tolist()


def test_equal_boxes_of_one_name_fall_by_the_known_factor_and_those_of_another_stay():
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    scores, labels = torch.tensor([0.9, 0.9, 0.8]), torch.tensor([4, 4, 7])
    rows, final = soft_nms(boxes, scores, labels, sigma=0.5, least=0.001, limit=9)
    assert rows.tolist() == [0, 2, 1]
    assert final.tolist() == pytest.approx([0.9, 0.8, 0.9 * math.exp(-2)])


def test_scores_above_one_are_suppressed_like_any():
    boxes, scores, labels = _found(1, 30, 2)
    _, final = soft_nms(boxes, 5 * scores, labels, sigma=0.5, least=0.005, limit=99)
    _, small = soft_nms(boxes, scores, labels, sigma=0.5, least=0.001, limit=99)
    assert final.tolist() == pytest.approx((5 * small).tolist())


@pytest.mark.parametrize("suppress", [hard_nms, soft_nms])
def test_nothing_suppresses_to_nothing(suppress):
    nothing = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    if suppress is hard_nms:
        assert hard_nms(*nothing, 0.5).tolist() == []
    else:
        rows, scores = soft_nms(*nothing, sigma=0.5, least=0.001, limit=5)
        assert (rows.tolist(), scores.tolist()) == ([], [])


@pytest.mark.parametrize("seed", range(4))
def test_hard_suppression_is_torchvisions_of_names_apart(seed):
    boxes, scores, labels = _found(seed, 100, 4)
    assert hard_nms(boxes, scores, labels, 0.4).tolist() == (
        batched_nms(boxes, scores, labels, 0.4).tolist()
    )


def test_decoding_softly_keeps_what_decoding_hard_drops_with_a_lower_score():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11]])
    record, size = Record(1, "", height=50, width=100), torch.tensor([50, 100])
    given = torch.tensor([[0.9], [0.8]]), boxes, size, record
    assert decode(*given, DecodeSettings(nms_iou=0.5)).scores.tolist() == pytest.approx([0.9])
    found = decode(*given, DecodeSettings(suppression="soft"))
    assert found.scores.tolist() == pytest.approx([0.9, 0.8 * math.exp(-2 * (10 / 11) ** 2)])
    assert found.boxes.tolist() == boxes.tolist()


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"least": -0.1}])
def test_settings_of_soft_suppression_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        DecodeSettings(suppression="soft", **wrong)
