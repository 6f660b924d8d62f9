"""Own and old images as one data set: who looked for what."""

import json

import numpy as np
import pytest
from PIL import Image

from gridclip.data.annotations.reader import read_annotations
from gridclip.data.datamodules.detection import DetectionData
from gridclip.data.forms.place import DataPlace
from gridclip.engine.finetune.mixture import Found, Mixture, copy_validation, drawn, link_images
from gridclip.io.errors import InputError


def data_set(folder, names, boxes, **lists):
    """A data set of one image for each entry of boxes: {name: xywh}."""
    images = []
    for number in range(1, len(boxes) + 1):
        file = folder / "images" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(file)
        images.append({"id": number, "file_name": file.name, "width": 64, "height": 48, **lists})
    rows = [(number, *pair) for number, each in enumerate(boxes, 1) for pair in each.items()]
    document = {
        "images": images,
        "categories": [{"id": 10 + row, "name": name} for row, name in enumerate(names)],
        "annotations": [
            {
                "id": row,
                "image_id": number,
                "category_id": 10 + names.index(name),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for row, (number, name, box) in enumerate(rows, 1)
        ],
    }
    for part in ("train", "val"):
        (folder / f"{part}.json").write_text(json.dumps(document))
    return DataPlace(folder, "train.json", "images", "train")


@pytest.fixture
def own(tmp_path):
    boxes = [{"forklift": [1, 2, 10, 12], "dog": [30, 5, 20, 20]}, {}]
    return data_set(tmp_path / "own", ["forklift", "dog"], boxes)


@pytest.fixture
def old(tmp_path):
    boxes = [{"dog": [0, 0, 9, 9]}, {"zebra": [3, 3, 9, 9]}, {"cup": [5, 5, 30, 30]}]
    return data_set(tmp_path / "old", ["cup", "dog", "zebra"], boxes)


def by_name(document):
    """Of each image: its file, and names with boxes, absent names, names not exhaustive."""
    names = {each["id"]: each["name"] for each in document["categories"]}
    return [
        (
            image["file_name"],
            {
                names[box["category_id"]]: box["bbox"]
                for box in document["annotations"]
                if box["image_id"] == image["id"]
            },
            {names[each] for each in image["neg_category_ids"]},
            {names[each] for each in image["not_exhaustive_category_ids"]},
        )
        for image in document["images"]
    ]


def test_an_image_verifies_the_names_of_its_own_file_and_no_others(own, old):
    mixture = Mixture()
    mixture.add(own.read().annotations, "own")
    mixture.add(old.read().annotations, "old", names={"cup", "dog"}, rows=[0, 2])
    assert by_name(mixture.document()) == [
        ("own/1.png", {"forklift": [1, 2, 10, 12], "dog": [30, 5, 20, 20]}, set(), set()),
        ("own/2.png", {}, {"forklift", "dog"}, set()),
        ("old/1.png", {"dog": [0, 0, 9, 9]}, {"cup"}, set()),
        ("old/3.png", {"cup": [5, 5, 30, 30]}, {"dog"}, set()),
    ]
    assert [each["name"] for each in mixture.document()["categories"]] == ["forklift", "dog", "cup"]


def test_what_a_federated_file_says_is_kept(tmp_path):
    lists = {"neg_category_ids": [11], "not_exhaustive_category_ids": [10]}
    place = data_set(tmp_path / "lvis", ["forklift", "dog"], [{"forklift": [1, 2, 3, 4]}], **lists)
    mixture = Mixture()
    mixture.add(place.read().annotations, "own")
    ((_, _, absent, partly),) = by_name(mixture.document())
    assert (absent, partly) == ({"dog"}, {"forklift"})


def test_pseudo_boxes_join_where_no_box_is_and_do_not_claim_to_be_all(own):
    found = {
        0: [Found("person", (1.0, 2.0, 11.0, 13.0)), Found("person", (40.0, 30.0, 60.0, 47.0))],
        1: [Found("chair", (0.0, 0.0, 9.0, 8.0))],
    }
    mixture = Mixture()
    mixture.add(own.read().annotations, "own", found=found)
    first, second = by_name(mixture.document())
    assert first[1]["person"] == [40, 30, 20, 17]  # the other lies on the forklift
    assert first[3] == {"person"}
    assert second[1] == {"chair": [0, 0, 9, 8]}
    assert second[2] == {"forklift", "dog"}


def test_the_mixture_trains_as_a_data_set_in_which_strangers_are_no_background(own, old, tmp_path):
    mixture, root = Mixture(), tmp_path / "mixed"
    mixture.add(own.read().annotations, "own")
    mixture.add(old.read().annotations, "old", names={"cup", "dog"}, rows=[2])
    root.mkdir()
    (root / "train.json").write_text(json.dumps(mixture.document()))
    link_images(root, {"own": own.read().images, "old": old.read().images})
    copy_validation(own._replace(file="val.json", split="val"), root)
    data = DetectionData(str(root), rare_split="all", verified=True, batch_size=3, num_workers=0)
    data.setup("fit")
    (batch,) = iter(data.train_dataloader())
    names = list(batch.vocabulary.names)
    known = {
        record.path: {names[row] for row in np.flatnonzero(np.asarray(row_of))}
        for record, row_of in zip(batch.records, batch.verified, strict=True)
    }
    assert known["own/2.png"] == {"forklift", "dog"}
    assert known["old/3.png"] == {"cup", "dog"}


def test_a_validation_file_stays_as_it_is_but_for_the_folder_of_its_images(own, tmp_path):
    copy_validation(own._replace(file="val.json", split="val"), tmp_path)
    before, after = (json.loads((each / "val.json").read_text()) for each in (own.root, tmp_path))
    for image in before["images"]:
        image["file_name"] = f"own_val/{image['file_name']}"
    assert after == before
    assert read_annotations(tmp_path / "val.json").image_ids.tolist() == [1, 2]
    assert (tmp_path / "images" / "own_val" / "1.png").is_file()


def test_a_validation_file_that_is_not_there_is_named(own, tmp_path):
    with pytest.raises(InputError, match=r"other\.json"):
        copy_validation(own._replace(file="other.json", split="val"), tmp_path)


def test_replayed_images_show_a_trained_name_and_are_drawn_by_the_seed(old):
    part = old.read()
    assert drawn(part, {"cup", "dog"}, 5, 0) == [0, 2]
    draws = {tuple(drawn(part, {"cup", "dog", "zebra"}, 1, seed)) for seed in range(20)}
    assert draws == {(0,), (1,), (2,)}
