import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2

from gridclip.data.transforms.augment import Augmentation, Resize, TrainingTransform
from gridclip.data.transforms.example import Example
from gridclip.data.transforms.libraries import LIBRARIES, Albumentations, Torchvision

every_library = pytest.mark.parametrize("library", LIBRARIES)


def drawn(seed, count, height=200, width=300):
    """An image with random boxes."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    near = random.uniform(0, [width - 20, height - 20], (count, 2))
    boxes = np.concatenate([near, near + random.uniform(2, 20, (count, 2))], axis=1)
    return Example(image, boxes.astype(np.float32), np.arange(count))


def views(example, seed, **changes):
    """What training sees of an example, by each library."""
    resize = Resize(shortest=(80, 120), longest=300)
    transforms = (
        TrainingTransform(resize, Augmentation(library=library, **changes)) for library in LIBRARIES
    )
    return [transform(example, np.random.default_rng(seed)) for transform in transforms]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    count=st.sampled_from([0, 1, 2, 7]),
    erosion=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    canvas=st.sampled_from([0, 150]),
)
def test_both_libraries_give_the_same_boxes(seed, count, erosion, canvas):
    one, other = views(
        drawn(seed, count), seed, crop=0.7, erosion=erosion, canvas=canvas, scale=(0.5, 2.0)
    )
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.image, other.image)  # without colours
    assert one.mirrored == other.mirrored


@every_library
@pytest.mark.parametrize("seed", range(10))
def test_boxes_are_those_of_torchvisions_own_crop_resize_and_flip(library, seed):
    example = drawn(seed, 5)
    changes = Augmentation(crop=1.0, flip=1.0, library=library)
    seen = TrainingTransform(Resize(shortest=(120,), longest=300), changes)(
        example, np.random.default_rng(seed)
    )
    random = np.random.default_rng(seed)
    random.random()  # whether to crop
    window = LIBRARIES[library](0.0, 0.0).window(
        example.boxes, (200, 300), int(random.integers(2**32))
    )
    left, top, right, bottom = window
    boxes = tv_tensors.BoundingBoxes(example.boxes, format="XYXY", canvas_size=(200, 300))
    boxes = v2.crop(boxes, top, left, bottom - top, right - left)
    boxes = v2.horizontal_flip(v2.resize(boxes, list(seen.image.shape[:2])))
    np.testing.assert_allclose(seen.boxes, boxes.numpy(), atol=1e-3)


@pytest.mark.parametrize("seed", range(30))
def test_a_window_without_erosion_has_every_box_whole(seed):
    boxes = drawn(seed, 3).boxes
    left, top, right, bottom = Torchvision(0.0, 0.0).window(boxes, (200, 300), seed)
    assert 0 <= left <= boxes[:, 0].min()
    assert 0 <= top <= boxes[:, 1].min()
    assert boxes[:, 2].max() <= right <= 300
    assert boxes[:, 3].max() <= bottom <= 200


@every_library
def test_colours_change_by_their_strength_and_by_the_seed_alone(library):
    jitter = LIBRARIES[library](0.0, 0.2)
    grey = np.full((6, 8, 3), 100, dtype=np.uint8)
    changed = [jitter.colour(grey, seed) for seed in range(20)]
    assert all(image.shape == grey.shape and image.dtype == np.uint8 for image in changed)
    assert all(abs(image.astype(int) - 100).max() <= 100 * (1.2**3 - 1) for image in changed)
    assert len({int(image[0, 0, 0]) for image in changed}) > 5
    again = LIBRARIES[library](0.0, 0.2)
    for seed in (7, 3):  # in another order
        np.testing.assert_array_equal(again.colour(grey, seed), changed[seed])
    assert grey.max() == grey.min() == 100


def test_colours_by_torchvision_leave_torchs_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    Torchvision(0.0, 0.4).colour(drawn(0, 0).image, 1)
    assert torch.equal(torch.rand(1), expected)


def test_torchvision_needs_no_albumentations(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ImportError):
        Albumentations(0.0, 0.0)
    changes = Augmentation(crop=1.0, colour=0.2, library="torchvision")
    transform = TrainingTransform(Resize(shortest=(120,), longest=300), changes)
    assert len(transform(drawn(0, 3), np.random.default_rng(0)).boxes) == 3
