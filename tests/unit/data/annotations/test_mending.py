"""gridclip data check --fix mends what it knows the meaning of, and deletes nothing for it."""

import copy
import json

import pytest

from gridclip.data.annotations.check import check_annotations
from gridclip.data.annotations.mending import number, whole
from gridclip.data.annotations.reader import read_annotations

pytestmark = pytest.mark.field

COCO = {
    "images": [{"id": n, "width": 64, "height": 48, "file_name": f"{n}.jpg"} for n in (1, 2)],
    "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": n, "image_id": 1 + n % 2, "category_id": 1 + n // 3, "bbox": [5, 5, 20, 10]}
        | {"area": 150, "iscrowd": 0}
        for n in (1, 2, 3, 4)
    ],
}
LVIS = copy.deepcopy(COCO)
for _image in LVIS["images"]:
    _image |= {"neg_category_ids": [2], "not_exhaustive_category_ids": []}


def fixed(tmp_path, document, status=0):
    """The copy that --fix writes, which the command must take for sound."""
    file, output = tmp_path / "a.json", tmp_path / "b.json"
    output.unlink(missing_ok=True)
    file.write_text(json.dumps(document))
    code = 0
    try:
        check_annotations(file, fix=output)
    except SystemExit as stop:
        code = stop.code
    assert code == status
    return json.loads(output.read_text())


def changed(document, name, changes, rows=(0,)):
    document = copy.deepcopy(document)
    for row in rows:
        for key, value in changes.items():
            document[name][row][key] = value
            if value is ...:
                del document[name][row][key]
    return document


MENDED = [
    # list, what stands there, what it means; ... is an absent key, {} what was read anyway
    ("annotations", {"id": ...}, {"id": 1}),
    ("annotations", {"id": None}, {"id": 1}),
    ("annotations", {"id": "one"}, {"id": 1}),
    ("annotations", {"id": 1.5}, {"id": 1}),
    ("annotations", {"id": 2.0**60}, {"id": 1}),
    ("annotations", {"id": 2}, {}),
    ("annotations", {"id": "9"}, {"id": 9}),
    ("annotations", {"id": 1.0}, {}),
    ("annotations", {"image_id": "002"}, {"image_id": 2}),
    ("annotations", {"image_id": 2.0}, {}),
    ("annotations", {"category_id": "1.0"}, {"category_id": 1}),
    ("annotations", {"bbox": ["5", " 5.5", "2e1", 10]}, {"bbox": [5, 5.5, 20, 10]}),
    ("annotations", {"iscrowd": None}, {}),
    ("annotations", {"iscrowd": "0"}, {"iscrowd": 0}),
    ("annotations", {"iscrowd": False}, {}),
    ("annotations", {"ignore": "1"}, {"ignore": 1}),
    ("annotations", {"area": ...}, {}),
    ("annotations", {"area": None}, {}),
    ("annotations", {"area": 0}, {}),
    ("annotations", {"area": "150.5"}, {"area": 150.5}),
    ("annotations", {"area": "large"}, {"area": 200}),
    ("annotations", {"area": -1}, {"area": 200}),
    ("annotations", {"area": float("nan")}, {"area": 200}),
    ("annotations", {"area": True}, {"area": 200}),
    ("annotations", {"area": [150]}, {"area": 200}),
    ("images", {"width": 64.0, "height": "48"}, {"height": 48}),
    ("images", {"id": "1"}, {"id": 1}),
    ("images", {"file_name": 7, "coco_url": "http://x/val/1.jpg"}, {"file_name": ""}),
    ("images", {"coco_url": 5}, {"coco_url": ""}),
    ("categories", {"id": "1"}, {"id": 1}),
    ("categories", {"id": 1.0}, {}),
]


@pytest.mark.parametrize(("name", "given", "meant"), MENDED)
@pytest.mark.parametrize("form", ["coco", "lvis"])
def test_what_a_value_means_is_written_and_no_row_is_lost(tmp_path, form, name, given, meant):
    document = changed(COCO if form == "coco" else LVIS, name, given)
    if form == "lvis" and given == {"area": 0}:
        meant = {"area": 200}  # where lvis would leave the box out
    found = fixed(tmp_path, document)
    expected = changed(document, name, meant)
    if given == {"id": 2}:  # of two boxes with one id the later one gets another
        expected["annotations"][1]["id"] = 1
    assert found == expected
    assert len(read_annotations(tmp_path / "b.json", rules="validation").boxes.values) == 4


def test_boxes_without_any_id_are_numbered(tmp_path):
    found = fixed(tmp_path, changed(COCO, "annotations", {"id": ...}, rows=range(4)))
    assert [box["id"] for box in found["annotations"]] == [1, 2, 3, 4]
    assert [box | {"id": 0} for box in found["annotations"]] == [
        box | {"id": 0} for box in COCO["annotations"]
    ]


def test_a_file_with_all_numbers_in_quotes_is_the_file_without(tmp_path):
    def quoted(value):
        if isinstance(value, dict):
            return {key: quoted(each) for key, each in value.items()}
        if isinstance(value, list):
            return [quoted(each) for each in value]
        return str(value)

    assert fixed(tmp_path, quoted(LVIS)) == LVIS


def test_quoted_category_ids_from_0_are_counted_from_1(tmp_path):
    document = copy.deepcopy(LVIS)
    for row in document["categories"]:
        row["id"] = float(row["id"] - 1)
    for row in document["annotations"]:
        row["category_id"] = str(row["category_id"] - 1)
    for row in document["images"]:
        row["neg_category_ids"] = ["1"]
    assert fixed(tmp_path, document) == LVIS


def test_a_list_that_other_images_have_is_empty_where_it_is_absent(tmp_path):
    for absent in (..., None):
        document = changed(LVIS, "images", {"neg_category_ids": absent})
        assert fixed(tmp_path, document)["images"][0]["neg_category_ids"] == []
    only = changed(COCO, "images", {"neg_category_ids": []})
    more = [image | {"id": 3 + row} for row, image in enumerate(COCO["images"])]
    only["images"] += more  # 1 of 4 images: is this file of LVIS form, or of COCO form?
    assert fixed(tmp_path, only, status=1) == only


def test_what_is_no_id_is_taken_out_of_a_list(tmp_path):
    document = changed(LVIS, "images", {"neg_category_ids": ["2", None, "cup", 2.5, 77, 2.0]})
    assert fixed(tmp_path, document)["images"][0]["neg_category_ids"] == [2, 2]


def test_crowds_of_lvis_form_become_categories_that_are_not_exhaustive(tmp_path):
    """So COCO's and LVIS's form of one file are evaluated alike."""
    found = fixed(tmp_path, changed(LVIS, "annotations", {"iscrowd": 1}, rows=(0, 2)))
    assert [box["id"] for box in found["annotations"]] == [2, 4]
    lists = [image["not_exhaustive_category_ids"] for image in found["images"]]
    assert lists == [[], [1, 2]]
    coco = changed(COCO, "annotations", {"iscrowd": 1}, rows=(0, 2))
    assert fixed(tmp_path, coco) == coco


def test_what_nobody_knows_is_left_out_alone(tmp_path):
    document = changed(COCO, "annotations", {"image_id": None, "id": "x", "area": -1})
    document["annotations"][1]["bbox"] = [5, 5, 20]
    document["annotations"] += [box | {"id": 10 + box["id"]} for box in COCO["annotations"]]
    found = fixed(tmp_path, document)["annotations"]
    assert found == document["annotations"][2:]


@pytest.mark.parametrize(
    ("value", "meant"),
    [("7", 7), ("-7.0", -7), ("007", 7), (" 7 ", 7), ("7e2", 700), (7.0, 7), (7, 7)]
    + [(value, None) for value in ("", "7a", "1_0", "٧", "0x7", "nan", "7.5", True, None, [7])]
    + [(value, None) for value in (2.0**53, "1e400", "9" * 30, 10**400, float("inf"))],
)
def test_a_number_in_quotes_is_one_that_json_could_have_written(value, meant):
    assert whole(value) == meant
    assert number("2.5") == 2.5
