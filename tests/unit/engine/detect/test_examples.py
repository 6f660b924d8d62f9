"""Examples of names, as a command is given them."""

import json

import pytest
from PIL import Image

from gridclip.engine.detect.command import detect_command
from gridclip.engine.detect.examples import by_image, examples_of
from gridclip.io.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "images/b.jpg", "images/c.jpg"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    images = [
        {"id": n, "file_name": f"{name}.jpg", "width": 64, "height": 48}
        for n, name in ((1, "b"), (2, "c"))
    ]
    boxes = [(1, 7, [1, 2, 10, 20]), (1, 9, [5, 5, 6, 6]), (2, 7, [0, 0, 8, 8])]
    document = {
        "images": images,
        "annotations": [
            {
                "id": n,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": 9,
                "iscrowd": 0,
            }
            for n, (image, category, box) in enumerate(boxes, 1)
        ],
        "categories": [{"id": 7, "name": "cup"}, {"id": 9, "name": "dog"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_words_name_an_image_and_a_box_each(folder):
    found = examples_of(
        "my cup=a.jpg:1,2,30,40; my cup = images/b.jpg : 1.5,2,3,4;x=a.jpg:0,0,1,1", None, []
    )
    assert [*found] == ["my cup", "x"]
    assert [(str(image), box) for image, box in found["my cup"]] == [
        ("a.jpg", [1, 2, 30, 40]),
        ("images/b.jpg", [1.5, 2, 3, 4]),
    ]


def test_a_file_shows_the_names_that_are_looked_for(folder):
    found = examples_of("", folder / "boxes.json", ["cup", "bird"])
    assert [(image.name, box) for image, box in found["cup"]] == [
        ("b.jpg", [1, 2, 11, 22]),
        ("c.jpg", [0, 0, 8, 8]),
    ]
    assert [*found] == ["cup"]
    assert {*examples_of("cup=a.jpg:1,2,3,4", folder / "boxes.json", [])} == {"cup", "dog"}


def test_each_image_is_read_once(folder):
    found = by_image(examples_of("cup=a.jpg:1,2,3,4", folder / "boxes.json", []))
    assert [(image.name, [name for name, _ in shown]) for image, shown in found] == [
        ("a.jpg", ["cup"]),
        ("b.jpg", ["cup", "dog"]),
        ("c.jpg", ["cup"]),
    ]


@pytest.mark.parametrize(
    ("words", "names", "problem"),
    [
        ("cup", [], "'cup' is no example"),
        ("cup=a.jpg", [], "is no example"),
        ("cup=a.jpg:1,2,3", [], "is no example"),
        ("cup=a.jpg:1,2,3,x", [], "is no example"),
        ("=a.jpg:1,2,3,4", [], "is no example"),
        ("cup=none.jpg:1,2,3,4", [], "none.jpg is not there"),
        ("cupp=a.jpg:1,2,3,4", ["cup", "dog"], "(?s)'cupp' is not looked for.*cup, dog"),
    ],
)
def test_what_is_no_example_is_refused(folder, words, names, problem):
    with pytest.raises(InputError, match=problem):
        examples_of(words, None, names)


def test_a_file_that_shows_nothing_of_it_is_refused(folder):
    with pytest.raises(InputError, match=r"(?s)no box of a name.*cup, dog"):
        examples_of("", folder / "boxes.json", ["bird"])
    with pytest.raises(InputError, match="is not there"):
        examples_of("", folder / "none.json", [])
    (folder / "images" / "c.jpg").unlink()
    with pytest.raises(InputError, match=r"c\.jpg is not there"):
        examples_of("", folder / "boxes.json", [])


def test_a_search_for_nothing_is_refused_before_a_run_is_opened(folder):
    with pytest.raises(InputError, match="nothing is looked for"):
        detect_command(["a.jpg"], run="none")
