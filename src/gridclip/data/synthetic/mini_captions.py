"""Captioned images of the mini world: batches for a CLIP, and files for hybrid training."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.synthetic.mini_world import (
    KINDS,
    caption,
    describe,
    evenly,
    in_words,
    is_base,
    long_tail,
)
from gridclip.data.synthetic.painter import COLOURS, SHAPES, TEXTURES, Json, Kind, Scene, draw_scene
from gridclip.io.files import is_finished, written_whole

Law = Callable[[np.random.Generator, int], Int64[np.ndarray, "T"]]

VERSION = 2  # raised when the same arguments would give other files
RECORD = "hybrid.json"

_CAPTIONS = 2  # of each image
_SYNONYM_RATE = 0.2  # of words in grounding captions
_SHORT_RATE = 0.25  # of phrases that leave out the texture
_PLACE = re.compile(r"<(\d+)>")

_VALUES = (tuple(COLOURS), TEXTURES, tuple(SHAPES))
_CLOSE_UPS = 0.3  # share among images of a single object


class PairBatch(NamedTuple):
    """Images and what they show."""

    pixels: UInt8[Tensor, "B 3 S S"]
    captions: list[str]


class MiniPairs(Dataset[PairBatch]):
    """Batches of captioned images; batch i depends on the seed and i alone.

    Half of a batch shows one object each, all of different kinds. The other half shows several, in
    pairs of near misses, so that a caption must say what belongs to what. Rare kinds are as
    frequent as any, as the captions of the real CLIP knew rare words.

    Args:
        seed: Decides every image.
        batches: How many batches there are.
        batch_size: Images of a batch, a multiple of 4, at most twice the number of kinds.
        side: Side of the images in pixels; objects measure 20 to 56 at any side.
        most: Most objects of an image.
    """

    def __init__(self, *, seed: int, batches: int, batch_size: int, side: int, most: int) -> None:
        self.seed, self.batches, self.batch_size = seed, batches, batch_size
        self.side, self.most = side, most

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> PairBatch:
        """Draws one batch."""
        if not 0 <= index < self.batches:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, self.side, index])
        singles = rng.permutation(len(KINDS))[: self.batch_size // 2].tolist()
        scenes = [self._single(rng, KINDS[row]) for row in singles]
        for _ in range(self.batch_size // 4):
            kinds = [
                KINDS[row] for row in rng.integers(len(KINDS), size=rng.integers(2, self.most + 1))
            ]
            scenes += [self._several(rng, kinds), self._several(rng, near_miss(rng, kinds))]
        pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes]))
        return PairBatch(
            pixels.permute(0, 3, 1, 2).contiguous(),
            [describe(rng, scene.kinds) for scene in scenes],
        )

    def _single(self, rng: np.random.Generator, kind: Kind) -> Scene:
        if rng.random() < _CLOSE_UPS:
            return draw_close_up(rng, kind, self.side)
        return draw_scene(rng, [kind], size=self.side)

    def _several(self, rng: np.random.Generator, kinds: Sequence[Kind]) -> Scene:
        largest = min(56, round(0.56 * self.side))  # two find room even in an image of 64 pixels
        return draw_scene(rng, kinds, size=self.side, object_sizes=(20, largest))


def draw_close_up(rng: np.random.Generator, kind: Kind, side: int) -> Scene:
    """Returns one object that fills the image, enlarged twice, as a detector would crop it.

    Args:
        rng: Decides the rest.
        kind: What to show.
        side: Side of the image in pixels; box and area are those before enlarging.
    """
    half = side // 2
    sizes = (round(0.6 * half), round(0.95 * half))
    scene = draw_scene(rng, [kind], size=half, object_sizes=sizes)
    large = Image.fromarray(scene.pixels).resize((side, side), Image.Resampling.BICUBIC)
    return scene._replace(pixels=np.asarray(large))


def near_miss(rng: np.random.Generator, kinds: Sequence[Kind]) -> list[Kind]:
    """Returns the same two or more objects, but two swap an attribute, or one has another value."""
    attribute = int(rng.integers(3))
    one, two = rng.choice(len(kinds), 2, replace=False).tolist()
    values = [list(kind) for kind in kinds]
    values[one][attribute], values[two][attribute] = values[two][attribute], values[one][attribute]
    swapped = [Kind(*value) for value in values]
    if sorted(swapped) != sorted(kinds):
        return swapped
    others = [value for value in _VALUES[attribute] if value != kinds[one][attribute]]
    values = [list(kind) for kind in kinds]
    values[one][attribute] = others[int(rng.integers(len(others)))]
    return [Kind(*value) for value in values]


class Said(NamedTuple):
    """A caption, and where in it each object is named."""

    caption: str
    spans: list[list[int]]  # first character and end, for each object


def make_hybrid(folder: Path, recipe: Json) -> None:
    """Draws pairs.jsonl, grounding.json and their images; a finished folder is left as it is.

    Args:
        folder: The folder to make.
        recipe: Of the mini data set that it belongs to.

    Raises:
        InputError: if the folder holds something else.
    """
    own = {**recipe, "version": VERSION}
    other = "pairs and phrases of a mini data set made with {made}"
    if is_finished(folder / RECORD, own, field="dir", other=other):
        return
    with written_whole(folder) as part:
        count = recipe["train_images"]
        _write_pairs(part, recipe["seed"], count, recipe["size"])
        _write_grounding(part, recipe["seed"], max(1, count // 2), recipe["size"])
        (part / RECORD).write_text(json.dumps(own) + "\n")


def say(rng: np.random.Generator, kinds: Sequence[Kind]) -> Said:
    """Names every object, some by a synonym or without their texture, and returns where.

    The texture is left out only where no other object has the same colour and shape.
    """
    pairs = [(kind.colour, kind.shape) for kind in kinds]
    phrases = []
    for kind, pair in zip(kinds, pairs, strict=True):
        phrase = in_words(rng, kind, _SYNONYM_RATE)
        if rng.random() < _SHORT_RATE and pairs.count(pair) == 1:
            phrase = " ".join(pair)
        phrases.append(phrase)
    text = caption(rng, len(kinds), lambda row: f"<{row}>")
    spans: list[list[int]] = [[] for _ in kinds]
    while found := _PLACE.search(text):
        row = int(found[1])
        text = text[: found.start()] + phrases[row] + text[found.end() :]
        spans[row] = [found.start(), found.start() + len(phrases[row])]
    return Said(text, spans)


def _write_pairs(folder: Path, seed: int, count: int, size: int) -> None:
    (folder / "images" / "pairs").mkdir(parents=True)
    rng = np.random.default_rng([seed, 2])
    lines: list[Json] = []
    for row, scene in enumerate(_scenes(rng, count, size, evenly)):
        path = f"pairs/{row + 1:06d}.jpg"
        scene.save(folder / "images" / path)
        lines += [
            {"file_name": path, "caption": describe(rng, scene.kinds)} for _ in range(_CAPTIONS)
        ]
    write_lines(lines, folder / "pairs.jsonl")


def _write_grounding(folder: Path, seed: int, count: int, size: int) -> None:
    (folder / "images" / "grounding").mkdir(parents=True)
    rng = np.random.default_rng([seed, 3])
    images: list[Json] = []
    annotations: list[Json] = []
    for row, scene in enumerate(_scenes(rng, count, size, long_tail)):
        path, said = f"grounding/{row + 1:06d}.jpg", say(rng, scene.kinds)
        scene.save(folder / "images" / path)
        facts = {"id": row + 1, "file_name": path, "height": size, "width": size}
        images.append({**facts, "caption": said.caption})
        annotations += _boxed(scene, said, row + 1, len(annotations) + 1)
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
    }
    (folder / "grounding.json").write_text(json.dumps(document))


def _scenes(rng: np.random.Generator, count: int, size: int, law: Law) -> Iterator[Scene]:
    """Draws scenes of one to five objects by a law."""
    numbers = rng.integers(1, 6, count)
    deck = law(rng, int(numbers.sum()))
    for rows in np.split(deck, np.cumsum(numbers)[:-1]):
        yield draw_scene(rng, [KINDS[row] for row in rows.tolist()], size=size)


def _boxed(scene: Scene, said: Said, image_id: int, first_id: int) -> list[Json]:
    """Returns MDETR's `annotations` of one image; rare objects have no box."""
    boxed = [is_base(kind) for kind in scene.kinds]
    annotations = scene.annotations(image_id, first_id, [1] * len(boxed), boxed)
    spans = itertools.compress(said.spans, boxed)
    return [
        {**each, "iscrowd": 0, "tokens_positive": [span]}
        for each, span in zip(annotations, spans, strict=True)
    ]


def write_lines(rows: Sequence[Json], file: Path) -> None:
    """Writes one json object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
