"""Named groups of categories: read from a file or beside it, kept by every command, or refused."""

import copy
import json

import pytest

from gridclip.data.annotations.check import check_annotations, find_problems
from gridclip.data.annotations.coco_json import parse_lists
from gridclip.data.annotations.groups import add_groups
from gridclip.data.annotations.hold_out import hold_out
from gridclip.data.annotations.reader import read_annotations
from gridclip.data.datamodules.detection import DetectionData
from gridclip.io.errors import InputError

DOCUMENT = {
    "images": [
        {"id": number, "file_name": name, "height": 30, "width": 40, "neg_category_ids": absent}
        | {"not_exhaustive_category_ids": []}
        for number, name, absent in ((1, "val/1.jpg", [7, 3]), (2, "2.jpg", []))
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 7, "name": "owl"}, {"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
}
GROUPS = {"night": [7, 1], "pets": ["dog", "cat", "dog"], "split-0": {"names": ["owl"], "ids": [3]}}


@pytest.fixture
def write(tmp_path):
    """Writes the document with these groups, and gives the file."""

    def write(groups=GROUPS, **changes):
        content = copy.deepcopy(DOCUMENT) | changes
        if groups is not None:
            content["category_groups"] = groups
        file = tmp_path / "file.json"
        file.write_text(json.dumps(content))
        return file

    return write


def named(annotations):
    """The names of each group's categories."""
    return {
        group: [annotations.categories[row].name for row in rows]
        for group, rows in annotations.groups.items()
    }


EXPECTED = {"night": ["owl", "cat"], "pets": ["dog", "cat"], "split-0": ["dog"]}


@pytest.mark.parametrize("rules", ["training", "evaluation", "validation"])
def test_groups_are_lists_of_ids_or_names_and_read_again_from_the_index(write, rules):
    file = write()
    for _ in range(2):
        assert named(read_annotations(file, rules=rules)) == EXPECTED
    if rules != "evaluation":  # which reads no paths
        assert named(read_annotations(file, folder="val", rules=rules)) == EXPECTED


def test_a_file_without_groups_has_none(write):
    assert read_annotations(write(None)).groups == {}


def test_a_side_file_adds_groups_and_takes_the_place_of_those_of_the_same_name(write, tmp_path):
    annotations = read_annotations(write())
    side = tmp_path / "splits.json"
    side.write_text(json.dumps({"night": ["owl"], "base": {"names": ["cat", "owl"]}}))
    assert named(add_groups(annotations, side)) == {
        **EXPECTED,
        "night": ["owl"],
        "base": ["cat", "owl"],
    }
    assert named(annotations) == EXPECTED


def test_a_setting_of_the_data_names_the_side_file(write, tmp_path):
    write(None)
    (tmp_path / "splits.json").write_text(json.dumps({"base": ["cat", "owl"]}))
    data = DetectionData(str(tmp_path), val="file.json", val_groups="splits.json")
    assert named(data.val_set.annotations) == {"base": ["cat", "owl"]}


BAD = {
    "an unknown id": (
        {"pets": [1, 99]},
        "categories",
        "category that the file does not list",
        "99",
    ),
    "an unknown name": ({"pets": ["cat", "Dog"]}, "categories", "does not list", "unknown: 'Dog'"),
    "an empty group": ({"pets": []}, "categories", "without any category", "'pets'"),
    "no list": ({"pets": 7}, "categories", "not a list of category ids, or", "'pets'"),
    "ids and names mixed": ({"pets": [1, "dog"]}, "categories", "not a list", "'pets'"),
    "a true for an id": ({"pets": [True]}, "categories", "not a list", "'pets'"),
    "an object of something else": ({"pets": {"of": [1]}}, "categories", "not a list", "'pets'"),
    "a name with a blank": ({"my pets": [1]}, "id", "letters, digits, - and _", "'my pets'"),
    "no object": ([["pets", [1]]], None, "is a json list, not an object", "rare_shapes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_groups_are_refused_with_file_field_and_fix(write, tmp_path, case):
    groups, key, *words = BAD[case]
    file = write(groups)
    side = tmp_path / "side.json"
    side.write_text(json.dumps(groups))
    for rules in ("training", "evaluation"):
        with pytest.raises(InputError) as error:
            read_annotations(file, rules=rules)
        place = f"category_groups[0].{key}" if key else "category_groups"
        for said in (f"{file}: {place}: ", "\n  fix: ", *words):
            assert said in str(error.value)
    with pytest.raises(InputError) as error:
        add_groups(read_annotations(write(None)), side)
    for said in (f"{side}: " + (f"groups[0].{key}: " if key else ""), "\n  fix: ", *words):
        assert said in str(error.value)


def test_dropping_faults_does_not_drop_groups(write):
    with pytest.raises(InputError, match="does not list"):
        read_annotations(write({"pets": [99]}), faults="drop")


def fixed(file):
    """The groups of the repaired copy; the command must have found something to repair."""
    output = file.with_name("fixed.json")
    output.unlink(missing_ok=True)
    try:
        check_annotations(file, fix=output)
    except SystemExit:
        pytest.fail("a problem is left")
    found = find_problems(output, parse_lists(output, output.read_bytes()))
    assert not found.findings
    return json.loads(output.read_text()).get("category_groups")


def test_check_lists_every_bad_group_once_and_the_copy_has_none(write):
    groups = GROUPS | {"all": [1, 99, 3], "none": [99], "no list": [1], "x": 3, "y": [], "z": [1]}
    file = write(groups)
    found = find_problems(file, parse_lists(file, file.read_bytes()))
    assert {(finding.fault.rule[:30], *finding.fault.rows) for finding in found.findings} == {
        ("whose id is not a name of lett", 5),
        ("whose categories is not a list", 6),
        ("without any category", 7),
        ("with a category that the file ", 3, 4),
    }
    mended = {"night": [7, 1], "pets": ["dog", "cat", "dog"], "split-0": [3], "all": [1, 3]}
    assert fixed(file) == mended | {"z": [1]}


def test_a_repaired_copy_keeps_groups_letter_for_letter(write):
    boxes = copy.deepcopy(DOCUMENT["annotations"])
    boxes[0]["bbox"] = [0, 0, 0, 0]
    images = copy.deepcopy(DOCUMENT["images"])
    images[1]["neg_category_ids"] = [1]  # or nothing would verify it
    assert fixed(write(annotations=boxes, images=images)) == GROUPS
    boxes[0]["bbox"] = [0, float("nan"), 1, 1]
    assert fixed(write(annotations=boxes, images=images)) == GROUPS
    assert fixed(write(None, annotations=boxes, images=images)) is None


def test_ids_from_0_are_counted_from_1_in_groups_too(write):
    categories = [{"id": 6, "name": "owl"}, {"id": 0, "name": "cat"}, {"id": 2, "name": "2"}]
    boxes = [box | {"category_id": box["category_id"] - 1} for box in DOCUMENT["annotations"]]
    images = [image | {"neg_category_ids": [2]} for image in DOCUMENT["images"]]
    file = write(
        {"night": [6, 0], "pets": ["cat", "2"], "all": {"ids": [0, 2]}},
        categories=categories,
        annotations=boxes,
        images=images,
    )
    assert fixed(file) == {"night": [7, 1], "pets": ["cat", "2"], "all": [1, 3]}


def test_check_counts_groups_among_what_is_sound(write, capsys):
    check_annotations(write())
    assert "2 annotations, 3 category_groups" in capsys.readouterr().out


def test_holding_names_out_keeps_what_is_left_of_groups_and_adds_base_and_novel(write, tmp_path):
    (tmp_path / "base.txt").write_text("cat\n")
    (tmp_path / "novel.txt").write_text("owl\n")
    output = tmp_path / "held.json"
    hold_out(write(), output, base=tmp_path / "base.txt", novel=tmp_path / "novel.txt")
    expected = {"night": ["owl", "cat"], "pets": ["cat"], "base": ["cat"], "novel": ["owl"]}
    assert named(read_annotations(output)) == expected


def test_the_split_of_coco_is_a_side_file_as_it_is(test_data):
    folder = test_data / "coco_6k"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    split = json.loads((folder / "splits.json").read_text())
    annotations = add_groups(read_annotations(folder / "val.json"), folder / "splits.json")
    assert named(annotations) == {group: each["names"] for group, each in split.items()}
    assert [len(rows) for rows in annotations.groups.values()] == [48, 17, 15]
