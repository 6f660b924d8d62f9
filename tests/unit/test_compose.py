import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from lvis import LVIS
from PIL import Image, ImageDraw

from gridclip.data.annotations.lvis import read_annotations
from gridclip.data.drawn import scenes
from gridclip.data.drawn.compose import RECORD, compose
from gridclip.data.drawn.scenes import SceneSettings, draw_scene, photographs
from gridclip.data.drawn.sprites import read_sprites
from gridclip.errors import InputError

# id, name, frequency, image_count, synonyms; ids have gaps, as LVIS's have among the sprites.
CATEGORIES = [
    (3, "airplane", "f", 1600, ["airplane", "aeroplane"]),
    (5, "bottle", "f", 400, ["bottle"]),
    (9, "wine_bottle", "c", 100, ["wine_bottle"]),
    (12, "bat_(animal)", "c", 25, ["bat_(animal)"]),
    (40, "gargoyle", "r", 9, ["gargoyle"]),
    (77, "puffin", "r", 1, ["puffin"]),
]
SETS = ("oil", "ink", "wax")
SMALL = SceneSettings(size=64, objects=(1, 4), sides=(10, 24))


def draw_sprite(colour, number: int = 0, side: int = 24) -> Image.Image:
    """An ellipse or a ring in the middle of nothing, with a soft border."""
    large = Image.new("RGBA", (4 * side, 4 * side), (*colour, 0))
    ImageDraw.Draw(large).ellipse(
        (4 + number, 10, 4 * side - 8, 3 * side),
        fill=(*colour, 255) if number % 2 else None,
        outline=(*colour, 255),
        width=20,
    )
    return large.resize((side, side), Image.Resampling.BOX)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each category drawn in each set, but for the last, which only wax draws."""
    path = tmp_path_factory.mktemp("sprites")
    sprites = []
    for row, (identity, *_) in enumerate(CATEGORIES):
        for number, made in enumerate(SETS):
            if identity == 77 and made != "wax":
                continue
            name = f"{identity}_{made}.png"
            draw_sprite((40 * row, 250 - 40 * row, 60 * number), number).save(path / name)
            sprites.append({"file": name, "lvis_id": identity, "set": made})
    keys = ("id", "name", "frequency", "image_count", "synonyms")
    categories = [dict(zip(keys, category, strict=True)) for category in CATEGORIES]
    write_listing(path, {"categories": categories, "sprites": sprites})
    return path


def write_listing(folder: Path, document: dict) -> None:
    (folder / "sprites.json").write_text(json.dumps(document))


def copy(folder: Path, to: Path) -> dict:
    """Copy a folder of sprites; give its listing, to be spoilt."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return json.loads((to / "sprites.json").read_text())


def load(folder: Path, split: str) -> dict:
    return json.loads((folder / f"{split}.json").read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def composed(folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("composed") / "set"
    compose(
        path,
        folder,
        ("ink",),
        train_images=300,
        val_images=60,
        exponent=1.0,
        negatives=2,
        scene=SMALL,
    )
    return path


@pytest.fixture
def black(monkeypatch):
    """A ground and a grain of nothing, so that a picture's channels are the objects' alpha."""

    def nothing(rng, size):
        return np.zeros((size, size, 3), np.float32)

    monkeypatch.setattr(scenes, "grain", nothing)
    return nothing


def seen_boxes(pixels: np.ndarray, threshold: float) -> list[tuple[int, int, int, int]]:
    """The naive way: look at every pixel of every channel."""
    boxes = []
    for channel in range(3):
        points = [
            (x, y)
            for y in range(len(pixels))
            for x in range(len(pixels))
            if pixels[y, x, channel] >= threshold
        ]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return boxes


def test_a_box_bounds_exactly_the_pixels_where_the_object_is_half_or_more(black):
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255))  # so a channel is one object's share
    cutouts = [draw_sprite(colour, number) for number, colour in enumerate(colours)]
    settings = SceneSettings(size=64, objects=(3, 3), sides=(20, 40), lean=40.0, hidden=0.6)
    overlapped = 0
    for seed in range(25):
        scene = draw_scene(np.random.default_rng(seed), cutouts, settings, black)
        assert scene.shown == [0, 1, 2]
        # A picture holds whole numbers: what is a hair under or over half may fall to either side.
        loose, strict = (seen_boxes(scene.pixels, level) for level in (126, 129))
        for box, area, low, high, channel in zip(
            scene.boxes.tolist(), scene.areas, loose, strict, range(3), strict=True
        ):
            assert low[0] <= box[0] <= high[0]
            assert low[1] <= box[1] <= high[1]
            assert high[2] <= box[2] <= low[2]
            assert high[3] <= box[3] <= low[3]
            plane = scene.pixels[..., channel]
            assert (plane >= 129).sum() <= area <= (plane >= 126).sum()
        overlapped += bool(((scene.pixels > 60).sum(-1) > 1).any())
    assert overlapped > 10


def test_no_object_hides_more_of_another_than_the_limit(black):
    square = Image.new("RGBA", (20, 20), (255, 255, 255, 255))
    for hidden in (0.0, 0.4):
        settings = SceneSettings(size=64, objects=(8, 8), sides=(20, 20), lean=0.0, hidden=hidden)
        least = 1.0
        for seed in range(40):
            scene = draw_scene(np.random.default_rng(seed), [square] * 8, settings, black)
            least = min(least, *(scene.areas / 400).tolist())
        assert least >= 1 - hidden
        assert (least < 0.8) == (hidden > 0)


def test_a_lone_object_is_as_long_as_asked_and_lies_inside(black):
    settings = SceneSettings(size=96, objects=(1, 1), sides=(30, 60), lean=90.0)
    lengths = []
    for seed in range(40):
        scene = draw_scene(np.random.default_rng(seed), [draw_sprite((9, 9, 9))], settings, black)
        left, top, right, bottom = scene.boxes[0].tolist()
        assert 0 <= left < right <= 96
        assert 0 <= top < bottom <= 96
        lengths.append(max(right - left, bottom - top))
    assert min(lengths) >= 28
    assert max(lengths) <= 62
    assert max(lengths) - min(lengths) > 20


def test_nothing_shines_through_from_behind_a_transparent_border(black):
    sprite = Image.new("RGBA", (20, 20), (255, 0, 0, 0))  # red, but nothing of it can be seen
    sprite.paste((0, 0, 255, 255), (5, 5, 15, 15))
    settings = SceneSettings(size=64, objects=(1, 1), sides=(33, 37), lean=30.0)
    scene = draw_scene(np.random.default_rng(0), [sprite], settings, black)
    assert scene.pixels[..., 0].max() == 0
    assert scene.pixels[..., 2].max() > 250


def test_both_readers_of_the_field_accept_the_files_and_the_pictures_are_jpegs(composed):
    for split, count in (("train", 300), ("val", 60)):
        official = LVIS(str(composed / f"{split}.json"))
        ours = read_annotations(composed / f"{split}.json")
        assert len(official.imgs) == len(ours.image_ids) == count
        assert sorted(official.cats) == [category[0] for category in CATEGORIES]
        for record in load(composed, split)["images"][:10]:
            with Image.open(composed / "images" / record["file_name"]) as picture:
                assert picture.format == "JPEG"
                assert picture.size == (record["width"], record["height"]) == (64, 64)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(folder, tmp_path):
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        compose(
            tmp_path / name, folder, ("ink",), train_images=8, val_images=4, seed=seed, scene=SMALL
        )
    one, two, three = (files_of(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["train.json"] != three["train.json"]
    assert one["images/val/000001.jpg"] != three["images/val/000001.jpg"]


def test_no_set_stands_on_both_sides(folder, tmp_path, monkeypatch):
    opened = []
    real = scenes.draw_scene

    def spy(rng, cutouts, settings, ground):
        opened.append([Path(cutout.info["file"]).stem.split("_")[1] for cutout in cutouts])
        return real(rng, cutouts, settings, ground)

    def open_named(file):
        picture = Image.open(file).convert("RGBA")
        picture.info["file"] = str(file)
        return picture

    monkeypatch.setattr("gridclip.data.drawn.compose.draw_scene", spy)
    monkeypatch.setattr("gridclip.data.drawn.compose.open_sprite", open_named)
    compose(tmp_path / "set", folder, ("ink", "oil"), train_images=20, val_images=10, scene=SMALL)
    assert {made for scene in opened[:20] for made in scene} == {"wax"}
    assert {made for scene in opened[20:] for made in scene} == {"ink", "oil"}


def test_the_split_of_sprites_parts_sets_and_nothing_else(folder):
    whole = read_sprites(folder)
    train, val = whole.split(("oil",))
    assert {sprite.set for sprite in train.sprites} == {"ink", "wax"}
    assert {sprite.set for sprite in val.sprites} == {"oil"}
    assert sorted(train.sprites + val.sprites) == sorted(whole.sprites)
    assert train.categories == val.categories == whole.categories


def test_training_follows_the_image_counts_of_lvis_to_the_power_asked(folder, tmp_path, composed):
    for exponent, path in ((1.0, composed), (0.5, tmp_path / "half")):
        if path != composed:
            compose(
                path,
                folder,
                ("ink",),
                train_images=300,
                val_images=1,
                exponent=exponent,
                scene=SMALL,
            )
        counts = Counter(a["category_id"] for a in load(path, "train")["annotations"])
        law = np.array([count**exponent for _, _, _, count, _ in CATEGORIES])
        expected = law / law.sum() * counts.total()
        found = np.array([counts[identity] for identity, *_ in CATEGORIES])
        # Chi-square; only objects that found no room disturb the deal, so it is far below chance.
        assert ((found - expected) ** 2 / expected).sum() < 6


def test_validation_shows_all_names_it_can_about_equally_often(composed):
    counts = Counter(a["category_id"] for a in load(composed, "val")["annotations"])
    assert set(counts) == {3, 5, 9, 12, 40}  # the set held out has no puffin
    assert max(counts.values()) <= min(counts.values()) + 8


def test_categories_are_lvis_own_with_counts_of_the_training_scenes(composed):
    train, val = load(composed, "train"), load(composed, "val")
    assert train["categories"] == val["categories"]
    assert [category["id"] for category in train["categories"]] == [3, 5, 9, 12, 40, 77]
    assert [category["frequency"] for category in train["categories"]] == list("ffccrr")
    assert train["categories"][0]["synonyms"] == ["airplane", "aeroplane"]
    for category in train["categories"]:
        own = [a["image_id"] for a in train["annotations"] if a["category_id"] == category["id"]]
        assert (category["instance_count"], category["image_count"]) == (len(own), len(set(own)))


def test_names_verified_absent_are_absent_and_never_close_to_what_is_there(composed):
    document = load(composed, "val")
    present = {image["id"]: set() for image in document["images"]}
    for annotation in document["annotations"]:
        present[annotation["image_id"]].add(annotation["category_id"])
    listed = Counter()
    for image in document["images"]:
        absent = set(image["neg_category_ids"])
        listed.update(absent)
        assert len(absent) == len(image["neg_category_ids"]) <= 2
        assert not absent & present[image["id"]]
        assert not (present[image["id"]] & {5, 9} and absent & {5, 9})  # bottle, wine_bottle
        assert image["not_exhaustive_category_ids"] == []
    assert set(listed) == {3, 5, 9, 12, 40, 77}


def test_captions_name_the_objects_of_training_scenes(composed):
    document = load(composed, "train")
    lines = [json.loads(line) for line in (composed / "captions.jsonl").read_text().splitlines()]
    names = {identity: said for identity, _, _, _, said in CATEGORIES}
    ways = {"aeroplane": "airplane"}
    for image, line in zip(document["images"], lines, strict=True):
        assert line["file_name"] == image["file_name"]
        text = line["caption"]
        own = [a["category_id"] for a in document["annotations"] if a["image_id"] == image["id"]]
        for identity in own:
            said = {
                name.replace("_", " ").replace("(", "").replace(")", "") for name in names[identity]
            }
            assert any(word in text for word in said | ways.keys() & said)


def test_scenes_stand_on_photographs_which_the_splits_do_not_share(folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in range(6):  # every fifth is validation's: rows 0 and 5 are red
        colour = (250, 0, 0) if row in (0, 5) else (0, 0, 250)
        Image.new("RGB", (90, 70), colour).save(photos / f"{row}.png")
    compose(tmp_path / "set", folder, ("ink",), photos, train_images=6, val_images=6, scene=SMALL)
    for split, channel in (("train", 2), ("val", 0)):
        for file in (tmp_path / "set" / "images" / split).iterdir():
            corner = np.asarray(Image.open(file))[:3, :3].mean((0, 1))
            assert corner.argmax() == channel


def test_a_photograph_is_cut_to_a_square_without_stretching(tmp_path):
    stripes = np.zeros((60, 120, 3), np.uint8)
    stripes[:, ::12] = 255
    Image.fromarray(stripes).save(tmp_path / "one.png")
    ground = photographs([tmp_path / "one.png"])(np.random.default_rng(0), 64)
    assert ground.shape == (64, 64, 3)
    bright = ground[32, :, 0] > ground[32, :, 0].max() / 2
    steps = np.diff(np.flatnonzero(bright[1:] & ~bright[:-1]))  # from stripe to stripe
    assert (ground == ground[:1]).all()
    assert 12 * 64 / 60 - 1 <= steps.min() <= steps.max() <= 12 * 64 / 30 + 1


def test_a_folder_of_own_cutouts_needs_no_list(tmp_path):
    for name in ("cup", "red bus"):
        (tmp_path / "own" / name / "loft").mkdir(parents=True)
        draw_sprite((200, 9, 9), 1).save(tmp_path / "own" / name / "studio.png")
        draw_sprite((9, 9, 200), 1).save(tmp_path / "own" / name / "loft" / "1.png")
    compose(
        tmp_path / "set", tmp_path / "own", ("loft",), train_images=5, val_images=5, scene=SMALL
    )
    categories = read_annotations(tmp_path / "set" / "train.json").categories
    assert [(c.id, c.name, c.frequency) for c in categories] == [
        (1, "cup", None),
        (2, "red bus", None),
    ]
    lvis = [
        {"id": 8, "name": "red bus", "frequency": "r"},
        {"id": 6, "name": "cup", "frequency": "f", "synset": "cup.n.01", "def": "a bowl"},
    ]
    (tmp_path / "lvis.json").write_text(json.dumps(lvis))
    known = read_sprites(tmp_path / "own", tmp_path / "lvis.json").categories
    assert [(c.id, c.frequency) for c in known] == [(6, "f"), (8, "r")]
    assert known[0].record == {"synset": "cup.n.01", "def": "a bowl"}


def test_a_finished_folder_is_kept_and_anything_else_refused(folder, tmp_path):
    def again(**settings):
        compose(
            tmp_path / "set",
            folder,
            ("ink",),
            train_images=2,
            val_images=2,
            scene=SMALL,
            **settings,
        )

    again()
    (tmp_path / "set" / "val.json").write_text("touched")
    again()
    assert (tmp_path / "set" / "val.json").read_text() == "touched"
    with pytest.raises(InputError, match="'seed': 0"):
        again(seed=1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("ten years of work")
    with pytest.raises(InputError, match="something else"):
        compose(other, folder, ("ink",), train_images=2, val_images=2, scene=SMALL)
    assert files_of(other) == {"thesis.txt": b"ten years of work"}


def test_a_run_cut_short_leaves_nothing(folder, tmp_path, monkeypatch):
    def full_disk(self, *args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        compose(tmp_path / "set", folder, ("ink",), train_images=2, val_images=2, scene=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_sprites_that_changed_are_noticed(folder, tmp_path):
    copy(folder, tmp_path / "own")
    compose(tmp_path / "set", tmp_path / "own", ("ink",), train_images=1, val_images=1, scene=SMALL)
    assert json.loads((tmp_path / "set" / RECORD).read_text())["val_sets"] == ["ink"]
    draw_sprite((1, 2, 3), 1).save(tmp_path / "own" / "3_oil.png")
    with pytest.raises(InputError, match="holds composed scenes made with"):
        compose(
            tmp_path / "set", tmp_path / "own", ("ink",), train_images=1, val_images=1, scene=SMALL
        )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda d, p: d["sprites"][1].update(lvis_id=4), r"sprites\[1\].lvis_id.*does not list"),
        (lambda d, p: d["sprites"][2].update(file="no.png"), r"sprites\[2\].file.*does not exist"),
        (lambda d, p: d["sprites"][0].pop("set"), r"sprites\[0\].set.*without this key"),
        (lambda d, p: d["categories"][3].update(id=3), r"categories\[3\].id.*already taken"),
        (lambda d, p: d["categories"][1].pop("frequency"), r"categories\[1\].frequency.*others"),
        (lambda d, p: d.pop("sprites"), "lacks the list"),
        (lambda d, p: d.update(sprites=[]), "holds no sprite"),
        (
            lambda d, p: Image.new("RGB", (9, 9)).save(p / "3_oil.png"),
            "3_oil.png: has no alpha channel",
        ),
        (
            lambda d, p: Image.new("RGBA", (9, 9), (9, 9, 9, 100)).save(p / "3_oil.png"),
            "3_oil.png: nothing is left of the object",
        ),
        (lambda d, p: (p / "3_oil.png").write_bytes(b"\x89PNG"), "3_oil.png: .*cannot be read"),
    ],
)
def test_what_is_wrong_with_sprites_is_named_before_anything_is_written(
    folder, tmp_path, spoil, told
):
    document = copy(folder, tmp_path / "own")
    spoil(document, tmp_path / "own")
    write_listing(tmp_path / "own", document)
    with pytest.raises(InputError, match=told):
        compose(tmp_path / "set", tmp_path / "own", ("ink",), train_images=1, val_images=1)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"val_sets": ("chalk",)}, "val_sets: no sprite is of the set chalk.*\n.*ink .5., oil .5."),
        ({"val_sets": ()}, "val_sets: .*one side without"),
        ({"val_sets": SETS}, "val_sets: .*one side without"),
        ({"train_images": 0}, "train_images: 0 is too small"),
        ({"exponent": float("nan")}, "exponent"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_out_of_range_are_named(folder, tmp_path, settings, told):
    with pytest.raises(InputError, match=told):
        compose(tmp_path / "set", folder, **{"val_sets": ("ink",), "scene": SMALL, **settings})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 20},
        {"size": 5000},
        {"objects": (3, 2)},
        {"objects": (0, 2)},
        {"sides": (20, 300)},
        {"hidden": 1.0},
        {"lean": -1.0},
    ],
)
def test_scenes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=f"scene.{next(iter(wrong))}: .*out of range"):
        SceneSettings(**wrong)


def test_one_photograph_is_too_few(folder, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="backgrounds: holds 0 photographs"):
        compose(tmp_path / "set", folder, ("ink",), tmp_path / "photos")


def test_real_sprites_make_a_scene_of_lvis_names(test_data, tmp_path, monkeypatch):
    if not (test_data / "sprites").is_dir():
        pytest.skip("the test data has no sprites")
    whole = read_sprites(test_data / "sprites", test_data / "lvis" / "lvis_v1_categories.json")
    frequencies = Counter(category.frequency for category in whole.categories)
    assert frequencies == {"r": 62, "c": 178, "f": 213}
    assert len(whole.sprites) == 2667
    train, val = whole.split(("noto", "twemoji"))
    drawn = {row for row, _ in train.by_category().items()}
    assert {whole.categories[row].frequency for row in val.by_category()} == {"r", "c", "f"}
    assert set(val.by_category()) <= drawn
    opened = [Image.open(sprite.file).convert("RGBA") for sprite in val.sprites[:8]]
    scene = draw_scene(np.random.default_rng(0), opened, SceneSettings())
    assert len(scene.shown) >= 6
    assert (scene.boxes[:, 2:] - scene.boxes[:, :2]).max() <= 114
