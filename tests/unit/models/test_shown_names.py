"""Names that are given by boxes: their vectors, and what they leave alone."""

import numpy as np
import pytest
import torch

from gridclip.data.transforms.augment import Resize
from gridclip.engine.detect.examples import Example
from gridclip.engine.predictor import TrainedDetector
from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText, TextVectors
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.models.shown_names import placed
from gridclip.models.vild.model import ViLD
from gridclip.ops.assigners import FCOSAssigner
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import Images, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="mini")
TRAINED = Vocabulary(["red plain star", "green plain ring", "blue dotted moon"])
PHOTO = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
BOX = (10.0, 12.0, 40.0, 50.0)


def gridclip(score="independent", text=None):
    torch.manual_seed(0)
    made = GridCLIP(
        ClipResNet(MINI),
        text or ClipText(MINI),
        FCOSAssigner(),
        width=32,
        num_convs=1,
        weights=LossWeights(image=0.0),
        decoding=DecodeSettings(score=score, candidates=10**5, limit=10**5, nms_iou=1.0),
    )
    torch.nn.init.normal_(made.head.embed.weight, std=0.3)
    made.trained_on = TRAINED
    return TrainedDetector(made, Resize(shortest=(64,), longest=96))


def as_seen(detector):
    return detector._batch([PHOTO])


def found(detector, *names):
    """Scores of each name, by box."""
    found = detector.detect(PHOTO, names, threshold=0.0, limit=10**5)
    scores = {name: {} for name in names}
    for name, score, box in found:
        scores[name][box] = score
    return scores


def test_a_region_of_a_dense_detector_is_the_mean_of_the_cells_that_would_learn_it():
    network = gridclip().detector
    images = as_seen(gridclip())
    boxes = torch.tensor([BOX, (20.0, 16.0, 90.0, 60.0)])
    with torch.no_grad():
        predictions = network(images, TRAINED)
        features = network.region_features(images, [boxes])
    for box, feature in zip(boxes, features, strict=True):
        cells = network.assigner.match(predictions.cells, box[None]) == 0
        rows = [row for row, own in enumerate(cells.tolist()) if own]
        assert rows
        mean = sum(predictions.embeddings[0, row].double() for row in rows)
        assert torch.allclose(feature.double(), mean / mean.norm(), atol=1e-5)


def test_a_box_that_no_cell_would_learn_has_the_vector_of_the_cell_that_fits_it_best():
    network, images = gridclip().detector, as_seen(gridclip())
    with torch.no_grad():
        predictions = network(images, TRAINED)
        network.assigner = FCOSAssigner(radius=1e-9)
        feature = network.region_features(images, [torch.tensor([BOX])])[0]
    best, most = None, -1.0
    for row, (x1, y1, x2, y2) in enumerate(predictions.boxes[0].tolist()):
        wide, high = min(x2, BOX[2]) - max(x1, BOX[0]), min(y2, BOX[3]) - max(y1, BOX[1])
        shared = max(wide, 0) * max(high, 0)
        union = (x2 - x1) * (y2 - y1) + (BOX[2] - BOX[0]) * (BOX[3] - BOX[1]) - shared
        if shared / union > most:
            best, most = row, shared / union
    assert torch.allclose(feature, predictions.embeddings[0, best], atol=1e-5)


def test_a_region_of_vild_is_the_vector_of_its_head():
    torch.manual_seed(0)
    network = ViLD(ClipResNet(MINI), ClipText(MINI), "vild-text", width=32).eval()
    network.trained_on = TRAINED
    with torch.no_grad():
        images = as_seen(TrainedDetector(network, Resize(shortest=(64,), longest=96)))
        predictions = network(images, TRAINED)
        boxes = predictions.proposals[0].boxes
        assert torch.allclose(network.region_features(images, [boxes]), predictions.text, atol=1e-5)
        region = predictions.text[0]
        cosine = network.fitting_cosine(region)
        background = torch.nn.functional.normalize(network.classifier.background, dim=0)
        others = [float(region @ each) for each in [*network.text(TRAINED), background]]
    shares = np.exp([100 * each for each in [*others, float(cosine)]])
    assert shares[-1] / shares.sum() == pytest.approx(0.5, abs=1e-3)


def test_the_vector_of_a_name_has_the_wanted_cosine_with_what_was_shown_and_leans_to_the_names():
    rng = torch.Generator().manual_seed(0)
    cone = torch.zeros(16).index_fill(0, torch.tensor(0), 2.0)
    names = torch.nn.functional.normalize(cone + torch.randn(30, 16, generator=rng), dim=1)
    regions = torch.nn.functional.normalize(-cone + torch.randn(9, 16, generator=rng), dim=1)
    mean = regions[0]
    for wanted in (0.2, -0.4, 1.0):
        vector = placed(mean, names, torch.tensor(wanted))
        assert vector.norm() == pytest.approx(1, abs=1e-5)
        assert float(vector @ mean) == pytest.approx(wanted, abs=1e-5)
    near = placed(mean, names, torch.tensor(0.2))
    assert (regions[1:] @ near).max() < 0.2  # it is no region like any other
    assert (regions[1:] @ mean).max() > 0.2


def test_examples_change_their_own_name_and_no_other():
    detector = gridclip()
    before = found(detector, "my cup", *TRAINED.names)
    detector.add_examples({"my cup": [Example(PHOTO, BOX)]})
    after = found(detector, "my cup", *TRAINED.names)
    assert before.pop("my cup") != after.pop("my cup")
    for name, scores in before.items():
        assert scores == pytest.approx(after[name], abs=1e-6)


def test_shown_alone_a_name_fits_its_example_as_well_as_not():
    detector = gridclip()
    detector.add_examples({"my cup": [Example(PHOTO, BOX)] * 2}, weight=1.0)
    network = detector.detector
    region = network.region_features(as_seen(detector), [torch.tensor([BOX])])
    logit = network.cosines(region, Vocabulary(["my cup"])).logits()
    assert logit.sigmoid().item() == pytest.approx(0.5, abs=1e-4)
    text = gridclip().detector.text(TRAINED)
    assert torch.equal(network.text(TRAINED), text)
    shown = network.text(Vocabulary(["my cup"]))[0]
    detector.add_examples({"my cup": [Example(PHOTO, BOX)]}, weight=0.0)
    assert torch.allclose(
        network.text(Vocabulary(["my cup"])), ClipText(MINI)(Vocabulary(["my cup"]))
    )
    assert network.text(Vocabulary(["my cup"]))[0] @ shown < 0.999


def test_beside_its_text_the_examples_of_a_name_count_by_their_weight():
    detector = gridclip()
    name, bank = "red plain star", ClipText(MINI)
    detector.add_examples({name: [Example(PHOTO, BOX)]}, weight=1.0)
    shown = detector.detector.text(Vocabulary([name]))[0]
    text = bank(Vocabulary([name]))[0]
    again = gridclip()
    again.add_examples({name: [Example(PHOTO, BOX)]}, weight=0.25)
    joined = 0.75 * text + 0.25 * shown
    assert torch.allclose(
        again.detector.text(Vocabulary([name]))[0], joined / joined.norm(), atol=1e-5
    )


def test_names_that_the_files_vectors_lack_can_be_shown(tmp_path):
    np.save(tmp_path / "v.npy", ClipText(MINI)(TRAINED).numpy())
    (tmp_path / "n.txt").write_text("\n".join(TRAINED.names))
    text = TextVectors(str(tmp_path / "v.npy"), str(tmp_path / "n.txt"))
    detector = gridclip("competing", text)
    with pytest.raises(InputError, match="no vector for 1 names, first: my cup"):
        detector.detect(PHOTO, ["my cup"])
    detector.add_examples({"my cup": [Example(PHOTO, BOX)]})
    alone = found(detector, "my cup")
    beside = found(detector, "my cup", *TRAINED.names)
    assert beside["my cup"] == pytest.approx(alone["my cup"], abs=1e-5)  # the reference is fixed


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((200, 10, 220, 30), "no box of an image of 96 x 64"),
        ((40, 10, 20, 30), "no box of an image"),
        ((1, 2, 3), "are no boxes"),
    ],
)
def test_a_box_outside_its_image_is_refused_with_the_name(box, problem):
    with pytest.raises(InputError, match=f"(?s)an example of 'my cup' is wrong: .*{problem}"):
        gridclip().add_examples({"my cup": [Example(PHOTO, box)]})


def test_what_cannot_be_shown_is_refused():
    detector = gridclip()
    with pytest.raises(InputError, match="'my cup' has no example"):
        detector.add_examples({"my cup": []})
    with pytest.raises(InputError, match="weight"):
        detector.add_examples({"my cup": [Example(PHOTO, BOX)]}, weight=1.5)
    detector.detector.trained_on = None
    with pytest.raises(InputError, match="trained on no list of names"):
        detector.add_examples({"my cup": [Example(PHOTO, BOX)]})


def test_images_is_the_only_frame_of_regions():
    network = gridclip().detector
    images = Images(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]] * 2))
    one = torch.tensor([BOX])
    features = network.region_features(images, [one, torch.cat([one, one + 5])])
    assert features.shape == (3, 128)
    assert torch.allclose(features.norm(dim=1), torch.ones(3))
