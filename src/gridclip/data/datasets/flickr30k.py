"""Flickr30k Entities as one grounding file: its own text and XML files, one of each an image.

The form (recalled from the data set's description): a line of `Sentences/ID.txt` is a caption with
phrases in brackets, `[/EN#283585/people Two young guys] look`; `Annotations/ID.xml` has the size of
ID.jpg and boxes by entity number, in whole pixels counted from 1, the last one included.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from rich.console import Console
from rich.progress import track

from gridclip.io.errors import InputError
from gridclip.io.files import require_writable, write_text
from gridclip.io.json_table import read_content

Json = dict[str, Any]

_PHRASE = re.compile(r"\[/EN#(\d+)(?:/\S+)? ([^\]]*)\]")
_FORM = "give the folder of Flickr30k Entities, with Sentences/ID.txt and Annotations/ID.xml"


class Mention(NamedTuple):
    """A phrase of a caption that stands for an entity."""

    entity: str
    span: tuple[int, int]  # first character and end, in the caption without brackets


class Sight(NamedTuple):
    """What is annotated in one image."""

    height: int
    width: int
    boxes: dict[str, list[list[int]]]  # x, y, width, height; by entity


def entities_command(folder: Path, *, output: Path, ids: Path | None = None) -> None:
    """Write Flickr30k Entities as one grounding file, which training reads.

    Args:
        folder: With Sentences and Annotations in it; images are not looked at.
        output: The .json to write; its paths are ID.jpg.
        ids: Text with an image on each line, such as train.txt; all that have sentences by default.

    Raises:
        InputError: if a file is absent or of another form.
    """
    require_writable(output)
    if ids is not None:
        names = read_content(ids).decode("utf-8").split()
    else:
        names = sorted(file.stem for file in (folder / "Sentences").glob("*.txt"))
    if not names:
        raise InputError("there is no sentence file", fix=_FORM, file=folder)
    images: list[Json] = []
    annotations: list[Json] = []
    for name in track(names, "reading"):
        sight = read_sight(folder / "Annotations" / f"{name}.xml")
        file = folder / "Sentences" / f"{name}.txt"
        for line in read_content(file).decode("utf-8", "replace").splitlines():
            caption, mentions = read_caption(line.strip())
            if not caption:
                continue
            facts = {"file_name": f"{name}.jpg", "height": sight.height, "width": sight.width}
            images.append({"id": len(images) + 1, **facts, "caption": caption})
            annotations += _boxed(sight, mentions, len(images), len(annotations) + 1)
    categories = [{"supercategory": "object", "id": 1, "name": "object"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_text(output, json.dumps(document))
    Console().print(f"{output}: {len(images)} captions, {len(annotations)} boxes of phrases")


def read_caption(line: str) -> tuple[str, list[Mention]]:
    """Take the brackets out of a sentence, and tell where its phrases are."""
    caption, end, mentions = "", 0, []
    for found in _PHRASE.finditer(line):
        caption += line[end : found.start()]
        mentions.append(Mention(found[1], (len(caption), len(caption) + len(found[2]))))
        caption, end = caption + found[2], found.end()
    return caption + line[end:], mentions


def read_sight(file: Path) -> Sight:
    """Read the size and the boxes of an image; entities without a box have none.

    Raises:
        InputError: if the file is absent or of another form.
    """
    try:
        tree = ElementTree.fromstring(read_content(file))
        boxes: dict[str, list[list[int]]] = {}
        for each in tree.iter("object"):
            for corners in each.iter("bndbox"):
                left, top, right, bottom = (
                    _number(corners, key) for key in ("xmin", "ymin", "xmax", "ymax")
                )
                box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
                for name in each.iter("name"):
                    boxes.setdefault(str(name.text).strip(), []).append(box)
        return Sight(_number(tree, "size/height"), _number(tree, "size/width"), boxes)
    except (ElementTree.ParseError, ValueError) as error:
        problem = f"is no annotation of Flickr30k Entities ({error})"
        raise InputError(problem, fix=_FORM, file=file) from error


def _number(element: ElementTree.Element, key: str) -> int:
    text = element.findtext(key)
    if text is None:
        raise ValueError(f"{key} is absent")
    return int(text)


def _boxed(sight: Sight, mentions: list[Mention], image_id: int, first_id: int) -> list[Json]:
    pairs = [(each.span, box) for each in mentions for box in sight.boxes.get(each.entity, ())]
    return [
        {
            "id": first_id + row,
            "image_id": image_id,
            "category_id": 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "tokens_positive": [list(span)],
        }
        for row, (span, box) in enumerate(pairs)
    ]
