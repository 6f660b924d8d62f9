"""Pascal VOC folders as tools write them, and as they should not be."""

import pytest
from hotcoco import COCO

from gridclip.data.forms.source import convert_source, form_of
from gridclip.io.errors import InputError

SIZE = "<size><width>100</width><height>50</height><depth>3</depth></size>"


def thing(name="cat", corners=(11, 6, 30, 25), more=""):
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


@pytest.fixture
def voc(tmp_path, photograph):
    """Writes a VOC folder of one image, JPEGImages/a.jpg of 100 x 50."""

    def write(*things, size=SIZE, filename="a.jpg", image="a.jpg", page="a.xml"):
        photograph(tmp_path / "JPEGImages" / image)
        file = tmp_path / "Annotations" / page
        file.parent.mkdir(parents=True, exist_ok=True)
        name = f"<filename>{filename}</filename>" if filename else ""
        file.write_text(f"<annotation>{name}{size}{''.join(things)}</annotation>")
        return tmp_path

    return write


def boxes(root, split=None, **settings):
    assert form_of(root) == "voc"
    found = convert_source(root, "voc", split, **settings)
    assert all((found.folder / each["file_name"]).is_file() for each in found.document["images"])
    names = {each["id"]: each["name"] for each in found.document["categories"]}
    return [
        (names[each["category_id"]], [round(side, 9) for side in each["bbox"]])
        for each in found.document["annotations"]
    ]


def test_a_flat_folder_gives_what_hotcoco_reads(voc):
    root = voc(thing(), thing("dog", (1, 1, 100, 50)), thing("cow", (1.5, 2, 20.25, 50)))
    theirs = COCO.from_voc(str(root)).dataset
    mine = convert_source(root, "voc").document
    assert [each["name"] for each in mine["categories"]] == ["cat", "cow", "dog"]
    assert [each["name"] for each in theirs["categories"]] == ["cat", "cow", "dog"]
    for one, other in zip(mine["annotations"], theirs["annotations"], strict=True):
        assert (one["category_id"], one["bbox"]) == (other["category_id"], other["bbox"])


@pytest.mark.parametrize(
    ("filename", "image", "page"),
    [
        ("a.jpg", "deep/a.jpg", "deep/a.xml"),
        ("deep/a.jpg", "deep/a.jpg", "a.xml"),
        ("deep\\a.jpg", "deep/a.jpg", "a.xml"),
        ("a.jpg", "deep/a.jpg", "a.xml"),
        ("", "deep/a.JPG", "deep/a.xml"),
        ("a.jpg", "a.JPG", "a.xml"),
        ("a", "a.png", "other.xml"),
    ],
)
def test_an_image_is_found_by_its_folder_or_its_only_name(voc, filename, image, page):
    root = voc(thing(), filename=filename, image=image, page=page)
    found = convert_source(root, "voc").document
    assert [each["file_name"] for each in found["images"]] == [f"JPEGImages/{image}"]
    assert boxes(root) == [("cat", [10, 5, 20, 20])]


def test_two_images_of_one_name_are_told_apart_by_their_folders(voc):
    voc(thing(), image="x/a.jpg", page="x/a.xml")
    root = voc(thing("dog"), image="y/a.jpg", page="y/a.xml")
    found = convert_source(root, "voc").document
    assert [each["file_name"][-7:] for each in found["images"]] == ["x/a.jpg", "y/a.jpg"]
    assert [name for name, _ in boxes(root)] == ["cat", "dog"]


def test_of_two_images_of_one_stem_the_one_that_is_named_is_meant(voc, photograph):
    root = voc(thing(), filename="a.png", image="a.png")
    photograph(root / "JPEGImages" / "a.jpg")
    photograph(root / "JPEGImages" / "deep" / "a.png")
    found = convert_source(root, "voc").document
    assert [each["file_name"] for each in found["images"]] == ["JPEGImages/a.png"]


def test_parts_are_lists_of_image_sets(voc):
    voc(thing(), image="a.jpg", page="a.xml")
    root = voc(thing("dog"), filename="b.jpg", image="b.jpg", page="b.xml")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("b  1\n")
    assert [name for name, _ in boxes(root, "val")] == ["dog"]
    ids = {
        each["name"]: each["id"]
        for each in convert_source(root, "voc", "train").document["categories"]
    }
    assert ids == {"cat": 1, "dog": 2}
    with pytest.raises(InputError, match="has the parts train, val"):
        convert_source(root, "voc")
    (root / "ImageSets" / "Main" / "val.txt").write_text("c\n")
    with pytest.raises(InputError, match=r"c: no such annotation \(1 of 1\)"):
        convert_source(root, "voc", "val")


def test_roboflows_export_has_files_beside_their_images(tmp_path, photograph):
    for part, name in (("train", "cat"), ("valid", "dog")):
        photograph(tmp_path / part / f"{part}.jpg")
        text = f"<annotation><filename>{part}.jpg</filename>{SIZE}{thing(name)}</annotation>"
        (tmp_path / part / f"{part}.xml").write_text(text)
    assert boxes(tmp_path, "val") == [("dog", [10, 5, 20, 20])]
    found = convert_source(tmp_path, "voc", "val").document
    assert found["images"][0]["file_name"] == "valid/valid.jpg"
    assert [each["name"] for each in found["categories"]] == ["cat", "dog"]


def test_difficult_objects_are_ignored_by_ap(voc):
    root = voc(thing(more="<difficult>1</difficult>"), thing("dog"))
    found = convert_source(root, "voc")
    assert [each.get("ignore") for each in found.document["annotations"]] == [1, None]
    assert "left out of AP: 1 difficult objects" in found.told[0]


def test_parts_of_an_object_are_no_objects_and_names_may_have_signs(voc):
    part = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"
    assert boxes(voc(thing("cat &amp; dog", more=part))) == [("cat & dog", [10, 5, 20, 20])]


def test_polygons_and_turned_boxes_become_upright_boxes(voc):
    polygon = "<x1>10</x1><y1>5</y1><x2>30</x2><y2>5</y2><x3>20</x3><y3>25</y3>"
    turned = "<cx>50</cx><cy>25</cy><w>20</w><h>10</h><angle>1.5707963267948966</angle>"
    root = voc(
        f"<object><name>cat</name><polygon>{polygon}</polygon></object>",
        f"<object><name>dog</name><robndbox>{turned}</robndbox></object>",
    )
    assert boxes(root) == [("cat", [10, 5, 20, 20]), ("dog", [45, 15, 10, 20])]
    assert len(convert_source(root, "voc").told) == 2


def test_a_size_that_the_file_does_not_say_is_that_of_the_image(voc):
    root = voc(thing(), size="<size><width>0</width><height>0</height></size>")
    found = convert_source(root, "voc").document["images"][0]
    assert (found["height"], found["width"]) == (50, 100)


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        ({"size": SIZE.replace("100", "50").replace(">50</h", ">100</h")}, "another size.*EXIF"),
        ({"filename": "gone.jpg", "page": "gone.xml"}, "annotations without an image.*gone.jpg"),
        ({"things": [thing(corners=(30, 6, 11, 25))]}, "boxes of no size"),
        ({"things": [thing(corners=("nan", 6, 11, 25))]}, "no finite number"),
        ({"things": [thing(corners=("", 6, 11, 25))]}, "objects without a box"),
        ({"things": [thing(corners=(50, 6, 130, 25))]}, "leave their image.* in 100 x 50"),
        ({"things": [thing(" ")]}, "objects without a name"),
        ({"things": ["<object><name>cat</name></object>"]}, "objects without a box"),
        ({"things": ["<object>"]}, "files that are no XML"),
        ({"things": ['<!DOCTYPE a [<!ENTITY b "c">]>']}, "files that are no XML"),
    ],
)
def test_what_is_at_fault_is_refused_by_its_place_or_left_out(voc, made, rule):
    voc(thing("dog"), image="b.jpg", filename="b.jpg", page="b.xml")
    root = voc(*made.pop("things", [thing()]), **made)
    with pytest.raises(InputError, match=rule) as raised:
        convert_source(root, "voc")
    assert made.get("page", "a.xml") in str(raised.value)
    assert [name for name, _ in boxes(root, faults="drop")] == ["dog"]


def test_labels_txt_gives_the_order_and_lacks_no_name(voc):
    root = voc(thing("cat"), thing("dog", (1, 1, 9, 9)))
    (root / "labels.txt").write_text("owl\ndog\ncat\n")
    found = convert_source(root, "voc").document
    assert [each["name"] for each in found["categories"]] == ["owl", "dog", "cat"]
    (root / "labels.txt").write_text("cat\n")
    with pytest.raises(InputError, match="dog: not in it"):
        convert_source(root, "voc")
