"""Captions inside GridCLIP: the word–region loss, which costs nothing at weight 0."""

import pytest
import torch

from gridclip.io.errors import InputError
from gridclip.models.dense.word_region import WordRegionLoss
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.models.encoders.text import ClipText
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.ops.assigners import FCOSAssigner
from gridclip.structures import ConceptBatch, DetectionBatch, Images, Record, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="random")
NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    return ClipText(MINI)


def _detector(text, words=0.1, clip_residual=False, **weights):
    torch.manual_seed(0)
    return GridCLIP(
        ClipResNet(MINI),
        text,
        FCOSAssigner(),
        teacher=ClipTeacher(MINI),
        width=32,
        num_convs=1,
        clip_residual=clip_residual,
        weights=LossWeights(words=words, **weights),
        words=WordRegionLoss(regions=8),
    ).train()


def _batch(kind, side=64):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    boxed = Targets(torch.tensor([[4.0, 4.0, 40.0, 44.0]]), torch.tensor([1]))
    return ConceptBatch(
        kind,
        Images(pixels, torch.tensor([[side, side], [side, side // 2]])),
        [NOTHING if kind == "pairs" else boxed, NOTHING],
        Vocabulary(["red star", "green ring", "blue moon"]),
        torch.tensor([[False, True, False], [kind == "pairs", False, False]]),
        ("", ""),
        [Record(i, "", 2 * side, 2 * side) for i in (1, 2)],
    )


def test_captions_have_a_loss_that_scales_with_its_weight(text):
    one, two = (_detector(text, words).losses(_batch("pairs")) for words in (0.1, 0.2))
    assert set(one) == {"words"}
    assert two["words"].item() == pytest.approx(2 * one["words"].item(), rel=1e-5)


def test_concepts_with_boxes_teach_what_names_with_boxes_do(text):
    detector, batch = _detector(text), _batch("detection")
    plain = DetectionBatch(batch.images, batch.targets, batch.vocabulary, batch.records)
    one, two = detector.losses(batch), detector.losses(plain)
    assert set(one) == {"grid", "image", "box", "centreness"}
    assert {k: v.item() for k, v in one.items()} == pytest.approx(
        {k: v.item() for k, v in two.items()}
    )


def test_at_weight_zero_captions_are_refused_and_nothing_is_added(text):
    with pytest.raises(InputError, match="GridCLIP learns nothing"):
        _detector(text, words=0.0).losses(_batch("pairs"))
    trained = [
        {name for name, p in _detector(text, words).named_parameters() if p.requires_grad}
        for words in (0.0, 0.1)
    ]
    assert trained[0] == trained[1]


def test_captions_run_no_teacher(text, monkeypatch):
    detector = _detector(text)
    monkeypatch.setattr(detector.teacher, "forward", lambda _: pytest.fail("teacher ran"))
    detector.losses(_batch("pairs"))


@pytest.mark.parametrize("clip_residual", [False, True])
@pytest.mark.parametrize("grid", [0.0, 1.0])
def test_what_is_trained_is_read_by_one_of_the_kinds_of_batch(text, clip_residual, grid):
    detector = _detector(text, clip_residual=clip_residual, grid=grid)
    for kind in ("detection", "pairs"):
        torch.stack([*detector.losses(_batch(kind)).values()]).sum().backward()
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
