"""ViLD and crop-and-classify, whole."""

import pytest
import torch

from gridclip.engine.lightning_module import DetectionSystem, load_weights
from gridclip.io.errors import InputError
from gridclip.models.dense.grid_head import FPN
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_views import embed_regions
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.models.encoders.text import ClipText
from gridclip.models.two_stage.losses import RegionWeights, SamplingSettings
from gridclip.models.two_stage.roi_head import BranchWeights, HeadSettings, geometric_mean
from gridclip.models.two_stage.rpn import ProposalSettings
from gridclip.models.vild.crop_and_classify import CropAndClassify
from gridclip.models.vild.model import ViLD
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import (
    DetectionBatch,
    ImageBatch,
    Images,
    Record,
    RegionTargets,
    Targets,
    Vocabulary,
)

MINI = ClipModel(name="gridclip-mini", weights="random")
BUNDLED = ClipModel()
NOT_THERE = ClipModel(name="no-such-clip", weights="random")
NAMES = ("red star", "green ring", "blue moon")
VARIANTS = ("vild-text", "vild-image", "vild", "vild-ensemble")


@pytest.fixture(scope="module")
def text():
    return ClipText(MINI)


def _detector(text, variant="vild", *, teacher=None, num_convs=0, norm="group", **settings):
    torch.manual_seed(0)
    return ViLD(
        backbone=settings.pop("backbone", None) or ClipResNet(MINI),
        text=text,
        variant=variant,
        teacher=teacher and ClipTeacher(teacher),
        width=16,
        head=HeadSettings(num_convs=num_convs, num_fcs=1, fc_width=32, side=3, norm=norm),
        proposals=ProposalSettings(limit=20, candidates=40, anchor_scales=(4.0,), anchors=32),
        sampling=SamplingSettings(regions=16, positive=0.5, distilled=4),
        weights=RegionWeights(**settings.pop("weights", {})),
        **settings,
    )


def _batch(names=NAMES, side=64, regions=3):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    targets = [
        Targets(torch.tensor([[4.0, 4.0, 40.0, 44.0]]), torch.tensor([1])),
        Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    ]
    records = [Record(i, "", 2 * side, 2 * side) for i in (1, 2)]
    images = Images(pixels, torch.tensor([[side, side], [side, side // 2]]))
    boxes = torch.tensor([[2.0, 2, 30, 30], [4, 10, 20, 40], [1, 1, 12, 12]])[:regions]
    seen = torch.nn.functional.normalize(torch.randn(2, 3, 128, generator=generator), dim=-1)
    stored = [RegionTargets(boxes, each[:regions]) for each in seen]
    return DetectionBatch(images, targets, Vocabulary(names), records, regions=stored)


def _backward(detector, batch, only=None):
    torch.manual_seed(1)
    losses = detector.losses(batch)
    sum(loss for name, loss in losses.items() if only is None or name == only).backward()
    return losses


@pytest.mark.parametrize(
    ("variant", "learnt"),
    [
        ("vild-text", {"text", "box", "objectness", "anchor"}),
        ("vild-image", {"image", "box", "objectness", "anchor"}),
        ("vild", {"text", "image", "box", "objectness", "anchor"}),
        ("vild-ensemble", {"text", "image", "box", "objectness", "anchor"}),
    ],
)
def test_each_variant_has_its_losses_and_each_scales_with_its_weight(text, variant, learnt):
    losses = []
    for factor in (1.0, 2.0):
        detector = _detector(text, variant, weights=dict.fromkeys(RegionWeights().__dict__, factor))
        torch.manual_seed(1)
        losses.append(detector.losses(_batch()))
    assert set(losses[0]) == learnt
    for name, loss in losses[0].items():
        assert losses[1][name].item() == pytest.approx(2 * loss.item(), rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("regions", "norm"), [(3, "batch"), (0, "batch"), (0, "group")])
@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"text": 0.0},
        {"image": 0.0},
        {"box": 0.0},
        {"objectness": 0.0},
        {"objectness": 0.0, "anchor": 0.0},
    ],
)
def test_every_trainable_parameter_gets_a_gradient_so_ddp_never_waits(
    text, variant, regions, norm, weights
):
    detector = _detector(text, variant, num_convs=1, norm=norm, weights=weights)
    losses = _backward(detector, _batch(regions=regions))
    assert not {name for name, weight in weights.items() if not weight} & set(losses)
    assert all(loss.isfinite() for loss in losses.values())
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert all(buffer.isfinite().all() for buffer in detector.buffers())


def test_distillation_reaches_the_ensembles_image_branch_and_not_its_text_branch(text):
    detector = _detector(text, "vild-ensemble", num_convs=1)
    _backward(detector, _batch(), only="image")

    def reached(part):
        return any(p.grad is not None and p.grad.any() for p in part.parameters())

    assert reached(detector.image_head)
    assert reached(detector.backbone)
    assert not reached(detector.head)
    assert not reached(detector.classifier)
    assert not reached(detector.proposals)


def test_without_names_and_boxes_to_learn_no_proposal_is_pooled(text, monkeypatch):
    weights = {"text": 0.0, "box": 0.0, "objectness": 0.0, "anchor": 0.0}
    detector, batch = _detector(text, weights=weights), _batch()
    seen = []
    pool = detector.region_pool.forward
    monkeypatch.setattr(
        detector.region_pool, "forward", lambda *given: seen.append(given[1]) or pool(*given)
    )
    assert set(_backward(detector, batch)) == {"image"}
    assert [[len(boxes) for boxes in each] for each in seen] == [[0, 0], [3, 3]]
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_the_background_vector_learns_from_names(text):
    detector = _detector(text, "vild-text")
    _backward(detector, _batch(), only="text")
    assert detector.classifier.background.grad.abs().sum() > 0


def test_a_weight_of_zero_does_not_even_load_the_teacher(text):
    _detector(text, "vild", teacher=NOT_THERE, weights={"image": 0.0})
    _detector(text, "vild-text", teacher=NOT_THERE)
    with pytest.raises(InputError, match="no-such-clip"):
        _detector(text, "vild", teacher=NOT_THERE)


def test_stored_embeddings_spare_the_teacher_and_without_both_training_is_refused(
    text, monkeypatch
):
    detector, batch = _detector(text, teacher=MINI), _batch()
    looked = detector.losses(batch._replace(regions=None))["image"]
    assert looked.isfinite()
    monkeypatch.setattr(detector.teacher, "see", lambda _: pytest.fail("teacher ran"))
    detector.losses(batch)
    with pytest.raises(InputError, match=r"regions: this batch carries no embeddings"):
        _detector(text).losses(batch._replace(regions=None))


def test_a_looking_teacher_teaches_what_stored_embeddings_of_the_same_proposals_do(text):
    detector = _detector(text, "vild-ensemble", teacher=MINI).eval()
    batch = _batch()
    boxes = [found.boxes[:4] for found in detector.propose(batch.images)]
    seen = embed_regions(detector.teacher, batch.images, boxes)
    stored = [RegionTargets(*each) for each in zip(boxes, seen, strict=True)]
    one, two = (
        detector.losses(batch._replace(regions=regions))["image"] for regions in (None, stored)
    )
    assert one.item() == pytest.approx(two.item(), rel=1e-5)


def test_a_teacher_says_something_else_of_another_view(text):
    one, two = (_detector(text, teacher=BUNDLED, view=view) for view in ("vild", "pasted"))
    assert (one.region_view, two.region_view) == ("vild", "pasted")
    assert _detector(text, "vild-text", view="pasted").region_view is None  # learns of none
    batch = _batch()._replace(regions=None)
    one, two = (detector.eval().losses(batch)["image"].item() for detector in (one, two))
    assert abs(one - two) > 1e-3


def test_embeddings_of_another_width_are_refused(text):
    batch = _batch()
    narrow = [RegionTargets(boxes, seen[:, :64]) for boxes, seen in batch.regions]
    with pytest.raises(InputError, match="have width 64, text vectors 128"):
        _detector(text).losses(batch._replace(regions=narrow))


def test_images_without_boxes_teach_nothing(text):
    batch = _batch()
    unboxed = ImageBatch(batch.images, torch.zeros(2, 3), batch.vocabulary, batch.records)
    with pytest.raises(InputError, match="image_level"):
        _detector(text).losses(unboxed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_change_neither_regions_nor_boxes(text, variant):
    detector, batch = _detector(text, variant).eval(), _batch()
    two, five = (
        detector(batch.images, Vocabulary(names))
        for names in (("a cup", "a cat"), ("a dog", "a cat", "an owl", "a bat", "a cup"))
    )
    assert two.boxes.equal(five.boxes)
    for one, other in ((two.text, five.text), (two.image, five.image)):
        assert (one is None and other is None) or one.equal(other)


def test_under_autocast_boxes_and_cosines_keep_their_precision(text):
    detector, batch = _detector(text, "vild-ensemble").eval(), _batch()
    torch.manual_seed(1)
    exact = detector.losses(batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rough, predictions = detector.losses(batch), detector(batch.images, batch.vocabulary)
        scores = detector.scores(predictions, batch.vocabulary)
    assert scores.dtype == predictions.boxes.dtype == torch.float32
    for name in ("objectness", "anchor"):
        assert rough[name].item() == pytest.approx(exact[name].item(), rel=0.1)
    assert all(loss.isfinite() for loss in rough.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_are_in_the_original_frame_best_first(text, variant):
    detector, batch = _detector(text, variant).eval(), _batch()
    for found in detector.detect(batch.images, batch.vocabulary, batch.records):
        assert 0 < len(found.boxes) <= 300
        assert (found.scores.diff() <= 0).all()
        assert found.scores.min() >= 0
        assert found.scores.max() <= 1
        assert found.boxes.min() >= 0
        assert 64 < found.boxes.max() <= 128.001


def test_scores_of_the_text_branch_are_a_softmax_with_background(text):
    detector, batch = _detector(text, "vild-text").eval(), _batch()
    predictions = detector(batch.images, batch.vocabulary)
    scores = detector.scores(predictions, batch.vocabulary)
    logits = detector.classifier(predictions.text, text(batch.vocabulary))
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(scores, expected[:, :3])
    torch.testing.assert_close(1 - scores.sum(1), expected[:, 3], atol=1e-6, rtol=0)  # the rest


def test_the_ensemble_trusts_its_text_branch_where_names_were_trained_on(text):
    detector, batch = _detector(text, "vild-ensemble").eval(), _batch()
    predictions = detector(batch.images, batch.vocabulary)
    vectors = text(batch.vocabulary)
    named = detector.classifier(predictions.text, vectors).softmax(-1)[:, :-1]
    seen = detector.classifier.without_background(predictions.image, vectors).softmax(-1)
    for trained_on, base in ((None, [True] * 3), (Vocabulary(NAMES[1:]), [False, True, True])):
        detector.trained_on = trained_on
        expected = geometric_mean(named, seen, torch.tensor(base), BranchWeights(2 / 3, 1 / 3))
        torch.testing.assert_close(detector.scores(predictions, batch.vocabulary), expected)


def test_checkpoints_tell_which_names_were_trained_on(text, tmp_path):
    system = DetectionSystem(_detector(text, "vild-ensemble"))
    system.detector.trained_on = Vocabulary(NAMES)
    checkpoint = {"state_dict": system.state_dict()}
    system.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    again = DetectionSystem(_detector(text, "vild-ensemble"))
    assert again.detector.trained_on is None
    load_weights(again, tmp_path / "last.ckpt")
    assert again.detector.trained_on == Vocabulary(NAMES)


def test_a_finer_backbone_pools_from_a_finer_level(text):
    detector = _detector(text, backbone=ClipResNet(MINI, finest=4))
    assert detector.pyramid.strides == (4, 8, 16, 32, 64)
    assert detector.region_pool.strides == (4, 8, 16, 32)
    assert set(_backward(detector, _batch())) >= {"text", "image"}


def test_only_two_stage_detectors_take_the_finer_backbone():
    with pytest.raises(InputError, match=r"backbone\.finest: the backbone gives 4 maps"):
        FPN(ClipResNet(MINI, finest=4).channels, 16)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"ensemble": 1.5}])
def test_settings_that_mean_nothing_are_refused_by_name(text, wrong):
    with pytest.raises(InputError, match=rf"^{next(iter(wrong))}"):
        _detector(text, **wrong)


@pytest.mark.parametrize("variant", ["vild-text", "vild-ensemble"])
def test_thirty_steps_learn_two_images(text, variant):
    detector, batch = _detector(text, variant, learn_temperature=True, temperature=0.1), _batch()
    optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for _ in range(30):
        loss = torch.stack([*detector.losses(batch).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0]


def _cropping(text, **settings):
    teacher = ClipTeacher(MINI)
    proposer = _detector(text, "vild-text")
    return CropAndClassify(proposer, text, teacher, limit=5, **settings)


def test_crop_and_classify_names_proposals_by_what_the_teacher_says_of_each(text):
    detector, batch = _cropping(text, decoding=DecodeSettings(nms_iou=1.0)).eval(), _batch()
    found = detector.detect(batch.images, batch.vocabulary, batch.records)[1]
    proposals = detector.propose(batch.images)[1]
    assert len(proposals.boxes) == 5
    expected = []
    for box, objectness in zip(proposals.boxes, proposals.scores.tolist(), strict=True):
        image = Images(batch.images.pixels[1:, :, :, :32], batch.images.sizes[1:])
        seen = embed_regions(detector.teacher, image, [box[None]])[0][0]
        names = (text(batch.vocabulary) @ seen / 0.01).softmax(0).tolist()
        expected += [(p * objectness) ** 0.5 for p in names]
    torch.testing.assert_close(found.scores, torch.tensor(sorted(expected, reverse=True)))


def test_crop_and_classify_is_not_trained(text):
    with pytest.raises(InputError, match="not trained"):
        _cropping(text).losses(_batch())


def test_crop_and_classify_takes_the_proposer_of_a_checkpoint(text, tmp_path):
    trained = _detector(text, "vild-text")
    with torch.no_grad():
        trained.proposals.rpn.head.cls_logits.bias.fill_(3.0)
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": DetectionSystem(trained).state_dict()}, file)
    detector = _cropping(text, checkpoint=str(file))
    assert detector.proposer.proposals.rpn.head.cls_logits.bias.min() == 3
    torch.save({"state_dict": {}}, file)
    with pytest.raises(InputError, match="does not fit"):
        _cropping(text, checkpoint=str(file))
