"""Pictures of the mini world for hybrid training: captions, and phrases with boxes."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from gridclip.data.drawn.captions import caption
from gridclip.data.drawn.drawing import Kind, Scene, draw_scene
from gridclip.data.drawn.mini_world import (
    KINDS,
    describe,
    evenly,
    in_words,
    is_base,
    long_tail,
)
from gridclip.data.drawn.writing import (
    Json,
    annotation_records,
    is_finished,
    whole_folder,
    write_jpeg,
    write_lines,
)

Law = Callable[[np.random.Generator, int], Int64[np.ndarray, "T"]]

VERSION = 1  # raised when the same arguments would give other files
RECORD = "hybrid.json"

_CAPTIONS = 2  # of each image
_SYNONYM_RATE = 0.2  # of words in grounding captions
_SHORT_RATE = 0.25  # of phrases that leave out the texture
_PLACE = re.compile(r"<(\d+)>")


class Said(NamedTuple):
    """A caption, and where in it each object is named."""

    caption: str
    spans: list[list[int]]  # first character and end, for each object


def make_hybrid(folder: Path, recipe: Json) -> None:
    """Draw pairs.jsonl, grounding.json and their images; a finished folder is left as it is.

    Args:
        folder: The folder to make.
        recipe: Of the mini data set that it belongs to.

    Raises:
        InputError: if the folder holds something else.
    """
    own = {**recipe, "version": VERSION}
    if is_finished(folder, RECORD, own, what="pairs and phrases of a mini data set"):
        return
    with whole_folder(folder) as part:
        count = recipe["train_images"]
        _write_pairs(part, recipe["seed"], count, recipe["size"])
        _write_grounding(part, recipe["seed"], max(1, count // 2), recipe["size"])
        (part / RECORD).write_text(json.dumps(own) + "\n")


def say(rng: np.random.Generator, kinds: Sequence[Kind]) -> Said:
    """Name every object, some by a synonym or without their texture, and tell where.

    The texture is left out only where no other object has the same colour and shape.

    Args:
        rng: Decides order and words.
        kinds: The objects.
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
        write_jpeg(scene.pixels, folder / "images" / path)
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
        write_jpeg(scene.pixels, folder / "images" / path)
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
    """Draw scenes of one to five objects, which a law deals out."""
    numbers = rng.integers(1, 6, count)
    deck = law(rng, int(numbers.sum()))
    for rows in np.split(deck, np.cumsum(numbers)[:-1]):
        yield draw_scene(rng, [KINDS[row] for row in rows.tolist()], size=size)


def _boxed(scene: Scene, said: Said, image_id: int, first_id: int) -> list[Json]:
    """MDETR's `annotations` of one image: rare objects are named in the caption but not boxed."""
    shown = np.array([is_base(kind) for kind in scene.kinds], dtype=bool)
    boxes, areas = scene.boxes[shown], scene.areas[shown]
    records = annotation_records(image_id, first_id, [1] * len(boxes), boxes, areas)
    spans = [span for span, boxed in zip(said.spans, shown.tolist(), strict=True) if boxed]
    return [
        {**record, "iscrowd": 0, "tokens_positive": [span]}
        for record, span in zip(records, spans, strict=True)
    ]
