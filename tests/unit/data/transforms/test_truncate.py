import numpy as np
import pytest
from painted import bounds, painted

from gridclip.data.transforms.augment import Augmentation, Resize, TrainingTransform
from gridclip.data.transforms.example import Example
from gridclip.data.transforms.truncate import truncate


@pytest.mark.parametrize("seed", range(40))
def test_a_box_ends_where_the_visible_part_of_its_object_ends(seed):
    whole = painted(90, 120, [(20, 25, 50, 61), (75, 22, 100, 52)])
    seen = truncate(whole, 1.0, np.random.default_rng(seed))
    for row in range(2):
        assert seen.boxes[row].tolist() == bounds(seen, row)


def test_every_side_is_hidden_about_as_often_and_by_a_tenth_to_two_fifths():
    whole = painted(100, 100, [(30, 30, 70, 70)])
    cuts = []
    for seed in range(200):
        cuts.append(truncate(whole, 1.0, np.random.default_rng(seed)).boxes[0] - whole.boxes[0])
    cuts = np.abs(cuts)
    assert ((cuts > 0).sum(axis=1) == 1).all()
    assert ((cuts > 0).sum(axis=0) > 30).all()
    assert cuts.max() == 16
    assert cuts.max(axis=1).min() == 4


def test_what_lies_beside_the_object_takes_the_place_of_its_side():
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    whole = Example(image, np.array([[40, 40, 60, 60]], dtype=np.float32), np.zeros(1, int))
    for seed in range(20):
        seen = truncate(whole, 1.0, np.random.default_rng(seed))
        side = int(np.flatnonzero(seen.boxes[0] != whole.boxes[0])[0])
        end = int(seen.boxes[0, side])
        rows = slice(39, 61)
        # One pixel beyond the box may still be the object's, so it is hidden too.
        expected = {
            0: (image[rows, 2 * 39 - end : 39], seen.image[rows, 39:end]),
            1: (image[2 * 39 - end : 39, rows], seen.image[39:end, rows]),
            2: (image[rows, 61 : 2 * 61 - end], seen.image[rows, end:61]),
            3: (image[61 : 2 * 61 - end, rows], seen.image[end:61, rows]),
        }[side]
        assert np.array_equal(*expected)
        changed = (seen.image != image).any(axis=2).sum()
        assert changed <= 22 * abs(end - (39 if side < 2 else 61))


def test_nothing_is_hidden_beside_another_box_or_at_the_end_of_the_image():
    crowded = painted(30, 60, [(5, 5, 27, 27), (30, 5, 55, 27)])
    for seed in range(20):
        seen = truncate(crowded, 1.0, np.random.default_rng(seed))
        for row in range(2):
            assert seen.boxes[row].tolist() == bounds(seen, row)
    full = painted(40, 40, [(0, 0, 40, 40)])
    assert truncate(full, 1.0, np.random.default_rng(0)).boxes.tolist() == full.boxes.tolist()


def test_a_region_of_the_object_ends_with_it_and_others_stay():
    whole = painted(100, 100, [(30, 30, 70, 70)])
    regions = np.array([[29, 29, 71, 71], [30, 30, 40, 40]], dtype=np.float32)
    for seed in range(20):
        seen = truncate(whole._replace(regions=regions), 1.0, np.random.default_rng(seed))
        side = int(np.flatnonzero(seen.boxes[0] != whole.boxes[0])[0])
        expected = regions.copy()
        expected[0, side] = seen.boxes[0, side]
        assert np.array_equal(seen.regions, expected)


def test_the_stored_image_is_not_written_to_and_chance_zero_changes_nothing():
    whole = painted(100, 100, [(30, 30, 70, 70)])
    before = whole.image.copy()
    truncate(whole, 1.0, np.random.default_rng(0))
    assert np.array_equal(whole.image, before)
    transform = TrainingTransform(
        Resize(shortest=(100,), longest=100), Augmentation(flip=0.0, truncate=0.0)
    )
    assert np.array_equal(transform(whole, np.random.default_rng(0)).image, before)
    hidden = TrainingTransform(
        Resize(shortest=(100,), longest=100), Augmentation(flip=0.0, truncate=1.0)
    )
    assert not np.array_equal(hidden(whole, np.random.default_rng(0)).image, before)


def test_a_teacher_would_see_another_image():
    assert Augmentation(truncate=0.1).uncacheable() == ["truncate"]
