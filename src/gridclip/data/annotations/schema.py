"""What an annotation file must be: the rules of reading, checking and repairing it, in one place.

What is trained on is checked whole. Evaluation asks only for what it looks at, so a file need not
say sizes and paths of images, and boxes may leave them. A file that keeps the rules of `validation`
keeps those of both, and has as many boxes in both: `gridclip data check` asks for these.

A value that is null is absent, wherever it may be; 1.0 is the whole number 1.
"""

from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped

from gridclip.data.annotations.coco_json import CocoLists
from gridclip.data.annotations.groups import read_groups
from gridclip.data.annotations.masks import Masks, read_masks
from gridclip.data.annotations.table import IGNORED_AREA, Annotations, Category, Ragged, ScoredBoxes
from gridclip.io.errors import InputError
from gridclip.io.json_table import (
    JsonTable,
    is_frequency,
    is_path,
    is_text,
    is_whole_list,
    texts_of,
)

# LVIS v1 boxes come from polygons and overshoot their image by fractions of a pixel. Up to this
# many pixels are clipped silently; more is taken for an error.
OVERSHOOT = 2.0

# What a file is read for: to train on, to score detections with, or to validate a training with,
# which keeps the rules of both.
Rules = Literal["training", "evaluation", "validation"]

# LVIS's two lists per image: looked for and absent; present, but not every one of them boxed.
NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"

# Rules that are broken in ways that `repair` can mend.
LOW_ID = "with an id below 1 (ids of LVIS and COCO start at 1)"
UNKNOWN_IN_LIST = "that name a category the file does not list"
WITHOUT_LIST = "without a list that others have"


def to_columns(
    file: Path,
    lists: CocoLists,
    rules: Rules = "training",
    shown: CocoLists | None = None,
    *,
    masks: bool = False,
) -> Annotations:
    """Turns the lists into columns if they keep every rule.

    Args:
        file: Where they were read.
        lists: What it says.
        rules: What the columns are for.
        shown: The same with other values, for the messages to show.
        masks: Whether every object that is no crowd must have a mask, and it is read.

    Raises:
        FaultError: for the first rule that is broken, with all rows that break it.
        InputError: if a list is none, or is empty.
    """
    listed, images, annotations, groups = lists.records(file, shown)
    lax = rules == "evaluation"
    categories = _read_categories(listed, lax)
    category_ids = np.array([category.id for category in categories], dtype=np.int64)
    image_ids = _read_ids(images, lax)
    sizes = _read_sizes(images) if masks or not lax else np.zeros((len(images), 2), np.int64)
    paths = np.zeros(len(images), "U1") if lax else np.array(_read_paths(images))
    negative = _read_rows(images, NEGATIVE, category_ids, lax)
    not_exhaustive = _read_rows(images, NOT_EXHAUSTIVE, category_ids, lax)
    owners, labels = _read_owners(annotations, image_ids, category_ids, lax)
    crowds = annotations.flags("iscrowd", "a region of many objects")
    by_image = _Grouping.of(owners, len(images))
    if lax:
        single = np.zeros(len(labels), dtype=bool)
        corners = np.zeros((len(labels), 4), dtype=np.float32)
    else:
        single = ~crowds
        corners = _read_corners(annotations, sizes[owners], single)
    codes = read_masks(annotations, sizes[owners], ~crowds | _federated(images)) if masks else None
    return Annotations(
        file=file,
        categories=categories,
        image_ids=image_ids,
        paths=paths,
        sizes=sizes,
        boxes=by_image.lists(corners, single),
        labels=by_image.lists(labels, single),
        negative=negative,
        not_exhaustive=not_exhaustive,
        scored=None
        if rules == "training"
        else _read_scored(images, annotations, crowds, labels, by_image, codes),
        masks=None if codes is None else codes.ordered(by_image.rows(single)),
        groups=read_groups(groups, category_ids.tolist(), [each.name for each in categories]),
    )


def _read_categories(listed: JsonTable, lax: bool) -> tuple[Category, ...]:
    ids = _read_ids(listed, lax)
    if not lax:
        everywhere = "in categories, annotations and the lists of the images"
        listed.refuse(ids < 1, "id", LOW_ID, fix=f"add 1 to every category id: {everywhere}")
    names = listed.column("name", is_text, "a name")
    listed.refuse_repeats("name", names)
    frequencies = listed.column("frequency", is_frequency, "r, c or f", default=None)
    if any(frequencies) and not lax:
        listed.refuse(
            [frequency is None for frequency in frequencies],
            "frequency",
            "without a frequency, which others have",
            fix="give every category its frequency (r, c or f), or none",
        )
    categories = [
        Category(number, name, frequency, texts_of(record.get("synonyms")), *_counts(record))
        for number, name, frequency, record in zip(
            ids.tolist(), names, frequencies, listed.rows, strict=True
        )
    ]
    return tuple(sorted(categories, key=lambda category: category.id))


def _counts(record: dict[str, Any]) -> tuple[int | None, int | None]:
    images, instances = record.get("image_count"), record.get("instance_count")
    return images if type(images) is int else None, instances if type(instances) is int else None


def _read_ids(records: JsonTable, lax: bool) -> Int64[np.ndarray, "R"]:
    if not len(records) and not lax:
        fix = f"list the {records.name}"
        raise InputError("the list is empty", fix=fix, file=records.file, field=records.name)
    ids = records.whole_numbers("id")
    records.refuse_repeats("id", ids)
    return ids


def _read_sizes(images: JsonTable) -> Int64[np.ndarray, "I 2"]:
    sides = {key: images.whole_numbers(key) for key in ("height", "width")}
    for key, side in sides.items():
        images.refuse(side < 1, key, f"with no {key}", fix="write the size of the image in pixels")
    return np.stack([*sides.values()], axis=1)


def _read_paths(images: JsonTable) -> list[str]:
    sort = "a path relative to the folder of the images"
    # Either is often empty, and harmless beside the other.
    names = images.column("file_name", lambda value: value == "" or is_path(value), sort, "")
    urls = images.column("coco_url", lambda value: value == "" or is_path(value), "a URL", "")
    paths = [image_path(*pair) for pair in zip(names, urls, strict=True)]
    images.refuse(
        [not path for path in paths],
        "file_name",
        "with neither file_name nor coco_url",
        fix=f"give each a file_name: {sort}",
    )
    return paths


def image_path(file_name: str | None, coco_url: str | None) -> str:
    """Returns `file_name`; in LVIS v1, which has none, the end of `coco_url`: train2017/9.jpg."""
    return file_name or "/".join((coco_url or "").split("/")[-2:])


class _Grouping(NamedTuple):
    """Annotations by image, in the order of the file within each."""

    order: Int64[np.ndarray, "T"]
    offsets: Int64[np.ndarray, "I+1"]

    @staticmethod
    def of(owners: Int64[np.ndarray, "T"], images: int) -> "_Grouping":
        """Groups annotations by the rows of their images."""
        order = np.argsort(owners, kind="stable")
        return _Grouping(order, np.searchsorted(owners[order], np.arange(images + 1)))

    def lists(self, values: Shaped[np.ndarray, "T ..."], kept: Bool[np.ndarray, "T"]) -> Ragged:
        """Returns the kept values of each image."""
        return Ragged(values[self.order], self.offsets).keep(kept[self.order])

    def rows(self, kept: Bool[np.ndarray, "T"]) -> Int64[np.ndarray, "S"]:
        """Returns the rows in the file of the kept annotations, in the order of `lists`."""
        return self.order[kept[self.order]]


def _read_owners(
    records: JsonTable,
    image_ids: Int64[np.ndarray, "I"],
    category_ids: Int64[np.ndarray, "C"],
    lax: bool,
) -> tuple[Int64[np.ndarray, "T"], Int64[np.ndarray, "T"]]:
    """Returns the rows of each annotation's image and category.

    Evaluation does not read ids of annotations. They only name matches, and lvis, for which 0 means
    "no match", never finds the box with the id 0; here it counts like any other.
    """
    if not lax:
        records.refuse_repeats("id", records.whole_numbers("id"))
    images = _rows_of(records.whole_numbers("image_id"), image_ids)
    records.refuse(
        images < 0,
        "image_id",
        "of an image that the file does not list",
        fix="list the image, or remove the annotations",
    )
    labels = _rows_of(records.whole_numbers("category_id"), category_ids)
    records.refuse(
        labels < 0,
        "category_id",
        f"of a category that the file does not list (its ids: {_span(category_ids)})",
        fix="list the category, or mend the id (ids from 0 need 1 added)",
    )
    return images, labels


def _read_corners(
    records: JsonTable, sizes: Int64[np.ndarray, "T 2"], checked: Bool[np.ndarray, "T"]
) -> Float32[np.ndarray, "T 4"]:
    """Turns xywh into xyxy inside the image; what is not checked need not be a good box."""
    boxes = records.boxes()
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = sizes[:, [1, 0, 1, 0]]
    remove = "mend or remove these annotations"
    records.refuse(
        checked & (boxes[:, 2:] <= 0).any(1), "bbox", "with a box of no size", fix=remove
    )
    outside = np.maximum(-corners, corners - limits).max(1, initial=0.0) > OVERSHOOT
    records.refuse(
        checked & outside,
        "bbox",
        f"with a box that leaves its image by more than {OVERSHOOT:g} pixels",
        fix="boxes are x, y, width, height in pixels of the image: clip them, or " + remove,
        note=lambda row: f" in {sizes[row, 1]} x {sizes[row, 0]}",
    )
    clipped = corners.clip(0, limits).astype(np.float32)
    empty = (clipped[:, 2:] <= clipped[:, :2]).any(1)
    records.refuse(checked & empty, "bbox", "with a box of no size inside its image", fix=remove)
    return clipped


def _read_scored(
    images: JsonTable,
    annotations: JsonTable,
    crowds: Bool[np.ndarray, "T"],
    labels: Int64[np.ndarray, "T"],
    by_image: _Grouping,
    masks: Masks | None,
) -> ScoredBoxes:
    """Reads what evaluation needs beside the training columns.

    A file with neither of LVIS's two lists is of COCO form, and taken as exhaustively annotated. A
    crowd box is no object there; its category is not exhaustive in its image. In LVIS form, which
    has no crowds, it is an object as any other, as in lvis.
    """
    exhaustive = not _federated(images)
    if not exhaustive:
        for key in (NEGATIVE, NOT_EXHAUSTIVE):
            absent = [image.get(key) is None for image in images.rows]
            if not all(absent):
                fix = "give each a list of category ids, if need be an empty one"
                images.refuse(absent, key, f"{WITHOUT_LIST}: {key}", fix=fix)
    boxes = annotations.boxes()
    annotations.refuse(
        boxes[:, 2:].min(1, initial=0) < 0,
        "bbox",
        "with a negative width or height",
        fix="write [x, y, width, height], not [x1, y1, x2, y2]",
    )
    areas, no_area = _read_areas(annotations, boxes, exhaustive)
    crowds = crowds & exhaustive
    kept = (areas > 0) & ~crowds
    return ScoredBoxes(
        boxes=by_image.lists(boxes, kept),
        labels=by_image.lists(labels, kept),
        areas=by_image.lists(areas, kept),
        crowds=by_image.lists(labels, crowds),
        exhaustive=exhaustive,
        without_area=int((no_area & ~crowds).sum()),
        masks=None if masks is None else masks.ordered(by_image.rows(kept)),
    )


def _federated(images: JsonTable) -> bool:
    return any(is_federated(image) for image in images.rows)


def is_federated(image: dict[str, Any]) -> bool:
    """Returns whether an image has one of the lists of LVIS form."""
    return any(image.get(key) is not None for key in (NEGATIVE, NOT_EXHAUSTIVE))


def _read_areas(
    records: JsonTable, boxes: Float64[np.ndarray, "T 4"], exhaustive: bool
) -> tuple[Float64[np.ndarray, "T"], Bool[np.ndarray, "T"]]:
    """Returns the areas that decide on the size bins, and which are 0 in the file.

    Where the file says nothing, it is that of the box. An area of 0, which many exporters write,
    says nothing in COCO form; in LVIS form it stays, as lvis does not see such a box. A box of no
    size, which nothing can find but COCO counts, has the least area above 0 there.
    """
    areas = records.numbers("area", default=0)
    records.refuse(
        areas < 0, "area", "with a negative area", fix="take the key away: the box has an area"
    )
    absent = np.array([record.get("area") is None for record in records.rows], dtype=bool)
    own = np.maximum(boxes[:, 2] * boxes[:, 3], np.finfo(np.float64).tiny if exhaustive else 0)
    chosen = np.where(absent | (exhaustive & (areas == 0)), own, areas)
    no_area = (chosen == 0) | (~absent & (areas == 0))
    ignored = records.flags("ignore", "to be left out of AP") & (chosen > 0)
    return np.where(ignored, IGNORED_AREA, chosen), no_area


def _read_rows(
    images: JsonTable, key: str, category_ids: Int64[np.ndarray, "C"], lax: bool
) -> Ragged:
    """Reads a list of category ids for each image; COCO form has none."""
    lists = images.column(key, is_whole_list, "a list of category ids", default=[])
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    ids = np.array([*chain.from_iterable(lists)], dtype=np.int64)
    rows = Ragged(_rows_of(ids, category_ids), offsets)
    if lax:  # lvis takes any id there
        return rows.keep(rows.values >= 0)
    unknown = (rows.keep(rows.values < 0)).offsets
    images.refuse(
        np.diff(unknown) > 0,
        key,
        f"{UNKNOWN_IN_LIST} (its ids: {_span(category_ids)})",
        fix="list the category, or take the id out (ids from 0 need 1 added)",
    )
    return rows


def _rows_of(ids: Int64[np.ndarray, "V"], known: Int64[np.ndarray, "R"]) -> Int64[np.ndarray, "V"]:
    """Returns the row of each id among the known, distinct ones; -1 if it is not one of them."""
    if not len(known):
        return np.full(len(ids), -1)
    order = np.argsort(known)
    places = np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)
    rows = order[places]
    return np.where(known[rows] == ids, rows, -1)


def _span(ids: Int64[np.ndarray, "C"]) -> str:
    return f"{len(ids)} from {ids[0]} to {ids[-1]}" if len(ids) else "none"
