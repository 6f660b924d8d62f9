"""What annotations tell of an image, beside a naive loop."""

import json

import numpy as np
import pytest

from gridclip.data.annotations.reader import read_annotations
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.io.errors import InputError


def test_a_category_is_known_in_an_image_that_boxes_it_or_lists_it_as_absent(tmp_path):
    chance = np.random.default_rng(0)
    image_ids, category_ids = [30, -5, 12, 7], [9, 2, 40, 5]
    images = [
        {"id": image, "not_exhaustive_category_ids": []}
        # 3 and 41 are no categories of this file; the columns next to theirs are.
        | {"neg_category_ids": chance.choice([9, 2, 40, 5, 3, 41], 2, replace=False).tolist()}
        for image in image_ids
    ]
    annotations = [
        {"id": n, "image_id": int(chance.choice(image_ids)), "bbox": [0, 0, 2, 2], "area": 4}
        | {"category_id": int(chance.choice(category_ids))}
        for n in range(1, 4)
    ]
    categories = [{"id": n, "name": str(n), "frequency": "f"} for n in category_ids]
    file = tmp_path / "train.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))

    known = {(box["image_id"], box["category_id"]) for box in annotations}
    known |= {(image["id"], absent) for image in images for absent in image["neg_category_ids"]}
    asked = [(image, category) for image in image_ids for category in category_ids]
    found = GroundTruth.of(file).knows(*np.array(asked).T)
    assert found.tolist() == [pair in known for pair in asked]
    assert 0 < found.sum() < len(asked)


def test_a_coco_file_knows_every_category_of_every_image(tmp_path):
    content = {
        "images": [{"id": 5}, {"id": 2}],
        "annotations": [],
        "categories": [{"id": 9, "name": "cup"}, {"id": 0, "name": "owl"}],
    }
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    truth = GroundTruth.of(file)
    assert truth.knows(np.array([5, 2, 2]), np.array([0, 9, 0])).all()


def test_a_table_that_was_read_for_training_is_refused(tmp_path):
    content = {
        "images": [{"id": 5, "height": 9, "width": 9, "file_name": "5.jpg"}],
        "annotations": [],
        "categories": [{"id": 9, "name": "cup"}],
    }
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"for training alone(.|\n)*rules='evaluation'"):
        GroundTruth.of(read_annotations(file))
