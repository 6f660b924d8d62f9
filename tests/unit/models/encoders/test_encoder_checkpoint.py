"""What pre-training on captions has learnt, as the start of detectors."""

import pytest
import torch

from gridclip.engine.lightning_module import DetectionSystem, start_from
from gridclip.io.errors import InputError
from gridclip.models.base import Detector
from gridclip.models.encoders.backbones import ClipResNet, TimmBackbone
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_encoders import ClipRegions, PooledRegions
from gridclip.models.encoders.text import ClipText
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.models.regionclip.model import RegionCLIP
from gridclip.models.regionclip.pretraining import PretrainingWeights, RegionPretraining
from gridclip.models.vild.model import ViLD
from gridclip.ops.assigners import FCOSAssigner
from gridclip.structures import Images

MINI = ClipModel(name="gridclip-mini", weights="mini")
RESNET = "resnet10t"
NO_IMAGES = LossWeights(image=0.0)
ONLY_IMAGES = PretrainingWeights(region=0.0, distillation=0.0)


@pytest.fixture(scope="module")
def text():
    return ClipText(MINI, templates=("a {}",))


class Blind(Detector):
    """Looks at nothing."""

    def forward(self, images, vocabulary):
        raise NotImplementedError

    losses = detect = forward


def pretrained(encoder, text, folder):
    """A checkpoint of pre-training whose weights are all unlike those that it started from."""
    system = DetectionSystem(
        RegionPretraining(encoder, text, concepts=["star"], weights=ONLY_IMAGES)
    )
    torch.manual_seed(3)
    for tensor in system.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape))
    file = folder / "last.ckpt"
    torch.save({"state_dict": system.state_dict(), "frozen": text.fingerprint()}, file)
    return file, system.detector.regions


def gridclip(text, backbone, **settings):
    settings = {"width": 16, "num_convs": 0, "weights": NO_IMAGES} | settings
    return GridCLIP(backbone, text, FCOSAssigner(), **settings)


@torch.no_grad()
def test_gridclip_starts_with_the_maps_and_the_pool_that_were_pretrained(text, tmp_path):
    file, encoder = pretrained(ClipRegions(MINI), text, tmp_path)
    detector = gridclip(text, ClipResNet(MINI), clip_residual=True)
    neck = {name: tensor.clone() for name, tensor in detector.neck.state_dict().items()}
    start_from(DetectionSystem(detector), file)
    images = Images(torch.randint(256, (1, 3, 64, 64)).byte(), torch.tensor([[64, 64]]))
    c4 = detector.backbone(images)[1]
    assert torch.equal(c4, encoder.eval().maps(images))
    assert torch.equal(detector.backbone.pool.position, encoder.pool.position)
    assert all(torch.equal(neck[name], t) for name, t in detector.neck.state_dict().items())
    assert detector.trained_on is None


def detectors(text):
    return {
        "GridCLIP without pool": (gridclip(text, ClipResNet(MINI)), "backbone"),
        "ViLD": (ViLD(ClipResNet(MINI), text, variant="vild-text"), "backbone"),
        "RegionCLIP": (RegionCLIP(ClipRegions(MINI), text), "regions"),
    }


@pytest.mark.parametrize("name", ["GridCLIP without pool", "ViLD", "RegionCLIP"])
def test_every_detector_of_the_same_tower_can_start_from_it(text, tmp_path, name):
    file, encoder = pretrained(ClipRegions(MINI), text, tmp_path)
    detector, part = detectors(text)[name]
    start_from(DetectionSystem(detector), file)
    wanted = encoder.state_dict()
    for key, tensor in getattr(detector, part).state_dict().items():
        assert torch.equal(tensor, wanted[key]), key


def test_a_timm_backbone_starts_from_pooled_regions_of_the_same_network(text, tmp_path):
    file, encoder = pretrained(PooledRegions(RESNET, width=text.width), text, tmp_path)
    detector = gridclip(text, TimmBackbone(RESNET))
    start_from(DetectionSystem(detector), file)
    wanted = encoder.tower.state_dict()
    own = detector.backbone.tower.state_dict()
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[name], wanted[name]) for name in own)


def test_pretraining_goes_on_from_its_own_checkpoint_with_the_same_text_only(text, tmp_path):
    file, encoder = pretrained(ClipRegions(MINI), text, tmp_path)
    again = RegionPretraining(ClipRegions(MINI), text, concepts=["ring"], weights=ONLY_IMAGES)
    start_from(DetectionSystem(again), file)
    assert torch.equal(again.regions.pool.position, encoder.pool.position)
    spoken = ClipText(MINI, templates=("the {}",))
    other = RegionPretraining(ClipRegions(MINI), spoken, concepts=["ring"], weights=ONLY_IMAGES)
    with pytest.raises(InputError, match="other text vectors"):
        start_from(DetectionSystem(other), file)


def test_a_checkpoint_of_a_whole_detector_is_no_encoder(text, tmp_path):
    file = tmp_path / "last.ckpt"
    whole = DetectionSystem(RegionCLIP(ClipRegions(MINI), text))
    torch.save({"state_dict": whole.state_dict(), "frozen": text.fingerprint()}, file)
    with pytest.raises(InputError, match="checkpoint of another model"):
        start_from(DetectionSystem(gridclip(text, ClipResNet(MINI))), file)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda text: gridclip(text, TimmBackbone(RESNET)),
            r"another network.*tower\.conv1\.0\.weight is missing.*tower\.conv2\.weight is unknown",
        ),
        (lambda text: Blind(), "of which Blind has no use"),
    ],
)
def test_a_detector_of_another_network_is_refused_with_what_differs(text, tmp_path, make, problem):
    file, _ = pretrained(ClipRegions(MINI), text, tmp_path)
    detector = make(text)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    with pytest.raises(InputError, match=problem):
        start_from(DetectionSystem(detector), file)
    assert all(torch.equal(before[name], t) for name, t in detector.state_dict().items())
