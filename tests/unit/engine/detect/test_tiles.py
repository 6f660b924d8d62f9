"""Windows and their merging beside supervision's InferenceSlicer, on the same boxes."""

import numpy as np
import pytest
import supervision as sv
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gridclip.engine.detect.finder import Finder
from gridclip.engine.detect.tiles import Tiles, merged, windows
from gridclip.io.errors import InputError
from gridclip.structures import Detections

METRICS = {"iou": sv.OverlapMetric.IOU, "ios": sv.OverlapMetric.IOS}


def slicer(tiles, callback):
    return sv.InferenceSlicer(
        callback,
        slice_wh=tiles.side,
        overlap_wh=int(tiles.overlap * tiles.side),
        iou_threshold=tiles.most,
        overlap_metric=METRICS[tiles.measure],
    )


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 900),
    side=st.integers(100, 400),
    overlap=st.floats(0.05, 0.6),
)
def test_windows_are_those_of_supervision(width, height, side, overlap):
    tiles = Tiles(side=side, overlap=overlap)
    seen = []

    def callback(crop):
        seen.append(crop.shape[:2])
        return sv.Detections.empty()

    slicer(tiles, callback)(np.zeros((height, width, 3), np.uint8))
    ours = windows(width, height, tiles)
    assert [(y2 - y1, x2 - x1) for x1, y1, x2, y2 in ours] == seen
    offsets = sv.InferenceSlicer._generate_offset(
        (width, height), (side, side), (int(overlap * side),) * 2
    )
    assert ours == [tuple(map(int, each)) for each in offsets]


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.99])
def test_windows_cover_every_pixel_and_have_one_size(overlap):
    covered = np.zeros((333, 500), bool)
    for x1, y1, x2, y2 in windows(500, 333, Tiles(side=100, overlap=overlap)):
        assert (x2 - x1, y2 - y1) == (100, 100)
        covered[y1:y2, x1:x2] = True
    assert covered.all()


def test_an_image_of_a_windows_size_or_less_is_one_window():
    assert windows(640, 640, Tiles()) == [(0, 0, 640, 640)]
    assert windows(5, 3, Tiles()) == [(0, 0, 5, 3)]


def scene(rng, width, height, objects=40):
    """Boxes of three names; a window sees what lies in it, with a score of its own."""
    low = rng.uniform(0, [width, height], (objects, 2))
    boxes = np.hstack([low, low + rng.uniform(5, 160, (objects, 2))])
    return np.minimum(boxes, [width, height] * 2), rng.integers(0, 3, objects)


def seen_in(window, boxes, labels):
    """What a detector would find: the parts of the boxes in the window, scored by their area."""
    x1, y1, x2, y2 = window
    cut = np.clip(boxes, [x1, y1, x1, y1], [x2, y2, x2, y2])
    size = (cut[:, 2:] - cut[:, :2]).prod(1)
    share = size / (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = (size > 20) & (share > 0.1)
    scores = share * (0.5 + 0.49 * np.modf(boxes[:, 0] * 7.7)[0]) * (1 - 1e-5 * (x1 + 31 * y1))
    return (cut - [x1, y1, x1, y1])[kept].astype(np.float32), scores[kept], labels[kept]


@pytest.mark.parametrize("measure", ["iou", "ios"])
@pytest.mark.parametrize("seed", range(4))
def test_what_windows_found_is_merged_as_supervision_does(measure, seed):
    width, height = 700, 450
    tiles = Tiles(side=256, overlap=0.25, measure=measure, most=(0.3, 0.5, 0.7, 0.5)[seed])
    boxes, labels = scene(np.random.default_rng(seed), width, height)
    views = windows(width, height, tiles)
    found = [seen_in(view, boxes, labels) for view in views]
    waiting = iter(found)

    def callback(crop):
        xyxy, confidence, class_id = next(waiting)
        return sv.Detections(xyxy=xyxy, confidence=confidence, class_id=class_id)

    theirs = slicer(tiles, callback)(np.zeros((height, width, 3), np.uint8))
    order = np.argsort(-theirs.confidence)
    ours = merged([Detections(*map(torch.tensor, each)) for each in found], views, tiles)
    assert 0 < len(ours.scores) < sum(len(each[1]) for each in found)
    np.testing.assert_allclose(ours.scores.numpy(), theirs.confidence[order], rtol=1e-6)
    np.testing.assert_array_equal(ours.labels.numpy(), theirs.class_id[order])
    np.testing.assert_allclose(ours.boxes.numpy(), theirs.xyxy[order], atol=1e-3)


class Marks(Finder):
    """Finds bright squares: exactly where they are, unless a border of the image cuts them."""

    def __init__(self):
        self.calls = []

    def search(self, pixels, vocabulary):
        self.calls.append([each.shape[:2] for each in pixels])
        return [self._marks(each) for each in pixels]

    def _marks(self, image):
        import cv2

        _, _, stats, _ = cv2.connectedComponentsWithStats((image[:, :, 0] > 0).astype(np.uint8))
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in stats[1:]])
        area = torch.tensor([float(each[4]) for each in stats[1:]])
        order = area.argsort(descending=True)
        boxes = boxes.reshape(-1, 4).float()[order]
        return Detections(boxes, (area[order] / 1e5).clamp(max=1), torch.zeros(len(boxes)).long())


def marked(*boxes, size=(400, 600)):
    image = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


def test_an_object_in_the_overlap_of_windows_is_found_once_where_it_is():
    boxes = [(110, 110, 125, 125), (10, 20, 22, 40), (500, 300, 520, 330)]
    finder = Marks()
    tiles = Tiles(side=128, overlap=0.3, batch=5)
    found = finder.detect(marked(*boxes), ["mark"], threshold=0.0, tiles=tiles)
    assert {each.box for each in found} == set(boxes)
    assert (found.width, found.height) == (600, 400)
    assert max(map(len, finder.calls)) == 5
    assert finder.calls[-1][-1] == (400, 600)  # the whole image, after its windows


def test_of_an_object_that_no_window_holds_its_parts_are_dropped_for_the_whole():
    large = (50, 30, 450, 300)

    def boxes(**given):
        tiles = Tiles(side=128, **given)
        found = Marks().detect(marked(large), ["mark"], threshold=0.0, tiles=tiles)
        return {each.box for each in found}

    assert boxes() == {large}
    assert large not in boxes(whole=False)
    assert len(boxes(measure="iou")) > 1


def test_an_image_that_one_window_holds_is_searched_once():
    finder = Marks()
    finder.detect(marked((1, 1, 9, 9)), ["mark"], threshold=0.0, tiles=Tiles(side=640))
    assert finder.calls == [[(400, 600)]]


@pytest.mark.parametrize(
    ("given", "field"),
    [({"side": 0}, "tiles"), ({"overlap": 1.0}, "overlap"), ({"overlap": -0.1}, "overlap")]
    + [({"most": 1.5}, "most"), ({"batch": 0}, "batch")],
)
def test_tiles_that_cannot_be_are_refused(given, field):
    with pytest.raises(InputError, match=f"{field}: .* is out of range"):
        Tiles(**given)
