"""gridclip data check: every fault is listed, and the repaired copy has none of them."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from gridclip.data.annotations.check import check_annotations, find_problems
from gridclip.data.annotations.coco_json import parse_lists
from gridclip.data.annotations.reader import read_annotations
from gridclip.io.errors import InputError

SOUND = {
    "info": {"description": "kept as it is", "π": 3.50},
    "images": [
        {"id": number, "file_name": f"{number}.png", "height": 30, "width": 40}
        | {"neg_category_ids": [2], "date_captured": f"day {number}"}
        for number in range(1, 7)
    ],
    "annotations": [
        {"id": 10 * number, "image_id": number, "category_id": 1, "bbox": [1, 2, 10.5, 20]}
        | {"segmentation": [[1.0, 2, 11.5, 2, 11.5, 22]], "area": 105.0}
        for number in range(1, 7)
    ],
    "categories": [
        {"id": 1, "name": "cat", "frequency": "f", "def": "a beast"},
        {"id": 2, "name": "dog", "frequency": "r"},
    ],
}


@pytest.fixture
def document():
    return copy.deepcopy(SOUND)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file.json"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for number in range(1, 7):
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def problems(file, document, images=None):
    """Each problem in words, with the rows it is about."""
    file.write_text(json.dumps(document))
    found = find_problems(file, parse_lists(file, file.read_bytes()), images)
    return {
        f"{finding.fault.name} {finding.fault.rule}": finding.fault.rows
        for finding in found.findings
    }


def run(file, **given):
    """The exit status of the command."""
    try:
        check_annotations(file, **given)
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_sound_file_has_no_problem_and_status_0(file, document, images, capsys):
    assert problems(file, document, images) == {}
    assert run(file, images=images) == 0
    assert "no problem in 2 categories, 6 images, 6 annotations" in capsys.readouterr().out


PROBLEMS = [
    # list, row, changes, what is said, status after --fix
    ("annotations", 1, {"bbox": [1, 1, 0, 5]}, "with a box of no size", 0),
    ("annotations", 1, {"bbox": [1, 1, -4, 5]}, "with a box of no size", 0),
    ("annotations", 1, {"bbox": [1, 1, 50, 5]}, "leaves its image by more than 2 pixels", 0),
    ("annotations", 1, {"bbox": [1, 1, float("nan"), 5]}, "not four finite numbers", 0),
    ("annotations", 1, {"bbox": "1 1 5 5"}, "not four finite numbers", 0),
    ("annotations", 1, {"category_id": 3}, "of a category that the file does not list", 0),
    ("annotations", 1, {"category_id": 0}, "of a category that the file does not list", 0),
    ("annotations", 1, {"image_id": 77}, "of an image that the file does not list", 0),
    ("annotations", 1, {"image_id": "1"}, "whose image_id is not a whole number", 0),
    ("annotations", 1, {"id": 10}, "whose id is already taken", 0),
    ("annotations", 1, {"iscrowd": "no"}, "whose iscrowd is not 0 or 1", 0),
    ("images", 1, {"height": 0}, "with no height", 0),
    ("images", 1, {"width": -3}, "with no width", 0),
    ("images", 1, {"width": 2**70}, "whose width is not a whole number", 0),
    ("images", 1, {"id": 1}, "whose id is already taken", 0),
    ("images", 1, {"file_name": None}, "with neither file_name nor coco_url", 0),
    ("images", 1, {"coco_url": 5}, "whose coco_url is not a URL", 0),
    ("images", 1, {"neg_category_ids": [2, 9]}, "name a category the file does not list", 0),
    ("images", 1, {"neg_category_ids": 2}, "is not a list of category ids", 0),
    ("categories", 1, {"name": "cat"}, "whose name is already taken", 1),
    ("categories", 1, {"name": 5}, "whose name is not a name", 1),
    ("categories", 1, {"frequency": "z"}, "whose frequency is not r, c or f", 1),
    ("categories", 1, {"id": 3}, "that no image verifies", 1),
]


@pytest.mark.parametrize(("name", "row", "changes", "said", "status"), PROBLEMS)
def test_a_problem_is_listed_alone_and_what_can_be_is_mended(
    file, document, tmp_path, name, row, changes, said, status
):
    document[name][row] |= changes
    if changes == {"id": 3}:  # nothing else may name the category that it was
        document["images"] = [image | {"neg_category_ids": []} for image in document["images"]]
    (said_here,) = problems(file, document)
    assert said in said_here
    before = file.read_bytes()
    assert run(file) == 1
    output = tmp_path / "fixed.json"
    assert run(file, fix=output) == status
    assert file.read_bytes() == before
    if status == 0:
        read_annotations(output)
        assert run(output) == 0


def test_every_problem_is_listed_once_and_nothing_that_follows_from_it(file, document, images):
    document["images"][0]["height"] = 0  # its box is not told to lie outside
    document["images"][1]["file_name"] = "absent.png"
    document["annotations"][1] |= {"bbox": [5, 5, 0, 0], "category_id": 8}  # two at once
    document["annotations"][2]["bbox"] = [0, 0, 41, 33]
    document["annotations"].append({"id": 10, "image_id": 99, "category_id": 1, "bbox": [0, 0]})
    document["annotations"].append(None)
    (images / "4.png").write_bytes((images / "4.png").read_bytes()[:1500])
    Image.new("RGB", (30, 40)).save(images / "5.png")
    Image.new("I;16", (40, 30)).save(images / "6.png")
    document["categories"].append({"id": 4, "name": "elk", "frequency": "c"})
    assert problems(file, document, images) == {
        "annotations that are not an object": [7],
        "images with no height": [0],
        "annotations whose id is already taken": [6],
        "annotations of an image that the file does not list": [6],
        "annotations of a category that the file does not list (its ids: 3 from 1 to 4)": [1],
        "annotations whose bbox is not four finite numbers: x, y, width, height": [6],
        "annotations with a box of no size": [1],
        "annotations with a box that leaves its image by more than 2 pixels": [2],
        "images whose image does not exist": [1],
        "images whose image cannot be read whole": [3, 5],
        "images whose image has another size than listed": [4],
        "categories that no image verifies: never boxed, never listed as absent, so AP is "
        "undefined": [2],
    }


def test_the_table_has_count_examples_fix_and_outcome(file, document, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    for row in (1, 2, 3, 4):
        document["annotations"][row]["category_id"] = 40 + row
    file.write_text(json.dumps(document))
    assert run(file) == 1
    shown = capsys.readouterr().out
    for said in ("4 of 6", "[1] (id 20) category_id 41; [2]", "[3]", "; ...", "list the category"):
        assert said in shown
    assert "[4] (id" not in shown
    assert "dropped" in shown


def test_the_copy_lacks_what_is_at_fault_and_keeps_all_else_letter_for_letter(file, document):
    document["annotations"][1]["bbox"] = [0, 0, 0, 0]
    document["images"][2]["width"] = 0
    document["images"][3]["neg_category_ids"] = [2, 9]
    text = json.dumps(document, ensure_ascii=False).replace("105.0", "1.0500e+2")
    file.write_text(text, encoding="utf-8")
    output = file.with_name("new") / "fixed.json"
    assert run(file, fix=output) == 0
    written = output.read_text(encoding="utf-8")
    assert written.count("1.0500e+2") == 4
    fixed = json.loads(written)
    kept = [row for row in document["annotations"] if row["id"] not in (20, 30)]
    assert fixed["annotations"] == kept
    images = [image for image in document["images"] if image["id"] != 3]
    images[2]["neg_category_ids"] = [2]
    assert fixed["images"] == images
    assert {key: fixed[key] for key in ("info", "categories")} == {
        key: document[key] for key in ("info", "categories")
    }
    assert [path.name for path in output.parent.iterdir()] == ["fixed.json"]


def test_rows_that_are_no_objects_are_listed_beside_rows_without_ids(file, document):
    del document["images"][0]["id"], document["categories"][0]["id"]
    document["annotations"][0] = 5
    document["annotations"][1] = {"bbox": [1, 1, 1, 1]}
    told = {problem.split(" (")[0]: rows for problem, rows in problems(file, document).items()}
    assert told["annotations that are not an object"] == [0]
    assert told["images without this key: id"] == [0]
    assert told["categories without this key: id"] == [0]


def test_a_file_with_nan_is_mended_too(file, document):
    document["annotations"][1]["bbox"] = [0, 0, float("nan"), 1]
    document["annotations"][2]["score"] = float("nan")  # that nobody reads
    file.write_text(json.dumps(document))
    output = file.with_name("fixed.json")
    assert run(file, fix=output) == 0
    fixed = json.loads(output.read_text())
    assert len(fixed["annotations"]) == 5
    assert fixed["annotations"][0] == document["annotations"][0]  # polygons too


def test_ids_from_0_are_counted_from_1_everywhere(file, document):
    for category in document["categories"]:
        category["id"] -= 1
    for annotation in document["annotations"]:
        annotation["category_id"] -= 1
    for image in document["images"]:
        image["neg_category_ids"] = [1]
    assert list(problems(file, document)) == [
        "categories with an id below 1 (ids of LVIS and COCO start at 1)"
    ]
    output = file.with_name("fixed.json")
    assert run(file, fix=output) == 0
    assert json.loads(output.read_text()) == SOUND


def test_a_box_listed_twice_goes_and_one_with_a_borrowed_id_stays(file, document):
    boxes = document["annotations"]
    boxes += [dict(boxes[0]), boxes[1] | {"image_id": 3}]
    file.write_text(json.dumps(document))
    output = file.with_name("fixed.json")
    assert run(file, fix=output) == 0
    fixed = json.loads(output.read_text())["annotations"]
    assert fixed[:6] == SOUND["annotations"]
    assert len(fixed) == 7
    assert fixed[6] == boxes[7] | {"id": fixed[6]["id"]}
    assert fixed[6]["id"] not in [box["id"] for box in fixed[:6]]


def test_images_that_share_an_id_all_go_with_their_boxes_unless_they_are_one(file, document):
    document["images"] += [dict(document["images"][0]), document["images"][1] | {"width": 77}]
    file.write_text(json.dumps(document))
    output = file.with_name("fixed.json")
    assert run(file, fix=output) == 0
    fixed = json.loads(output.read_text())
    assert [image["id"] for image in fixed["images"]] == [1, 3, 4, 5, 6]
    assert [box["image_id"] for box in fixed["annotations"]] == [1, 3, 4, 5, 6]


def test_images_at_fault_are_left_out_of_the_copy(file, document, images):
    (images / "1.png").unlink()
    (images / "2.png").write_bytes(b"<html>404</html>")
    file.write_text(json.dumps(document))
    output = file.with_name("fixed.json")
    assert run(file, images=images, fix=output) == 0
    assert read_annotations(output).image_ids.tolist() == [3, 4, 5, 6]
    assert run(output, images=images) == 0


def test_names_that_no_terminal_can_show_are_shown(file, document, images, capsys):
    for image, name in zip(
        document["images"], ["\ud800", "a\0b", "x" * 5000, "[red]"], strict=False
    ):
        image["file_name"] = name
    file.write_text(json.dumps(document))
    assert run(file, images=images) == 1
    assert "4 of 6" in capsys.readouterr().out


def test_a_copy_is_never_written_over_a_file(file, document):
    file.write_text(json.dumps(document))
    link = file.with_name("link.json")
    link.symlink_to(file)
    for output in (file, link, file.parent):
        before = file.read_bytes()
        with pytest.raises(InputError, match="fix: exists already"):
            check_annotations(file, fix=output)
        assert file.read_bytes() == before


def test_a_copy_without_images_is_not_written(file, document):
    file.write_text(json.dumps(document | {"images": [{"id": 1}]}))
    output = file.with_name("fixed.json")
    with pytest.raises(InputError, match="not written: every image is at fault"):
        check_annotations(file, fix=output)
    assert not output.exists()


def test_a_copy_that_cannot_be_written_is_told(file, document):
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="cannot be written"):
        check_annotations(file, fix=file / "inside.json")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"images": 3, "annotations": [], "categories": []}']
)
def test_a_file_of_another_form_is_refused_whole(file, text):
    file.write_text(text)
    with pytest.raises(InputError, match="fix:"):
        check_annotations(file)


def test_a_folder_that_is_none_is_refused(file, document):
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="is no folder"):
        check_annotations(file, images=file)


def test_real_lvis_has_no_fault_but_names_that_few_images_verify(test_data):
    file = test_data / "lvis" / "lvis_val_100.json"
    found = find_problems(file, parse_lists(file, file.read_bytes()))
    assert [finding.fault.name for finding in found.findings] == ["categories"]
    assert not any(found.edits.values())
