"""The loss of captions, against a small oracle in loops."""

import math

import pytest
import torch
from small_world import CELLS, PAIRS, batch, world
from small_world import loss as loss_of

from gridclip.io.errors import InputError
from gridclip.models.dense.word_region import WordRegionLoss
from gridclip.ops.focal_loss import Cosines


def _by_loops(cells, words, present, kept, temperature, smoothing):
    """The paper's loss, text to image, of the kept cells of each image."""
    texts = [row.nonzero().flatten().tolist() for row in present]
    gaps = []
    for mine, phrases in enumerate(texts):
        if not phrases:
            continue
        row = []
        for image, rows in enumerate(kept):
            best = [max(float(words[p] @ cells[image, r]) for r in rows) for p in phrases]
            row.append(sum(best) / len(best) / temperature)
        log_sum = math.log(sum(math.exp(x) for x in row))
        each = [log_sum - x for x in row]
        gaps.append((1 - smoothing) * each[mine] + smoothing * sum(each) / len(each))
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize("count", [2, CELLS])
@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_the_loss_is_that_of_the_papers_sentences_in_loops(count, temperature):
    cells, words, present, boxes = world()
    settings = WordRegionLoss(regions=count, nms_iou=1.0, temperature=temperature)
    said = present.any(0)
    kept = [
        sorted(range(CELLS), key=lambda r: -max((words[said] @ each[r]).tolist()))[:count]
        for each in cells
    ]
    truth = _by_loops(cells, words, present, kept, temperature, 0.1)
    # The loss is made in single precision.
    assert loss_of(settings, cells, words, present, boxes).item() == pytest.approx(truth, rel=1e-5)


def test_all_cells_with_a_soft_match_towards_zero_are_the_best_cell():
    hard = WordRegionLoss(regions=CELLS, nms_iou=1.0)
    soft = WordRegionLoss(regions=CELLS, nms_iou=1.0, matching="many", softness=1e-4)
    assert loss_of(soft, *world()).item() == pytest.approx(loss_of(hard, *world()).item(), rel=1e-5)


def test_scaled_similarities_are_those_at_a_lower_temperature():
    scaled = WordRegionLoss(regions=CELLS, nms_iou=1.0, scaled=True, temperature=0.5)
    plain = WordRegionLoss(regions=CELLS, nms_iou=1.0, temperature=0.5 / 14)
    assert loss_of(scaled, *world()).item() == pytest.approx(
        loss_of(plain, *world()).item(), rel=1e-5
    )


def test_both_directions_are_the_mean_of_each():
    settings = {"regions": 3, "temperature": 0.2}
    one, two, both = (
        loss_of(WordRegionLoss(direction=direction, **settings), *world()).item()
        for direction in ("text_to_image", "image_to_text", "both")
    )
    assert both == pytest.approx((one + two) / 2)
    assert one != pytest.approx(two, rel=1e-3)


@pytest.mark.parametrize("count", [2, CELLS])
def test_cells_of_the_padding_are_no_regions(count):
    cells, words, present, boxes = world()
    settings = WordRegionLoss(regions=count, nms_iou=1.0)
    cosines = Cosines(cells, words, torch.ones(()).double(), torch.zeros(()).double())
    shown = torch.ones(PAIRS, CELLS, dtype=torch.bool)
    shown[:, 5:] = False
    ours = settings.loss(cosines, boxes, shown, batch(present))
    alone = loss_of(settings, cells[:, :5], words, present, boxes[:, :5])
    assert ours.item() == pytest.approx(alone.item(), rel=1e-6)


def test_a_batch_of_which_nothing_is_said_teaches_nothing():
    cells, words, present, boxes = world()
    loss = loss_of(WordRegionLoss(), cells.requires_grad_(), words, present & False, boxes)
    loss.backward()
    assert loss.item() == 0
    assert not cells.grad.any()


@pytest.mark.parametrize(
    "wrong", [{"regions": 0}, {"temperature": 0.0}, {"smoothing": 1.0}, {"nms_iou": 1.5}]
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=rf"words\.{next(iter(wrong))}"):
        WordRegionLoss(**wrong)
