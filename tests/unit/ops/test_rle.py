"""Run-length codes and polygons of objects, held against pycocotools."""

import itertools
import math

import msgspec
import numpy as np
import pytest
from pycocotools import mask as coco

from gridclip.ops.rle import areas, decode, encode, grids, mask_code, read_code

SIZE = (48, 60)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def blob(rng, size=SIZE):
    return rng.random(size) < rng.random()


def theirs(pixels):
    return coco.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"]


def test_codes_are_those_of_pycocotools(rng):
    for _ in range(20):
        pixels = blob(rng)
        assert encode(pixels, (0, 0), SIZE) == theirs(pixels)
        assert (decode(theirs(pixels), SIZE) == pixels).all()


def test_a_window_is_coded_where_it_lies_in_its_image(rng):
    whole = np.zeros(SIZE, dtype=bool)
    whole[7:20, 30:55] = window = blob(rng, (13, 25))
    assert encode(window, (30, 7), SIZE) == theirs(whole)


def test_polygons_are_filled_as_by_pycocotools(rng):
    for _ in range(30):
        count = int(rng.integers(3, 9))
        parts = [(rng.random(2 * count) * 80 - 10).round(2).tolist() for _ in range(2)]
        expected = coco.merge(coco.frPyObjects(parts, *SIZE))["counts"]
        assert mask_code(parts, SIZE) == expected
        assert mask_code(msgspec.Raw(msgspec.json.encode(parts)), SIZE) == expected


def test_points_and_lines_beside_a_polygon_are_left_out():
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    assert mask_code([[1, 2], square, [3, 4, 5, 6]], SIZE) == mask_code([square], SIZE)


def test_codes_of_files_may_be_compressed_or_not(rng):
    pixels = blob(rng)
    code = theirs(pixels)
    runs = [len([*run]) for _, run in itertools.groupby(pixels.T.ravel().tolist())]
    runs = [0, *runs] if pixels[0, 0] else runs  # they begin with what is not the object
    assert sum(runs) == pixels.size
    for counts in (code.decode(), runs):
        assert mask_code({"size": [*SIZE], "counts": counts}, SIZE) == code
        assert read_code({"size": [*SIZE], "counts": counts}) == (code, SIZE)


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ([], "encloses nothing"),
        ([[1, 2, 3, 4]], "encloses nothing"),
        ([[1, 2, 3, 4, 5, 6, 7]], "is not polygons"),
        ([[1, 2, 3, 4, 5, "6"]], "no finite number"),
        ([[1, 2, 3, 4, 5, True]], "no finite number"),
        ([[1, 2, 3, 4, 5, math.inf]], "no finite number"),
        ([[1, 2, 3, 4, 5, 1e9]], "far outside"),
        ([1, 2, 3, 4, 5, 6], "is not polygons"),
        ("abc", "is neither"),
        (None, "is neither"),
        ({"size": [48, 60]}, "is not a code"),
        ({"size": [48.0, 60], "counts": [2880]}, "is not a code"),
        ({"size": [60, 48], "counts": [2880]}, "60 x 48, not 48 x 60"),
        ({"size": [48, 60], "counts": [2880, 1]}, "cut short, or not"),
        ({"size": [48, 60], "counts": [-1, 2881]}, "no whole numbers"),
        ({"size": [48, 60], "counts": [2880.0]}, "no whole numbers"),
        ({"size": [48, 60], "counts": ""}, "cut short, or not"),
        ({"size": [48, 60], "counts": "zzz"}, "cut short, or not"),
        ({"size": [48, 60], "counts": "é"}, "cut short, or not"),
        ({"size": [48, 60], "counts": "o" * 40}, "cut short, or not"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, told):
    with pytest.raises(ValueError, match=told):
        mask_code(segmentation, SIZE)


def test_a_code_that_lost_its_end_is_refused(rng):
    code = theirs(blob(rng)).decode()
    for cut in range(1, len(code), 7):
        with pytest.raises(ValueError, match="cut short"):
            read_code({"size": [*SIZE], "counts": code[:cut]})


def test_a_grid_shows_the_pixel_in_the_middle_of_each_cell(rng):
    masks = [blob(rng), blob(rng)]
    boxes = np.array([[3.5, 2.0, 41.0, 47.9], [0, 0, 60, 48]])
    found = grids([theirs(mask) for mask in masks], boxes, SIZE, 7)
    for mask, grid, (x1, y1, x2, y2) in zip(masks, found, boxes, strict=True):
        for row in range(7):
            for column in range(7):
                x, y = x1 + (column + 0.5) / 7 * (x2 - x1), y1 + (row + 0.5) / 7 * (y2 - y1)
                assert grid[row, column] == mask[math.floor(y), math.floor(x)]


def test_areas_count_pixels(rng):
    masks = [blob(rng) for _ in range(3)]
    counted = areas([theirs(mask) for mask in masks], [SIZE] * 3)
    assert counted.tolist() == [mask.sum() for mask in masks]
    assert areas([], []).shape == (0,)
