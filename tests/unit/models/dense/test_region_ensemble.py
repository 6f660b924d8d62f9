"""A second opinion on boxes, against a score worked out box by box."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import nms

from gridclip.io.errors import InputError
from gridclip.models.dense.region_ensemble import RegionEnsemble
from gridclip.models.detclip.model import DetCLIPv2
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_encoders import ClipRegions, PooledRegions
from gridclip.models.encoders.text import ClipText
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.ops.assigners import FCOSAssigner
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import Images, Record, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="random")
NAMES = Vocabulary(["red star", "green ring", "blue moon"])
RECORDS = [Record(1, "", 64, 64), Record(2, "", 96, 128)]


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    return ClipText(MINI)


@pytest.fixture
def images():
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=chance)
    return Images(pixels, torch.tensor([[64, 64], [48, 64]]))


def _ensemble(**settings):
    torch.manual_seed(1)
    return RegionEnsemble(ClipRegions(MINI), **{"temperature": 0.05} | settings)


def _detector(text, kind=GridCLIP, **settings):
    torch.manual_seed(0)
    weights = {"weights": LossWeights(image=0.0)} if kind is GridCLIP else {}
    parts = {"backbone": ClipResNet(MINI), "text": text, "assigner": FCOSAssigner()}
    settings.setdefault("decoding", DecodeSettings(score="independent"))
    detector = kind(**parts, width=32, num_convs=1, **weights, **settings).eval()
    nn.init.normal_(detector.head.box.weight, std=0.1)
    nn.init.normal_(detector.head.centreness.weight, std=0.5)
    return detector


@pytest.mark.parametrize("kind", [GridCLIP, DetCLIPv2])
@torch.no_grad()
def test_a_score_is_the_weighted_geometric_mean_of_detector_and_tower(text, images, kind):
    ensemble = _ensemble(weight=0.3, novel_weight=0.8)
    detector = _detector(text, kind, ensemble=ensemble)
    detector.trained_on = Vocabulary(["red star", "blue moon"])
    predictions, vectors = detector(images, NAMES), text(NAMES)
    own = detector.cosines(predictions.embeddings, NAMES).logits().sigmoid()
    own = (own * predictions.centreness.sigmoid()[..., None]).sqrt()
    found = detector.detect(images, NAMES, RECORDS)
    regions = ensemble.regions.network
    for row, (high, wide) in enumerate([(64, 64), (48, 64)]):
        single = Images(images.pixels[row : row + 1, :, :high, :wide], images.sizes[row : row + 1])
        boxes = predictions.boxes[row].clone()
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, wide)
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, high)
        seen = F.normalize(regions(single, [boxes]), dim=1) @ vectors.T / 0.05
        seen = seen.exp() / seen.exp().sum(1, keepdim=True)
        weight = torch.tensor([0.3, 0.8, 0.3])
        scores = own[row] ** (1 - weight) * seen**weight
        kept = torch.cat([scores[nms(boxes, of, 0.6), k] for k, of in enumerate(scores.T)])
        expected = kept.sort(descending=True).values[:300]
        assert torch.allclose(found[row].scores, expected, rtol=1e-3)


@torch.no_grad()
def test_without_weight_the_tower_changes_nothing_and_with_all_it_alone_decides(text, images):
    plain = _detector(text).detect(images, NAMES, RECORDS)
    silent = _detector(text, ensemble=_ensemble(weight=0.0, novel_weight=0.0))
    for one, other in zip(silent.detect(images, NAMES, RECORDS), plain, strict=True):
        assert torch.allclose(one.boxes, other.boxes)
        assert torch.allclose(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)
    alone = _detector(text, ensemble=_ensemble(weight=1.0))
    before = alone.detect(images, NAMES, RECORDS)
    alone.head.centreness.bias += 1  # every score of the detector's own
    for one, other in zip(before, alone.detect(images, NAMES, RECORDS), strict=True):
        assert torch.allclose(one.scores, other.scores)


@torch.no_grad()
def test_names_that_the_detector_did_not_put_forward_may_win(text, images):
    """One pair enters from each image: its cell is the detector's choice, its name is not."""
    decoding, many = (
        DecodeSettings(score="independent", candidates=1),
        Vocabulary(f"thing {n}" for n in range(20)),
    )
    plain = _detector(text, decoding=decoding).detect(images, many, RECORDS)
    alone = _detector(text, decoding=decoding, ensemble=_ensemble(weight=1.0))
    both = alone.detect(images, many, RECORDS)
    assert [len(each.labels) for each in both] == [1, 1]
    for one, other in zip(both, plain, strict=True):
        assert torch.allclose(one.boxes, other.boxes)
    names = [[int(each.labels) for each in found] for found in (plain, both)]
    assert names[0] != names[1]


@torch.no_grad()
def test_images_in_which_nothing_is_found_stay_empty(text, images):
    decoding = DecodeSettings(score="independent", threshold=1.0)
    detector = _detector(text, decoding=decoding, ensemble=_ensemble())
    assert [len(each.scores) for each in detector.detect(images, NAMES, RECORDS)] == [0, 0]


@torch.no_grad()
def test_scores_are_made_in_full_precision_where_networks_run_in_half(text, images):
    detector = _detector(text, ensemble=_ensemble(weight=0.0, novel_weight=0.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector.detect(images, NAMES, RECORDS)
    for each in found:
        assert each.scores.dtype == torch.float32
        assert len(each.scores.unique()) > 0.9 * len(each.scores)  # bf16 tells 256 in a factor of 2


def test_the_tower_is_no_part_of_training_nor_of_checkpoints(text):
    with_one, without = _detector(text, ensemble=_ensemble()), _detector(text)
    assert with_one.state_dict().keys() == without.state_dict().keys()
    assert len([*with_one.parameters()]) == len([*without.parameters()])
    tower = with_one.train().ensemble.regions.network
    assert not tower.training
    assert not any(weight.requires_grad for weight in tower.parameters())


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"weight": 1.2}, "ensemble.weight"),
        ({"novel_weight": -0.1}, "ensemble.novel_weight"),
        ({"temperature": 0.0}, "ensemble.temperature"),
        ({"temperature": float("nan")}, "ensemble.temperature"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(settings, field):
    with pytest.raises(InputError, match=field):
        _ensemble(**settings)


def test_a_tower_of_another_space_is_refused(text):
    other = RegionEnsemble(PooledRegions("test_resnet", width=text.width + 1))
    with pytest.raises(InputError, match=r"ensemble\.regions.*width"):
        _detector(text, ensemble=other)
