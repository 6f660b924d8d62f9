"""Masks are read where they are asked for, as pycocotools reads them, and refused by their ids."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from gridclip.data.annotations.reader import read_annotations
from gridclip.io.errors import InputError
from gridclip.ops.rle import decode

SQUARE = [5, 5, 25, 5, 25, 25, 5, 25]


def runs(size):
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[3:9, 4:20] = 1
    return coco.encode(np.asfortranarray(pixels))["counts"].decode()


def document(**changes):
    """Masks in three ways, and a crowd; of the image 2 first, whose rows come second."""
    boxes = [
        {"id": 11, "image_id": 2, "bbox": [5, 5, 20, 20], "segmentation": [SQUARE]},
        {"id": 12, "image_id": 1, "bbox": [4, 3, 16, 6]}
        | {"segmentation": {"size": [30, 40], "counts": runs((30, 40))}},
        {"id": 13, "image_id": 2, "bbox": [5, 5, 20, 30]}
        | {"segmentation": [SQUARE, [5.5, 26.5, 20, 26, 20, 35]]},
        {"id": 14, "image_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1}
        | {"segmentation": {"size": [30, 40], "counts": [0, 1200]}},
        {"id": 15, "image_id": 1, "bbox": [0, 0, 10, 10], "category_id": 5}
        | {"segmentation": {"size": [30, 40], "counts": [0, 10, 1190]}},
    ]
    if changes:
        boxes[2] |= changes
    return {
        "images": [
            {"id": 1, "height": 30, "width": 40, "file_name": "a/1.jpg"},
            {"id": 2, "height": 50, "width": 45, "file_name": "b/2.jpg"},
        ],
        "annotations": [{"category_id": 4, "area": 9, **each} for each in boxes],
        "categories": [{"id": 4, "name": "cup"}, {"id": 5, "name": "fork"}],
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(document()))
    return path


def expected(segmentation, size):
    if isinstance(segmentation, list):
        return coco.decode(coco.merge(coco.frPyObjects(segmentation, *size)))
    if isinstance(segmentation["counts"], list):
        return coco.decode(coco.frPyObjects(segmentation, *size))
    return coco.decode(segmentation)


@pytest.mark.parametrize("rules", ["training", "validation", "evaluation"])
def test_masks_of_every_form_are_those_of_their_boxes(file, rules):
    found = read_annotations(file, rules=rules, masks=True)
    by_id = {each["id"]: each["segmentation"] for each in document()["annotations"]}
    order = [by_id[number] for number in (12, 15, 11, 13)]  # by image, without the crowd
    sizes = [(30, 40), (30, 40), (50, 45), (50, 45)]
    for masks in [found.masks] * (rules != "evaluation") + [
        found.scored.masks if found.scored else found.masks
    ]:
        for row, (segmentation, size) in enumerate(zip(order, sizes, strict=True)):
            pixels = decode(masks.of(row).tobytes(), size)
            assert (pixels == expected(segmentation, size)).all()
    again = read_annotations(file, rules=rules, masks=True)  # from the index
    assert again.sizes.tolist() == [[30, 40], [50, 45]]
    if rules != "evaluation":
        assert again.masks.values.tobytes() == found.masks.values.tobytes()


def test_masks_go_with_the_images_of_a_folder(file):
    whole, part = (
        read_annotations(file, rules="validation", folder=folder, masks=True)
        for folder in (None, "b")
    )
    assert len(part.masks.offsets) == len(part.boxes.values) + 1 == 3
    for row in range(2):
        for ours, all_of_them in ((part, whole), (part.scored, whole.scored)):
            assert ours.masks.of(row).tobytes() == all_of_them.masks.of(row + 2).tobytes()


def test_nobody_who_asks_for_boxes_reads_masks(tmp_path):
    bad = tmp_path / "train.json"
    bad.write_text(json.dumps(document(segmentation="what?")))
    for rules in ("training", "validation", "evaluation"):
        found = read_annotations(bad, rules=rules)
        assert found.masks is None
        assert found.scored is None or found.scored.masks is None


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ([], "encloses nothing"),
        ([[1, 2, 3, 4, 5]], "is not polygons"),
        (None, "is neither"),
        ({"size": [40, 30], "counts": [1200]}, "is of an image of 40 x 30, not 50 x 45"),
        ({"size": [50, 45], "counts": "31"}, "cut short"),
    ],
)
@pytest.mark.parametrize("also", ["", ', "x": NaN'])  # which json has not, and Python reads
def test_a_wrong_mask_is_refused_by_file_id_and_field(tmp_path, segmentation, told, also):
    bad = tmp_path / "train.json"
    text = json.dumps(document(segmentation=segmentation))
    bad.write_text(text[:-1] + also + "}")
    with pytest.raises(InputError) as refused:
        read_annotations(bad, masks=True)
    message = str(refused.value)
    assert str(bad) in message
    assert "annotations[2].segmentation" in message
    assert "(id 13)" in message
    assert told in message
    assert "Raw object" not in message


def test_objects_with_wrong_masks_can_be_dropped(tmp_path):
    bad = tmp_path / "train.json"
    bad.write_text(json.dumps(document(segmentation=[[1, 2]])))
    found = read_annotations(bad, "drop", masks=True)
    assert len(found.boxes.values) == 3
    assert len(found.masks.offsets) == 4
    assert len(read_annotations(bad, "drop").boxes.values) == 4


def test_objects_of_images_at_fault_are_dropped_with_them(tmp_path):
    content = document()
    content["images"][1]["height"] = 0
    bad = tmp_path / "train.json"
    bad.write_text(json.dumps(content))
    found = read_annotations(bad, "drop", masks=True)
    assert found.image_ids.tolist() == [1]
    assert len(found.masks.offsets) == 3
