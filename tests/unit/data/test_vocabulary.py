"""The rare split's numbers against loops over the json."""

import json
import math

import numpy as np
import pytest

from gridclip.data.annotations.reader import Ragged, read_annotations
from gridclip.data.vocabulary import (
    category_frequency,
    image_counts,
    label_map,
    repeat_factors,
    verified_names,
)
from gridclip.io.errors import InputError

NAMES = {3: ("cup", "f"), 5: ("dodo", "r"), 8: ("bat", "c"), 9: ("mat", "f"), 12: ("kiwi", "c")}


@pytest.fixture
def listed():
    """Thirty images with up to six boxes each, ids with gaps, in no order."""
    chance = np.random.default_rng(4)
    ids = [*NAMES]
    images = [
        {
            "id": number,
            "height": 50,
            "width": 60,
            "file_name": f"{number}.jpg",
            "neg_category_ids": chance.permutation(ids)[: chance.integers(3)].tolist(),
            "not_exhaustive_category_ids": chance.permutation(ids)[: chance.integers(2)].tolist(),
        }
        for number in chance.permutation(np.arange(100, 130)).tolist()
    ]
    share = [0.5, 0.05, 0.2, 0.25, 0]
    annotations = [
        {"image_id": image["id"], "category_id": int(chance.choice(ids, p=share))}
        for image in images
        for _ in range(chance.integers(7))
    ]
    for number, annotation in enumerate(annotations):
        annotation |= {"id": number, "bbox": [1, 2, 30, 40]}
    categories = [{"id": i, "name": n, "frequency": f} for i, (n, f) in NAMES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def read(listed, folder):
    file = folder / "train.json"
    file.write_text(json.dumps(listed))
    return read_annotations(file)


def boxed(listed, image):
    return {a["category_id"] for a in listed["annotations"] if a["image_id"] == image["id"]}


def rows_of_boxes(annotations, split):
    labels = label_map(annotations, split)
    rows = labels.rows[annotations.labels.values]
    return labels, annotations.labels._replace(values=rows).keep(rows >= 0)


@pytest.mark.parametrize("split", ["base_only", "all"])
@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.3, 1.0])
def test_images_are_repeated_as_their_rarest_name_asks(listed, tmp_path, split, threshold):
    annotations = read(listed, tmp_path)
    labels, rows = rows_of_boxes(annotations, split)
    factors = repeat_factors(rows, len(labels.vocabulary), threshold)
    trained = {i for i, (_, f) in NAMES.items() if split == "all" or f != "r"}
    for image_id, factor in zip(annotations.image_ids.tolist(), factors, strict=True):
        asked = [1.0]
        for name in boxed(listed, {"id": image_id}) & trained:
            share = sum(name in boxed(listed, image) for image in listed["images"]) / 30
            asked.append(math.sqrt(threshold / share))
        assert factor == pytest.approx(max(asked))
    assert threshold < 1 or (factors > 1).any()


def test_an_image_counts_once_for_a_name_however_many_boxes_it_has(listed, tmp_path):
    annotations = read(listed, tmp_path)
    labels, rows = rows_of_boxes(annotations, "all")
    ids = [category.id for category in annotations.categories]
    naive = [sum(i in boxed(listed, image) for image in listed["images"]) for i in ids]
    counts = image_counts(rows, len(labels.vocabulary))
    assert counts.tolist() == naive
    assert category_frequency(rows, len(labels.vocabulary)).tolist() == [n / 30 for n in naive]
    assert counts.sum() < len(rows.values)  # or nothing was counted once
    assert 0 in naive


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    nothing = Ragged(np.zeros(0, np.int64), np.zeros(3, np.int64))
    with pytest.raises(InputError, match=r"repeat_threshold: .* is out of range"):
        repeat_factors(nothing, 2, threshold)


def test_images_without_boxes_are_shown_once():
    nothing = Ragged(np.zeros(0, np.int64), np.zeros(3, np.int64))
    assert repeat_factors(nothing, 2, 0.5).tolist() == [1, 1]


@pytest.mark.parametrize("split", ["base_only", "all"])
def test_names_are_verified_where_boxes_or_annotators_tell(listed, tmp_path, split):
    annotations = read(listed, tmp_path)
    labels = label_map(annotations, split)
    verified = verified_names(annotations, labels)
    of_id = {image["id"]: image for image in listed["images"]}
    for row, image_id in enumerate(annotations.image_ids.tolist()):
        image = of_id[image_id]
        known = boxed(listed, image) | set(image["neg_category_ids"])
        known -= set(image["not_exhaustive_category_ids"])
        said = [labels.vocabulary.names[name] for name in verified.of(row)]
        assert sorted(said) == sorted(
            NAMES[i][0] for i in known if split == "all" or NAMES[i][1] != "r"
        )
        assert verified.of(row).tolist() == sorted(verified.of(row).tolist())
    assert len(verified.offsets) == 31


def test_a_file_without_either_list_verifies_everything(listed, tmp_path):
    for image in listed["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    annotations = read(listed, tmp_path)
    assert verified_names(annotations, label_map(annotations, "all")) is None
