import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted import bounds, painted

from gridclip.data.transforms.augment import (
    Augmentation,
    EvaluationTransform,
    Resize,
    TrainingTransform,
    prepare,
)
from gridclip.data.transforms.example import Example, crop, resize
from gridclip.io.errors import InputError

LARGE = Resize(shortest=(200,), longest=400)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1067)),  # the shortest side decides
        (640, 480, (1067, 800)),
        (300, 900, (444, 1333)),  # the longest side decides
        (1, 5000, (1, 1333)),  # never nothing
    ],
)
def test_sizes_keep_the_ratio_within_both_sides(height, width, expected):
    assert Resize().size(height, width) == expected


def test_an_image_of_the_right_size_is_not_resampled():
    image = noise(200, 300)
    assert torch.equal(prepare(image, LARGE), torch.from_numpy(image).permute(2, 0, 1))


@pytest.mark.parametrize("size", [(150, 225), (300, 450)])
def test_an_image_is_resampled_as_torch_does(size):
    image = noise(200, 300)
    seen = prepare(image, Resize(shortest=(size[0],), longest=500))
    channels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    naive = torch.nn.functional.interpolate(channels, size, mode="bilinear")[0]
    assert (seen - naive).abs().max() <= 1


def test_shrinking_to_under_half_averages_the_pixels_it_covers():
    image = noise(800, 1200)
    naive = image.reshape(200, 4, 300, 4, 3).astype(float).mean((1, 3))
    shrunk = prepare(image, LARGE).permute(1, 2, 0).double().numpy()
    assert abs(shrunk - naive).max() <= 0.5


def test_a_read_only_image_is_prepared():
    image = noise(200, 300)
    image.flags.writeable = False
    assert prepare(image, LARGE).shape == (3, 200, 300)


def test_evaluation_sees_what_prepare_gives():
    example = painted(100, 150, [(10, 20, 50, 60)])
    seen = EvaluationTransform(LARGE)(example, np.random.default_rng(0))
    assert torch.equal(torch.from_numpy(seen.image).permute(2, 0, 1), prepare(example.image, LARGE))


def test_boxes_follow_the_image_to_its_rounded_size():
    boxes = [(7, 11, 100, 53), (0, 0, 333, 111)]
    seen = resize(painted(111, 333, boxes), (50, 151))
    naive = [
        [x0 * 151 / 333, y0 * 50 / 111, x1 * 151 / 333, y1 * 50 / 111] for x0, y0, x1, y1 in boxes
    ]
    np.testing.assert_allclose(seen.boxes, naive, rtol=1e-6)


def test_a_flip_mirrors_boxes_about_the_image():
    boxes = [(0, 20, 33, 60), (100, 1, 150, 100)]
    flip = TrainingTransform(Resize(shortest=(100,), longest=150), Augmentation(flip=1.0))
    seen = flip(painted(100, 150, boxes), np.random.default_rng(0))
    np.testing.assert_allclose(
        seen.boxes, [[150 - x1, y0, 150 - x0, y1] for x0, y0, x1, y1 in boxes], atol=1e-4
    )
    assert (bounds(seen, 0), bounds(seen, 1)) == ([117, 20, 150, 60], [0, 1, 50, 100])


@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_on_their_objects_through_crop_jitter_and_flip(seed):
    transform = TrainingTransform(
        Resize(shortest=(150, 200, 250), longest=400), Augmentation(crop=0.8, scale=(0.5, 2.0))
    )
    original = painted(200, 300, [(60, 50, 120, 90), (150, 40, 180, 160), (200, 100, 260, 140)])
    seen = transform(original, np.random.default_rng(seed))
    assert seen.labels.tolist() == [0, 1, 2]
    for label, box in zip(seen.labels, seen.boxes, strict=True):
        # One pixel of the resized image, and the one that the crop may cut off, enlarged.
        np.testing.assert_allclose(bounds(seen, label), box, atol=3)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(60, 240), st.integers(60, 240)),
    scale=st.sampled_from([(1.0, 1.0), (0.3, 0.6), (0.5, 3.0), (2.0, 4.0)]),
    canvas=st.sampled_from([0, 90, 200]),
    crop=st.sampled_from([0.0, 1.0]),
    erosion=st.sampled_from([0.0, 0.5]),
)
def test_boxes_frame_what_is_left_of_their_colours_whatever_happens(
    seed, size, scale, canvas, crop, erosion
):
    """Three rectangles, one in each channel, are found again by their colour."""
    height, width = size
    chance = np.random.default_rng(seed)
    corners = [np.sort(chance.choice(side, (3, 2)), axis=1) for side in (width - 12, height - 12)]
    boxes = [(x0, y0, x1 + 12, y1 + 12) for (x0, x1), (y0, y1) in zip(*corners, strict=True)]
    chances = Augmentation(
        canvas=canvas, scale=scale, crop=crop, erosion=erosion, min_visibility=0.3
    )
    transform = TrainingTransform(Resize(shortest=(80, 120), longest=300), chances)
    example = painted(height, width, boxes)._replace(verified=np.array([0, 1, 2, 5]))
    seen = transform(example, chance)
    limits = np.array(seen.image.shape[1::-1] * 2)
    assert (seen.boxes >= 0).all()
    assert (seen.boxes <= limits + 1e-3).all()
    assert limits.max() <= (canvas or 300)
    for label, box in zip(seen.labels, seen.boxes, strict=True):
        zoom = (box[2:] - box[:2]) / 12  # an edge is blurred over an original pixel, at most
        if zoom.min() > 0.5:
            np.testing.assert_allclose(bounds(seen, label), box, atol=1 + zoom.max())
    for label in {0, 1, 2} - set(seen.labels.tolist()):
        left = (seen.image[..., label] > 127).any()
        assert (label in seen.verified) <= (not left)  # verified absent only if nothing is left
    assert 5 in seen.verified  # what has no box is verified in any view
    assert set(seen.labels.tolist()) <= set(seen.verified.tolist())


def test_a_crop_that_leaves_a_sliver_of_an_object_verifies_its_name_no_more():
    boxes = [(10, 10, 30, 30), (60, 10, 80, 30), (48, 40, 78, 60)]
    example = painted(100, 100, boxes)._replace(verified=np.array([0, 1, 2, 7]))
    seen = crop(example, (0, 0, 50, 100), 0.5)
    assert seen.labels.tolist() == [0]
    assert seen.verified.tolist() == [0, 1, 7]  # 1 lies outside, of 2 a sliver is to be seen
    assert crop(example, (0, 0, 50, 100), 0.0).labels.tolist() == [0, 2]
    assert crop(example._replace(verified=None), (0, 0, 50, 100), 0.5).verified is None


def test_large_scale_jitter_resizes_by_the_factor_and_fits_the_square():
    example = painted(100, 200, [(90, 45, 110, 55)])
    for factor, size in ((0.25, (32, 64)), (1.0, (128, 256)), (1.5, (192, 256)), (4.0, (256, 256))):
        jitter = Augmentation(flip=0.0, canvas=256, scale=(factor, factor))
        seen = TrainingTransform(LARGE, jitter)(example, np.random.default_rng(3))
        # The window is whole pixels of the original, each of up to two pixels here.
        np.testing.assert_allclose(seen.image.shape[:2], size, atol=1 if factor < 4 else 0)
        if len(seen.boxes) and factor < 4:
            side = (seen.boxes[0, 2:] - seen.boxes[0, :2]).tolist()
            assert side == pytest.approx([20 * factor * 1.28, 10 * factor * 1.28], rel=0.02)


def test_the_window_of_large_scale_jitter_is_drawn_everywhere():
    x, y = np.meshgrid(np.arange(200), np.arange(100))
    image = np.stack([x, y, x], axis=2).astype(np.uint8)
    example = Example(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    transform = TrainingTransform(LARGE, Augmentation(flip=0.0, canvas=100, scale=(2.0, 2.0)))
    views = [transform(example, np.random.default_rng(seed)).image for seed in range(60)]
    corners = np.array([view[0, 0, :2] for view in views])
    assert corners.min(0).tolist() <= [8, 5]
    assert corners.max(0).tolist() >= [92, 45]
    assert {view.shape for view in views} == {(100, 100, 3)}


def test_a_view_knows_whether_it_is_mirrored():
    example = painted(100, 150, [(0, 20, 33, 60)])
    transform = TrainingTransform(Resize(shortest=(100,), longest=150), Augmentation())
    views = [transform(example, np.random.default_rng(seed)) for seed in range(20)]
    for view in views:
        assert view.mirrored == (bounds(view, 0)[0] > 0)
    assert {view.mirrored for view in views} == {True, False}


def test_only_settings_that_change_the_image_beyond_size_and_mirror_forbid_stored_embeddings():
    assert Augmentation().uncacheable() == []
    assert Augmentation(flip=1.0, scale=(0.5, 2.0), erosion=0.5).uncacheable() == []
    assert Augmentation(canvas=100, scale=(0.1, 1.0)).uncacheable() == []
    every = Augmentation(colour=0.1, crop=0.1, canvas=100, scale=(0.1, 2.0), mosaic=0.5)
    assert every.uncacheable() == ["colour", "crop", "canvas", "mosaic"]


@pytest.mark.parametrize("canvas", [0, 200])
def test_a_view_that_stored_embeddings_hold_for_shows_the_whole_image(canvas):
    """A gradient over the image: its ends are there in every view, mirrored or not."""
    across = np.linspace(0, 255, 120)[None, :, None]
    image = np.broadcast_to(across, (80, 120, 3)).astype(np.uint8).copy()
    settings = Augmentation(canvas=canvas, scale=(0.5, 1.0))
    assert not settings.uncacheable()
    example = Example(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for seed in range(10):
        seen = TrainingTransform(LARGE, settings)(example, np.random.default_rng(seed))
        ends = seen.image[0, [-1, 0] if seen.mirrored else [0, -1], 0].tolist()
        assert ends[0] < 10
        assert ends[1] > 245


def test_boxes_that_lose_nearly_everything_go_with_their_labels():
    """The crop is recovered from a gradient over the image, and the boxes counted naively."""
    transform = TrainingTransform(
        LARGE, Augmentation(flip=0.0, crop=1.0, erosion=0.9, min_visibility=0.4)
    )
    x, y = np.meshgrid(np.arange(240), np.arange(200))
    image = np.stack([x, y, x], axis=2).astype(np.uint8)
    boxes = np.array([[x, y, x + 30, y + 40] for x in range(0, 210, 42) for y in (5, 80, 155)])
    lost = 0
    for seed in range(20):
        example = Example(image, boxes.astype(np.float32), np.arange(100, 115))
        seen = transform(example, np.random.default_rng(seed))
        x0, across = crop_of(seen.image[..., 0].mean(0))
        y0, down = crop_of(seen.image[..., 1].mean(1))
        height, width = seen.image.shape[:2]
        limits = [x0, y0, x0 + width / across, y0 + height / down]
        clipped = np.clip(boxes, limits[:2] * 2, limits[2:] * 2)
        share = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1) / (30 * 40)
        kept = (share >= 0.4).nonzero()[0]
        assert seen.labels.tolist() == (100 + kept).tolist()
        naive = (clipped[kept] - limits[:2] * 2) * ([across, down] * 2)
        np.testing.assert_allclose(seen.boxes, naive, atol=1.5)
        lost += len(boxes) - len(kept)
    assert lost > 20


def crop_of(profile):
    """First original pixel and magnification of a resampled gradient."""
    places = np.arange(len(profile))
    inner = slice(len(profile) // 10, -len(profile) // 10)
    slope, start = np.polyfit(places[inner] + 0.5, profile[inner], 1)
    return round(start + 0.5), 1 / slope


def test_the_same_generator_makes_the_same_example():
    settings = Augmentation(crop=0.5, colour=0.4, scale=(0.5, 1.5))
    first, second = TrainingTransform(LARGE, settings), TrainingTransform(LARGE, settings)
    example = painted(200, 300, [(60, 50, 120, 90)])
    second(example, np.random.default_rng(9))  # what came before must not matter
    for seed in range(5):
        one = first(example, np.random.default_rng(seed))
        other = second(example, np.random.default_rng(seed))
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_draws_every_shortest_side():
    transform = TrainingTransform(Resize(shortest=(100, 120, 140), longest=300), Augmentation())
    example = painted(200, 300, [(60, 50, 120, 90)])
    heights = {transform(example, np.random.default_rng(s)).image.shape[0] for s in range(20)}
    assert heights == {100, 120, 140}


def test_scale_jitter_never_passes_the_longest_side():
    transform = TrainingTransform(LARGE, Augmentation(scale=(4.0, 5.0)))
    seen = transform(painted(200, 300, [(60, 50, 120, 90)]), np.random.default_rng(0))
    assert seen.image.shape[1] == 400


def test_without_chance_a_training_image_is_an_evaluation_image():
    example = Example(noise(200, 300), np.array([[1.25, 2, 30, 40]], np.float32), np.array([3]))
    seen = TrainingTransform(LARGE, Augmentation(flip=0.0))(example, np.random.default_rng(0))
    assert np.array_equal(seen.image, example.image)
    np.testing.assert_allclose(seen.boxes, example.boxes, atol=1e-4)
    assert seen.labels.tolist() == [3]
    assert seen.labels.dtype == np.int64


def test_colour_changes_pixels_by_its_strength_and_no_box():
    settings = Augmentation(flip=0.0, colour=0.2)
    example = painted(200, 300, [(60, 50, 120, 90)])
    example.image[:] += 100
    seen = TrainingTransform(LARGE, settings)(example, np.random.default_rng(0))
    change = abs(seen.image[0, 0].astype(int) - 100).max()
    assert 0 < change <= 100 * (1.2**3 - 1)
    np.testing.assert_allclose(seen.boxes, example.boxes, atol=1e-4)


def test_an_image_without_boxes_keeps_empty_ones():
    example = painted(200, 300, [])._replace(boxes=np.zeros((0, 4), np.float32))
    transform = TrainingTransform(LARGE, Augmentation(crop=1.0, erosion=0.3))
    seen = transform(example, np.random.default_rng(0))
    assert seen.boxes.shape == (0, 4)
    assert seen.labels.shape == (0,)


def test_the_tiniest_box_survives_a_plain_resize():
    example = Example(noise(400, 600), np.array([[599.2, 3, 600, 3.5]], np.float32), np.array([1]))
    seen = TrainingTransform(LARGE, Augmentation(flip=1.0))(example, np.random.default_rng(0))
    assert len(seen.boxes) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Resize(shortest=()), "shortest: no usable side"),
        (lambda: Resize(shortest=(0,)), "shortest: no usable side"),
        (lambda: Resize(shortest=(800,), longest=700), "longest: 700 is below"),
        (lambda: Augmentation(flip=1.5), "flip: 1.5 is out of range"),
        (lambda: Augmentation(scale=(2.0, 1.0)), "scale: .* is no range"),
        (lambda: Augmentation(canvas=-1), "canvas: -1 is out of range"),
        (lambda: EvaluationTransform(Resize(shortest=(640, 800))), "evaluation needs one side"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
