"""RegionCLIP as a detector: regions, losses, fusion, and boxes that are given."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gridclip.data.transforms.augment import Resize
from gridclip.engine.lightning_module import DetectionSystem
from gridclip.engine.predictor import TrainedDetector
from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_encoders import ClipRegions
from gridclip.models.encoders.text import ClipText
from gridclip.models.regionclip.model import RegionCLIP
from gridclip.models.two_stage.detector import GivenBoxes
from gridclip.models.two_stage.losses import (
    NamingLoss,
    RegionWeights,
    SamplingSettings,
    region_boxes,
    region_classification,
)
from gridclip.models.two_stage.roi_head import DROPPED, HeadSettings, TextClassifier, fuse
from gridclip.models.two_stage.rpn import ProposalSettings
from gridclip.models.vild.model import ViLD
from gridclip.ops.boxes import boxes_from_offsets, offsets_from_boxes
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import (
    DetectionBatch,
    ImageBatch,
    Images,
    Proposals,
    Record,
    Targets,
    Vocabulary,
)

MINI = ClipModel(name="gridclip-mini", weights="random")
NAMES = ("red star", "green ring", "blue moon")
FEW = ProposalSettings(limit=12, candidates=40, anchor_scales=(1.0, 2.0), anchors=32)


@pytest.fixture(scope="module")
def text():
    return ClipText(MINI)


def _vild(text):
    torch.manual_seed(3)
    head = HeadSettings(num_convs=0, num_fcs=1, fc_width=16, side=3, norm="group")
    return ViLD(
        ClipResNet(MINI), text, "vild-text", width=16, head=head,
        proposals=ProposalSettings(limit=9, candidates=40),
    )  # fmt: skip


def _detector(text, **settings):
    torch.manual_seed(0)
    return RegionCLIP(
        ClipRegions(MINI, freeze=settings.pop("freeze", ("stem", "batch_norm"))),
        text,
        proposals=settings.pop("proposals", FEW),
        sampling=SamplingSettings(regions=16, positive=0.5),
        weights=RegionWeights(**settings.pop("weights", {})),
        **settings,
    )


def _images(side=96):
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=chance)
    sizes = torch.tensor([[side, side], [side, side // 2]])
    pixels[1, :, :, side // 2 :] = 0
    return Images(pixels, sizes)


def _batch(names=NAMES):
    targets = [
        Targets(torch.tensor([[4.0, 4.0, 40.0, 44.0]]), torch.tensor([1])),
        Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    ]
    return DetectionBatch(_images(), targets, Vocabulary(names), _records())


def _records():
    return [Record(1, "", 192, 192), Record(2, "", 192, 96)]


# --- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("average", ["count", "weight"])
def test_naming_weighs_and_scales_regions_as_a_loop_does(gamma, average):
    torch.manual_seed(0)
    logits = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 2, 3, 1, 3, 3])
    naming = NamingLoss(gamma=gamma, background=0.2, average=average)
    found = region_classification(logits, labels, naming)
    total = weights = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        probability = math.exp(row[label]) / sum(map(math.exp, row))
        weight = 0.2 if label == 3 else 1.0
        total -= weight * (1 - probability) ** gamma * math.log(probability)
        weights += weight
    assert found.item() == pytest.approx(total / (7 if average == "count" else weights))
    assert torch.autograd.gradcheck(lambda x: region_classification(x, labels, naming), logits)


def test_weighted_naming_without_focal_scaling_is_torchs_own():
    logits, labels = torch.randn(9, 5), torch.tensor([4, 4, 0, 1, 4, 2, 3, 4, 4])
    weight = torch.tensor([1.0, 1, 1, 1, 0.8])
    found = region_classification(logits, labels, NamingLoss(background=0.8, average="weight"))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, weight=weight))


def test_focal_scaling_keeps_a_finite_gradient_where_nothing_is_missed():
    logits = torch.tensor([[200.0, 0, 0], [0, 0, 300]], requires_grad=True)
    region_classification(logits, torch.tensor([0, 2]), NamingLoss(gamma=0.5)).backward()
    assert logits.grad.isfinite().all()
    assert region_classification(torch.zeros(0, 3), torch.zeros(0).long()).item() == 0


def test_without_a_bend_the_box_loss_is_l1_over_all_regions():
    torch.manual_seed(1)
    corners = 50 * torch.rand(5, 2)
    boxes, truth = (torch.cat([corners, corners + 9 + 9 * torch.rand(5, 2)], 1) for _ in range(2))
    offsets, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 2, 2])
    rows = [0, 2]
    expected = (offsets[rows] - offsets_from_boxes(boxes[rows], truth[rows])).abs().sum() / 5
    found = region_boxes(offsets, boxes, truth, labels, 2, bend=0.0)
    torch.testing.assert_close(found, expected)


def test_a_zero_background_has_a_logit_of_zero_and_nothing_to_learn():
    classifier = TextClassifier(6, 0.01, False, background="zero")
    regions, names = (F.normalize(torch.randn(n, 6), dim=1) for n in (4, 3))
    logits = classifier(regions, names)
    assert logits[:, -1].tolist() == [0] * 4
    torch.testing.assert_close(logits[:, :-1], 100 * regions @ names.mT)
    assert [name for name, p in classifier.named_parameters() if p.requires_grad] == []
    assert "background" not in classifier.state_dict()


# --- fusion -------------------------------------------------------------------------------------


def test_each_fusion_is_its_formula():
    named, objectness = torch.tensor([[0.5, 0.1], [0.8, 0.2]]), torch.tensor([0.9, 0.6])
    assert fuse(named, objectness, "none").equal(named)
    found = fuse(named, objectness, "sigmoid")
    assert found[0].tolist() == pytest.approx([math.sqrt(0.45), math.sqrt(0.09)])
    found = fuse(named, objectness, "logit")
    assert found[1].tolist() == pytest.approx(
        [math.sqrt(0.8 * math.log(1.5)), math.sqrt(0.2 * math.log(1.5))], rel=1e-5
    )


def test_the_released_fusion_keeps_the_rows_that_are_numbers_and_only_these():
    """The released formula written out: roots of negative numbers are dropped as not finite."""
    torch.manual_seed(0)
    named, logits = torch.rand(50, 3), 4 * torch.randn(50)
    released = (named * logits[:, None]) ** 0.5
    kept = released.isfinite().all(1)
    found = fuse(named, logits.sigmoid(), "logit")
    assert 10 < kept.sum() < 40
    torch.testing.assert_close(found[kept], released[kept], rtol=1e-4, atol=1e-4)
    assert (found[~kept] == DROPPED).all()
    assert found.max() > 1  # scores above one are part of what was released


def test_a_sure_proposal_has_a_finite_logit():
    assert fuse(torch.ones(2, 1), torch.tensor([1.0, 0.0]), "logit").isfinite().all()


def test_proposals_that_the_gate_stops_never_leave(text):
    detector = _detector(text, fusion="logit", decoding=DecodeSettings(nms_iou=1.0, limit=1000))
    images, records = _images(), _records()
    with torch.no_grad():  # untrained, all objectness is about one half: put it about exactly that
        detector.proposals.rpn.head.cls_logits.weight.normal_(std=5.0)
        scores = torch.cat([found.scores for found in detector.propose(images)])
        detector.proposals.rpn.head.cls_logits.bias -= scores.median().logit()
    proposals = detector.propose(images)
    over_half = sum(int((found.scores > 0.5).sum()) for found in proposals)
    assert 0 < over_half < sum(len(found.scores) for found in proposals)
    found = detector.detect(images, Vocabulary(NAMES), records)
    assert sum(len(each.scores) for each in found) == over_half * len(NAMES)
    assert all((each.scores >= 0).all() for each in found)


# --- the detector -------------------------------------------------------------------------------


@pytest.mark.parametrize("background", ["zero", "learned"])
@pytest.mark.parametrize(
    "weights", [{}, {"text": 0.0}, {"box": 0.0}, {"text": 0.0, "box": 0.0}, {"objectness": 0.0}]
)
def test_every_trainable_parameter_gets_a_gradient_so_ddp_never_waits(text, background, weights):
    detector = _detector(text, background=background, weights=weights, learn_temperature=True)
    losses = detector.train().losses(_batch())
    assert set(losses) == {"text", "box", "objectness", "anchor"} - set(weights)
    sum(losses.values()).backward()
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_proposals_losses_do_not_touch_the_encoder(text):
    detector = _detector(text).train()
    losses = detector.losses(_batch())
    (losses["objectness"] + losses["anchor"]).backward()
    assert all(p.grad is None for p in detector.regions.parameters())
    assert detector.proposals.rpn.head.cls_logits.weight.grad.any()


def test_naming_and_boxes_teach_the_encoder_through_both_stages(text):
    detector = _detector(text).train()
    losses = detector.losses(_batch())
    (losses["text"] + losses["box"]).backward()
    grads = {name: p.grad for name, p in detector.regions.named_parameters() if p.requires_grad}
    for part in ("tower.layer3", "tower.layer4", "pool"):
        assert any(grad.any() for name, grad in grads.items() if name.startswith(part)), part
    assert not any(name.startswith("tower.conv1") for name in grads)


def test_a_frozen_proposer_proposes_and_never_learns(text, tmp_path):
    other = _vild(text)
    with torch.no_grad():
        other.proposals.rpn.head.cls_logits.weight.normal_(std=5.0)  # untrained, all are equal
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": DetectionSystem(other).state_dict()}, file)
    detector = _detector(text, proposer=_vild(text), checkpoint=str(file)).train()
    images = _images()
    for mine, theirs in zip(detector.propose(images), other.eval().propose(images), strict=True):
        torch.testing.assert_close(mine.boxes, theirs.boxes)
        torch.testing.assert_close(mine.scores, theirs.scores)
    assert set(detector.losses(_batch())) == {"text", "box"}
    assert not any(p.requires_grad for p in detector.proposer.parameters())
    assert not detector.proposer.training
    assert detector.proposals is None


def test_a_checkpoint_without_a_proposer_is_refused(text):
    with pytest.raises(InputError, match="checkpoint of nothing"):
        _detector(text, checkpoint="last.ckpt")


def test_another_space_for_names_than_for_regions_is_refused(text, tmp_path):
    class Narrow(ClipText):
        width = 64

    narrow = Narrow(MINI)
    narrow.width = 64
    with pytest.raises(InputError, match="width 128, text vectors 64"):
        _detector(narrow)


def test_images_without_boxes_are_refused_by_name(text):
    batch = _batch()
    other = ImageBatch(batch.images, torch.zeros(2, 3), batch.vocabulary, batch.records)
    with pytest.raises(InputError, match="RegionCLIP learns nothing from images without boxes"):
        _detector(text).losses(other)


def test_a_few_steps_learn_one_image(text):
    detector, batch = _detector(text, temperature=0.05).train(), _batch()
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimizer, sums = torch.optim.AdamW(trained, lr=2e-3), []
    for step in range(10):
        torch.manual_seed(step)
        loss = sum(detector.losses(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums.append(loss.item())
    assert sums[-1] < 0.8 * sums[0]


# --- boxes that are given -----------------------------------------------------------------------


@pytest.fixture
def annotated(tmp_path):
    """Two boxes in image 1, none in 2; original pixels, twice the resized ones."""
    file = tmp_path / "val.json"
    sizes = {1: (192, 192), 2: (192, 96)}
    content = {
        "images": [
            {"id": i, "height": h, "width": w, "file_name": ""} for i, (h, w) in sizes.items()
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 20, 60, 80], "area": 4800},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [100, 90, 40, 30], "area": 1200},
        ],
    }
    file.write_text(json.dumps(content))
    return file


def test_given_boxes_are_the_annotations_in_pixels_of_the_resized_image(annotated):
    first, second = GivenBoxes(annotated).of(_images(), _records())
    assert first.boxes.tolist() == [[5, 10, 35, 50], [50, 45, 70, 60]]
    assert first.scores.tolist() == [1, 1]
    assert second.boxes.shape == (0, 4)


def test_an_image_that_the_file_lacks_is_told(annotated):
    with pytest.raises(InputError, match="has no image 7"):
        GivenBoxes(annotated).of(_images(), [Record(7, "", 192, 192)] * 2)


def test_detecting_with_given_boxes_names_them_and_moves_none(text, annotated):
    detector = _detector(text, given=str(annotated), fusion="logit").eval()
    with torch.no_grad():
        detector.box.bias.fill_(3.0)  # would move boxes, if they were refined
    found, nothing = detector.detect(_images(), Vocabulary(NAMES), _records())
    assert len(nothing.scores) == 0
    assert len(found.scores) == 2 * len(NAMES)
    corners = {tuple(box) for box in found.boxes.tolist()}
    assert corners == {(10, 20, 70, 100), (100, 90, 140, 120)}
    boxes = [torch.tensor([[5.0, 10, 35, 50], [50, 45, 70, 60]]), torch.zeros(0, 4)]
    features = detector.regions.embed(detector.regions.maps(_images()), boxes)
    cosines = F.normalize(features, dim=1) @ text(Vocabulary(NAMES)).mT
    shares = torch.cat([cosines / 0.01, torch.zeros(2, 1)], 1).softmax(1)[:, :-1]
    torch.testing.assert_close(found.scores, shares.flatten().sort(descending=True).values)


@pytest.mark.parametrize("suppression", ["hard", "soft"])
def test_a_batch_without_any_given_box_detects_nothing(text, annotated, suppression):
    settings = DecodeSettings(suppression=suppression)
    detector = _detector(text, given=str(annotated), decoding=settings).eval()
    pixels, sizes = (part[1:] for part in _images())
    (found,) = detector.detect(Images(pixels, sizes), Vocabulary(NAMES), _records()[1:])
    assert found.boxes.shape == (0, 4)


def test_proposed_and_given_boxes_have_the_same_features(text, annotated):
    """Once wrong in the released code, where a second checkpoint reset half of the network."""
    detector, images = _detector(text, refine=False).eval(), _images()
    predictions = detector(images, Vocabulary(NAMES))
    boxes = [found.boxes for found in predictions.proposals]
    with torch.no_grad():
        torch.testing.assert_close(detector.region_features(images, boxes), predictions.text)
    given = _detector(text, given=str(annotated)).eval()
    given.load_state_dict(detector.state_dict())
    proposals = [Proposals(each, torch.ones(len(each))) for each in boxes]
    with torch.no_grad():
        named = given(images, Vocabulary(NAMES), proposals)
    torch.testing.assert_close(named.text, predictions.text)


def test_a_frozen_proposer_changes_no_feature(text, tmp_path):
    """The released fault itself: loading the proposals' weights must leave CLIP's as they were."""
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": DetectionSystem(_vild(text)).state_dict()}, file)
    images, boxes = _images(), [torch.tensor([[4.0, 4, 60, 50]])] * 2
    alone, beside = _detector(text), _detector(text, proposer=_vild(text), checkpoint=str(file))
    beside.regions.load_state_dict(alone.regions.state_dict())
    with torch.no_grad():
        features = [each.eval().region_features(images, boxes) for each in (alone, beside)]
    assert features[0].equal(features[1])


def test_refined_boxes_are_those_of_the_offsets(text):
    detector, images = _detector(text).eval(), _images()
    with torch.no_grad():
        detector.box.bias.copy_(torch.tensor([1.0, -1, 0.5, 0.2]))
        detector.box.weight.zero_()
        predictions = detector(images, Vocabulary(NAMES))
        boxes = torch.cat([found.boxes for found in predictions.proposals])
        offsets = detector.box.bias.expand(len(boxes), 4)
        torch.testing.assert_close(predictions.boxes, boxes_from_offsets(boxes, offsets))
        detector.refine = False
        assert detector(images, Vocabulary(NAMES)).boxes.equal(boxes)


# --- for anyone's boxes -------------------------------------------------------------------------


@pytest.fixture
def trained(text):
    return TrainedDetector(_detector(text), Resize(shortest=(96,), longest=96))


def _image(height=192, width=96):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_classify_gives_every_box_the_probability_of_every_name_best_first(trained, text):
    boxes = [[4, 8, 40, 100], [0, 0, 96, 192]]
    named = trained.classify(_image(), boxes, NAMES)
    features = torch.tensor(trained.region_features(_image(), boxes))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    shares = (features @ text(Vocabulary(NAMES)).mT / 0.01).softmax(1)
    for row, shown in zip(shares.tolist(), named, strict=True):
        assert shown == pytest.approx(dict(zip(NAMES, row, strict=True)), rel=1e-4)
        assert sum(shown.values()) == pytest.approx(1)
        assert list(shown.values()) == sorted(shown.values(), reverse=True)


def test_features_are_of_the_boxes_in_pixels_of_the_image(trained):
    """An image of 192 x 96 is seen at 96 x 48: its boxes too are halved."""
    features = trained.region_features(_image(), [[10, 20, 60, 120]])
    batch = trained._batch([_image()])
    direct = trained.detector.region_features(batch, [torch.tensor([[5.0, 10, 30, 60]])])
    np.testing.assert_allclose(features, direct.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "boxes",
    [[[5, 5, 5, 9]], [[9, 9, 4, 20]], [[200, 0, 300, 10]], [[1, 2, 3]], [[0, 0, math.nan, 5]]],
)
def test_what_is_no_box_of_the_image_is_refused(trained, boxes):
    with pytest.raises(InputError, match="boxes"):
        trained.classify(_image(), boxes, NAMES)


def test_no_boxes_are_named_nothing(trained):
    assert trained.classify(_image(), [], NAMES) == []


def test_a_detector_that_reads_only_its_own_regions_says_so(text):
    other = TrainedDetector(_vild(text), Resize(shortest=(96,), longest=96))
    with pytest.raises(InputError, match="ViLD finds its own regions"):
        other.classify(_image(), [[0, 0, 9, 9]], NAMES)


def test_any_names_are_detected_by_a_plain_call(trained):
    found = trained.detect(_image(), ["a cat", "a dog"], threshold=0.0)
    assert {each.name for each in found} == {"a cat", "a dog"}
