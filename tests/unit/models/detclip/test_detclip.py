from types import SimpleNamespace

import pytest
import torch

from gridclip.engine.optimizers import OptimizerSettings, make_optimizer
from gridclip.io.errors import InputError
from gridclip.models.dense import detector as detector_module
from gridclip.models.dense.text_folding import FoldedNames
from gridclip.models.dense.word_region import WordRegionLoss
from gridclip.models.detclip.model import ConceptWeights, DetCLIPv2
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText, TextBank
from gridclip.models.encoders.trained_text import TrainedText
from gridclip.ops.assigners import ATSSAssigner
from gridclip.structures import (
    ConceptBatch,
    DetectionBatch,
    ImageBatch,
    Images,
    Record,
    Targets,
    Vocabulary,
)

MINI = ClipModel(name="gridclip-mini", weights="random")
NAMES = ("red star", "green ring", "blue moon", "a red star beside a green ring")
NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


@pytest.fixture(scope="module")
def resting():
    torch.manual_seed(0)
    return ClipText(MINI)


@pytest.fixture(scope="module")
def learning():
    torch.manual_seed(0)
    return TrainedText(MINI)


def _detector(text, **settings):
    torch.manual_seed(0)
    settings = {"width": 32, "num_convs": 1, "words": WordRegionLoss(regions=8)} | settings
    assigner = ATSSAssigner(anchor_size=4.0)
    return DetCLIPv2(ClipResNet(MINI), text, assigner, **settings).train()


def _batch(kind="detection", side=64):
    """Two images; one object in the first; of the second its phrases tell more than its boxes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.tensor([[side, side], [side, side // 2]]))
    boxed = Targets(torch.tensor([[4.0, 4.0, 40.0, 44.0]]), torch.tensor([1]))
    present = torch.tensor([[False, True, False, False], [True, False, False, False]])
    if kind == "pairs":
        present[0, 3] = True
    return ConceptBatch(
        kind,
        images,
        [NOTHING if kind == "pairs" else boxed, NOTHING],
        Vocabulary(NAMES),
        present,
        ("", ""),
        [Record(i, "", 2 * side, 2 * side) for i in (1, 2)],
    )


def _plain(batch):
    return DetectionBatch(batch.images, batch.targets, batch.vocabulary, batch.records)


def test_each_kind_of_batch_has_its_losses(resting):
    detector = _detector(resting)
    keys = {
        kind: set(detector.losses(_batch(kind))) for kind in ("detection", "grounding", "pairs")
    }
    assert keys["detection"] == {"align", "box", "centreness"}
    assert keys["grounding"] == {"align"}  # phrases are boxed loosely
    assert keys["pairs"] == {"words"}
    eager = _detector(resting, weights=ConceptWeights(grounding_boxes=True))
    assert set(eager.losses(_batch("grounding"))) == keys["detection"]


@pytest.mark.parametrize("kind", ["detection", "pairs"])
def test_every_loss_scales_with_its_weight(resting, kind):
    one = _detector(resting, weights=ConceptWeights(align=1.0, box=1.0, centreness=1.0, words=1.0))
    two = _detector(resting, weights=ConceptWeights(align=2.0, box=2.0, centreness=2.0, words=2.0))
    twice = two.losses(_batch(kind))
    for name, loss in one.losses(_batch(kind)).items():
        assert twice[name].item() == pytest.approx(2 * loss.item(), rel=1e-4)


def test_losses_of_weight_zero_are_not_computed(resting):
    detector = _detector(
        resting, weights=ConceptWeights(align=0.0, box=0.0, centreness=1.0, words=0.0)
    )
    assert set(detector.losses(_batch())) == {"centreness"}
    with pytest.raises(InputError, match=r"weights\.words"):
        detector.losses(_batch("pairs"))


def test_plain_detection_batches_teach_the_same(resting):
    detector, batch = _detector(resting), _batch()
    batch = batch._replace(present=torch.tensor([[False, True, False, False], [False] * 4]))
    concepts, plain = detector.losses(batch), detector.losses(_plain(batch))
    assert {name: loss.item() for name, loss in concepts.items()} == pytest.approx(
        {name: loss.item() for name, loss in plain.items()}, rel=1e-6
    )


def test_images_without_words_teach_nothing(resting):
    batch = _batch()
    unboxed = ImageBatch(batch.images, torch.zeros(2, 4), batch.vocabulary, batch.records)
    with pytest.raises(InputError, match="DetCLIPv2 learns nothing"):
        _detector(resting).losses(unboxed)


def test_what_is_said_without_a_box_is_no_negative_of_its_image(resting, monkeypatch):
    seen = []
    align = detector_module.grid_alignment
    monkeypatch.setattr(
        detector_module,
        "grid_alignment",
        lambda *given, negative_mask, leniency: seen.append(negative_mask) or align(*given),
    )
    detector = _detector(resting)
    detector.losses(_batch())
    assert seen[0].background.tolist() == [[True] * 4, [False, True, True, True]]
    verified = torch.tensor([[True, True, False, True], [True] * 4])
    detector.losses(_batch()._replace(verified=verified))
    assert seen[1].foreground.tolist() == [[True, True, False, True], [False, True, True, True]]


def test_concepts_of_other_processes_are_columns_and_their_targets_stay_right(resting, monkeypatch):
    """As if another process had two concepts, one of them ours too; it comes first."""
    batch, owners, texts = _batch(), [], []
    foreign = ["blue moon", "yellow arrow"]
    strings = [foreign, list(NAMES)]
    monkeypatch.setattr("gridclip.models.detclip.model.gather_strings", lambda own: strings)
    monkeypatch.setattr(
        "gridclip.models.detclip.model.gather",
        lambda text: (torch.cat([resting(Vocabulary(foreign)), text]), 2),
    )
    align = detector_module.grid_alignment
    monkeypatch.setattr(
        detector_module,
        "grid_alignment",
        lambda cosines, owner, negative_mask, leniency: (
            owners.append(owner)
            or texts.append(cosines.text)
            or align(cosines, owner, negative_mask=negative_mask)
        ),
    )
    _detector(resting).losses(batch)
    names = ["blue moon", "yellow arrow", "red star", "green ring", NAMES[3]]
    assert torch.allclose(texts[0], resting(Vocabulary(names)), atol=1e-6)
    assert set(owners[0].unique().tolist()) == {-1, 3}  # green ring


def test_captions_teach_the_box_tower_through_the_deformed_convolution_only(resting):
    for deformable in (True, False):
        detector = _detector(resting, deformable=deformable)
        if deformable:
            torch.nn.init.normal_(detector.head.where.weight, std=0.1)
        detector.losses(_batch("pairs"))["words"].backward()
        head = detector.head
        assert any(p.grad is not None for p in head.box_tower.parameters()) == deformable
        for part in (head.box, head.centreness):
            assert all(p.grad is None for p in part.parameters())
        assert head.embed.weight.grad.abs().sum() > 0
        assert any(p.grad is not None and p.grad.any() for p in detector.backbone.parameters())
    assert not hasattr(detector.head, "where")


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("zero", ["align", "box", "centreness", "words", None])
def test_what_is_trained_is_read_by_one_of_the_kinds_of_batch(learning, zero, scaled):
    weights = {"words": 0.1, "align": 1.0} | ({zero: 0.0} if zero else {})
    words = WordRegionLoss(regions=8, scaled=scaled)
    detector = _detector(learning, weights=ConceptWeights(**weights), words=words)
    kinds = ("detection", "pairs") if zero != "words" else ("detection",)
    for kind in kinds:
        torch.stack([*detector.losses(_batch(kind)).values()]).sum().backward()
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    learning.zero_grad()
    assert idle == []


def test_the_text_tower_learns_slowly_and_the_backbone_if_asked(learning):
    for slow_backbone in (False, True):
        detector = _detector(learning, slow_backbone=slow_backbone)
        settings = OptimizerSettings(lr=1.0, pretrained_factor=0.1)
        rates = {
            id(weight): group["lr"]
            for group in make_optimizer(detector, settings).param_groups
            for weight in group["params"]
        }
        assert {rates[id(p)] for p in detector.text.parameters()} == {0.1}
        assert {rates[id(p)] for p in detector.backbone.parameters()} == {
            0.1 if slow_backbone else 1.0
        }
        assert {rates[id(p)] for p in detector.head.parameters()} == {1.0}


def test_detection_says_the_new_words_of_a_text_tower_that_has_learnt(learning):
    detector, batch = _detector(learning), _batch()

    def best():
        detector.eval()
        found = detector.detect(batch.images, batch.vocabulary, batch.records)[0]
        detector.train()
        return found

    before = best()
    optimizer = torch.optim.AdamW(learning.parameters(), lr=0.02)
    detector.losses(batch)["align"].backward()
    optimizer.step()
    learning.zero_grad()
    after = best()
    assert not torch.allclose(before.scores, after.scores)
    detector.folding = SimpleNamespace(
        names=lambda vocabulary: FoldedNames(learning(vocabulary)), projection=lambda: None
    )
    assert torch.allclose(best().scores, after.scores, atol=1e-5)


class _Words(TextBank):
    """Words far from one another, which those of a random tower are not."""

    width = 16

    def encode(self, vocabulary):
        return torch.eye(self.width)[: len(vocabulary)]

    def fingerprint(self):
        return "words"


@pytest.mark.parametrize(
    ("kind", "lr"), [("detection", 3e-3), ("grounding", 3e-3), ("pairs", 3e-4)]
)
def test_a_few_steps_learn_their_batch(kind, lr):
    detector = _detector(_Words(), words=WordRegionLoss(regions=8, temperature=0.05))
    optimizer, history = torch.optim.AdamW(detector.parameters(), lr=lr), []
    for _ in range(20):
        loss = torch.stack([*detector.losses(_batch(kind)).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]


def test_a_weight_that_is_no_weight_is_refused_by_name():
    with pytest.raises(InputError, match=r"weights\.box"):
        ConceptWeights(box=-1.0)
