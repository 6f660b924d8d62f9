"""Grounding files in MDETR's form, read against a naive walk through the json."""

import json

import numpy as np
import pytest

from gridclip.cli import main
from gridclip.data.datasets.grounding import entities_command, first_mention, read_grounding
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.io.errors import InputError

CAPTION = "A tall man in red walks his dog past a dog, and another man."


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mini"
    make_mini(folder, seed=4, train_images=40, val_images=2, size=64)
    return folder


def span(text, start=0):
    first = CAPTION.index(text, start)
    return [first, first + len(text)]


def document():
    def box(number, image, spans, bbox=(1, 2, 10, 20), **more):
        row = {"id": number, "image_id": image, "category_id": 1, "bbox": [*bbox], "area": 200}
        return {**row, "iscrowd": 0, "tokens_positive": spans, **more}

    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "height": 40, "width": 60, "caption": CAPTION},
            {"id": 3, "file_name": "a.jpg", "height": 50, "width": 30, "caption": "the dog"},
            {"id": 9, "file_name": "b.jpg", "height": 40, "width": 60, "caption": "no box"},
        ],
        "annotations": [
            box(1, 3, [[0, 7]]),
            box(2, 7, [span("A tall"), span("man")], bbox=(5, 5, 20, 30)),
            box(3, 7, [span("dog"), span("a dog")], bbox=(30, 10, 8, 8)),
            box(4, 7, [span("his")]),
            box(5, 7, []),
            box(6, 7, [span("another man")], bbox=(0, 0, 61, 40)),
            box(7, 7, [span("red")], iscrowd=1),
        ],
        "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
    }


def written(folder, content):
    file = folder / "grounding.json"
    file.write_text(json.dumps(content))
    return file


def test_boxes_carry_the_phrases_that_their_spans_say(tmp_path):
    for _ in range(2):  # parsed, then from the index
        annotations, captions = read_grounding(written(tmp_path, document()))
        assert [category.name for category in annotations.categories] == ["dog", "tall man", "man"]
        assert captions.all() == [CAPTION, "the dog", "no box"]
        assert annotations.image_ids.tolist() == [7, 3, 9]
        assert annotations.paths.tolist() == ["b.jpg", "a.jpg", "b.jpg"]
        assert annotations.labels.of(0).tolist() == [1, 0, 2]
        assert annotations.labels.of(1).tolist() == [0]
        assert annotations.labels.of(2).tolist() == []
        expected = [[5, 5, 25, 35], [30, 10, 38, 18], [0, 0, 60, 40]]  # one overshoots by a pixel
        assert annotations.boxes.of(0).tolist() == expected


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([[0, 1], [2, 6], [7, 10]], "A tall man"),
        ([[7, 10], [2, 6]], "tall man"),  # in any order
        ([[2, 10], [7, 10]], "tall man"),  # one within the other
        ([[2, 6], [11, 13]], "tall"),
        ([], ""),
    ],
)
def test_spans_that_touch_are_one_mention(spans, said):
    assert first_mention(CAPTION, spans) == said


def test_a_drawn_file_reads_as_a_naive_walk_says(drawn):
    file = drawn / "hybrid" / "grounding.json"
    content = json.loads(file.read_text())
    annotations, captions = read_grounding(file)
    names = [category.name for category in annotations.categories]
    for row, image in enumerate(content["images"]):
        assert captions.of(row) == image["caption"]
        own = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        said = [image["caption"][slice(*each["tokens_positive"][0])] for each in own]
        assert [names[label] for label in annotations.labels.of(row)] == said
        corners = [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in own)]
        assert np.array_equal(annotations.boxes.of(row), np.reshape(corners, (-1, 4)))


def remove(key):
    def change(row):
        del row[key]

    return change


@pytest.mark.parametrize(
    ("where", "change", "told"),
    [
        (("images", 1), remove("caption"), r"images\[1\].caption: .* without this key: caption"),
        (("images", 1), {"caption": " "}, r"whose caption is not text"),
        (("annotations", 2), remove("tokens_positive"), r"annotations\[2\].tokens_positive"),
        (("annotations", 2), {"tokens_positive": [[3, 2]]}, r"is not a list of spans"),
        (("annotations", 2), {"tokens_positive": [[0, True]]}, r"is not a list of spans"),
        (("annotations", 2), {"tokens_positive": [[0, 99]]}, r"beyond the end of the caption"),
        (("annotations", 2), {"image_id": 77}, r"annotations\[2\].image_id: .*does not list"),
        (("annotations", 2), {"bbox": [0, 0, 70, 5]}, r"annotations\[2\].bbox: .*leaves its image"),
        (("annotations", 2), {"id": 1}, r"annotations\[2\].id: .*already taken"),
        (("images", 2), {"id": 7}, r"images\[2\].id: .*already taken"),
        (("images", 2), {"height": 0}, r"images\[2\].height"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path, where, change, told):
    content = document()
    row = content[where[0]][where[1]]
    change(row) if callable(change) else row.update(change)
    with pytest.raises(InputError, match=told):
        read_grounding(written(tmp_path, content))


def test_a_file_whose_boxes_have_no_phrase_is_refused(tmp_path):
    content = document()
    for row in content["annotations"]:
        row["tokens_positive"] = []
    with pytest.raises(InputError, match="no box has a phrase"):
        read_grounding(written(tmp_path, content))


def test_an_annotation_file_without_captions_is_refused(drawn):
    with pytest.raises(InputError, match="caption"):
        read_grounding(drawn / "train.json")


# Flickr30k Entities' own files

XML = """<annotation><filename>12.jpg</filename>
<size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>5</name><name>6</name><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax>
<ymax>40</ymax></bndbox></object>
<object><name>5</name><bndbox><xmin>11</xmin><ymin>1</ymin><xmax>60</xmax><ymax>2</ymax></bndbox>
</object><object><name>7</name><nobndbox>1</nobndbox></object></annotation>"""
LINES = [
    "[/EN#5/people Two young guys] near [/EN#7/scene the sea] with [/EN#6/animals/other a dog] .",
    "[/EN#0/notvisual It] rains .",
]


def entities(folder, lines=LINES, xml=XML):
    for name, file, text in (
        ("Sentences", "12.txt", "\n".join(lines)),
        ("Annotations", "12.xml", xml),
    ):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / file).write_text(text)
    return folder


def test_flickr30k_entities_become_a_grounding_file(tmp_path):
    output = tmp_path / "grounding.json"
    main(["data", "entities", str(entities(tmp_path)), f"--output={output}"])
    annotations, captions = read_grounding(output)
    assert captions.all() == ["Two young guys near the sea with a dog .", "It rains ."]
    names = [category.name for category in annotations.categories]
    assert [names[label] for label in annotations.labels.of(0)] == ["young guys"] * 2 + ["dog"]
    expected = [[0, 2, 10, 40], [10, 0, 60, 2], [0, 2, 10, 40]]
    assert annotations.boxes.of(0).tolist() == expected
    assert annotations.paths.tolist() == ["12.jpg"] * 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"xml": XML.replace("<width>60</width>", "")}, r"12.xml: .*size/width is absent"),
        ({"xml": XML.replace(">60<", ">wide<", 1)}, r"12.xml: is no annotation"),
        ({"xml": XML[:90]}, r"12.xml: is no annotation"),
    ],
)
def test_entities_of_another_form_are_told_with_their_file(tmp_path, change, told):
    with pytest.raises(InputError, match=told):
        entities_command(entities(tmp_path, **change), output=tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_folder_without_sentences_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no sentence file"):
        entities_command(tmp_path, output=tmp_path / "out.json")
