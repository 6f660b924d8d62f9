from types import SimpleNamespace

import pytest
import torch

from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import ClipResNet, TimmBackbone
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.models.encoders.text import ClipText
from gridclip.models.gridclip.losses import Negatives
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.ops.assigners import FCOSAssigner
from gridclip.structures import DetectionBatch, ImageBatch, Images, Record, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="random")
NOT_THERE = ClipModel(name="no-such-clip", weights="random")


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    return ClipText(MINI)


def _detector(text, *, backbone=None, teacher=MINI, image=0.1, **settings):
    torch.manual_seed(0)
    return GridCLIP(
        backbone=backbone or ClipResNet(MINI),
        text=text,
        assigner=FCOSAssigner(),
        teacher=teacher and ClipTeacher(teacher),
        width=32,
        num_convs=1,
        weights=LossWeights(image=image, **settings.pop("weights", {})),
        **settings,
    )


def _batch(names=("red star", "green ring", "blue moon"), side=64):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    targets = [
        Targets(torch.tensor([[4.0, 4.0, 40.0, 44.0]]), torch.tensor([1])),
        Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    ]
    records = [Record(i, "", 2 * side, 2 * side) for i in (1, 2)]
    images = Images(pixels, torch.tensor([[side, side], [side, side // 2]]))
    return DetectionBatch(images, targets, Vocabulary(names), records)


def _unboxed(names=("red star", "green ring", "blue moon")):
    """The same images, with pseudo-labels in place of boxes."""
    boxed = _batch(names)
    scores = torch.zeros(2, len(names))
    scores[0, 1], scores[1, 0] = 0.8, 0.4
    return ImageBatch(boxed.images, scores, boxed.vocabulary, boxed.records)


def test_every_loss_scales_with_its_weight(text):
    batch = _batch()
    one = _detector(text, image=1.0, weights={"box": 1.0}).losses(batch)
    two = _detector(text, image=2.0, weights={"grid": 2.0, "box": 2.0, "centreness": 2.0}).losses(
        batch
    )
    assert set(one) == {"grid", "image", "box", "centreness"}
    for name, loss in one.items():
        assert two[name].item() == pytest.approx(2 * loss.item(), rel=1e-4)


def test_a_weight_of_zero_does_not_even_load_the_teacher(text):
    detector = _detector(text, image=0.0, teacher=NOT_THERE)
    assert "image" not in detector.losses(_batch())
    with pytest.raises(InputError, match="no-such-clip"):
        _detector(text, image=0.1, teacher=NOT_THERE)


def test_image_level_alignment_without_a_teacher_is_refused(text):
    with pytest.raises(InputError, match=r"teacher.*has no teacher"):
        _detector(text, teacher=None)


def test_the_teacher_is_not_run_when_detecting(text, monkeypatch):
    detector = _detector(text).eval()
    monkeypatch.setattr(detector.teacher, "forward", lambda _: pytest.fail("teacher ran"))
    batch = _batch()
    detector.detect(batch.images, batch.vocabulary, batch.records)


def test_checkpoints_hold_neither_teacher_nor_text_tower(text):
    detector = _detector(text)
    trained = {name for name, _ in detector.named_parameters()}
    assert not [n for n in detector.state_dict() if n.startswith(("text", "teacher"))]
    assert {"log_scale", "bias"} <= trained


def test_image_level_losses_come_under_their_own_names_and_weights(text):
    one = _detector(text, weights={"unboxed": 1.0, "pseudo": 1.0}).losses(_unboxed())
    two = _detector(text, weights={"unboxed": 2.0, "pseudo": 2.0}).losses(_unboxed())
    assert set(one) == {"unboxed", "pseudo"}
    for name, loss in one.items():
        assert two[name].item() == pytest.approx(2 * loss.item(), rel=1e-4)


def test_images_without_boxes_align_as_those_with_boxes_do(text):
    detector = _detector(text, image=0.5, weights={"unboxed": 0.5})
    boxed, unboxed = detector.losses(_batch())["image"], detector.losses(_unboxed())["unboxed"]
    assert boxed.item() == pytest.approx(unboxed.item(), rel=1e-5)


def test_image_level_batches_are_refused_where_no_weight_lets_them_teach(text):
    with pytest.raises(InputError, match=r"weights: images without boxes teach nothing"):
        _detector(text).losses(_unboxed())


def test_without_pseudo_labels_an_image_level_batch_runs_no_grid(text, monkeypatch):
    detector = _detector(text, weights={"unboxed": 1.0})
    monkeypatch.setattr(detector.neck, "forward", lambda _: pytest.fail("the pyramid ran"))
    assert set(detector.losses(_unboxed())) == {"unboxed"}


def test_without_alignment_an_image_level_batch_needs_no_teacher(text):
    detector = _detector(text, image=0.0, teacher=NOT_THERE, weights={"pseudo": 1.0})
    assert set(detector.losses(_unboxed())) == {"pseudo"}


def test_only_cells_inside_each_image_are_pooled(text):
    detector, batch, seen = _detector(text, image=0.0, weights={"pseudo": 1.0}), _unboxed(), []
    detector.pseudo_labels = SimpleNamespace(
        loss=lambda cosines, inside, scores: seen.append(inside) or cosines.bias
    )
    detector.losses(batch)
    centres = detector(batch.images, batch.vocabulary).cells.centres.tolist()
    for inside, (height, width) in zip(seen[0], batch.images.sizes.tolist(), strict=True):
        assert inside.tolist() == [x < width and y < height for x, y in centres]


def test_pseudo_labels_raise_their_names_and_lower_the_others(text):
    detector = _detector(text, image=0.0, weights={"pseudo": 1.0})
    batch = _unboxed()._replace(scores=torch.tensor([[0.0, 1, 0], [0, 1, 0]]))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        detector.losses(batch)["pseudo"].backward()
        optimizer.step()
    embeddings = detector(batch.images, batch.vocabulary).embeddings
    best = detector.cosines(embeddings, batch.vocabulary).logits()[:, :64].mean((0, 1))
    assert best.argmax() == 1


@pytest.mark.parametrize("kind", ["boxed", "unboxed"])
def test_a_stored_embedding_spares_the_teacher(text, monkeypatch, kind):
    detector = _detector(text, image=0.5, weights={"unboxed": 0.5})
    batch = _batch() if kind == "boxed" else _unboxed()
    name = "image" if kind == "boxed" else "unboxed"
    seen, truth = detector.losses(batch)[name], detector.teacher(batch.images)
    monkeypatch.setattr(detector.teacher, "forward", lambda _: pytest.fail("teacher ran"))
    assert detector.losses(batch._replace(teacher=truth))[name].item() == pytest.approx(seen.item())
    other = detector.losses(batch._replace(teacher=-truth))[name]
    assert other.item() != pytest.approx(seen.item())


@pytest.mark.parametrize(
    "weights",
    [
        {"unboxed": 1.0},
        {"pseudo": 1.0},
        {"unboxed": 1.0, "grid": 0.0},
        {"pseudo": 1.0, "grid": 0.0, "box": 0.0},
    ],
)
@pytest.mark.parametrize("image", [0.0, 0.1])
def test_what_is_trained_is_read_by_one_of_the_two_kinds_of_batch(text, image, weights):
    detector = _detector(text, image=image, weights=weights)
    for batch in (_batch(), _unboxed()):
        torch.stack([*detector.losses(batch).values()]).sum().backward()
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_names_that_do_not_count_take_no_part_in_the_loss(text):
    detector = _detector(text, negatives=Negatives(kind="verified"))
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    one, two = _batch(), _batch(("red star", "green ring", "another word"))
    losses = [detector.losses(b._replace(verified=nothing))["grid"].item() for b in (one, two)]
    assert losses[0] == pytest.approx(losses[1])
    everything = detector.losses(one._replace(verified=~nothing))["grid"].item()
    assert everything == pytest.approx(_detector(text).losses(one)["grid"].item(), rel=1e-5)
    assert losses[0] < everything


@pytest.mark.parametrize("image", [0.0, 0.1])
@pytest.mark.parametrize("clip_residual", [False, True])
@pytest.mark.parametrize("weights", [{}, {"grid": 0.0}, {"box": 0.0}, {"centreness": 0.0}])
def test_every_trainable_parameter_gets_a_gradient_so_ddp_never_waits(
    text, image, clip_residual, weights
):
    detector = _detector(text, image=image, clip_residual=clip_residual, weights=weights)
    torch.stack([*detector.losses(_batch()).values()]).sum().backward()
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_a_backbone_without_attention_pool_learns_from_a_teacher_of_another_width(text):
    backbone = TimmBackbone("test_efficientnet.r160_in1k")
    detector = _detector(text, backbone=backbone)
    losses = detector.losses(_batch(side=96))
    losses["image"].backward()
    assert detector.to_teacher.weight.grad.abs().sum() > 0


def test_the_residual_needs_a_pool_of_the_texts_width(text):
    with pytest.raises(InputError, match=r"clip_residual.*no attention pool"):
        _detector(text, backbone=TimmBackbone("test_efficientnet.r160_in1k"), clip_residual=True)


def test_the_residual_changes_what_cells_say(text):
    batch = _batch()
    plain = _detector(text)(batch.images, batch.vocabulary).embeddings
    residual = _detector(text, clip_residual=True)(batch.images, batch.vocabulary).embeddings
    assert not torch.allclose(plain, residual)


def test_reordering_the_names_only_renumbers_the_labels(text):
    detector, batch = _detector(text).eval(), _batch()
    names = batch.vocabulary.names
    order = [2, 0, 1]
    shuffled = Vocabulary(names[i] for i in order)
    for one, two in zip(
        detector.detect(batch.images, batch.vocabulary, batch.records),
        detector.detect(batch.images, shuffled, batch.records),
        strict=True,
    ):
        assert torch.allclose(one.scores, two.scores, atol=1e-5)
        said = lambda found, words: [words[i] for i in found.labels[:5].tolist()]  # noqa: E731
        assert said(one, names) == said(two, shuffled.names)


def test_names_outside_the_batchs_vocabulary_take_no_part_in_the_loss(text):
    detector = _detector(text)
    few, many = _batch(("a", "b", "c")), _batch(("a", "b", "c", "d", "e"))
    assert detector.losses(few)["grid"] < detector.losses(many)["grid"]
    assert detector.losses(few)["box"] == detector.losses(many)["box"]


def test_at_the_start_every_cell_and_name_scores_about_the_prior(text):
    detector, batch = _detector(text, prior=0.01).eval(), _batch()
    embeddings = detector(batch.images, batch.vocabulary).embeddings
    scores = detector.cosines(embeddings, batch.vocabulary).logits().sigmoid()
    assert 0.001 < scores.median() < 0.1


def test_batch_norm_statistics_of_the_backbone_stay_as_loaded(text):
    detector = _detector(text).train()
    before = detector.backbone.tower.bn1.running_mean.clone()
    detector.losses(_batch())
    assert torch.equal(detector.backbone.tower.bn1.running_mean, before)


def test_a_few_steps_learn_one_image(text):
    detector, batch = _detector(text, image=0.0), _batch()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        loss = torch.stack([*detector.losses(batch).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0]


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=r"weights\.image"):
        LossWeights(image=wrong)
