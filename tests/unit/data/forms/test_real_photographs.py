"""Photographs of COCO as YOLO and VOC folders that hotcoco wrote: the same AP, and the rounding."""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hotcoco import COCO
from naive_forms import voc, yolo

from gridclip.data.datamodules.detection import DetectionData
from gridclip.data.forms.export import export_command
from gridclip.data.forms.source import convert_source
from gridclip.evaluation.lvis import evaluate

COUNT = 40


class Form(NamedTuple):
    read: Callable[..., dict]
    images: str
    labels: str


FORMS = {"yolo": Form(yolo, "images", "labels"), "voc": Form(voc, "JPEGImages", "Annotations")}


@pytest.fixture(scope="module")
def original(test_data):
    """The first pictures of coco_6k's val.json that lie in two folders, and their names."""
    if not (test_data / "coco_6k").is_dir():
        pytest.skip("no coco_6k")
    whole = json.loads((test_data / "coco_6k" / "val.json").read_text())
    folders = {}
    for image in whole["images"]:
        folders.setdefault(image["file_name"].split("/")[0], []).append(image)
    images = [image for own in folders.values() for image in own[: COUNT // len(folders)]]
    assert len(folders) == 2
    ids = {image["id"] for image in images}
    boxes = [box for box in whole["annotations"] if box["image_id"] in ids]
    return whole | {"images": images, "annotations": boxes}


@pytest.fixture(scope="module")
def folder(request, original, test_data, tmp_path_factory):
    """A root with train and val, each of two nested folders, as hotcoco writes their labels."""
    form, root = request.param, tmp_path_factory.mktemp(request.param)
    kept = ("id", "image_id", "category_id", "bbox", "area")
    for nested in ("train2017", "val2017"):
        images = [each for each in original["images"] if each["file_name"].startswith(nested)]
        ids = {image["id"] for image in images}
        own = [box for box in original["annotations"] if box["image_id"] in ids]
        own = [{key: box[key] for key in kept} for box in own]
        written = COCO({"images": images, "annotations": own, "categories": original["categories"]})
        for part in ("train", "val"):
            for image in images:
                link = root / FORMS[form].images / part / image["file_name"]
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(test_data / "coco_6k" / "images" / image["file_name"])
            labels = root / FORMS[form].labels / part
            labels.mkdir(parents=True, exist_ok=True)
            if form == "yolo":
                written.to_yolo(str(labels / nested))
                (labels / nested / "data.yaml").rename(root / "data.yaml")
            else:
                written.to_voc(str(root / "made"))
                (root / "made" / "Annotations").rename(labels / nested)
                (root / "made" / "labels.txt").rename(root / "labels.txt")
    return form, root


def detections(document, seed=0):
    """Jittered boxes with scores at random, some of a wrong name, by the path of their image."""
    chance, found = np.random.default_rng(seed), []
    paths = {image["id"]: image["file_name"] for image in document["images"]}
    names = {each["id"]: each["name"] for each in document["categories"]}
    for box in document["annotations"]:
        x, y, wide, high = box["bbox"]
        moved = [x, y, 0, 0] + chance.normal(0, 0.06, 4) * max(wide, high) + [0, 0, wide, high]
        name = names[box["category_id"]] if chance.random() < 0.9 else "person"
        found.append((paths[box["image_id"]], name, np.abs(moved).tolist(), float(chance.random())))
    return found


def _ap(annotations, found):
    return evaluate(annotations, found, protocol="standard")


def scored(document, found):
    """The detections in LVIS results form, by the ids of a document."""
    ids = {"/".join(i["file_name"].split("/")[-2:]): i["id"] for i in document["images"]}
    names = {each["name"]: each["id"] for each in document["categories"]}
    return [
        {"image_id": ids[path], "category_id": names[name], "bbox": box, "score": score}
        for path, name, box, score in found
    ]


@pytest.mark.parametrize("folder", FORMS, indirect=True)
def test_ap_equals_that_of_a_naive_reader_to_1e_9(folder, original, tmp_path):
    form, root = folder
    module = DetectionData(str(root), rare_split="all", num_workers=0)
    module.setup()
    assert len(module.val_set) == len(module.train_set) == COUNT
    mine = module.val_set.annotations
    document = json.loads(mine.file.read_text())
    file = tmp_path / "naive.json"
    listed = sorted(original["categories"], key=lambda each: each["id"])
    other = FORMS[form].read(root, "val", [each["name"] for each in listed])
    file.write_text(json.dumps(other))
    found = detections(original)
    ours, theirs = _ap(mine, scored(document, found)), _ap(file, scored(other, found))
    assert 0.1 < ours.AP < 0.9
    assert ours.num_images == theirs.num_images == COUNT
    for name, figure in theirs.scalars().items():
        assert ours.scalars()[name] == pytest.approx(figure, abs=1e-9, nan_ok=True), name
    assert ours.per_category == pytest.approx(theirs.per_category, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("folder", FORMS, indirect=True)
def test_boxes_differ_from_the_original_by_what_the_form_rounds(folder, original):
    form, root = folder
    document = convert_source(root, form, "val").document
    paths = {image["id"]: image["file_name"].split("/", 2)[2] for image in document["images"]}
    first = {image["id"]: image for image in original["images"]}
    mine, theirs = {}, {}
    names = {each["id"]: each["name"] for each in document["categories"]}
    for box in document["annotations"]:
        key = (paths[box["image_id"]], names[box["category_id"]])
        mine.setdefault(key, []).append(box["bbox"])
    names = {each["id"]: each["name"] for each in original["categories"]}
    for box in original["annotations"]:
        key = (first[box["image_id"]]["file_name"], names[box["category_id"]])
        theirs.setdefault(key, []).append(box["bbox"])
    assert mine.keys() == theirs.keys()
    gaps = []
    for key, own in mine.items():
        if len(own) == len(theirs[key]):  # boxes that rounding has made the same count once
            corners = [np.array(each) for each in (own, theirs[key])]
            for each in corners:
                each[:, 2:] += each[:, :2]
            gaps.append(np.abs(corners[0] - corners[1]).max())
    assert len(gaps) > 0.95 * len(mine)
    # Half a unit of the sixth decimal of a centre and half a width, of 320 pixels; half a pixel.
    assert max(gaps) < (320 * 0.75e-6 if form == "yolo" else 0.5 + 1e-9)
    assert max(gaps) > (1e-6 if form == "yolo" else 0.4)


def test_exported_photographs_keep_the_ap_of_the_original_with_their_side_file(
    original, test_data, tmp_path
):
    file = tmp_path / "val.json"
    file.write_text(json.dumps(original))
    images = test_data / "coco_6k" / "images"
    export_command(file, tmp_path / "yolo", form="yolo", split="val", images=images)
    document = convert_source(tmp_path / "yolo", "yolo", "val").document
    (tmp_path / "back.json").write_text(json.dumps(document))
    found = detections(original)
    before = _ap(file, scored(original, found))
    after = _ap(tmp_path / "back.json", scored(document, found))
    for name in ("AP50", "APr", "APc", "APf"):
        assert after.scalars()[name] == pytest.approx(before.scalars()[name], abs=1e-9)
