import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from lvis import LVIS
from PIL import Image
from pycocotools import mask as coco

from gridclip.data.annotations.reader import read_annotations
from gridclip.data.synthetic import painter
from gridclip.data.synthetic.mini_captions import MiniPairs, near_miss
from gridclip.data.synthetic.mini_dataset import RECORD, make_mini
from gridclip.data.synthetic.mini_world import (
    KINDS,
    NAMES,
    RARE_COMBINATIONS,
    RARE_SHAPES,
    SYNONYMS,
    describe,
    is_base,
    synonyms,
)
from gridclip.data.synthetic.painter import SHAPES, Kind, draw_scene
from gridclip.io.errors import InputError

TRAIN, VAL = 400, 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mini") / "set"
    make_mini(path, seed=3, train_images=TRAIN, val_images=VAL)
    return path


def load(folder: Path, split: str) -> dict:
    return json.loads((folder / f"{split}.json").read_text())


def by_image(document: dict) -> dict[int, list[dict]]:
    found = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return found


def named_in(caption: str) -> Counter[str]:
    """The categories that a caption speaks of, by reading its words."""
    plain = {other: word for word, others in SYNONYMS.items() for other in others}
    text = caption
    for other in sorted(plain, key=len, reverse=True):  # "half disc" before "disc"
        text = re.sub(rf"\b{other}\b", plain[other], text)
    phrases = re.findall(r"(\w+) (plain|striped|dotted) (\w+)", text)
    return Counter(" ".join(phrase) for phrase in phrases)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        make_mini(tmp_path / name, seed=seed, train_images=12, val_images=6)
    one, two, three = (files_of(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["train.json"] != three["train.json"]
    assert one["images/train/000001.jpg"] != three["images/train/000001.jpg"]
    assert one["images/val/000001.jpg"] != one["images/train/000001.jpg"]


def test_the_upper_bounds_file_has_every_box_of_the_training_file_and_the_rare_shapes(folder):
    some, every = (
        json.loads((folder / name).read_text()) for name in ("train.json", "train_all.json")
    )
    boxes = [
        Counter(
            (each["image_id"], each["category_id"], *each["bbox"]) for each in of["annotations"]
        )
        for of in (some, every)
    ]
    assert boxes[0] < boxes[1]
    names = {each["id"]: each["name"] for each in every["categories"]}
    shown = [{names[each["category_id"]] for each in of["annotations"]} for of in (some, every)]
    assert not {name for name in shown[0] if name.split()[-1] in RARE_SHAPES}
    assert {name.split()[-1] for name in shown[1]} >= {*RARE_SHAPES}
    assert len(LVIS(str(folder / "train_all.json")).get_ann_ids()) == len(every["annotations"])
    assert len(read_annotations(folder / "train_all.json").boxes.values) == sum(boxes[1].values())


def test_both_readers_of_the_field_accept_the_files(folder):
    for split, count in (("train", TRAIN), ("val", VAL)):
        official = LVIS(str(folder / f"{split}.json"))
        ours = read_annotations(folder / f"{split}.json")
        assert len(official.imgs) == len(ours.image_ids) == count
        assert len(official.cats) == len(ours.categories) == 288
        assert len(official.anns) == len(ours.boxes.values)


def test_the_two_sorts_of_rare_names_are_groups_of_both_files(folder):
    for split in ("train", "val"):
        document = load(folder, split)
        names = {each["id"]: each["name"] for each in document["categories"]}
        groups = {
            group: {names[each] for each in ids}
            for group, ids in document["category_groups"].items()
        }
        assert groups == {
            "rare_shapes": {name for name in NAMES if name.split()[-1] in RARE_SHAPES},
            "rare_combinations": {" ".join(kind) for kind in RARE_COMBINATIONS},
        }
        assert read_annotations(folder / f"{split}.json").groups.keys() == groups.keys()


def test_every_image_is_a_jpeg_of_the_size_its_record_says(folder):
    for split in ("train", "val"):
        for record in load(folder, split)["images"][:20]:
            with Image.open(folder / "images" / record["file_name"]) as image:
                assert image.format == "JPEG"
                assert image.size == (record["width"], record["height"]) == (128, 128)


def test_box_and_area_are_those_of_the_painted_pixels(monkeypatch):
    def black(rng, size):
        return np.zeros((size, size, 3), np.float32)

    monkeypatch.setattr(painter, "noisy_ground", black)
    monkeypatch.setattr(painter, "grain", black)
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        scene = draw_scene(rng, [Kind("cyan", "plain", shape)])
        brightest = int(scene.pixels[..., 1].max())
        ys, xs = np.nonzero(scene.pixels[..., 1] > brightest / 2)
        assert scene.boxes.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
        assert abs(scene.areas[0] - len(xs)) <= 2  # ties of rounding at half coverage


def test_objects_hardly_hide_each_other(folder):
    for annotations in by_image(load(folder, "val")).values():
        canvases = []
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            canvas = np.zeros((128, 128), bool)
            canvas[y : y + height, x : x + width] = True
            canvases.append(canvas)
            assert annotation["area"] <= canvas.sum()
            assert 8 <= min(width, height) <= max(width, height) <= 56
        for row, one in enumerate(canvases):
            for two in canvases[:row]:
                assert (one & two).sum() < 0.1 * min(one.sum(), two.sum())


def test_training_boxes_every_base_object_and_leaves_rare_ones_unlabelled(folder):
    document = load(folder, "train")
    names = {category["id"]: category["name"] for category in document["categories"]}
    boxes = by_image(document)
    captions = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    unlabelled = Counter()
    for image, line in zip(document["images"], captions, strict=True):
        assert line["file_name"] == image["file_name"]
        seen = named_in(line["caption"])
        boxed = Counter(names[annotation["category_id"]] for annotation in boxes[image["id"]])
        assert not boxed - seen
        partly = {names[row] for row in image["not_exhaustive_category_ids"]}
        for name in seen - boxed:
            rare = not is_base(Kind(*name.split()))
            unlabelled["rare" if rare else "base"] += 1
            assert rare or name in partly
        assert partly <= set(boxed)
        assert not {names[row] for row in image["neg_category_ids"]} & set(seen)
        assert len(image["neg_category_ids"]) > 0
    assert unlabelled["rare"] > 50
    assert unlabelled["base"] > 0


def test_validation_shows_every_category_and_verifies_all_others(folder):
    document = load(folder, "val")
    counts = Counter(annotation["category_id"] for annotation in document["annotations"])
    assert len(counts) == 288
    assert max(counts.values()) <= 2 + min(counts.values()) * 3
    boxes = by_image(document)
    every = set(range(1, 289))
    for image in document["images"]:
        present = {annotation["category_id"] for annotation in boxes[image["id"]]}
        assert set(image["neg_category_ids"]) == every - present
        assert set(image["not_exhaustive_category_ids"]) <= present
    partly = sum(bool(image["not_exhaustive_category_ids"]) for image in document["images"])
    assert 0 < partly < VAL / 10


def test_categories_tell_the_counts_of_the_training_boxes(folder):
    train, val = load(folder, "train"), load(folder, "val")
    assert train["categories"] == val["categories"]
    for category in train["categories"]:
        own = [a for a in train["annotations"] if a["category_id"] == category["id"]]
        images = len({a["image_id"] for a in own})
        assert (category["image_count"], category["instance_count"]) == (images, len(own))
        # LVIS's thresholds of 10 and 100 belong to 4000 images; this set has a tenth.
        assert category["frequency"] == ("r" if images <= 1 else "c" if images <= 10 else "f")
        assert category["synonyms"][0] == category["name"]
        if category["name"].split()[2] in RARE_SHAPES:
            assert images == 0


def test_rare_combinations_consist_of_what_other_categories_show():
    base = [kind for kind in KINDS if is_base(kind)]
    assert len(RARE_COMBINATIONS) == 24
    for kind in RARE_COMBINATIONS:
        assert kind.shape not in RARE_SHAPES
        for attribute in range(3):
            assert sum(other[attribute] == kind[attribute] for other in base) >= 15


def test_no_two_categories_share_a_name_or_synonym():
    said = [name for kind in KINDS for name in synonyms(kind)]
    assert len(set(NAMES)) == 288
    assert len(set(said)) == len(said)


def test_a_finished_folder_is_kept_as_it_is(tmp_path):
    target = tmp_path / "set"
    target.mkdir()  # an empty folder may be there
    make_mini(target, train_images=3, val_images=2)
    (target / "val.json").write_text("touched")
    make_mini(target, train_images=3, val_images=2)
    assert (target / "val.json").read_text() == "touched"


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("ten years of work")
    with pytest.raises(InputError, match="something else"):
        make_mini(other, train_images=3, val_images=2)
    assert files_of(other) == {"thesis.txt": b"ten years of work"}
    with pytest.raises(InputError, match="something else"):
        make_mini(other / "thesis.txt", train_images=3, val_images=2)
    make_mini(tmp_path / "set", seed=1, train_images=3, val_images=2)
    with pytest.raises(InputError, match="'seed': 1"):
        make_mini(tmp_path / "set", seed=2, train_images=3, val_images=2)


def test_a_run_cut_short_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    save, calls = Image.Image.save, []

    def full_disk(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("no space left on device")
        save(self, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        make_mini(tmp_path / "set", train_images=4, val_images=2)
    assert list(tmp_path.iterdir()) == []
    make_mini(tmp_path / "set", train_images=4, val_images=2)
    assert (tmp_path / "set" / RECORD).is_file()


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"train_images": 0}, {"val_images": -3}, {"size": 20}]
)
def test_arguments_out_of_range_are_named(tmp_path, wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}: .* is out of range"):
        make_mini(tmp_path / "set", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_caption_names_every_object():
    rng = np.random.default_rng(0)
    for number in (1, 2, 3, 5) * 50:
        kinds = [KINDS[row] for row in rng.integers(288, size=number)]
        caption = describe(rng, kinds, synonym_rate=0.5)
        assert named_in(caption) == Counter(" ".join(kind) for kind in kinds)


def test_a_near_miss_keeps_the_objects_but_not_what_belongs_to_what():
    rng = np.random.default_rng(0)
    for number in (2, 3, 4) * 100:
        kinds = [KINDS[row] for row in rng.integers(288, size=number)]
        missed = near_miss(rng, kinds)
        assert sorted(missed) != sorted(kinds)
        changed = [
            (row, attribute)
            for row in range(number)
            for attribute in range(3)
            if missed[row][attribute] != kinds[row][attribute]
        ]
        assert len({attribute for _, attribute in changed}) == 1
        assert len(changed) <= 2
        if len(changed) == 2:
            (one, attribute), (two, _) = changed
            assert missed[one][attribute] == kinds[two][attribute]
            assert missed[two][attribute] == kinds[one][attribute]


def test_a_batch_of_pairs_depends_on_seed_and_index_alone():
    pairs = MiniPairs(seed=1, batches=4, batch_size=16, side=64, most=2)
    again = MiniPairs(seed=1, batches=9, batch_size=16, side=64, most=2)
    other = MiniPairs(seed=2, batches=4, batch_size=16, side=64, most=2)
    first, _, second = pairs[2], pairs[0], again[2]
    assert first.captions == second.captions
    assert (first.pixels == second.pixels).all()
    assert first.captions not in (pairs[1].captions, other[2].captions)
    assert first.pixels.shape == (16, 3, 64, 64)
    singles = [named_in(caption) for caption in first.captions[:8]]
    assert len({name for single in singles for name in single}) == 8
    assert len(list(pairs)) == 4


@pytest.mark.slow
def test_the_default_set_follows_lvis_thresholds_and_boxes_few_of_each_rare_combination(tmp_path):
    make_mini(tmp_path / "set")
    document = load(tmp_path / "set", "train")
    for category in document["categories"]:
        count, kind = category["image_count"], Kind(*category["name"].split())
        assert category["frequency"] == ("r" if count <= 10 else "c" if count <= 100 else "f")
        assert (category["frequency"] == "r") == (not is_base(kind))
        if kind in RARE_COMBINATIONS:
            assert 1 <= count <= 9
    assert sum(c["frequency"] == "f" for c in document["categories"]) >= 20


def test_polygons_enclose_the_pixels_of_the_mask_that_area_and_box_are_of(folder):
    for image, boxes in list(by_image(load(folder, "train")).items())[:40]:
        for each in boxes:
            parts = coco.frPyObjects(each["segmentation"], 128, 128)
            pixels = coco.decode(coco.merge(parts))
            assert pixels.sum() == each["area"], image
            ys, xs = pixels.nonzero()
            corners = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            left, top, width, height = each["bbox"]
            assert corners == [left, top, left + width, top + height]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_every_size_has_polygons_of_its_own_pixels(shape):
    for side in range(20, 57, 3):
        for angle in range(0, 13, 4):
            mask = painter._mask(shape, side, angle)
            parts = [part.ravel().tolist() for part in mask.polygons]
            pixels = coco.decode(coco.merge(coco.frPyObjects(parts, side, side)))
            assert (pixels == (mask.alpha > 0.5)).all()
