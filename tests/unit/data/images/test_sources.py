"""Images without boxes from folders, captions files and annotation files."""

import json

import numpy as np
import pytest
from PIL import Image

from gridclip.data.images.decode import decode_image
from gridclip.data.images.image_list import ListedImage
from gridclip.data.images.pack import pack_command
from gridclip.data.images.sources import open_images
from gridclip.io.errors import InputError


def image(file, height=4, width=6, mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), 7).save(file)


def listed(images):
    return [images.image(row) for row in range(len(images))]


def test_the_subfolder_of_an_image_is_its_class(tmp_path):
    image(tmp_path / "tabby cat" / "b.png", 3, 5)
    image(tmp_path / "dog" / "more" / "a.JPG", 8, 2)
    image(tmp_path / "loose.png")
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    image(tmp_path / "dog" / "._a.jpg")
    images = open_images(tmp_path)
    assert listed(images) == [
        ListedImage("dog/more/a.JPG", ("dog",), ()),
        ListedImage("loose.png", (), ()),
        ListedImage("tabby cat/b.png", ("tabby cat",), ()),
    ]
    assert images.sizes.tolist() == [[8, 2], [4, 6], [3, 5]]
    assert images.read(2) == (tmp_path / "tabby cat" / "b.png").read_bytes()


def test_captions_of_an_image_are_gathered_from_its_lines(tmp_path):
    """The form of Flickr8k: image,caption, several lines an image, commas quoted or not."""
    for name in "ab":
        image(tmp_path / "images" / f"{name}.jpg")
    text = '\ufeffimage,caption\nb.jpg,A dog .\na.jpg,"One, ""two"" ."\nb.jpg,Red, green .\n'
    (tmp_path / "captions.txt").write_text(text, encoding="utf-8")
    expected = [
        ListedImage("b.jpg", (), ("A dog .", "Red, green .")),
        ListedImage("a.jpg", (), ('One, "two" .',)),
    ]
    assert listed(open_images(tmp_path)) == expected
    assert listed(open_images(tmp_path / "captions.txt", tmp_path / "images")) == expected


def test_a_jsonl_file_says_caption_or_captions(tmp_path):
    """The second form of the key is that of the mini data set."""
    for name in "ab":
        image(tmp_path / f"{name}.jpg")
    rows = [{"image": "a.jpg", "captions": ["x", "y"]}, {"file_name": "b.jpg", "caption": "z"}]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "words.jsonl").write_text(lines + "\n\n")
    assert listed(open_images(tmp_path / "words.jsonl")) == [
        ListedImage("a.jpg", (), ("x", "y")),
        ListedImage("b.jpg", (), ("z",)),
    ]


def captions_of(file):
    return {each.path: each.captions for each in listed(open_images(file))}


@pytest.mark.field
@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
@pytest.mark.parametrize("name", ["captions.txt", "words.csv", "captions.jsonl", "WORDS.JSONL"])
def test_a_caption_goes_on_after_signs_that_end_no_line(tmp_path, name, sign):
    image(tmp_path / "a.jpg")
    said = f"a red{sign}star"
    lines = f"image,caption\r\na.jpg,{said}\r\na.jpg,a moon\r\n"
    if name.lower().endswith("jsonl"):
        rows = [{"image": "a.jpg", "caption": caption} for caption in (said, "a moon")]
        lines = "\n".join(json.dumps(row, ensure_ascii=sign < " ") for row in rows)
    (tmp_path / name).write_text("\ufeff" + lines, encoding="utf-8", newline="")
    assert captions_of(tmp_path / name) == {"a.jpg": (said, "a moon")}


@pytest.mark.field
@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ('a.jpg,"Stop" reads the sign', '"Stop" reads the sign'),
        ('a.jpg,"Stop", she says, "or go"', '"Stop", she says, "or go"'),
        ('a.jpg,a 5" nail', 'a 5" nail'),
        ('a.jpg,He says "go', 'He says "go'),
        ('"a.jpg","red, ""light"" green"', 'red, "light" green'),
        ('a.jpg , "all of it" ', "all of it"),
    ],
)
def test_quotes_in_a_caption_are_speech_and_around_it_are_none(tmp_path, line, caption):
    for name in "ab":
        image(tmp_path / f"{name}.jpg")
    (tmp_path / "captions.txt").write_text(f"image,caption\n{line}\nb.jpg,a moon\n")
    assert captions_of(tmp_path) == {"a.jpg": (caption,), "b.jpg": ("a moon",)}


@pytest.mark.field
@pytest.mark.parametrize("open_line", ['a.jpg,"Stop reads the sign', 'a.jpg,"a ""red"" star'])
def test_a_caption_with_an_open_quote_is_refused_and_swallows_nothing(tmp_path, open_line):
    for name in "ab":
        image(tmp_path / f"{name}.jpg")
    text = f'image,caption\nb.jpg,x\n{open_line}\nb.jpg,a "\na.jpg,a moon\n'
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(InputError, match=r"captions.csv: line 3: has a quote that is not closed"):
        open_images(tmp_path)


@pytest.mark.field
def test_a_path_with_a_comma_stands_in_quotes(tmp_path):
    image(tmp_path / "a, b.jpg")
    (tmp_path / "captions.txt").write_text('image,caption\n"a, b.jpg",a moon, a star\n')
    assert captions_of(tmp_path) == {"a, b.jpg": ("a moon, a star",)}


@pytest.mark.field
def test_endings_in_capitals_are_the_same_endings(tmp_path):
    image(tmp_path / "captions" / "a.jpg")
    (tmp_path / "captions" / "Captions.TXT").write_text("image,caption\na.jpg,x\n")
    assert captions_of(tmp_path / "captions") == {"a.jpg": ("x",)}
    (tmp_path / "captions" / "A.JSON").write_text('{"images": [{"file_name": "a.jpg"}]}')
    assert captions_of(tmp_path / "captions" / "A.JSON") == {"a.jpg": ()}
    pack_command(tmp_path / "captions", tmp_path / "packed")
    (tmp_path / "shards").mkdir()
    (tmp_path / "packed" / "00000.tar").rename(tmp_path / "shards" / "0.TAR")
    for place in (tmp_path / "shards", tmp_path / "shards" / "0.TAR"):
        assert captions_of(place) == {"a.jpg": ("x",)}


def test_the_images_of_an_annotation_file_are_listed_whatever_its_boxes(tmp_path):
    image(tmp_path / "images" / "val2017" / "1.jpg")
    image(tmp_path / "images" / "2.jpg")
    rows = [{"coco_url": "http://x/val2017/1.jpg"}, {"file_name": "2.jpg"}]
    (tmp_path / "train.json").write_text(json.dumps({"images": rows, "annotations": "broken"}))
    paths = [image.path for image in listed(open_images(tmp_path / "train.json"))]
    assert paths == ["val2017/1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.txt", "a.jpg,no head\n", r"captions.txt: line 1: its head is 'a.jpg,no head'"),
        ("captions.csv", "image,caption\na.jpg\n", r"captions.csv: line 2: lacks image or caption"),
        ("captions.csv", "", r"line 1: its head is ''"),
        ("captions.txt", "image,caption\n", "there is no image"),
        ("captions.txt", "image,caption\nb.jpg,x\nc.jpg,y\n", "2 of 2 images do not exist: 'b"),
        ("captions.txt", "image,caption\n\0.jpg,x\n", "captions.txt"),
        (
            "captions.jsonl",
            '{"image": "a.jpg"}\n',
            r"captions.jsonl: line 1: names no image, or no",
        ),
        ("captions.jsonl", '\n{"caption": "x"}\n', r"line 2: names no image"),
        ("captions.jsonl", "{]\n", "line 1: names no image"),
        ("captions.jsonl", '{"image": "a.jpg", "captions": [1]}\n', "line 1"),
        ("captions.txt", b"image,caption\na.jpg,\xff\n", r"captions.txt: cannot be read as text"),
    ],
)
def test_a_captions_file_that_is_wrong_is_refused_with_file_and_line(tmp_path, name, text, message):
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1}], "with neither file_name nor coco_url"),
        ([{"file_name": "a.jpg"}, {"file_name": "a.jpg"}], "already taken"),
        ([{"file_name": "b.jpg"}], "1 of 1 images do not exist"),
        ([], "there is no image"),
        (None, "not a list"),
    ],
)
def test_an_annotation_file_without_usable_images_is_refused(tmp_path, rows, message):
    image(tmp_path / "a.jpg")
    (tmp_path / "train.json").write_text(json.dumps({"images": rows}))
    with pytest.raises(InputError, match=message):
        open_images(tmp_path / "train.json")


def test_what_is_no_source_is_refused_with_the_kinds_there_are(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name, message in [("absent", "does not exist"), ("film.mp4", "is no source")]:
        with pytest.raises(InputError, match=rf"{name}: {message}(.|\n)*tar shards"):
            open_images(tmp_path / name)
    with pytest.raises(InputError, match="there is no image"):
        open_images(tmp_path / "empty")


def test_two_captions_files_in_a_folder_are_refused(tmp_path):
    for name in ("captions.txt", "captions.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=r"captions.txt and captions.jsonl"):
        open_images(tmp_path)


def test_the_fingerprint_changes_with_paths_lengths_and_order(tmp_path):
    for name in "abc":
        image(tmp_path / "pictures" / f"{name}.png", width=ord(name))

    def fingerprint(*names):
        rows = [{"file_name": f"{name}.png"} for name in names]
        (tmp_path / "list.json").write_text(json.dumps({"images": rows}))
        return open_images(tmp_path / "list.json", tmp_path / "pictures").fingerprint()

    before = fingerprint("a", "b")
    assert before == fingerprint("a", "b")
    assert len({before, fingerprint("b", "a"), fingerprint("a"), fingerprint("a", "c")}) == 4
    (tmp_path / "pictures" / "a.png").write_bytes(b"other")
    assert fingerprint("a", "b") != before


def test_images_decode_as_rgb_and_bad_ones_name_their_place(tmp_path):
    image(tmp_path / "grey.png", 2, 3, "L")
    data = (tmp_path / "grey.png").read_bytes()
    np.testing.assert_array_equal(decode_image(data, tmp_path), np.full((2, 3, 3), 7, np.uint8))
    with pytest.raises(InputError, match=r"shard/a.png: the image cannot be read"):
        decode_image(data[: len(data) // 2], tmp_path / "shard" / "a.png")
    image(tmp_path / "deep.png", mode="I;16")
    with pytest.raises(InputError, match="more than 8 bits"):
        decode_image((tmp_path / "deep.png").read_bytes(), tmp_path)


def test_an_image_that_vanishes_is_named(tmp_path):
    image(tmp_path / "cat" / "a.png")
    images = open_images(tmp_path)
    (tmp_path / "cat" / "a.png").unlink()
    with pytest.raises(InputError, match=r"cat/a.png: cannot be read"):
        images.read(0)
