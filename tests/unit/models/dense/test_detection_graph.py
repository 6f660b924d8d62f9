"""A detector as one function of tensors finds what the detector finds."""

import pytest
import torch
from torch import nn

from gridclip.io.errors import InputError
from gridclip.models.dense.detection_graph import DetectionGraph
from gridclip.models.detclip.model import DetCLIPv2
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import TextBank
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.models.gridclip.region_alignment import RegionAlignment
from gridclip.ops.assigners import FCOSAssigner
from gridclip.ops.images import pad
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import Record, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="random")
TRAINED = Vocabulary(["red star", "green ring", "blue moon", "disc", "round plate", "kite"])
ASKED = {
    "one that was trained on": ["green ring"],
    "all that were trained on, and one twin of two": [*TRAINED.names],
    "strangers among them": ["kite", "table", "disc", "lamp"],
    "strangers alone": ["table"],
}


class Words(TextBank):
    """A vector for each name; of `disc` and `round plate` the same."""

    width = 48

    def encode(self, vocabulary):
        return torch.stack([self._of(name) for name in vocabulary.names])

    def _of(self, name):
        name = {"round plate": "disc"}.get(name, name)
        seed = sum((n + 1) * ord(letter) for n, letter in enumerate(name))
        return torch.randn(self.width, generator=torch.Generator().manual_seed(seed))

    def fingerprint(self):
        return "words"


def make(kind=GridCLIP, **decoding):
    torch.manual_seed(0)
    settings = DecodeSettings(**{"candidates": 400, "nms_iou": 0.5} | decoding)
    if kind == "opinion":
        own = RegionAlignment(branch="own", opinion=0.5)
        weights = {"weights": LossWeights(image=0.0, region=1.0), "regions": own}
    else:
        weights = {"weights": LossWeights(image=0.0)} if kind is GridCLIP else {}
    made = (GridCLIP if kind == "opinion" else kind)(
        ClipResNet(MINI),
        Words(),
        FCOSAssigner(),
        width=32,
        num_convs=1,
        decoding=settings,
        **weights,
    )
    nn.init.normal_(made.head.centreness.weight, std=0.5)
    made.trained_on = TRAINED
    made.score_scale.value.fill_(2.5)
    return made.eval()


def image(height, width):
    rng = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=rng)


def found(detector, pixels, vocabulary):
    record = Record(0, "", *pixels.shape[:2])
    return detector.detect(pad([pixels.permute(2, 0, 1)]), vocabulary, [record])[0]


def assert_equal(made, expected):
    assert len(made.scores) == len(expected.scores) > 0
    torch.testing.assert_close(made.scores, expected.scores, atol=1e-5, rtol=0)
    # Among equal scores, as those of twins, the order is free.
    rows = [
        sorted((*(round(x) for x in box), label) for box, label in zip(*each, strict=True))
        for each in (
            (made.boxes.tolist(), made.labels.tolist()),
            (expected.boxes.tolist(), expected.labels.tolist()),
        )
    ]
    assert sum(a != b for a, b in zip(*rows, strict=True)) <= 2


@pytest.mark.parametrize("kind", [GridCLIP, DetCLIPv2, "opinion"])
@pytest.mark.parametrize("names", ASKED.values(), ids=ASKED)
@torch.no_grad()
def test_a_graph_scores_names_as_its_detector_does_folded_in_or_given(kind, names):
    detector, vocabulary, pixels = make(kind), Vocabulary(names), image(60, 90)
    expected = found(detector, pixels, vocabulary)
    assert_equal(DetectionGraph(detector, vocabulary, True)(pixels), expected)
    assert_equal(DetectionGraph(detector, None, True)(pixels, detector.text(vocabulary)), expected)


@pytest.mark.parametrize(
    "decoding",
    [
        {"score": "independent"},
        {"reference": False},
        {"threshold": 0.1},
        {"candidates": 20, "limit": 7},
        {"candidates": 5000},  # more than there are pairs
    ],
    ids=str,
)
@torch.no_grad()
def test_a_graph_keeps_the_settings_of_its_detector(decoding):
    detector, vocabulary, pixels = (
        make(**decoding),
        Vocabulary(ASKED["strangers among them"]),
        image(33, 7),
    )
    expected = found(detector, pixels, vocabulary)
    given = DetectionGraph(detector, None, True)(pixels, 3 * detector.text(vocabulary))
    assert_equal(given, expected)
    assert_equal(DetectionGraph(detector, vocabulary, True)(pixels), expected)


@torch.no_grad()
def test_without_suppression_the_candidates_leave_and_overlap():
    detector, vocabulary, pixels = make(), Vocabulary(["kite"]), image(64, 64)
    made = DetectionGraph(detector, vocabulary, False)(pixels)
    loose = found(make(nms_iou=1.0, limit=400), pixels, vocabulary)
    assert_equal(made, loose)
    assert len(made.scores) > len(found(detector, pixels, vocabulary).scores)


def test_what_a_graph_cannot_hold_is_refused_with_what_to_do():
    detector = make()
    detector.ensemble = nn.Identity()
    with pytest.raises(InputError, match=r"ensemble: an ensemble .*\n  fix: set it to null"):
        DetectionGraph(detector, None, True)
    soft = make(suppression="soft")
    with pytest.raises(InputError, match="--nms outside"):
        DetectionGraph(soft, None, True)
    DetectionGraph(soft, None, False)
