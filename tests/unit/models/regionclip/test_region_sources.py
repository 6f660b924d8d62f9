import pytest
import torch
from torchvision.models import get_model
from torchvision.models.detection.image_list import ImageList

from gridclip.io.errors import InputError
from gridclip.models.regionclip.region_sources import TorchvisionRegions
from gridclip.structures import Images

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return get_model(NAME, weights=None, weights_backbone=None, rpn_post_nms_top_n_test=20).eval()


@pytest.fixture(scope="module")
def weights(theirs, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save(theirs.state_dict(), file)
    return file


@torch.no_grad()
def test_regions_are_those_of_torchvisions_own_proposal_network(theirs, weights):
    source = TorchvisionRegions(str(weights), NAME, limit=20, nms_iou=0.7, count=5)
    pixels = torch.randint(256, (2, 3, 96, 128), generator=torch.Generator().manual_seed(1))
    images = Images(pixels.byte(), torch.tensor([[96, 128], [64, 100]]))
    seen = torch.stack([theirs.transform.normalize(each / 255) for each in pixels])
    wanted, _ = theirs.rpn(ImageList(seen, [(96, 128), (64, 100)]), theirs.backbone(seen))
    for (boxes, scores), truth in zip(source.propose(images), wanted, strict=True):
        torch.testing.assert_close(boxes, truth, atol=1e-3, rtol=1e-4)
        assert (scores.diff() <= 0).all()
    assert not list(source.parameters())
    assert not source.state_dict()


def test_weights_of_another_detector_are_refused_with_what_differs(weights, tmp_path):
    torch.save({"rpn.other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"does not fit.*\n.*rpn\.head"):
        TorchvisionRegions(str(tmp_path / "other.pth"), NAME)
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        TorchvisionRegions("nowhere.pth", NAME)
