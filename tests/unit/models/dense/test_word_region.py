"""Word–region alignment against loops written from the paper's sentences, in double precision."""

import math

import pytest
import torch
import torch.nn.functional as F

from gridclip.models.dense import word_region
from gridclip.models.dense.word_region import (
    contrastive,
    image_to_text,
    phrases_by_images,
    select_regions,
    text_to_image,
)

IMAGES, REGIONS, WIDTH = 4, 6, 8
# Two phrases are said in several texts; the last text has none.
PRESENT = torch.tensor(
    [[1, 1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1], [0] * 7], dtype=torch.bool
)


def _unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(vectors.double(), dim=-1)


@pytest.fixture
def given():
    valid = torch.ones(IMAGES, REGIONS, dtype=torch.bool)
    valid[1, 4:] = False
    return _unit(PRESENT.shape[1], WIDTH), _unit(IMAGES, REGIONS, WIDTH, seed=1), valid


def _dot(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def _by_loops(phrases, regions, valid, softness=None):
    """Similarity of each phrase with each image."""
    table = []
    for phrase in phrases:
        row = []
        for seen, real in zip(regions, valid, strict=True):
            each = [_dot(phrase, r) for r, counts in zip(seen, real, strict=True) if counts]
            if softness is None:
                row.append(max(each))
                continue
            weights = [math.exp((s - max(each)) / softness) for s in each]
            row.append(sum(w * s for w, s in zip(weights, each, strict=True)) / sum(weights))
        table.append(row)
    return torch.tensor(table, dtype=torch.double)


@pytest.mark.parametrize("softness", [None, 0.3])
def test_a_phrase_and_an_image_are_as_similar_as_the_loops_say(given, softness):
    ours = phrases_by_images(*given, softness=softness)
    assert torch.allclose(ours, _by_loops(*given, softness=softness), atol=1e-12)


def test_a_text_and_an_image_are_as_similar_as_its_phrases_on_average(given):
    best = _by_loops(*given)
    ours = text_to_image(phrases_by_images(*given), PRESENT)
    for text, said in enumerate(PRESENT):
        rows = [best[p] for p in said.nonzero().flatten().tolist()]
        truth = sum(rows) / len(rows) if rows else torch.zeros(IMAGES, dtype=torch.double)
        assert torch.allclose(ours[text], truth, atol=1e-12)


def test_an_image_and_a_text_are_as_similar_as_its_regions_on_average(given):
    phrases, regions, valid = given
    ours = image_to_text(phrases, PRESENT, regions, valid)
    for text, said in enumerate(PRESENT):
        words = [phrases[p] for p in said.nonzero().flatten().tolist()]
        for image in range(IMAGES):
            rows = [r for r, real in zip(regions[image], valid[image], strict=True) if real]
            best = [max((_dot(r, w) for w in words), default=0.0) for r in rows]
            assert ours[text, image].item() == pytest.approx(sum(best) / len(best), abs=1e-12)


def test_the_loss_is_the_smoothed_cross_entropy_of_the_texts_that_count():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    truth, counted = torch.tensor([1, 2, 4]), torch.tensor([True, False, True])
    total = 0.0
    for row, right, counts in zip(logits.tolist(), truth.tolist(), counted.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(x) for x in row))
        each = [log_sum - x for x in row]
        total += counts * (0.9 * each[right] + 0.1 * sum(each) / len(each))
    assert contrastive(logits, truth, counted, smoothing=0.1).item() == pytest.approx(total)


def test_the_order_of_regions_does_not_matter(given):
    phrases, regions, valid = given
    order = torch.randperm(REGIONS, generator=torch.Generator().manual_seed(3))
    shuffled = (phrases, regions[:, order], valid[:, order])
    for softness in (None, 0.3):
        one, two = (phrases_by_images(*each, softness=softness) for each in (given, shuffled))
        assert torch.allclose(one, two, atol=1e-12)
    one = image_to_text(phrases, PRESENT, regions, valid)
    assert torch.allclose(one, image_to_text(phrases, PRESENT, *shuffled[1:]), atol=1e-12)


def test_with_a_temperature_towards_zero_many_regions_are_the_best_one(given):
    soft = phrases_by_images(*given, softness=1e-4)
    assert torch.allclose(soft, phrases_by_images(*given), atol=1e-6)
    assert (phrases_by_images(*given, softness=0.3) <= soft + 1e-12).all()


def test_images_piece_by_piece_give_the_same_values_and_gradients(given, monkeypatch):
    def run():
        phrases, regions = (part.clone().requires_grad_() for part in given[:2])
        there = text_to_image(phrases_by_images(phrases, regions, given[2]), PRESENT)
        back = image_to_text(phrases, PRESENT, regions, given[2])
        (there.square().sum() + back.square().sum()).backward()
        return there, back, phrases.grad, regions.grad

    whole = run()
    monkeypatch.setattr(word_region, "PIECE", 1)
    for one, two in zip(whole, run(), strict=True):
        assert torch.allclose(one, two, atol=1e-12)


def test_the_pairs_of_a_whole_batch_of_the_paper_fit(monkeypatch):
    """6144 images of 100 regions; what is held at once stays below the limit."""
    held = []
    best = word_region._best_region
    monkeypatch.setattr(
        word_region,
        "_best_region",
        lambda p, r, *rest: held.append(len(p) * r.shape[0] * r.shape[1]) or best(p, r, *rest),
    )
    regions = torch.randn(6144, 100, 2)
    found = phrases_by_images(torch.randn(40, 2), regions, torch.ones(6144, 100, dtype=torch.bool))
    assert found.shape == (40, 6144)
    assert len(held) > 1
    assert max(held) <= word_region.PIECE


def test_selected_regions_score_best_and_do_not_overlap():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [40, 0, 50, 10.0]])
    scores = torch.tensor([0.9, 0.8, 0.1, 0.5])
    assert select_regions(scores, boxes, count=4, iou=0.6).tolist() == [0, 3, 2]
    assert select_regions(scores, boxes, count=2, iou=0.6).tolist() == [0, 3]
    assert select_regions(scores, boxes, count=9, iou=1.0).tolist() == [0, 1, 3, 2]
