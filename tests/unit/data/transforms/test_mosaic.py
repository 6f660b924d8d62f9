"""A mosaic shows parts of four images, and says no more of them than is known."""

import numpy as np
import pytest

from gridclip.data.annotations.reader import read_annotations
from gridclip.data.datamodules.detection import DetectionData
from gridclip.data.datasets.boxed_concepts import (
    DetectionConcepts,
    DetectionSource,
    GroundingSource,
)
from gridclip.data.datasets.captions import PairSource
from gridclip.data.datasets.detection import DetectionDataset, ImageExtras
from gridclip.data.datasets.image_level import PseudoLabelled
from gridclip.data.precomputed.stored import StoredEmbeddings, StoredRegions
from gridclip.data.sampling import SampleIndex
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.data.transforms.augment import Augmentation, Resize
from gridclip.data.transforms.example import Example, Mosaic
from gridclip.data.vocabulary import label_map
from gridclip.io.errors import InputError

SIZES = [(40, 60), (50, 50), (33, 70), (12, 9)]  # the last is smaller than its quarter


def example(number, verified=None):
    """An image whose pixels tell where they are: red across, green down, blue the number.

    Its boxes, of labels 10 × number and on, are the four pixels in its corners and a fifth inside.
    """
    height, width = SIZES[number]
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    image[..., 2] = 50 * number
    spots = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1), (4, 4)]
    boxes = np.array([(x, y, x + 1, y + 1) for x, y in spots], dtype=np.float32)
    return Example(image, boxes, 10 * number + np.arange(5), verified=verified)


def quarters(image):
    """The number of the image that each quarter shows, read off the corners, and where they meet.

    Returns:
        Column and row of the first pixel of the last quarter.
    """
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1], 2]
    assert (corners == [0, 50, 100, 150]).all()
    return int((image[0, :, 2] == 0).sum()), int((image[:, 0, 2] == 0).sum())


@pytest.mark.parametrize("seed", range(20))
def test_each_quarter_of_a_mosaic_is_a_window_of_its_image_with_the_boxes_in_it(seed):
    seen = Mosaic().join([example(number) for number in range(4)], np.random.default_rng(seed))
    height, width = SIZES[0]
    assert seen.image.shape == (height, width, 3)
    x, y = quarters(seen.image)
    assert 0.25 * width - 1 <= x <= 0.75 * width
    assert 0.25 * height - 1 <= y <= 0.75 * height
    expected = {}
    for row in range(height):
        for column in range(width):
            across, down, number = seen.image[row, column].tolist()
            assert number == 50 * (2 * (row >= y) + (column >= x))
            if number == 150:
                continue  # enlarged: its pixels are mixed
            size = SIZES[number // 50]
            spots = [(0, 0), (size[1] - 1, 0), (0, size[0] - 1), (size[1] - 1, size[0] - 1), (4, 4)]
            if (across, down) in spots:
                label = 10 * (number // 50) + spots.index((across, down))
                expected[label] = [column, row, column + 1, row + 1]
    found = dict(zip(seen.labels.tolist(), seen.boxes.tolist(), strict=True))
    assert {label: box for label, box in found.items() if label < 30} == expected
    # Right of and below where they meet each pixel is one more than its neighbour: one window.
    assert (np.diff(seen.image[:y, :x, 0].astype(int), axis=1) == 1).all()


def test_an_image_smaller_than_its_quarter_is_enlarged_with_its_boxes():
    views = [example(number) for number in range(3)]
    whole = np.array([[0, 0, 9, 12]], dtype=np.float32)
    views.append(example(3)._replace(boxes=whole, labels=np.array([7])))
    for seed in range(20):
        seen = Mosaic().join(views, np.random.default_rng(seed))
        x, y = quarters(seen.image)
        assert seen.boxes[seen.labels == 7].tolist() == [[x, y, 60, 40]]


def test_a_mosaic_verifies_what_all_parts_do():
    def verified(*lists):
        views = [example(n, None if one is None else np.array(one)) for n, one in enumerate(lists)]
        return Mosaic().join(views, np.random.default_rng(0)).verified

    assert verified(None, None, None, None) is None
    assert verified([70, 71, 72], [71, 72, 73], None, [72, 71]).tolist() == [71, 72]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    make_mini(root, train_images=12, val_images=2)
    return root


def dataset(root, **chances):
    return DetectionData(
        str(root),
        resize=Resize(shortest=(64,), longest=64),
        augmentation=Augmentation(flip=0.0, **chances),
        num_workers=0,
    ).train_set


def test_how_often_images_are_joined_is_the_probability(root):
    for chance, low, high in ((0.0, 0, 0), (0.5, 80, 160), (1.0, 240, 240)):
        draws = [SampleIndex(row, epoch) for row in range(12) for epoch in range(20)]
        joined = dataset(root, mosaic=chance)
        shown = [joined.shown(draw) for draw in draws]
        assert low <= sum(len(images) == 4 for images in shown) <= high
        assert all(len(images) in (1, 4) for images in shown)


def test_a_mosaic_is_a_function_of_the_draw_alone_and_leaves_other_views_as_they_are(root):
    plain, mixed = dataset(root), dataset(root, mosaic=0.5)
    again, joined = dataset(root, mosaic=0.5), 0
    for draw in (SampleIndex(row, epoch=3) for row in range(12)):
        one, two = mixed[draw], again[draw]
        assert one.image.equal(two.image)
        assert one.targets.boxes.equal(two.targets.boxes)
        single = len(mixed.shown(draw)) == 1
        joined += not single
        assert one.image.equal(plain[draw].image) == single
    assert 0 < joined < 12


def test_names_of_all_parts_are_no_negatives_of_hybrid_training(root):
    source = DetectionSource(
        root=str(root), concepts=400, augmentation=Augmentation(mosaic=1.0, min_visibility=0.9)
    )
    concepts = DetectionConcepts(source)
    data = concepts.dataset
    for row in range(12):
        draw = SampleIndex(row, epoch=0)
        shown = {label for image in data.shown(draw) for label in data.labels.of(image).tolist()}
        sample = concepts[draw]
        negatives = {data.vocabulary.names.index(name) for name in sample.negatives}
        assert negatives == set(range(len(data.vocabulary))) - shown


def test_what_is_known_of_a_whole_image_forbids_a_mosaic(root, tmp_path):
    joined = Augmentation(flip=0.0, mosaic=0.5)
    for field in ("embeddings", "regions"):
        with pytest.raises(InputError, match=rf"{field}: .*augmentation\.mosaic would change"):
            DetectionData(str(root), augmentation=joined, **{field: str(tmp_path / "no.file")})
    sources = {
        "a caption is": lambda: PairSource(source="no", augmentation=joined),
        "phrases are": lambda: GroundingSource(file="no", images="no", augmentation=joined),
        "pseudo-labels are": lambda: PseudoLabelled("no", "no", augmentation=joined),
    }
    for what, source in sources.items():
        with pytest.raises(InputError, match=rf"augmentation\.mosaic: {what} of a whole image"):
            source()
    with pytest.raises(InputError, match=r"mosaic: 1\.5 is out of range"):
        Augmentation(mosaic=1.5)


@pytest.mark.parametrize(
    "stored",
    [
        {"embeddings": StoredEmbeddings.__new__(StoredEmbeddings)},
        {"regions": StoredRegions.__new__(StoredRegions)},
    ],
)
def test_a_data_set_made_by_hand_refuses_it_too(root, stored):
    made = dataset(root)
    parts = (made.annotations, made.folder, label_map(made.annotations, "all"), made.transform)
    DetectionDataset(*parts, extras=ImageExtras(**stored))
    with pytest.raises(InputError, match=r"augmentation\.mosaic"):
        DetectionDataset(*parts, mosaic=Mosaic(probability=0.5), extras=ImageExtras(**stored))


def test_evaluation_knows_no_mosaic(root):
    annotations = read_annotations(root / "val.json")
    val = DetectionData(str(root), augmentation=Augmentation(mosaic=1.0)).val_set
    assert isinstance(val, DetectionDataset)
    assert len(val.shown(SampleIndex(0, 0))) == 1
    assert len(val) == len(annotations.image_ids)
