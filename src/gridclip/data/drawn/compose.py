"""Composed scenes: cut-outs of LVIS's names as a detection data set with LVIS's own long tail."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from gridclip.data.drawn.ground import sloping_ground
from gridclip.data.drawn.scenes import Ground, Scene, SceneSettings, draw_scene, photographs
from gridclip.data.drawn.spoken import Verified, describe
from gridclip.data.drawn.sprites import SpriteCategory, Sprites, open_sprite, read_sprites
from gridclip.data.drawn.writing import (
    Counts,
    Json,
    annotation_records,
    deal,
    image_record,
    is_finished,
    tally,
    whole_folder,
    write_jpeg,
    write_lines,
)
from gridclip.errors import InputError

VERSION = 1  # raised when the same arguments would give other files
RECORD = "compose.json"  # tells how a folder was made; a folder without it is not finished

_SCENE = SceneSettings()
_VAL_PHOTOGRAPHS = 5  # every fifth photograph is a ground of validation scenes only
_PHOTOGRAPH_ENDINGS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """All that decides the files."""

    sources: str  # digest of the sprites and backgrounds
    val_sets: tuple[str, ...]
    train_images: int
    val_images: int
    seed: int
    exponent: float
    negatives: int
    scene: SceneSettings
    version: int = VERSION

    def __post_init__(self) -> None:
        least = {"train_images": 1, "val_images": 1, "seed": 0, "exponent": 0, "negatives": 0}
        for name, lowest in least.items():
            if not getattr(self, name) >= lowest:
                raise InputError(
                    f"{getattr(self, name)} is too small", fix=f"give {lowest} or more", field=name
                )

    def as_json(self) -> Json:
        """The recipe as a json file gives it back: lists for tuples."""
        made: Json = json.loads(json.dumps(asdict(self)))
        return made


class _Labelled(NamedTuple):
    """A scene, and the row of the category of each object on it."""

    scene: Scene
    rows: list[int]


def compose(  # noqa: PLR0913 - a command has as many arguments as options
    dir: Path,
    sprites: Path = Path("data/sprites"),
    val_sets: tuple[str, ...] = (),
    backgrounds: Path | None = None,
    categories: Path | None = None,
    train_images: int = 2000,
    val_images: int = 500,
    seed: int = 0,
    exponent: float = 0.5,
    negatives: int = 40,
    scene: SceneSettings = _SCENE,
) -> None:
    """Compose scenes of cut-outs: train.json, val.json, captions.jsonl and a folder images.

    Everything on a scene has a box, rare names too: leaving these out is up to the reader's
    `rare_split`. Cut-outs of `val_sets` stand in validation scenes only, all others in training
    scenes only, so a detector never meets a drawing that it learned from. Validation shows all
    names about equally often. Frequencies are LVIS's; counts are those of the training scenes.

    A second run with the same arguments leaves the finished folder as it is.

    Args:
        dir: The folder to make; it must not exist, be empty, or hold this very data set.
        sprites: Folder of the cut-outs: with a sprites.json, or NAME/SET.png or NAME/SET/ANY.png.
        val_sets: Icon sets held out for validation.
        backgrounds: Folder of photographs that show none of the names; without it, noise.
        categories: LVIS's list of categories (json), for what sprites.json does not say.
        train_images: Number of training scenes.
        val_images: Number of validation scenes.
        seed: The same seed gives the same files, byte for byte.
        exponent: Training shows a name in proportion to its image count in LVIS to this power: 1 is
            LVIS's long tail, 0 shows all names equally often.
        negatives: Names verified to be absent from a scene, not counting its own.
        scene: Size of pictures and objects, how many, and how much they may hide each other.

    Raises:
        InputError: if an argument or a source is wrong, or the folder holds something else.
    """
    source, grounds = read_sprites(sprites, categories), _grounds(backgrounds)
    source.split(val_sets)  # refuses sets that are wrong
    recipe = _Recipe(
        sources=_digest(source, backgrounds),
        val_sets=val_sets,
        train_images=train_images,
        val_images=val_images,
        seed=seed,
        exponent=exponent,
        negatives=negatives,
        scene=scene,
    )
    if not is_finished(dir, RECORD, recipe.as_json(), what="composed scenes"):
        with whole_folder(dir) as part:
            _write(part, recipe, source, grounds)


def _write(folder: Path, recipe: _Recipe, source: Sprites, grounds: dict[str, Ground]) -> None:
    train, val = source.split(recipe.val_sets)
    documents = {
        "train": _write_split(folder, "train", recipe, train, grounds["train"]),
        "val": _write_split(folder, "val", recipe, val, grounds["val"]),
    }
    counts = tally(documents["train"]["annotations"])
    categories = [_category(category, counts) for category in source.categories]
    for split, document in documents.items():
        text = json.dumps({**document, "categories": categories})
        (folder / f"{split}.json").write_text(text)
        _report(split, document)
    (folder / RECORD).write_text(json.dumps(recipe.as_json()) + "\n")


def _write_split(
    folder: Path, split: str, recipe: _Recipe, sprites: Sprites, ground: Ground
) -> dict[str, list[Json]]:
    """Write a split's pictures, and the captions of training; give its json without categories."""
    (folder / "images" / split).mkdir(parents=True)
    verified = Verified(sprites.categories, recipe.negatives)
    images: list[Json] = []
    annotations: list[Json] = []
    captions: list[Json] = []
    rng = np.random.default_rng([recipe.seed, split == "val", 1])  # leaves the scenes' own alone
    for number, (scene, rows) in enumerate(_scenes(split, recipe, sprites, ground), 1):
        file_name = f"{split}/{number:06d}.jpg"
        write_jpeg(scene.pixels, folder / "images" / file_name)
        size = (recipe.scene.size, recipe.scene.size)
        absent = verified.absent(rng, rows)
        images.append(image_record(number, file_name, size, absent=absent, not_exhaustive=[]))
        ids = [sprites.categories[row].id for row in rows]
        first = len(annotations) + 1
        annotations += annotation_records(number, first, ids, scene.boxes, scene.areas)
        said = describe(rng, [sprites.categories[row] for row in rows])
        captions.append({"file_name": file_name, "caption": said})
    if split == "train":
        write_lines(captions, folder / "captions.jsonl")
    return {"images": images, "annotations": annotations}


def _scenes(split: str, recipe: _Recipe, sprites: Sprites, ground: Ground) -> Iterator[_Labelled]:
    """Deal names to the scenes of a split, choose a cut-out of each, and draw."""
    rng = np.random.default_rng([recipe.seed, split == "val"])
    fewest, most = recipe.scene.objects
    images = recipe.train_images if split == "train" else recipe.val_images
    numbers = rng.integers(fewest, most + 1, images)
    law = sprites.law(recipe.exponent if split == "train" else 0.0)
    deck = rng.permutation(deal(law, int(numbers.sum()), start=rng.uniform(0.001, 0.999)))
    drawings = sprites.by_category()
    for rows in np.split(deck, np.cumsum(numbers)[:-1]):
        chosen = [drawings[row][int(rng.integers(len(drawings[row])))] for row in rows.tolist()]
        cutouts = [open_sprite(sprite.file) for sprite in chosen]
        scene = draw_scene(rng, cutouts, recipe.scene, ground)
        yield _Labelled(scene, [int(rows[place]) for place in scene.shown])


def _grounds(folder: Path | None) -> dict[str, Ground]:
    """What scenes of each split stand on; no photograph is of both."""
    if folder is None:
        return {"train": sloping_ground, "val": sloping_ground}
    files = _photographs(folder)
    if len(files) < 2:
        raise InputError(
            f"holds {len(files)} photographs, and training and validation share none",
            fix="give a folder with two or more (.jpg, .png), or none for noise",
            file=folder,
            field="backgrounds",
        )
    val = files[::_VAL_PHOTOGRAPHS]
    return {
        "train": photographs([file for file in files if file not in set(val)]),
        "val": photographs(val),
    }


def _photographs(folder: Path) -> list[Path]:
    found = folder.rglob("*")
    return sorted(file for file in found if file.suffix.lower() in _PHOTOGRAPH_ENDINGS)


def _digest(sprites: Sprites, backgrounds: Path | None) -> str:
    """Names what scenes are made of: categories, cut-outs, and which photographs there are."""
    digest = hashlib.sha256(repr(sprites.categories).encode())
    for sprite in sprites.sprites:
        digest.update(repr((sprite.category, sprite.set)).encode() + sprite.file.read_bytes())
    for file in [] if backgrounds is None else _photographs(backgrounds):
        digest.update(f"{file.relative_to(backgrounds or file)} {file.stat().st_size}\n".encode())
    return digest.hexdigest()


def _category(category: SpriteCategory, counts: Counts) -> Json:
    frequency = {} if category.frequency is None else {"frequency": category.frequency}
    return {
        "id": category.id,
        "name": category.name,
        **category.record,
        **frequency,
        "image_count": counts.images[category.id],
        "instance_count": counts.instances[category.id],
    }


def _report(split: str, document: dict[str, list[Json]]) -> None:
    boxes = document["annotations"]
    names = len({annotation["category_id"] for annotation in boxes})
    scenes = len(document["images"])
    Console().print(f"{split}: {scenes} scenes, {len(boxes)} boxes of {names} names")
