"""Grounding files in MDETR's form, and Flickr30k Entities turned into one.

A grounding file is one of COCO form with two more keys: `caption` of an image and
`tokens_positive` of an annotation, spans of the caption. Read here, its categories are the phrases
of the spans.

Flickr30k Entities (recalled from its description) has text and XML files, one of each an image: a
line of `Sentences/ID.txt` is a caption with phrases in brackets, `[/EN#283585/people Two young
guys] look`; `Annotations/ID.xml` has the size of ID.jpg and boxes by entity number, in whole pixels
counted from 1, the last one included.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from rich.progress import track

from gridclip.data.annotations.cache import Columns, indexed
from gridclip.data.annotations.coco_json import CocoLists, parse_lists
from gridclip.data.annotations.schema import to_columns
from gridclip.data.annotations.table import Annotations, Category, Ragged
from gridclip.data.datasets.noun_phrases import clean
from gridclip.io.column_store import Texts, text_columns
from gridclip.io.errors import InputError
from gridclip.io.files import require_writable, write_text
from gridclip.io.json_table import JsonTable, is_text, read_content
from gridclip.io.tables import make_console, say
from gridclip.io.text import read_lines, read_text

_SPANS = "a list of spans of the caption: [[first character, end], ...]"
_VARIANT = "grounding"
_PHRASE = re.compile(r"\[/EN#(\d+)(?:/\S+)? ([^\]]*)\]")
_FORM = "give the folder of Flickr30k Entities, with Sentences/ID.txt and Annotations/ID.xml"

Json = dict[str, Any]


class Grounding(NamedTuple):
    """The content of a grounding file."""

    annotations: Annotations  # its categories are the phrases, in the order of first mention
    captions: Texts  # of each image


def read_grounding(file: Path) -> Grounding:
    """Reads a grounding file; its columns are kept under $GRIDCLIP_CACHE, as of annotation files.

    The phrase of a box is the text of its spans, cleaned by `noun_phrases.clean`. Spans with only
    blanks between them are one; of several the first is the phrase, as the others mention the same
    thing again. Boxes whose phrase names nothing, and crowds, are left out. An image with several
    captions is listed several times, with an id each.

    Raises:
        InputError: if anything in it cannot be trusted, with count, examples and fix.
    """
    arrays, _ = indexed(file, _VARIANT, lambda content: _columns(file, content))
    phrases, captions = (
        Texts(arrays[name], arrays[f"{name}.ends"]) for name in ("phrases", "captions")
    )
    nothing = Ragged(np.zeros(0, np.int64), np.zeros(len(arrays["image_ids"]) + 1, np.int64))
    annotations = Annotations(
        file=file,
        categories=tuple(Category(row + 1, name, None) for row, name in enumerate(phrases.all())),
        image_ids=arrays["image_ids"],
        paths=arrays["paths"],
        sizes=arrays["sizes"],
        boxes=Ragged(arrays["boxes"], arrays["offsets"]),
        labels=Ragged(arrays["labels"], arrays["offsets"]),
        negative=nothing,
        not_exhaustive=nothing,
    )
    return Grounding(annotations, captions)


def _columns(file: Path, content: bytes) -> Columns:
    lists = parse_lists(file, content)
    _, images, annotations, _ = lists.records(file)
    captions = images.column("caption", is_text, "text: what is said of the image")
    ids = images.whole_numbers("id")
    images.refuse_repeats("id", ids)
    named, phrases = _name(annotations, dict(zip(ids.tolist(), captions, strict=True)))
    if not phrases:
        fix = "give boxes whose tokens_positive are spans of the caption that name something"
        raise InputError("no box has a phrase", fix=fix, file=file, field="annotations")
    categories = [{"id": row + 1, "name": phrase} for row, phrase in enumerate(phrases)]
    found = to_columns(file, CocoLists(categories, lists.images, named, []), shown=lists)
    arrays = {
        **{name: getattr(found, name) for name in ("image_ids", "paths", "sizes")},
        "boxes": found.boxes.values,
        "labels": found.labels.values,
        "offsets": found.boxes.offsets,
        **text_columns("phrases", phrases),
        **text_columns("captions", captions),
    }
    return Columns(arrays, {})


def _name(annotations: JsonTable, captions: dict[int, str]) -> tuple[list[Any], list[str]]:
    """Returns the annotations with the number of their phrase as category, and all phrases.

    Those without a phrase become crowds, which are left out.
    """
    spans = annotations.column("tokens_positive", _is_spans, _SPANS)
    texts = [captions.get(image) for image in annotations.whole_numbers("image_id").tolist()]
    annotations.refuse(
        [text is None for text in texts],
        "image_id",
        "of an image that the file does not list",
        fix="list the image, or remove the annotations",
    )
    annotations.refuse(
        [
            any(end > len(str(text)) for _, end in each)
            for each, text in zip(spans, texts, strict=True)
        ],
        "tokens_positive",
        "with a span beyond the end of the caption",
        fix="count characters of the caption as it stands in the file",
    )
    phrases: dict[str, int] = {}
    named = []
    for row, text, each in zip(annotations.rows, texts, spans, strict=True):
        phrase = "" if row.get("iscrowd") else clean(first_mention(str(text), each))
        number = phrases.setdefault(phrase, len(phrases) + 1) if phrase else 1
        named.append({**row, "category_id": number} | ({} if phrase else {"iscrowd": 1}))
    return named, [*phrases]


def first_mention(caption: str, spans: Sequence[Sequence[int]]) -> str:
    """Returns the text of the first of some spans, with those that follow it right behind.

    A span is its first character and its end.
    """
    if not spans:
        return ""
    (start, end), *others = sorted(map(tuple, spans))
    for first, last in others:
        if caption[end:first].strip():
            break
        end = max(end, last)
    return caption[start:end]


def _is_spans(value: object) -> bool:
    """Returns whether a value is a list of pairs of whole numbers, each in order."""
    return isinstance(value, list) and all(
        isinstance(span, list)
        and len(span) == 2
        and all(type(place) is int for place in span)
        and 0 <= span[0] < span[1]
        for span in value
    )


class Mention(NamedTuple):
    """A phrase of a caption that names an entity."""

    entity: str
    span: tuple[int, int]  # first character and end, in the caption without brackets


class EntityBoxes(NamedTuple):
    """Size and boxes of one image."""

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
        names = read_text(ids).split()
    else:
        names = sorted(file.stem for file in (folder / "Sentences").glob("*.txt"))
    if not names:
        raise InputError("there is no sentence file", fix=_FORM, file=folder)
    images: list[Json] = []
    annotations: list[Json] = []
    for name in track(names, "reading"):
        found = read_entity_boxes(folder / "Annotations" / f"{name}.xml")
        file = folder / "Sentences" / f"{name}.txt"
        for line in read_lines(file):
            caption, mentions = read_caption(line.strip())
            if not caption:
                continue
            facts = {"file_name": f"{name}.jpg", "height": found.height, "width": found.width}
            images.append({"id": len(images) + 1, **facts, "caption": caption})
            annotations += _boxed(found, mentions, len(images), len(annotations) + 1)
    categories = [{"supercategory": "object", "id": 1, "name": "object"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_text(output, json.dumps(document))
    say(make_console(), f"{output}: {len(images)} captions, {len(annotations)} boxes of phrases")


def read_caption(line: str) -> tuple[str, list[Mention]]:
    """Returns a sentence without its brackets, and where its phrases are."""
    caption, end, mentions = "", 0, []
    for found in _PHRASE.finditer(line):
        caption += line[end : found.start()]
        mentions.append(Mention(found[1], (len(caption), len(caption) + len(found[2]))))
        caption, end = caption + found[2], found.end()
    return caption + line[end:], mentions


def read_entity_boxes(file: Path) -> EntityBoxes:
    """Reads the size and the boxes of an image; entities without a box have none.

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
        return EntityBoxes(_number(tree, "size/height"), _number(tree, "size/width"), boxes)
    except (ElementTree.ParseError, ValueError) as error:
        problem = f"is no annotation of Flickr30k Entities ({error})"
        raise InputError(problem, fix=_FORM, file=file) from error


def _number(element: ElementTree.Element, key: str) -> int:
    text = element.findtext(key)
    if text is None:
        raise ValueError(f"{key} is absent")
    return int(text)


def _boxed(found: EntityBoxes, mentions: list[Mention], image_id: int, first_id: int) -> list[Json]:
    pairs = [(each.span, box) for each in mentions for box in found.boxes.get(each.entity, ())]
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
