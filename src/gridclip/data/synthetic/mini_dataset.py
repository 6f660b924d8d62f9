"""The mini data set: scenes of the mini world as real JPEG files with true LVIS-form json."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gridclip.data.annotations.coco_json import GROUPS
from gridclip.data.synthetic.mini_captions import make_hybrid, write_lines
from gridclip.data.synthetic.mini_world import (
    KINDS,
    NAMES,
    RARE_COMBINATIONS,
    RARE_SHAPES,
    definition,
    describe,
    evenly,
    is_base,
    long_tail,
    synonyms,
)
from gridclip.data.synthetic.painter import Json, Scene, draw_scene
from gridclip.io.errors import require_at_least
from gridclip.io.files import is_finished, written_whole

Split = Literal["train", "val"]

VERSION = 3  # raised when the same arguments would give other files
RECORD = "mini.json"  # how a folder was made; a folder without it is not finished

_FULL = 4000  # training images from which LVIS's own thresholds of frequency hold
_TWIN_RATE = 0.06  # scenes where a second object of one category stands
_NEGATIVES = 12  # categories verified to be absent from a training image
_ID = {kind: row + 1 for row, kind in enumerate(KINDS)}
_GROUPS = {
    "rare_combinations": sorted(_ID[kind] for kind in RARE_COMBINATIONS),
    "rare_shapes": sorted(_ID[kind] for kind in KINDS if kind.shape in RARE_SHAPES),
}


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """All that decides the files."""

    seed: int
    train_images: int
    val_images: int
    size: int
    version: int = VERSION

    def __post_init__(self) -> None:
        require_at_least(0, seed=self.seed)
        require_at_least(1, train_images=self.train_images, val_images=self.val_images)
        require_at_least(64, size=self.size)


class _Labelled(NamedTuple):
    """A scene and what its annotators did."""

    scene: Scene
    boxed: list[bool]  # for each object of the scene
    not_exhaustive: list[int]  # ids of categories of which they did not box every object


def make_mini(
    dir: Path, seed: int = 0, train_images: int = 4000, val_images: int = 500, size: int = 128
) -> None:
    """Draw the mini data set: train.json, val.json, captions.jsonl and the folders images, hybrid.

    Beside them train_all.json, the training images with a box for every object: what a detector
    learns from it is the upper bound of what one can learn from train.json.

    The 288 categories are a colour, a texture and a shape each, in a long tail. Of the 96 rare ones
    72 have a shape that no box shows, and 24 are new combinations, of which 1 to 9 training images
    show boxes; all stand in training images without a box as well. The files name these groups
    (rare_shapes, rare_combinations), so their AP is reported apart. Frequencies follow LVIS's rule
    (r up to 10 training images, c up to 100), scaled down in proportion below 4000 training images.
    In validation every category is about equally frequent and every image is verified for all.

    The folder hybrid has other images of the same world: pairs.jsonl, as many with captions as
    there are training images, all names equally often; and grounding.json, half as many, whose
    captions' phrases have boxes where they name a base category.

    A second run with the same arguments leaves what is finished as it is.

    Args:
        dir: The folder to make; it must not exist, be empty, or hold this very data set.
        seed: The same seed gives the same files, byte for byte.
        train_images: Number of training images.
        val_images: Number of validation images.
        size: Side of each image in pixels; objects measure 20 to 56.

    Raises:
        InputError: if an argument is out of range, or the folder holds something else.
    """
    recipe = _Recipe(seed=seed, train_images=train_images, val_images=val_images, size=size)
    other = "a mini data set made with {made}"
    if not is_finished(dir / RECORD, asdict(recipe), field="dir", other=other):
        with written_whole(dir) as part:
            _write(part, recipe)
    make_hybrid(dir / "hybrid", asdict(recipe))


class _Split(NamedTuple):
    """What is known of a split's images, without categories."""

    document: dict[str, list[Json]]
    everything: list[Json]  # annotations of all objects, those without a box as well
    captions: list[Json]


def _write(folder: Path, recipe: _Recipe) -> None:
    scale = min(1.0, recipe.train_images / _FULL)
    (train, everything, captions), (val, _, _) = (
        _write_images(folder, split, recipe) for split in ("train", "val")
    )
    unlabelled = [{**image, "not_exhaustive_category_ids": []} for image in train["images"]]
    seen = {"images": unlabelled, "annotations": everything}
    categories = _categories(train["annotations"], scale)
    for name, document, named in (
        ("train.json", train, categories),
        ("val.json", val, categories),
        ("train_all.json", seen, _categories(everything, scale)),
    ):
        whole = {**document, "categories": named, GROUPS: _GROUPS}
        (folder / name).write_text(json.dumps(whole))
    write_lines(captions, folder / "captions.jsonl")
    (folder / RECORD).write_text(json.dumps(asdict(recipe)) + "\n")


def _write_images(folder: Path, split: Split, recipe: _Recipe) -> _Split:
    """Writes a split's images; returns what is known of them."""
    (folder / "images" / split).mkdir(parents=True)
    images: list[Json] = []
    annotations: list[Json] = []
    everything: list[Json] = []
    captions: list[Json] = []
    rng = np.random.default_rng([recipe.seed, split == "val", 1])  # leaves the scenes' own alone
    for row, labelled in enumerate(_label_scenes(split, recipe)):
        file_name = f"{split}/{row + 1:06d}.jpg"
        labelled.scene.save(folder / "images" / file_name)
        images.append(_image(rng, labelled, row + 1, file_name, split))
        scene, ids = labelled.scene, [_ID[kind] for kind in labelled.scene.kinds]
        annotations += scene.annotations(row + 1, len(annotations) + 1, ids, labelled.boxed)
        everything += scene.annotations(row + 1, len(everything) + 1, ids, [True] * len(ids))
        caption = describe(rng, labelled.scene.kinds)
        captions.append({"file_name": file_name, "caption": caption})
    return _Split({"images": images, "annotations": annotations}, everything, captions)


def _label_scenes(split: Split, recipe: _Recipe) -> Iterator[_Labelled]:
    """Draws the scenes of a split and decides which objects get a box."""
    rng = np.random.default_rng([recipe.seed, split == "val"])
    numbers = rng.integers(1, 6, recipe.train_images if split == "train" else recipe.val_images)
    deck = (long_tail if split == "train" else evenly)(rng, int(numbers.sum()))
    boxed = _Boxing(split, min(1.0, recipe.train_images / _FULL))
    for rows in np.split(deck, np.cumsum(numbers)[:-1]):
        kinds = [KINDS[row] for row in rows.tolist()]
        twin = rng.random() < _TWIN_RATE
        scene = draw_scene(rng, kinds + kinds[:1] * twin, size=recipe.size)
        yield boxed(scene, hide_twin=twin and rng.random() < 0.5)


class _Boxing:
    """The annotators, who box rare combinations in 1 to 9 training images only."""

    def __init__(self, split: Split, scale: float) -> None:
        rare = [] if split == "val" else [kind for kind in KINDS if not is_base(kind)]
        self._left = dict.fromkeys(rare, 0)  # images in which a kind may still be boxed
        if split == "train":
            combinations = sorted(RARE_COMBINATIONS)
            self._left |= {k: int(scale * (1 + row % 9)) for row, k in enumerate(combinations)}

    def __call__(self, scene: Scene, *, hide_twin: bool) -> _Labelled:
        shown = {kind for kind in scene.kinds if self._left.get(kind, 1) > 0}
        for kind in shown & self._left.keys():
            self._left[kind] -= 1
        boxed = [kind in shown for kind in scene.kinds]
        first = scene.kinds[0]
        if hide_twin and boxed[0] and scene.kinds.count(first) > 1:
            boxed[-1 - scene.kinds[::-1].index(first)] = False
            return _Labelled(scene, boxed, [_ID[first]])
        return _Labelled(scene, boxed, [])


def _image(
    rng: np.random.Generator, labelled: _Labelled, image_id: int, file_name: str, split: Split
) -> Json:
    absent = sorted(set(_ID.values()) - {_ID[kind] for kind in labelled.scene.kinds})
    if split == "train":
        absent = np.sort(rng.choice(absent, _NEGATIVES, replace=False)).tolist()
    height, width = labelled.scene.pixels.shape[:2]
    return {
        "id": image_id,
        "width": width,
        "height": height,
        "file_name": file_name,
        "coco_url": "",
        "neg_category_ids": absent,
        "not_exhaustive_category_ids": labelled.not_exhaustive,
    }


def _categories(annotations: list[Json], scale: float) -> list[Json]:
    pairs = {(each["category_id"], each["image_id"]) for each in annotations}
    images = Counter(category for category, _ in pairs)
    instances = Counter(each["category_id"] for each in annotations)
    return [
        {
            "id": _ID[kind],
            "name": name,
            "synset": f"{name.replace(' ', '_')}.n.01",
            "synonyms": synonyms(kind),
            "def": definition(kind),
            "frequency": _frequency(images[_ID[kind]], scale),
            "image_count": images[_ID[kind]],
            "instance_count": instances[_ID[kind]],
        }
        for kind, name in zip(KINDS, NAMES, strict=True)
    ]


def _frequency(image_count: int, scale: float) -> str:
    """Returns LVIS's frequency: rare up to 10 training images, common up to 100."""
    if image_count <= 10 * scale:
        return "r"
    return "c" if image_count <= 100 * scale else "f"
