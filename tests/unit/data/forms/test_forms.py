"""CVAT, Open Images and LabelMe as tools write them, and as they should not be."""

import json
import math

import pytest
from hotcoco import COCO

from gridclip.data.forms.source import convert_source, form_of
from gridclip.io.errors import InputError

HEAD = "<version>1.1</version><meta><task><labels>{}</labels></task></meta>"


@pytest.fixture
def cvat(tmp_path, photograph):
    """Writes annotations.xml about images/s/a.jpg of 100 x 50."""

    def write(*shapes, labels=("cat", "dog"), more="", frame='width="100" height="50"'):
        photograph(tmp_path / "images" / "s" / "a.jpg")
        head = HEAD.format("".join(f"<label><name>{name}</name></label>" for name in labels))
        image = f'<image id="7" name="s/a.jpg" {frame}>{"".join(shapes)}</image>'
        text = f"<annotations>{head}{image}{more}</annotations>"
        (tmp_path / "annotations.xml").write_text(text)
        return tmp_path

    return write


def cvat_box(label="cat", more=""):
    return f'<box label="{label}" xtl="10" ytl="5" xbr="30" ybr="25" occluded="0" {more}></box>'


def boxes(root, form, **settings):
    assert form_of(root) == form
    found = convert_source(root, form, **settings)
    names = {each["id"]: each["name"] for each in found.document["categories"]}
    assert all((found.folder / each["file_name"]).is_file() for each in found.document["images"])
    return [
        (names[each["category_id"]], [round(side, 6) for side in each["bbox"]])
        for each in found.document["annotations"]
    ]


def test_upright_boxes_of_cvat_are_those_that_hotcoco_reads(cvat):
    root = cvat(cvat_box(), cvat_box("dog"))
    theirs = COCO.from_cvat(str(root / "annotations.xml")).dataset["annotations"]
    mine = convert_source(root, "cvat").document["annotations"]
    for one, other in zip(mine, theirs, strict=True):
        assert (one["category_id"], one["bbox"]) == (other["category_id"], other["bbox"])


def test_shapes_of_cvat_become_upright_boxes(cvat):
    root = cvat(
        '<polygon label="cat" points="10,5;30,5;30,25"/>',
        '<box label="dog" xtl="40" ytl="20" xbr="60" ybr="30" rotation="90"/>',
        '<ellipse label="cat" cx="50" cy="25" rx="20" ry="10"/>',
        '<mask label="dog" rle="1,2" left="3" top="4" width="5" height="6"/>',
        '<polyline label="cat" points="1,1;2,2"/>',
        '<tag label="dog"/>',
    )
    assert boxes(root, "cvat") == [
        ("cat", [10, 5, 20, 20]),
        ("dog", [45, 15, 10, 20]),
        ("cat", [30, 15, 40, 20]),
        ("dog", [3, 4, 5, 6]),
    ]
    told = "\n".join(convert_source(root, "cvat").told)
    assert all(word in told for word in ("polygons", "turned", "ellipses", "polyline", "tag"))


def test_a_turned_ellipse_has_the_extent_of_its_own_outline(cvat):
    shape = '<ellipse label="cat" cx="50" cy="25" rx="20" ry="5" rotation="30"/>'
    (_, found), *_ = boxes(cvat(shape), "cvat")
    turn = math.radians(30)
    outline = [
        (
            50 + 20 * math.cos(t) * math.cos(turn) - 5 * math.sin(t) * math.sin(turn),
            25 + 20 * math.cos(t) * math.sin(turn) + 5 * math.sin(t) * math.cos(turn),
        )
        for t in (n * math.pi / 5000 for n in range(10000))
    ]
    xs, ys = zip(*outline, strict=True)
    assert found == pytest.approx(
        [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], abs=1e-4
    )


def test_subsets_of_cvat_are_parts(cvat, photograph, tmp_path):
    photograph(tmp_path / "images" / "b.jpg")
    more = (
        f'<image name="b.jpg" subset="Validation" width="100" height="50">{cvat_box("dog")}</image>'
    )
    root = cvat(cvat_box(), frame='subset="Train" width="100" height="50"', more=more)
    assert boxes(root, "cvat", split="val") == [("dog", [10, 5, 20, 20])]
    with pytest.raises(InputError, match="has the parts train, val"):
        convert_source(root, "cvat")


def test_what_is_at_fault_in_cvat_is_refused(cvat):
    with pytest.raises(InputError, match="tracks of a video"):
        convert_source(cvat(more="<track/>"), "cvat")
    with pytest.raises(InputError, match="another size"):
        convert_source(cvat(cvat_box(), frame='width="50" height="50"'), "cvat")
    with pytest.raises(InputError, match=r"images that do not exist: 'b.jpg'"):
        convert_source(cvat(more='<image name="b.jpg"/>'), "cvat")
    with pytest.raises(InputError, match="value that is no number"):
        convert_source(cvat(cvat_box().replace('"30"', '"x"')), "cvat")


BOXES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"


@pytest.fixture
def open_images(tmp_path, photograph):
    """Writes validation-bbox.csv about the images a and b of 100 x 50."""

    def write(*rows, titles='/m/1,Cat\n/m/2,"Dog, small"\n/m/3,Owl\n'):
        for name in ("a", "b"):
            photograph(tmp_path / "images" / f"{name}.jpg")
        (tmp_path / "validation-bbox.csv").write_text(BOXES + "".join(f"{row}\n" for row in rows))
        if titles:
            (tmp_path / "class-descriptions-boxable.csv").write_text(titles)
        return tmp_path

    return write


def test_boxes_of_open_images_are_those_that_hotcoco_reads(open_images):
    root = open_images("a,x,/m/1,1,0.1,0.5,0.2,0.6,0", "b,x,/m/2,1,0,1,0.5,1,0")
    theirs = COCO.from_oid(
        str(root / "validation-bbox.csv"),
        class_descriptions=str(root / "class-descriptions-boxable.csv"),
        images_dir=str(root / "images"),
    ).dataset
    mine = convert_source(root, "open_images").document
    assert [each["file_name"] for each in mine["images"]] == ["a.jpg", "b.jpg"]
    assert [each["name"] for each in mine["categories"]] == ["Cat", "Dog, small", "Owl"]
    for one, other in zip(mine["annotations"], theirs["annotations"], strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-9)


def test_groups_of_open_images_are_crowds(open_images):
    root = open_images("a,x,/m/1,1,0.1,0.5,0.2,0.6,1")
    assert [
        each["iscrowd"] for each in convert_source(root, "open_images").document["annotations"]
    ] == [1]


def test_verified_labels_of_open_images_give_lvis_form(open_images):
    root = open_images("a,x,/m/1,1,0.1,0.5,0.2,0.6,0", "a,x,/m/2,1,0,1,0,1,1")
    (root / "validation-imagelabels.csv").write_text(
        "ImageID,Source,LabelName,Confidence\na,v,/m/1,1\na,v,/m/3,0\nb,v,/m/2,1\nb,v,/m/1,0\n"
    )
    first, second = convert_source(root, "open_images").document["images"]
    assert (first["neg_category_ids"], first["not_exhaustive_category_ids"]) == ([3], [2])
    assert (second["neg_category_ids"], second["not_exhaustive_category_ids"]) == ([1], [2])
    assert boxes(root, "open_images") == [("Cat", [10, 10, 40, 20])]


def test_what_is_at_fault_in_open_images_is_refused(open_images):
    for row, rule in (
        ("a,x,/m/1,1,10,50,0.2,0.6,0", "no shares of their image.*line 2"),
        ("a,x,/m/1,1,0.5,0.1,0.2,0.6,0", "boxes of no size"),
        ("c,x,/m/1,1,0.1,0.5,0.2,0.6,0", "images that do not exist: c"),
        ("a,x,/m/9,1,0.1,0.5,0.2,0.6,0", "/m/9: no description"),
        ("a,x,/m/1", "3 cells under 9 titles"),
    ):
        with pytest.raises(InputError, match=rule):
            convert_source(open_images(row), "open_images")


@pytest.fixture
def labelme(tmp_path, photograph):
    """Writes train/a.json beside train/a.jpg of 100 x 50."""

    def write(*shapes, part="train", **said):
        photograph(tmp_path / part / "a.jpg")
        page = {"shapes": [*shapes], "imagePath": "a.jpg", "imageHeight": 50, "imageWidth": 100}
        (tmp_path / part / "a.json").write_text(json.dumps(page | said))
        return tmp_path

    return write


def shape(kind, *points, label="cat"):
    return {"label": label, "points": [*points], "shape_type": kind}


def test_shapes_of_labelme_become_upright_boxes(labelme):
    labelme(shape("rectangle", [30, 25], [10, 5], label="owl"), part="valid")
    root = labelme(
        shape("rectangle", [30, 25], [10, 5]),
        shape("polygon", [10, 5], [30, 5], [20, 24], label="dog"),
        shape("circle", [50, 25], [53, 29]),
        shape("rotation", [50, 5], [70, 15], [50, 25], [30, 15]),
        shape("line", [1, 1], [2, 2]),
        imagePath="..\\train\\a.jpg",
    )
    found = convert_source(root, "labelme", "train")
    assert [each["bbox"] for each in found.document["annotations"]] == [
        [10, 5, 20, 20],
        [10, 5, 20, 19],
        [45, 20, 10, 10],
        [30, 5, 40, 20],
    ]
    assert [each["name"] for each in found.document["categories"]] == ["cat", "dog", "owl"]
    assert boxes(root, "labelme", split="val") == [("owl", [10, 5, 20, 20])]
    assert any("left out: 1 shapes without an extent (line)" in line for line in found.told)


def test_what_is_at_fault_in_labelme_is_refused(labelme):
    for page, rule in (
        ({"shapes": [shape("cuboid", [1, 1], [2, 2])]}, "unknown kind"),
        ({"shapes": [shape("rectangle", [1, 1])]}, "wrong points"),
        ({"shapes": [shape("rectangle", [1, 1], [2, "x"])]}, "wrong points"),
        ({"imageHeight": 100, "imageWidth": 50}, "another size.*EXIF"),
        ({"shapes": [{"points": []}]}, "LabelMe did not write"),
    ):
        with pytest.raises(InputError, match=rule):
            convert_source(
                labelme(**{"shapes": [shape("rectangle", [1, 1], [9, 9])]} | page),
                "labelme",
                "train",
            )


def test_a_folder_of_no_known_form_is_none(tmp_path, photograph):
    photograph(tmp_path / "images" / "a.jpg")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "notes.yaml").write_text("a: b")
    assert form_of(tmp_path) is None
    assert form_of(tmp_path / "absent") is None
