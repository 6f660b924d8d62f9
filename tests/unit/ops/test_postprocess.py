import pytest
import torch

from gridclip.io.errors import InputError
from gridclip.ops.postprocess import DecodeSettings, decode
from gridclip.structures import Record

RECORD = Record(image_id=1, path="", height=100, width=300)
SIZE = torch.tensor([50, 100])  # the image was shrunk by 2 in height and by 3 in width


def _decode(scores, boxes, **settings):
    return decode(
        torch.tensor(scores), torch.tensor(boxes), SIZE, RECORD, DecodeSettings(**settings)
    )


def test_boxes_come_back_in_pixels_of_the_original_image_and_inside_it():
    found = _decode([[0.9]], [[10.0, 10.0, 120.0, 40.0]])
    assert found.boxes.tolist() == [[30.0, 20.0, 300.0, 80.0]]


def test_the_best_comes_first_whatever_its_cell_or_name():
    boxes = [[0.0, 0, 10, 10], [50, 20, 60, 30]]
    found = _decode([[0.1, 0.7], [0.9, 0.3]], boxes)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.3, 0.1])
    assert found.labels.tolist() == [0, 1, 1, 0]


def test_boxes_suppress_others_of_their_own_name_only():
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 11]]
    found = _decode([[0.9, 0.2], [0.8, 0.3]], boxes, nms_iou=0.5)
    assert sorted(zip(found.labels.tolist(), found.scores.tolist(), strict=True)) == [
        (0, pytest.approx(0.9)),
        (1, pytest.approx(0.3)),
    ]


def test_no_more_than_the_limit_leaves():
    boxes = torch.rand(50, 2).repeat(1, 2) * 20
    boxes[:, 2:] += 5
    found = _decode(torch.rand(50, 3).tolist(), boxes.tolist(), limit=7, nms_iou=1.0)
    assert len(found.scores) == 7


def test_low_scores_are_dropped_only_where_a_threshold_is_set():
    boxes = [[0.0, 0, 10, 10]]
    assert len(_decode([[0.001]], boxes).scores) == 1
    assert len(_decode([[0.001]], boxes, threshold=0.05).scores) == 0


@pytest.mark.parametrize("wrong", [{"nms_iou": 1.5}, {"threshold": -1.0}, {"limit": 0}])
def test_settings_outside_their_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        DecodeSettings(**wrong)
