"""YOLO folders as tools write them, and as they should not be."""

import pytest
from hotcoco import COCO

from gridclip.data.forms.source import convert_source, form_of
from gridclip.io.errors import InputError


def boxes(root, split=None, **settings):
    assert form_of(root) == "yolo"
    found = convert_source(root, "yolo", split, **settings)
    assert all((found.folder / each["file_name"]).is_file() for each in found.document["images"])
    return [
        (each["image_id"], each["category_id"], [round(side, 9) for side in each["bbox"]])
        for each in found.document["annotations"]
    ]


@pytest.mark.parametrize(
    "setup",
    [
        "names: [cat, dog]\nnc: 2\n",
        "names:\n- cat\n- dog\n",
        "names:\n  0: cat\n  1: dog\n",
        "names:\n  1: dog\n  '0': cat\n",
        "path: /of/another/machine\nnames: [cat, dog]\n",
    ],
)
def test_names_may_be_a_list_or_numbered_in_any_order(yolo, setup):
    found = convert_source(yolo(setup=setup), "yolo").document
    assert [each["name"] for each in found["categories"]] == ["cat", "dog"]
    assert boxes(yolo(setup=setup)) == [(1, 1, [40, 15, 20, 20])]


def test_a_class_called_no_stays_one(yolo):
    found = convert_source(yolo(setup="names: [no, 7, 1e3]\n"), "yolo").document
    assert [each["name"] for each in found["categories"]] == ["no", "7", "1e3"]


def test_a_flat_folder_gives_what_hotcoco_reads(yolo, tmp_path):
    root = yolo("1 0.31 0.52 0.21 0.4\n0 0.9 0.9 0.1 0.1\n")
    (root / "labels" / "data.yaml").write_text("names: [cat, dog]\n")
    theirs = COCO.from_yolo(str(root / "labels"), str(root / "images")).dataset["annotations"]
    pairs = zip(convert_source(root, "yolo").document["annotations"], theirs, strict=True)
    for mine, other in pairs:
        assert mine["category_id"] == other["category_id"]
        assert mine["bbox"] == pytest.approx(other["bbox"], abs=1e-12)


def test_roboflows_export_is_read_by_its_parts(tmp_path, photograph):
    for part, label in (("train", "0"), ("valid", "1"), ("test", "0")):
        photograph(tmp_path / part / "images" / f"{part}.jpg")
        (tmp_path / part / "labels").mkdir()
        (tmp_path / part / "labels" / f"{part}.txt").write_text(f"{label} 0.5 0.5 0.2 0.4\n")
    (tmp_path / "README.roboflow.txt").write_text("exported")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        "nc: 2\nnames: ['cat', 'dog']\n\nroboflow:\n  license: CC BY 4.0\n"
    )
    assert boxes(tmp_path, "train") == [(1, 1, [40, 15, 20, 20])]
    found = convert_source(tmp_path, "yolo", "val")
    assert found.document["images"][0]["file_name"] == "valid/images/valid.jpg"
    assert boxes(tmp_path, "val") == [(1, 2, [40, 15, 20, 20])]
    with pytest.raises(InputError, match="parts train, val, test"):
        convert_source(tmp_path, "yolo")


def test_parts_are_found_by_their_folders_where_the_yaml_names_none(tmp_path, photograph):
    for part in ("train", "valid"):
        photograph(tmp_path / "images" / part / "deep" / "er" / "a.JPG")
        label = tmp_path / "labels" / part / "deep" / "er" / "a.txt"
        label.parent.mkdir(parents=True)
        label.write_text("1 0.5 0.5 0.2 0.4\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert boxes(tmp_path, "val") == boxes(tmp_path, "train") == [(1, 2, [40, 15, 20, 20])]
    with pytest.raises(InputError, match=r"no part 'test'.*\n.*train, val"):
        convert_source(tmp_path, "yolo", "test")


def test_a_list_of_images_is_a_part(yolo, photograph):
    root = yolo(setup="names: [cat]\ntrain: train.txt\nval: val.txt\n")
    photograph(root / "images" / "b.jpg")
    (root / "train.txt").write_text("./images/a.jpg\n")
    (root / "val.txt").write_text("images/b.jpg\n")
    assert boxes(root, "train") == [(1, 1, [40, 15, 20, 20])]
    with pytest.raises(InputError, match="none of the 1 images has a label"):
        boxes(root, "val")


def test_images_without_labels_show_nothing_and_are_told(yolo, photograph):
    root = yolo()
    photograph(root / "images" / "b.png")
    found = convert_source(root, "yolo")
    assert len(found.document["images"]) == 2
    assert found.told == [
        f"taken to show nothing: 1 images without a label file: {root / 'images' / 'b.png'}"
    ]


def test_labels_of_a_flattened_folder_find_the_only_image_of_their_name(yolo):
    root = yolo(lines=None, image="deep/a.jpg")
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    assert boxes(root) == [(1, 1, [40, 15, 20, 20])]
    assert "only image of their name" in convert_source(root, "yolo").told[0]


def test_polygons_and_turned_boxes_become_the_boxes_around_them(yolo):
    root = yolo("0 0.1 0.2 0.5 0.2 0.3 0.8\n1 0.5 0.2 0.6 0.4 0.5 0.6 0.4 0.4\n")
    assert boxes(root) == [(1, 1, [10, 10, 40, 30]), (1, 2, [40, 10, 20, 20])]
    assert "taken for the boxes around them: 2 polygons" in convert_source(root, "yolo").told[0]


def test_a_box_that_stands_twice_counts_once(yolo):
    root = yolo("0 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.2 0.4\n")
    assert len(boxes(root)) == 2
    assert "left out: 1 boxes that repeat" in convert_source(root, "yolo").told[0]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("2 0.5 0.5 0.2 0.4", "class that has no name"),
        ("-1 0.5 0.5 0.2 0.4", "class that has no name"),
        ("0.5 0.5 0.5 0.2 0.4", "class that has no name"),
        ("nan 0.5 0.5 0.2 0.4", "class that has no name"),
        ("0 50 25 20 20", "in pixels, not in shares"),
        ("0 0.5 0.5 0.2 0.4 0.93", "lines of six numbers"),
        ("0 0.5 0.5 0.2", "lines of another length"),
        ("0 0.5 0.5 0.2 0.4 0.1 0.2 0.3", "lines of another length"),
        ("cat 0.5 0.5 0.2 0.4", "no numbers"),
        ("0", "no numbers"),
        ("0 0.5 0.5 0 0.4", "boxes of no size"),
        ("0 0.5 0.5 -0.2 0.4", "boxes of no size"),
        ("0 nan 0.5 0.2 0.4", "no finite number"),
        ("0 0.95 0.5 0.2 0.4", "leave their image"),
        ("0 1.2 0.5 0.2 0.4", "leave their image"),
    ],
)
def test_a_line_at_fault_is_refused_by_file_and_line_or_left_out(yolo, line, rule):
    root = yolo(f"\n0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(InputError, match=rule) as raised:
        convert_source(root, "yolo")
    assert f"{root / 'labels' / 'a.txt'} line 3" in str(raised.value)
    assert boxes(root, faults="drop") == [(1, 1, [40, 15, 20, 20])]
    assert rule in convert_source(root, "yolo", faults="drop").told[0]


def test_all_kinds_of_faults_are_told_at_once(yolo):
    root = yolo("9 0.5 0.5 0.2 0.4\n0 50 25 20 20\n0 1 1 1 1\n")
    with pytest.raises(InputError) as raised:
        convert_source(root, "yolo")
    assert str(raised.value).count("also:") == 2


def test_what_overshoots_by_rounding_is_kept(yolo):
    assert boxes(yolo("0 0.505 0.5 1 1\n")) == [(1, 1, [0.5, 0, 100, 50])]


@pytest.mark.parametrize(
    ("setup", "problem"),
    [
        ("names: [cat, dog]\nnc: 3\n", "nc is 3, but there are 2 names"),
        ("names: [cat, cat]\n", "cat: named twice"),
        ("names: [cat, '']\n", "'' is no name"),
        ("names: {a: cat}\n", "'a' is no class"),
        ("names: [cat, [dog]]\n", "is no name"),
        ("names: [cat\n", "cannot be read as YAML"),
        ("names: []\n", "has no names"),
    ],
)
def test_names_that_are_no_vocabulary_are_refused(yolo, setup, problem):
    with pytest.raises(InputError, match=problem):
        convert_source(yolo(setup=setup), "yolo")


def test_labels_without_an_image_and_labels_of_two_images_are_refused(yolo, photograph):
    root = yolo()
    (root / "labels" / "gone.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    with pytest.raises(InputError, match=r"1 labels without an image: .*gone.txt"):
        convert_source(root, "yolo")
    (root / "labels" / "gone.txt").unlink()
    photograph(root / "images" / "a.png")
    with pytest.raises(InputError, match=r"images that share their labels: .*a.png and a.jpg"):
        convert_source(root, "yolo")


def test_broken_images_are_refused_or_left_out(yolo):
    root = yolo()
    (root / "images" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 images that cannot be read: .*b.jpg"):
        convert_source(root, "yolo")
    assert len(convert_source(root, "yolo", faults="drop").document["images"]) == 1


def test_images_outside_the_folder_are_refused(yolo, photograph, tmp_path):
    root = yolo(setup="names: [cat]\ntrain: ../elsewhere\n")
    photograph(tmp_path.parent / "elsewhere" / "b.jpg")
    with pytest.raises(InputError, match="1 images lie outside"):
        convert_source(root, "yolo", "train")
