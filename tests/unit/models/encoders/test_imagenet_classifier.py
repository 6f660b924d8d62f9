"""Regions by an ImageNet classifier, against timm's own forward pass and a sum by hand."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from gridclip.io.errors import InputError
from gridclip.models.encoders.imagenet_classifier import ClassifierRegions, ClassifierTeacher
from gridclip.models.encoders.region_encoders import whole
from gridclip.models.encoders.text import NounVectors, TextBank
from gridclip.structures import Images

# "zebra" is a class, "blow drier" and "hair drier" are two words of one, "tabby" is one of two
NAMES = ["zebra", "blow drier", "hair drier", "tabby", "goldfish", "Carassius auratus"]
SIZES = torch.tensor([[96, 96], [96, 96]])


class _Words(TextBank):
    """Knows these words and no others."""

    width = 8

    def encode(self, vocabulary):
        rows = torch.eye(self.width)
        known = [NAMES.index(name) if name in NAMES else None for name in vocabulary.names]
        return torch.stack([torch.zeros(8) if row is None else rows[row] for row in known])

    def fingerprint(self):
        return "words"


@pytest.fixture
def text():
    return _Words()


@pytest.fixture
def images():
    chance = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=chance)
    pixels[0, :, :50] = 0
    return Images(pixels, SIZES)


def _regions(name, text, **settings):
    torch.manual_seed(0)
    return ClassifierRegions(name, text, **settings).eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@torch.no_grad()
def test_a_whole_image_has_the_mean_of_its_classes_vectors_as_timm_sees_them(name, text, images):
    regions = _regions(name, text, side=3)  # as many cells as the map has at 96 pixels
    regions.tower.get_classifier().bias[[340, 589, 281, 1]] += 7  # else all thousand are alike
    seen = timm.create_model(name).eval()
    seen.load_state_dict(regions.tower.state_dict())
    probabilities = seen(regions.norm(images.pixels)).softmax(-1)
    expected = torch.zeros(2, 8)
    for column, row in enumerate([340, 589, 589, 281, 1, 1]):
        share = 0.5**0.5 if row in (589, 1) else 1.0  # two words make a unit vector together
        expected[:, column] = share * probabilities[:, row]
    found = regions(images, whole(SIZES))
    assert torch.allclose(found, expected, atol=1e-6)
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_a_class_has_the_vectors_of_its_words_and_none_where_the_text_knows_none(text):
    vectors = _regions("test_resnet", text).vectors
    eye = torch.eye(8)
    assert torch.equal(vectors[340], eye[0])  # "zebra"
    assert torch.allclose(vectors[589], F.normalize(eye[1] + eye[2], dim=0))  # "hand blower, …"
    assert torch.equal(vectors[281], eye[3])  # "tabby, tabby cat"
    assert not vectors[0].any()  # "tench, Tinca tinca"
    assert vectors.any(1).sum() == 4


@torch.no_grad()
def test_a_region_is_seen_by_what_lies_in_it(text):
    regions = _regions("test_resnet", text, side=1)
    maps = torch.randn(1, regions.channels, 4, 4, generator=torch.Generator().manual_seed(2))
    box = torch.tensor([[32.0, 0.0, 64.0, 32.0]])  # the cell in row 0, column 1
    expected = regions.tower.forward_head(maps[:, :, :1, 1:2]).softmax(-1) @ regions.vectors
    assert torch.allclose(regions.embed(maps, [box]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "told"),
    [("test_vit", "makes no map"), ("resnet50_clip.openai", "no classes of ImageNet")],
)
def test_a_network_that_is_no_convolutional_classifier_is_refused(name, told, text):
    with pytest.raises(InputError, match=told) as error:
        _regions(name, text)
    assert "regions.name" in str(error.value)


def test_text_that_knows_no_class_is_refused(tmp_path):
    (tmp_path / "names.txt").write_text("quidditch")
    np.save(tmp_path / "vectors.npy", np.ones((1, 8)))
    text = NounVectors(str(tmp_path / "vectors.npy"), str(tmp_path / "names.txt"))
    with pytest.raises(InputError, match="knows none of the 1000 classes"):
        _regions("test_resnet", text)


def test_a_new_encoder_is_in_training_mode_but_for_norms_that_do_not_learn(text):
    still = ClassifierRegions("test_resnet", text)
    moving = ClassifierRegions("test_resnet", text, freeze=())
    assert still.tower.training
    assert not still.tower.bn1.training
    assert moving.tower.bn1.training
    fresh = timm.create_model("test_resnet").bn1.running_mean
    assert torch.equal(moving.tower.bn1.running_mean, fresh)  # the probe left no trace


def test_what_does_not_learn_is_named(text):
    regions = _regions("test_resnet", text, freeze=("conv1", "layer1"))
    frozen = {
        name.split(".")[1]
        for name, weight in regions.named_parameters()
        if not weight.requires_grad
    }
    assert frozen == {"conv1", "layer1"}
    with pytest.raises(InputError, match="no part named nonsense"):
        _regions("test_resnet", text, freeze=("nonsense",))


@torch.no_grad()
def test_the_teacher_gives_the_unit_vector_of_the_whole_image(text, images, tmp_path):
    regions = _regions("test_resnet", text)
    file = tmp_path / "weights.pt"
    torch.save(regions.tower.state_dict(), file)
    teacher = ClassifierTeacher("test_resnet", text, weights=str(file))
    assert not [*teacher.children()][1:]  # no network before it is asked for
    teacher.load()
    assert teacher.width == 8
    expected = F.normalize(regions(images, whole(SIZES)), dim=1)
    assert torch.allclose(teacher(images), expected, atol=1e-6)
    assert not teacher.state_dict()


def test_the_teachers_fingerprint_changes_with_its_weights(text, tmp_path):
    told = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        file = tmp_path / f"{seed}.pt"
        torch.save(timm.create_model("test_resnet").state_dict(), file)
        told.append(ClassifierTeacher("test_resnet", text, weights=str(file)).fingerprint())
    assert told[0] != told[1]
