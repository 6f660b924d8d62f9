"""Small sets of large ones."""

import json

import numpy as np
import pytest
from loopback import loopback
from PIL import Image

from gridclip.cli import main
from gridclip.data.annotations.reader import read_annotations
from gridclip.data.annotations.subset import subset_command
from gridclip.data.datasets.detection import check_images
from gridclip.io.errors import InputError

NAMES = {3: 2, 5: 6, 8: 40}  # images that show each category, of 60


@pytest.fixture
def large(tmp_path):
    """60 images of 80 x 40 or 40 x 80; a box of each category in as many as NAMES says."""
    chance = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(1, 61):
        size = (80, 40) if number % 2 else (40, 80)
        file = tmp_path / "photos" / "deep" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (*size[::-1], 3), np.uint8)).save(file)
        images.append(
            {"id": number, "file_name": f"deep/{number}.jpg", "width": size[0], "height": size[1]}
            | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        )
    for category, count in NAMES.items():
        for image in chance.permutation(60)[:count].tolist():
            box = {"image_id": image + 1, "category_id": category, "bbox": [4, 8, 20.5, 10]}
            boxes.append(box | {"id": len(boxes) + 1, "area": 100, "segmentation": [[1, 2, 3]]})
    boxes.append({"id": 99, "image_id": 60, "category_id": 5, "bbox": [1, 1, 3, 3], "area": 9})
    categories = [{"id": n, "name": f"name {n}", "frequency": "f", "image_count": 7} for n in NAMES]
    document = {"images": images, "annotations": boxes, "categories": categories, "info": {"a": 1}}
    (tmp_path / "large.json").write_text(json.dumps(document))
    return tmp_path


def make(large, name="small", **settings):
    settings = {"images": large / "photos", "train": 12, "val": 6, "longest": 20} | settings
    subset_command(large / "large.json", large / name, **settings)
    return [
        json.loads((large / name / f"{part}.json").read_text())
        for part in ("train", "val")
        if (large / name / f"{part}.json").is_file()
    ]


def test_both_parts_can_be_trained_on_and_no_image_is_in_both(large):
    train, val = make(large)
    assert (len(train["images"]), len(val["images"])) == (12, 6)
    assert not {i["id"] for i in train["images"]} & {i["id"] for i in val["images"]}
    for part in ("train", "val"):
        found = read_annotations(large / "small" / f"{part}.json", rules="validation")
        check_images(found, large / "small" / "images")
    pictures = [*(large / "small" / "images").rglob("*.jpg")]
    assert len(pictures) == 18
    assert {max(Image.open(file).size) for file in pictures} == {20}


def test_every_name_is_shown_in_both_parts_as_often_as_the_file_allows(large):
    for seed in range(5):
        for document in make(large, f"seed {seed}", seed=seed, least=2):
            shown = {n: set() for n in NAMES}
            for box in document["annotations"]:
                shown[box["category_id"]].add(box["image_id"])
            assert len(shown[3]) == 1  # of two images
            assert min(len(shown[5]), len(shown[8])) >= 2


def test_too_few_images_for_every_name_are_refused_with_the_number_that_would_do(large):
    with pytest.raises(InputError, match=r"cannot show every name 3 times: \d+ do.*\n.*--val \d+"):
        make(large, val=3, least=3)
    with pytest.raises(InputError, match="has 60 images, fewer than the 61"):
        make(large, train=55, val=6)
    assert not [*(large / "small").glob("*.json")]


def test_a_seed_gives_the_same_images_and_another_gives_others(large):
    first, again = make(large, "a"), make(large, "b")
    assert first == again
    other = make(large, "c", seed=1)
    assert {i["id"] for i in first[0]["images"]} != {i["id"] for i in other[0]["images"]}


def test_boxes_are_scaled_with_their_images_and_keep_what_the_file_says(large):
    (train,) = make(large, val=0, train=60)
    box = train["annotations"][0]
    assert box["bbox"] == [1, 2, 5.125, 2.5]
    assert box["area"] == pytest.approx(100 / 16)
    assert "segmentation" not in box
    assert train["info"] == {"a": 1}
    counts = {each["id"]: each["image_count"] for each in train["categories"]}
    assert counts[3] == 2


def test_shots_show_each_name_in_so_many_images_and_fewer_are_a_part_of_more(large):
    for seed in range(3):
        before = set()
        for shots in (1, 2, 5):
            name = f"{shots} {seed}"
            (train,) = make(large, name, train=0, val=0, shots=shots, seed=seed)
            shown = {n: set() for n in NAMES}
            for box in train["annotations"]:
                shown[box["category_id"]].add(box["image_id"])
            for n, images in shown.items():
                assert len(images) >= min(shots, NAMES[n])
            images = {each["id"] for each in train["images"]}
            assert before <= images
            assert len(images) <= shots * len(NAMES)
            before = images


def test_shots_beside_numbers_of_images_are_refused(large):
    with pytest.raises(InputError, match="shots take the place of train and val"):
        make(large, shots=3)
    with pytest.raises(InputError, match="images: 0 is out of range"):
        make(large, train=0, val=0)


def test_a_box_that_becomes_too_small_is_no_absence(large):
    (train,) = make(large, val=0, train=60)
    (image,) = (each for each in train["images"] if each["id"] == 60)
    assert 99 not in {box["id"] for box in train["annotations"]}
    assert image["not_exhaustive_category_ids"] == [5]


def test_in_coco_form_it_becomes_a_crowd(large):
    document = json.loads((large / "large.json").read_text())
    for image in document["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    (large / "large.json").write_text(json.dumps(document))
    (train,) = make(large, val=0, train=60)
    assert [box["id"] for box in train["annotations"] if box.get("iscrowd")] == [99]


def test_images_stay_as_they_are_without_a_longest_side(large):
    make(large, longest=None)
    for file in (large / "small" / "images").rglob("*.jpg"):
        assert file.read_bytes() == (large / "photos" / "deep" / file.name).read_bytes()


def test_only_the_images_that_are_needed_are_fetched(large):
    document = json.loads((large / "large.json").read_text())
    with loopback() as server:
        for image in document["images"]:
            file = large / "photos" / image.pop("file_name")
            server.files[f"/train2017/{file.name}"] = file.read_bytes()
            image["coco_url"] = f"{server.address}/train2017/{file.name}"
        (large / "large.json").write_text(json.dumps(document))
        train, val = make(large, images=None)
        assert len(server.asked) == 18
    paths = [each["file_name"] for each in train["images"] + val["images"]]
    assert all(path.startswith("train2017/") for path in paths)
    assert all((large / "small" / "images" / path).is_file() for path in paths)


def test_missing_images_and_a_set_that_is_there_are_refused_before_anything_is_written(large):
    with pytest.raises(InputError, match="18 of 18 images do not exist"):
        make(large, images=large)
    with pytest.raises(InputError, match="18 of 18 images have no coco_url"):
        make(large, images=None)
    make(large)
    with pytest.raises(InputError, match="exists already"):
        make(large)


def test_the_command_says_what_it_made(large, capsys):
    words = ["--images", str(large / "photos"), "--train", "5", "--longest", "null"]
    main(["data", "subset", str(large / "large.json"), str(large / "out"), *words])
    assert "train.json: 5 images" in capsys.readouterr().out
