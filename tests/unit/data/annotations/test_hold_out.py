"""Names held out of COCO: the files of open-vocabulary detection."""

import json
import math

import numpy as np
import pytest

from gridclip.data.annotations.hold_out import BASE, NOVEL, hold_out
from gridclip.data.annotations.reader import read_annotations
from gridclip.data.vocabulary import label_map
from gridclip.evaluation.lvis import evaluate
from gridclip.io.errors import InputError

OTHERS = ("traffic light", "hot dog", "dining table")


@pytest.fixture
def coco(tmp_path):
    """An exhaustive file: 40 images with boxes of anything, the last with a left-out name alone."""
    chance, names = np.random.default_rng(0), [*BASE, *NOVEL, *OTHERS]
    categories = [{"id": 10 + n, "name": name} for n, name in enumerate(names)]
    images = [{"id": i, "height": 300, "width": 400, "file_name": f"{i}.jpg"} for i in range(41)]
    annotations = [
        {
            "image_id": int(image),
            "category_id": 10 + int(chance.integers(len(names))),
            "bbox": [*chance.integers(0, 100, 2).tolist(), *chance.integers(20, 200, 2).tolist()],
            "iscrowd": 0,
        }
        for image in np.repeat(np.arange(40), 6)
    ]
    annotations.append(
        {"image_id": 40, "category_id": 10 + len(names) - 1, "bbox": [1, 1, 9, 9], "iscrowd": 0}
    )
    for number, each in enumerate(annotations, 1):
        each |= {"id": number, "area": each["bbox"][2] * each["bbox"][3]}
    file = tmp_path / "instances_val2017.json"
    content = {"images": images, "categories": categories, "annotations": annotations}
    file.write_text(json.dumps(content))
    return file


def _detections(file):
    chance, found = np.random.default_rng(1), []
    for box in json.loads(file.read_text())["annotations"]:
        moved = np.array(box["bbox"]) + chance.normal(0, 9, 4)
        found.append(
            {
                "image_id": box["image_id"],
                "category_id": box["category_id"],
                "bbox": [*moved[:2].tolist(), *np.abs(moved[2:]).tolist()],
                "score": float(chance.random()),
            }
        )
    return found


def test_the_split_is_of_48_and_17_names_of_coco():
    assert (len(BASE), len(NOVEL), len({*BASE, *NOVEL})) == (48, 17, 65)


def test_training_sees_the_base_names_and_evaluation_all_65(coco, tmp_path):
    output = tmp_path / "made" / "ovd_val.json"
    hold_out(coco, output)
    annotations = read_annotations(output)
    assert len(annotations.categories) == 65
    assert label_map(annotations, "base_only").vocabulary.names == BASE
    assert set(label_map(annotations, "all").vocabulary.names) == {*BASE, *NOVEL}
    assert {each.name for each in annotations.categories if each.frequency == "r"} == set(NOVEL)


def test_boxes_of_other_names_leave_and_images_without_any_box_with_them(coco, tmp_path):
    output = tmp_path / "ovd.json"
    hold_out(coco, output)
    before, after = (json.loads(file.read_text()) for file in (coco, output))
    others = {each["id"] for each in before["categories"] if each["name"] in OTHERS}
    kept = [each for each in before["annotations"] if each["category_id"] not in others]
    assert after["annotations"] == kept
    assert {each["id"] for each in after["images"]} == {each["image_id"] for each in kept}
    assert 40 not in {each["id"] for each in after["images"]}


def test_lists_of_absent_names_of_a_file_in_lvis_form_name_no_name_that_was_left_out(
    coco, tmp_path
):
    content, output = json.loads(coco.read_text()), tmp_path / "ovd.json"
    ids = {each["name"]: each["id"] for each in content["categories"]}
    for image in content["images"]:
        image["neg_category_ids"] = [ids["hot dog"], ids["cat"], ids["person"]]
        image["not_exhaustive_category_ids"] = [ids["dining table"], ids["dog"]]
    coco.write_text(json.dumps(content))
    hold_out(coco, output)
    for image in json.loads(output.read_text())["images"]:
        assert image["neg_category_ids"] == [ids["cat"], ids["person"]]
        assert image["not_exhaustive_category_ids"] == [ids["dog"]]
    read_annotations(output, rules="validation")


@pytest.mark.parametrize("backend", ["hotcoco", "lvis"])
def test_ap50_of_held_out_and_base_names_is_that_of_files_with_these_alone(coco, tmp_path, backend):
    output, found = tmp_path / "ovd.json", _detections(coco)
    hold_out(coco, output)
    whole = json.loads(output.read_text())
    ids = {each["id"] for each in whole["categories"]}
    found = [each for each in found if each["category_id"] in ids]
    metrics = evaluate(output, found, protocol="standard", backend=backend)
    for mark, figure in (("r", metrics.AP50r), ("f", metrics.AP50f)):
        ids = {each["id"] for each in whole["categories"] if each["frequency"] == mark}
        part = tmp_path / f"{mark}.json"
        boxes = [each for each in whole["annotations"] if each["category_id"] in ids]
        names = [each for each in whole["categories"] if each["id"] in ids]
        kept = {"annotations": boxes, "categories": names, "category_groups": {}}
        part.write_text(json.dumps({**whole, **kept}))
        some = [each for each in found if each["category_id"] in ids]
        alone = evaluate(part, some, protocol="standard", backend=backend).AP50
        assert 0 < alone < 1
        assert figure == pytest.approx(alone, abs=1e-9)
    assert math.isnan(metrics.AP50c)
    assert metrics.to_json()["AP50c"] is None
    assert metrics.to_json()["AP50r"] == metrics.AP50r
    assert metrics.to_json()["AP50_novel"] == metrics.of_groups["AP50_novel"] == metrics.AP50r
    assert metrics.scalars("val/")["val/AP50_base"] == metrics.AP50f


def test_other_names_can_be_given(coco, tmp_path):
    (tmp_path / "base.txt").write_text("person\ncat\n")
    (tmp_path / "novel.txt").write_text("hot dog\n")
    output = tmp_path / "mine.json"
    hold_out(coco, output, base=tmp_path / "base.txt", novel=tmp_path / "novel.txt")
    marked = {
        each["name"]: each["frequency"] for each in json.loads(output.read_text())["categories"]
    }
    assert marked == {"person": "f", "cat": "f", "hot dog": "r"}


def test_file_names_can_be_given_their_folder(coco, tmp_path):
    output = tmp_path / "ovd.json"
    hold_out(coco, output, images="val2017")
    names = {each["file_name"] for each in json.loads(output.read_text())["images"]}
    assert "val2017/0.jpg" in names
    assert all(name.startswith("val2017/") for name in names)


def test_names_on_both_sides_and_names_that_the_file_lacks_are_refused(coco, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("person\nunicorn\n")
    with pytest.raises(InputError, match="person: to train on and held out"):
        hold_out(coco, tmp_path / "out.json", novel=names)
    names.write_text("unicorn\n")
    with pytest.raises(InputError, match="has no category unicorn"):
        hold_out(coco, tmp_path / "out.json", novel=names)
    assert not (tmp_path / "out.json").exists()


def test_the_names_of_lvis_fall_into_866_to_train_on_and_337_held_out(test_data, tmp_path):
    categories = json.loads((test_data / "lvis" / "lvis_v1_categories.json").read_text())
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    image = {"id": 1, "height": 9, "width": 9, "coco_url": "a/train2017/1.jpg", **lists}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}
    file = tmp_path / "lvis.json"
    content = {"images": [image], "categories": categories, "annotations": [box]}
    file.write_text(json.dumps(content))
    annotations = read_annotations(file)
    assert len(label_map(annotations, "base_only").vocabulary) == 866
    assert len(label_map(annotations, "all").vocabulary) == 866 + 337


@pytest.mark.field
@pytest.mark.parametrize(
    ("name", "key"), [("annotations", "image_id"), ("annotations", "category_id"), ("images", "id")]
)
def test_a_file_with_a_fault_is_refused_as_anywhere(coco, tmp_path, name, key):
    content = json.loads(coco.read_text())
    del content[name][3][key]
    coco.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"val2017\.json: {name}\[3\]\.{key}: 1 of"):
        hold_out(coco, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
