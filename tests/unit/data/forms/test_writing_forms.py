"""Files of LVIS and COCO form, written in other forms and read back."""

import json

import pytest
from hotcoco import COCO
from naive_forms import cvat

from gridclip.cli import main
from gridclip.data.forms.export import export_command
from gridclip.data.forms.source import convert_source
from gridclip.io.errors import InputError

SLACK = {"yolo": 1e-7, "labelme": 1e-9, "voc": 1.0, "cvat": 0.0101, "open_images": 1e-4}


@pytest.fixture
def lvis(tmp_path, photograph):
    """Two images, x/a.jpg and y/b.jpg, three boxes, three names, verified absences, a group."""
    images = [
        {"id": 7, "file_name": "x/a.jpg", "height": 50, "width": 100},
        {"id": 9, "file_name": "y/b.jpg", "height": 50, "width": 100},
    ]
    lists = [([3], []), ([], [8])]
    for image, (negative, partial) in zip(images, lists, strict=True):
        photograph(tmp_path / "photos" / image["file_name"])
        image |= {"neg_category_ids": negative, "not_exhaustive_category_ids": partial}
    boxes = [(7, 8, [1.25, 2.5, 30.125, 20]), (7, 5, [0, 0, 100, 50]), (9, 8, [50, 9.75, 7, 7.5])]
    names = [(3, "a & b", "r"), (5, "dog", "c"), (8, 'the "cat"', "f")]
    document = {
        "images": images,
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": box}
            for n, (image, category, box) in enumerate(boxes, 1)
        ],
        "categories": [{"id": n, "name": name, "frequency": f} for n, name, f in names],
        "category_groups": {"pets": [5, 8]},
    }
    (tmp_path / "lvis.json").write_text(json.dumps(document))
    return tmp_path


def said(document):
    """What a file says, by names and paths, whatever its ids."""
    names = {each["id"]: each["name"] for each in document["categories"]}
    paths = {each["id"]: each["file_name"].split("/", 1 - 3)[-1] for each in document["images"]}
    boxes = [
        (paths[each["image_id"]], names[each["category_id"]], each["bbox"])
        for each in document["annotations"]
    ]
    lists = {
        paths[each["id"]]: [
            {names[known] for known in each.get(key, [])}
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        ]
        for each in document["images"]
    }
    frequency = {each["name"]: each.get("frequency") for each in document["categories"]}
    groups = {
        group: {names.get(each, each) for each in own}
        for group, own in document.get("category_groups", {}).items()
    }
    return sorted(boxes, key=lambda box: (box[0], box[1])), lists, frequency, groups


@pytest.mark.parametrize("form", [*SLACK])
def test_what_is_exported_with_its_images_is_read_back(lvis, form):
    output = lvis / "out"
    export_command(lvis / "lvis.json", output, form=form, images=lvis / "photos")
    back = convert_source(output, form)
    assert all((back.folder / each["file_name"]).is_file() for each in back.document["images"])
    boxes, *others = said(json.loads((lvis / "lvis.json").read_text()))
    mine, *mine_others = said(back.document)
    assert mine_others == others
    for one, other in zip(mine, boxes, strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], abs=SLACK[form])


def test_labels_alone_are_read_with_the_folder_of_the_images(lvis):
    for form in ("yolo", "voc", "labelme"):
        output = lvis / form
        export_command(lvis / "lvis.json", output, form=form)
        back = convert_source(output, form, images=lvis / "photos").document
        assert said(back)[1:] == said(json.loads((lvis / "lvis.json").read_text()))[1:]
        assert [each["file_name"] for each in back["images"]] == ["x/a.jpg", "y/b.jpg"]


@pytest.mark.parametrize("form", ["yolo", "voc", "labelme"])
def test_parts_go_into_one_folder_side_by_side(lvis, form):
    for part in ("train", "val"):
        export_command(
            lvis / "lvis.json", lvis / "o", form=form, split=part, images=lvis / "photos"
        )
    for part in ("train", "val"):
        found = convert_source(lvis / "o", form, part).document
        assert len(found["annotations"]) == 3
        assert [each["neg_category_ids"] for each in found["images"]] == [[1], []]
    with pytest.raises(InputError, match="already"):
        export_command(lvis / "lvis.json", lvis / "o", form=form, split="val")
    document = json.loads((lvis / "lvis.json").read_text())
    document["categories"][0]["name"] = "owl"
    (lvis / "other.json").write_text(json.dumps(document))
    if form != "labelme":
        with pytest.raises(InputError, match="lists other names"):
            export_command(lvis / "other.json", lvis / "o", form=form, split="test")


def test_hotcoco_reads_what_is_written(lvis):
    for form in ("yolo", "voc", "cvat"):
        export_command(lvis / "lvis.json", lvis / form, form=form)
    theirs = COCO.from_cvat(str(lvis / "cvat" / "annotations.xml")).dataset
    mine = cvat(lvis / "cvat" / "annotations.xml", ["a &amp; b", "dog", "the &quot;cat&quot;"])
    assert [each["bbox"] for each in theirs["annotations"]] == [
        pytest.approx(each["bbox"]) for each in mine["annotations"]
    ]
    (lvis / "yolo" / "labels" / "x" / "data.yaml").write_text("names: [one, dog, cat]\n")
    theirs = COCO.from_yolo(str(lvis / "yolo" / "labels" / "x"), str(lvis / "photos" / "x")).dataset
    assert theirs["annotations"][0]["bbox"] == pytest.approx([1.25, 2.5, 30.125, 20], abs=1e-7)


def test_crowds_are_left_out_of_yolo_and_difficult_in_voc(lvis, capsys):
    document = json.loads((lvis / "lvis.json").read_text())
    for image in document["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    document["annotations"][0]["iscrowd"] = 1
    (lvis / "coco.json").write_text(json.dumps(document))
    export_command(lvis / "coco.json", lvis / "yolo", form="yolo", images=lvis / "photos")
    assert "left out: 1 crowds" in capsys.readouterr().out
    assert len(convert_source(lvis / "yolo", "yolo").document["annotations"]) == 2
    export_command(lvis / "coco.json", lvis / "voc", form="voc", images=lvis / "photos")
    found = convert_source(lvis / "voc", "voc").document["annotations"]
    assert [each.get("ignore") for each in found] == [1, None, None]


def test_the_commands_say_what_they_wrote(lvis, capsys):
    main(["data", "export", str(lvis / "lvis.json"), str(lvis / "o"), "--form", "yolo"])
    images = ["--images", str(lvis / "photos")]
    main(["data", "convert", str(lvis / "o"), str(lvis / "back.json"), *images])
    printed = capsys.readouterr().out
    assert "yolo, 2 images, 3 boxes" in printed
    assert "yolo, 2 images, 3 annotations, 3 categories; file names are relative to" in printed
    with pytest.raises(SystemExit):
        main(["data", "convert", str(lvis / "photos"), str(lvis / "none.json")])
    assert "is of no form that is known" in capsys.readouterr().err
    assert not (lvis / "none.json").exists()
